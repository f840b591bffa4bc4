"""`ModelBackend`: a frozen model with its own tokenizer, in this process. Knows no Ray and no store.

Decision record:

- The model encodes for itself, sorts the rows it is asked for by length and cuts them into forward passes of at most
  `max_tokens` padded tokens, because a forward pass costs in proportion to the padded length.
- It answers with raw logits at temperature 1 whose columns are the run's labels, mapped by *name*, because no loss
  curve shows that a label list was permuted.
- It is described from its directory alone: JSON files, the header of its safetensors, and their bytes for the
  fingerprint. So a run whose answers are all stored never loads weights, and a directory that is cut short or has other
  labels is refused at the start.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from raykd import models
from raykd.answers.vocabularies import TeacherVocabulary
from raykd.config import SavedModelTeacher
from raykd.devices import leave_out_cudnn_attention
from raykd.distill.features.states import FeatureRequest
from raykd.errors import ModelError, TeacherError, prefix_errors
from raykd.head import Head
from raykd.models.activations import fuse_activations
from raykd.networks.heads import LANGUAGE
from raykd.prediction.findings import compute_finding_key, load_or_test
from raykd.prediction.selftest import PaddingFinding, find_padding
from raykd.pretrained.files import read_config
from raykd.pretrained.labels import check_activation
from raykd.pretrained.lengths import compute_teacher_length
from raykd.tasks import Task
from raykd.tasks.base import PendingRows
from raykd.tasks.kinds.language import LanguageTask
from raykd.teachers.backends.base import BackendBase
from raykd.teachers.backends.copies import start_copies
from raykd.teachers.backends.features import start_answers
from raykd.teachers.backends.graphs import GraphedModule
from raykd.teachers.backends.modules import ModulePool
from raykd.teachers.backends.precision import choose_precision
from raykd.teachers.backends.token_memory import TOKENS, name_tokenizer
from raykd.teachers.spec import TeacherInfo, TeacherSpec
from raykd.teachers.timing import Timing, measure_time
from raykd.text.batch import TextBatch
from raykd.text.buckets import Buckets, make_buckets, plan_passes
from raykd.text.encoding import EncodedRows
from raykd.text.padding import Padding, split_passes
from raykd.text.tokens import list_adapters

if TYPE_CHECKING:
    from torch import nn

    from raykd.models.lm import Headless

log = logging.getLogger("raykd.teachers")

MOST_TWINS = 8
"""Most threads of a CPU that run one model at once."""


class ModelBackend(BackendBase[SavedModelTeacher]):
    """A model of a local directory or of the hub.

    Args:
        spec: What to load and how to answer. Nothing is read before the first `describe` or `compute`.
    """

    is_concurrent = True

    def __init__(self, spec: TeacherSpec) -> None:
        super().__init__(spec)
        self._lock = threading.RLock()
        self._modules: ModulePool | None = None
        self._info: TeacherInfo | None = None
        self._model: models.TextModel | None = None
        self._headless: Headless | None = None
        self._padding: Padding | None = None
        self._max_tokens = spec.max_tokens
        self._real_tokens = self._computed_tokens = 0
        self.has_few_shapes = spec.device.startswith("cuda")
        self.shapes: set[tuple[tuple[int, ...], ...]] = set()
        """Shapes of the inputs of all passes so far."""
        self._is_warm = False
        self._graphed: GraphedModule | None = None
        self._tokenizer_name: tuple[bytes | None] | None = None

    def describe(self) -> TeacherInfo:
        """Return what the teacher is, from its directory (a hub name is downloaded to one first).

        Raises:
            ModelError: The directory cannot be loaded, must not be, or is cut short.
            LabelMismatchError: The model has other labels.
        """
        if self._info is None:
            self._info = self.spec.parked or self._inspect()
        return self._info

    def _inspect(self) -> TeacherInfo:
        spec, teacher = self.spec, self.teacher
        folder = self._find_folder()
        inspected = models.inspect_model(folder, spec.task.head, trust_remote_code=teacher.trust_remote_code)
        if spec.task.has_scale:
            check_activation(
                read_config(folder),
                str(folder),
                f"teachers.{spec.name}.scale",
                written=teacher.scale is not None,
            )
        self.map_columns(inspected.labels)  # wrong labels are refused before gigabytes are hashed
        precision = choose_precision(spec.dtype, inspected.model_type, spec.device)
        length, _ = compute_teacher_length(
            spec.name, teacher.max_length, inspected.trained_length, inspected, spec.task
        )
        return self.build_info(
            models.fingerprint(folder, trust_remote_code=teacher.trust_remote_code),
            inspected.labels,
            parameters=models.count_stored_parameters(folder),
            dtype=precision.name,
            dtype_reason=precision.reason,
            max_length=length,
        )

    def _find_head(self) -> Head:
        """Return the head of the model that is read."""
        return self.spec.task.head

    def _find_folder(self) -> Path:
        """Return the model's folder; a hub name is downloaded to one."""
        teacher = self.teacher
        return models.resolve_model(
            teacher.path, revision=teacher.revision, trust_remote_code=teacher.trust_remote_code
        )

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._model is not None

    def load(self) -> models.TextModel:
        """Load the weights if they are not in memory yet: frozen, in `eval` mode, on their device.

        Raises:
            ModelError: They cannot be loaded.
        """
        if self._model is None:
            spec, teacher, info = self.spec, self.teacher, self.describe()
            model = models.load_model(
                teacher.path,
                revision=teacher.revision,
                trust_remote_code=teacher.trust_remote_code,
                head=self._find_head(),
            )
            model.model.eval()
            model.model.requires_grad_(False)
            fuse_activations(model.model)
            # As nn.Module: transformers wraps `to`, and mypy then asks for `self`.
            module = cast("nn.Module", model.model)
            module.to(device=torch.device(spec.device), dtype=getattr(torch, info.dtype))
            self._model = model
        return self._model

    def counters(self) -> dict[str, int]:
        """Count rows that needed a forward pass, and tokens before and after padding."""
        return {
            "forwarded": self.forwarded,
            "real_tokens": self._real_tokens,
            "computed_tokens": self._computed_tokens,
        }

    def halve(self) -> None:
        """Compute in passes of half of `max_tokens` from now on: a whole one did not fit into memory."""
        self._max_tokens, self._is_warm = max(1, self.spec.max_tokens // 2), True

    def compute(self, batch: TextBatch) -> list[bytes]:
        """Answer every row, in forward passes of similar length.

        Raises:
            NonFiniteError: A logit is NaN or infinite; names the teacher and the rows.
        """
        return self.compute_features(batch, ())

    def compute_features(self, batch: TextBatch, features: FeatureRequest) -> list[bytes]:
        """Answer every row, with states behind each answer; see `BackendBase`.

        Raises:
            NonFiniteError: A logit or a state is NaN or infinite; names the teacher and the rows.
            ModelError: Texts of several lengths cannot share a pass, and states are read of whole passes.
        """
        padding = self._find_padding(batch)
        answers, real, computed = self._pass(batch, padding, features)
        with self._lock:
            self._real_tokens += real
            self._computed_tokens += computed
            return self.finish(batch, answers)

    def _find_padding(self, batch: TextBatch) -> Padding:
        """Return how its rows share a forward pass, tested now if that was not done before."""
        if self._padding is not None:
            return self._padding
        with self._lock:  # further threads wait for the weights and the test
            return self._padding or self.test(batch).of(self.load().padding)

    def _pass(
        self, batch: TextBatch, padding: Padding, features: FeatureRequest = ()
    ) -> tuple[list[bytes | None], int, int]:
        """Return the answer to every row (None where it is not finite), and tokens before and after padding."""
        model, info, batch = self.load(), self.describe(), batch.with_codes(self.teacher.language_codes)
        task = self._task()
        encoded = TOKENS.encode(task, model.tokenizer, self._name_tokenizer(model), batch)
        device = torch.device(self.spec.device)
        queued: list[tuple[list[int], PendingRows]] = []
        real = computed = 0
        # All passes are queued before the first result is copied: each copy would wait for the device.
        with torch.inference_mode(), self._get_modules(model).borrow() as module:
            padding = padding.answering(device)
            self._warm(module, encoded, padding)
            # A graph replays kernels and calls no hook, by which states are read.
            run = module if features else self._get_runner(module)
            for picked, own in self._plan(encoded, padding):
                padded = task.collate(encoded, picked, own)
                self.shapes.add(tuple(tuple(each.shape) for each in padded.inputs.values()))
                queued.append((picked, start_answers(task, run, padded.to(device), info.columns, features)))
                real += padded.real_tokens
                computed += padded.computed_tokens
            fetch = start_copies([pending.tensors for _, pending in queued], device)
        answers: list[bytes | None] = [None] * len(batch)
        for (picked, pending), arrays in zip(queued, fetch(), strict=True):
            scaled = [self.rescale(arrays[0]), *arrays[1:]]
            for row, answer in zip(picked, pending.encode(scaled), strict=True):
                answers[row] = answer
        return answers, real, computed

    def _plan(self, encoded: EncodedRows, padding: Padding) -> list[tuple[list[int], Padding]]:
        """Return the rows of each pass, and how they are padded."""
        if not self.has_few_shapes or padding.shapes != "longest":
            passes = split_passes(
                encoded.lengths_B,
                self._max_tokens,
                much_shorter=padding.much_shorter,
                adapters_B=encoded.adapters_B,
                joined=padding.joined,
            )
            return [(picked, padding) for picked in passes]
        return [
            (picked, shape.apply(padding)) for picked, shape in plan_passes(encoded, self._make_buckets())
        ]

    def _make_buckets(self) -> Buckets:
        targets = self.spec.task.target_positions if isinstance(self.spec.task, LanguageTask) else 0
        return make_buckets(self.describe().max_length, targets, self._max_tokens)

    def _warm(self, module: Any, encoded: EncodedRows, padding: Padding) -> None:
        """Run every shape once on a GPU, before the first pass: the first pass of a shape is slow there."""
        if self._is_warm or not self.has_few_shapes or padding.shapes != "longest" or not len(encoded):
            return
        self._is_warm, begun = True, time.perf_counter()
        task, device, row = self._task(), torch.device(self.spec.device), int(encoded.lengths_B.argmin())
        shapes = [
            shape for shape in self._make_buckets().list_shapes() if shape.length >= encoded.lengths_B[row]
        ]
        for shape in shapes:
            padded = task.collate(encoded, [row], shape.apply(padding)).to(device)
            task.start_answers(module, padded, self.describe().columns)
        log.info(
            "teacher %s: %d shapes of passes were run once in %.1f s",
            self.spec.name, len(shapes), time.perf_counter() - begun,
        )  # fmt: skip

    def time(self, batch: TextBatch) -> Timing | None:
        """Measure what a text takes, by passes over these rows that count nowhere else.

        Returns:
            None where the weights are not in memory; with an unknown time it never loads them.
        """
        if self._model is None:
            return None
        padding = self._find_padding(batch)
        return measure_time(lambda: self._pass(batch, padding), self.conditions(batch))

    def test(self, batch: TextBatch) -> PaddingFinding:
        """Test how this model's rows may be batched (`raykd.prediction.selftest`), once per content, and batch them so.

        Args:
            batch: Rows of the run in the teacher's languages.

        Raises:
            ModelError: The model answers the same text differently when it is asked twice, or fails at a row.
        """
        model, info, batch = self.load(), self.describe(), batch.with_codes(self.teacher.language_codes)
        task = self._task()
        key = compute_finding_key(
            info.fingerprint, task.kind, info.max_length, info.dtype, self.spec.device, model.padding
        )
        modules = self._get_modules(model)
        with prefix_errors(f"teacher {self.spec.name}", ModelError), modules.borrow_all() as module:
            found = load_or_test(key, lambda: find_padding(model, task, batch, module=module))
        self.finding = found
        if found.is_conclusive:
            self._padding = found.of(model.padding)
        return found

    def _task(self) -> Task:
        """Return the run's task with this teacher's length."""
        return self.spec.task.model_copy(update={"max_length": self.describe().max_length})

    def _get_modules(self, model: models.TextModel) -> ModulePool:
        """Return what a task calls: the model, or over a vocabulary the model up to its output head."""
        with self._lock:
            if self._modules is None:
                module = model.model if self._find_head() not in LANGUAGE else self._get_headless(model)
                device = torch.device(self.spec.device)
                leave_out_cudnn_attention(device)
                self._modules = ModulePool(module, 1 if device.type == "cuda" else MOST_TWINS)
            return self._modules

    def _get_runner(self, module: nn.Module) -> Any:
        """Return what runs the passes: on a GPU, where shapes are few, graphs of the model's."""
        # A graph would keep the adapters of the rows that it was captured with.
        routed = self._model is not None and bool(list_adapters(self._model.tokenizer))
        if routed or not self.has_few_shapes or not self.spec.device.startswith("cuda"):
            return module
        with self._lock:
            if self._graphed is None:
                self._graphed = GraphedModule(module)
            return self._graphed

    def _name_tokenizer(self, model: models.TextModel) -> bytes | None:
        with self._lock:
            if self._tokenizer_name is None:
                self._tokenizer_name = (name_tokenizer(model.tokenizer, self._find_folder()),)
            return self._tokenizer_name[0]

    def _get_headless(self, model: models.TextModel) -> Headless:
        if self._headless is None:
            from raykd.models.lm import Headless

            self._headless = Headless(model.model)
        return self._headless

    def vocabulary(self) -> TeacherVocabulary:
        """Return the tokenizer, and the output head where answers are hidden states; loads weights only for those.

        Raises:
            ModelError: As `describe`, or the head changes its logits.
        """
        spec = self.spec
        if not isinstance(spec.task, LanguageTask) or spec.task.answers.kind != "hidden":
            trusted = self.teacher.trust_remote_code
            folder = self._find_folder()
            tokenizer = models.load_tokenizer(folder, trust_remote_code=trusted)
            return TeacherVocabulary(tokenizer, config=read_config(folder))
        model = self.load()
        head = self._get_headless(model).head
        bias_V = None if head.bias_V is None else head.bias_V.detach().float().cpu().numpy()
        return TeacherVocabulary(
            model.tokenizer, head.weight_VD.detach().float().cpu().numpy(), bias_V, head.after
        )

    def generate(self, rows: TextBatch, *, beams: int | None, max_new_tokens: int) -> list[str]:
        """Write a text for each prompt or source.

        Args:
            rows: The prompts or sources.
            beams: Width of beam search; 1 is greedy, None is the task's way.
            max_new_tokens: Longest text.

        Raises:
            ModelError: The model has no place for so many tokens.
            TeacherError: It is no language model.
        """
        from raykd.prediction.writing import generate_texts

        model, task, rows = self.load(), self._task(), rows.with_codes(self.teacher.language_codes)
        if not isinstance(task, LanguageTask):
            raise TeacherError(
                f"teacher {self.spec.name} writes no text",
                got=f"task {task.kind}",
                wanted="causal_lm or seq2seq",
            )
        return generate_texts(
            model.model,
            model.tokenizer,
            rows.texts,
            languages=rows.languages,
            source_languages=rows.source_languages or (),
            beams=beams,
            max_new_tokens=max_new_tokens,
            max_input_tokens=task.prompt_tokens,
            generation=task.generation,
        )
