"""A teacher: a frozen model with its own tokenizer. Knows no Ray.

Decision record: the teacher encodes for itself, sorts the rows it is asked for by length and cuts them into
forward passes of at most `max_tokens` padded tokens, because a forward costs in proportion to the padded
length. It answers with raw logits at temperature 1 whose columns are the run's labels, mapped by *name*:
a permuted label list shows in no loss curve. Weights are loaded on the first row that the store does not hold.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from raykd import models
from raykd.answers.source import AnswerSlots
from raykd.answers.vocabularies import TeacherVocabulary
from raykd.errors import ModelError, NonFiniteError, TeacherError
from raykd.prediction.findings import content_key, found_or_tested
from raykd.prediction.selftest import PaddingFinding, find_padding
from raykd.tasks import Task
from raykd.tasks.language import LanguageTask
from raykd.teachers.spec import TeacherInfo, TeacherSpec, open_teacher
from raykd.teachers.store import SignalStore, text_keys
from raykd.teachers.timing import Timing, conditions_of, read_timing, take_time
from raykd.text.batch import TextBatch
from raykd.text.padding import Padding, split_passes

log = logging.getLogger("raykd.teachers")


class Teacher:
    """A frozen model that answers batches of text.

    Args:
        spec: what to load and how to answer. Nothing is read before the first `open` or `answer`.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self._info: TeacherInfo | None = None
        self._model: models.TextModel | None = None
        self._store: SignalStore | None = None
        self._headless: Any = None
        self._padding: Padding | None = None
        self.finding: PaddingFinding | None = None
        """How its rows share a forward pass; None while no answer was computed."""
        self._max_tokens = spec.max_tokens
        self.forwarded_rows = 0
        self.answered_rows = 0
        self.computed_while_parked = 0
        self.real_tokens = 0
        self.computed_tokens = 0

    def open(self) -> TeacherInfo:
        """What the teacher is, and its store opened; no weights come into memory.

        Raises:
            ModelError: the directory cannot be loaded, must not be, or is cut short.
            LabelMismatchError: other labels. TeacherError: the store's folder cannot be written.
        """
        if self._info is None:
            info = open_teacher(self.spec)
            if self.spec.store is not None:
                self._store = SignalStore(
                    Path(self.spec.store),
                    info.answers,
                    limit_gb=self.spec.store_limit_gb,
                    teacher=self.name,
                )
            self._info = info
        return self._info

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._model is not None

    def load(self) -> None:
        """Loads the weights now, not on the first row that the store does not hold.

        Raises:
            ModelError: they cannot be loaded.
        """
        self._load()

    @property
    def stored(self) -> int | None:
        """Answers in its store; None where it keeps none, or is not opened."""
        return None if self._store is None else len(self._store)

    def counters(self) -> dict[str, int]:
        """Rows answered, rows that needed a forward pass, tokens before and after padding, replicas with weights in
        memory, answers that the store did not take, rows computed after the teacher was parked."""
        return {
            "answered": self.answered_rows,
            "forwarded": self.forwarded_rows,
            "real_tokens": self.real_tokens,
            "computed_tokens": self.computed_tokens,
            "loaded": int(self.loaded),
            "unkept": 0 if self._store is None else self._store.unkept,
            "computed_while_parked": self.computed_while_parked,
        }

    def halve(self) -> None:
        """From here forward passes of half of `max_tokens`: a whole one did not fit into memory."""
        self._max_tokens = max(1, self.spec.max_tokens // 2)

    def _load(self) -> models.TextModel:
        """The weights, loaded if they are not there yet; frozen, in `eval` mode, on their device."""
        if self._model is None:
            spec, info = self.spec, self.open()
            model = models.load_model(
                spec.path,
                revision=spec.revision,
                trust_remote_code=spec.trust_remote_code,
                head=spec.task.head,
            )
            model.model.eval()
            model.model.requires_grad_(False)
            cast(torch.nn.Module, model.model).to(
                device=torch.device(spec.device), dtype=getattr(torch, info.dtype)
            )
            self._model = model
        return self._model

    def answer(
        self,
        batch: TextBatch,
        asked_B: NDArray[np.bool_] | None = None,
        keys: Sequence[bytes] | None = None,
    ) -> AnswerSlots:
        """Answers to the rows asked for (all by default) that are in one of this teacher's languages.

        Args:
            keys: of the rows in the store, where the caller has them already.
        Raises:
            NonFiniteError: a logit is NaN or infinite; names the teacher and the rows.
            ModelError, LabelMismatchError: as `open`. TeacherError: parked, and it cannot compute here.
        """
        begun = time.perf_counter()
        asked_B = np.ones(len(batch), dtype=bool) if asked_B is None else asked_B
        spoken_B = np.asarray(
            [self.spec.languages is None or lang in self.spec.languages for lang in batch.languages]
        )
        rows = np.flatnonzero(asked_B & spoken_B).tolist()
        asked = batch if len(rows) == len(batch) else batch.take(rows)
        if self.spec.store is not None:
            keys = text_keys(asked) if keys is None else [keys[i] for i in rows]
        self.answered_rows += len(rows)
        slots = AnswerSlots.empty(self.name, len(batch))
        if rows:
            bodies, slots.forwarded = self._look_up(asked, keys)
            slots.fill(rows, bodies)
        slots.latency_s = time.perf_counter() - begun
        return slots

    def _look_up(self, batch: TextBatch, keys: Sequence[bytes] | None) -> tuple[list[bytes], int]:
        """Return the answer to each row, stored or computed, and how many were computed."""
        self.open()
        if self._store is None or keys is None:
            return self._compute(batch), len(batch)
        found = self._store.get(keys)
        missing = [i for i, body in enumerate(found) if body is None]
        if not missing:
            return [body for body in found if body is not None], 0
        fresh = self._fresh(batch, keys, missing)
        self._store.put(list(fresh), list(fresh.values()))
        bodies = [fresh[key] if body is None else body for key, body in zip(keys, found, strict=True)]
        return bodies, len(fresh)

    def _fresh(self, batch: TextBatch, keys: Sequence[bytes], missing: Sequence[int]) -> dict[bytes, bytes]:
        """Answers by key to the missing rows; a text that stands twice is computed once."""
        first = {keys[i]: i for i in reversed(missing)}
        return dict(zip(first, self._compute(batch.take(list(first.values()))), strict=True))

    def _compute(self, batch: TextBatch) -> list[bytes]:
        """A forward pass that is asked for: a parked teacher may, if it computes as it did before."""
        parked = self.spec.parked
        if parked is not None:
            if parked.device.partition(":")[0] != self.spec.device.partition(":")[0]:
                raise TeacherError(
                    f"teacher {self.name} is parked and has no stored answer to {len(batch)} rows",
                    got=f"rows {list(batch.ids[:5])}; it answered on {parked.device}, here it has {self.spec.device}",
                    wanted="every text answered before the pool is parked",
                    next_step="label all rows first, or do not park a pool on GPUs",
                )
            self.computed_while_parked += len(batch)
            log.warning(
                "teacher %s is parked and computes %d rows that its store does not hold (%d so far): its CPUs may "
                "be in use by others",
                self.name, len(batch), self.computed_while_parked,
            )  # fmt: skip
        return self._forward(batch)

    def _forward(self, batch: TextBatch) -> list[bytes]:
        """The answer to every row, in forward passes of similar length."""
        padding = self._tested_padding(batch)
        answers, real, computed = self._pass(batch, padding)
        self.real_tokens += real
        self.computed_tokens += computed
        self.forwarded_rows += len(batch)
        bad = [i for i, answer in enumerate(answers) if answer is None]
        if bad:
            raise NonFiniteError(
                f"teacher {self.name} answered with NaN or infinite logits",
                got=f"rows {[batch.ids[i] for i in bad[:5]]} and {max(0, len(bad) - 5)} more",
                wanted="finite logits",
                next_step="try serving.dtype: float32; if it stays, the teacher's weights are broken",
            )
        return [answer for answer in answers if answer is not None]

    def _tested_padding(self, batch: TextBatch) -> Padding:
        """How its rows share a forward pass, tested now if they were not before."""
        if self._padding is not None:
            return self._padding
        return self.test(batch).of(self._load().padding)

    def _pass(self, batch: TextBatch, padding: Padding) -> tuple[list[bytes | None], int, int]:
        """The answer to every row (None where it is not finite), and tokens before and after padding."""
        model, info, batch = self._load(), self.open(), batch.in_codes(self.spec.language_codes)
        task = self._task()
        speaker = self._speaker(model)
        encoded = task.encode(model.tokenizer, batch)
        answers: list[bytes | None] = [None] * len(batch)
        device = torch.device(self.spec.device)
        real = computed = 0
        with torch.inference_mode():
            for picked in split_passes(encoded.lengths_B, self._max_tokens):
                padded = task.collate(encoded, picked, padding).to(device)
                said = task.answer(speaker, padded, info.columns)
                for row, answer in zip(picked, said, strict=True):
                    answers[row] = answer
                real += padded.real_tokens
                computed += padded.computed_tokens
        return answers, real, computed

    def timed(self, batch: TextBatch) -> Timing | None:
        """What a text takes, by passes over these rows that count nowhere else.

        Returns:
            None where the weights are not in memory, as all answers were stored, and no time is kept that was taken
            under the conditions of this process.
        """
        dtype = self.open().dtype
        now = conditions_of(batch.texts, torch.get_num_threads(), self.spec.device, dtype)
        if self._model is None:
            kept = None if self._store is None else read_timing(self._store.read_time())
            return kept if kept is not None and kept.conditions == now.conditions else None
        padding = self._tested_padding(batch)
        took = take_time(lambda: self._pass(batch, padding), now)
        if self._store is not None:
            self._store.write_time(took.dump())
        return took

    def test(self, batch: TextBatch) -> PaddingFinding:
        """Test how this model's rows are batched (`raykd.prediction.selftest`), once by content, and batch them so.

        Args:
            batch: Rows of the run in the teacher's languages.

        Raises:
            ModelError: The model answers the same text differently when it is asked twice, or fails at a row.
        """
        model, info, batch = self._load(), self.open(), batch.in_codes(self.spec.language_codes)
        task = self._task()
        key = content_key(
            info.fingerprint, task.kind, info.max_length, info.dtype, self.spec.device, model.padding
        )
        try:
            found = found_or_tested(
                key, lambda: find_padding(model, task, batch, module=self._speaker(model))
            )
        except ModelError as error:
            raise ModelError(
                f"teacher {self.name}: {error.what}",
                got=error.got,
                wanted=error.wanted,
                next_step=error.next_step,
            ) from None
        self.finding = found
        if found.is_conclusive:
            self._padding = found.of(model.padding)
        return found

    def _task(self) -> Task:
        """The run's task with this teacher's length."""
        return self.spec.task.model_copy(update={"max_length": self.open().max_length})

    def _speaker(self, model: models.TextModel) -> Any:
        """What a task asks: the model, or over a vocabulary the model up to its output head."""
        if not self.spec.task.language:
            return model.model
        if self._headless is None:
            from raykd.models.lm import Headless

            self._headless = Headless(model.model)
        return self._headless

    def vocabulary(self) -> TeacherVocabulary:
        """The tokenizer, and the output head where answers are hidden states; loads weights for those only.

        Raises:
            ModelError: as `open`, or a head that changes its logits.
        """
        spec = self.spec
        if not isinstance(spec.task, LanguageTask) or spec.task.answers.kind != "hidden":
            folder = models.resolve_model(
                spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code
            )
            return TeacherVocabulary(models.load_tokenizer(folder, trust_remote_code=spec.trust_remote_code))
        model = self._load()
        head = self._speaker(model).head
        bias_V = None if head.bias_V is None else head.bias_V.detach().float().cpu().numpy()
        return TeacherVocabulary(
            model.tokenizer, head.weight_VD.detach().float().cpu().numpy(), bias_V, head.after
        )

    def generate(self, rows: TextBatch, *, beams: int | None, max_new_tokens: int) -> list[str]:
        """What the teacher writes for each prompt or source, by beam search (1 is greedy; None is the task's
        way).

        Raises:
            ModelError: no language model, or no place for so many tokens.
        """
        from raykd.prediction.writing import generate_texts

        model, task, rows = self._load(), self._task(), rows.in_codes(self.spec.language_codes)
        if not isinstance(task, LanguageTask):
            raise TeacherError(
                f"teacher {self.name} writes no text", got=f"task {task.kind}", wanted="causal_lm or seq2seq"
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

    def close(self) -> None:
        """Flushes the store."""
        if self._store is not None:
            self._store.close()
