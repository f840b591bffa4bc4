"""`TaskTrainer`: one task of a training loop, with its own rows, teachers, objective and meter.

Decision record: a loop has one trainer per task, so there is one loop for one task and for several. What a step needs
to know of its task is here; engine, learning rate and the order of tasks are the loop's. Over a vocabulary the engine
trains a model without its output head, and head, loss and gradient are computed a chunk of units at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from raykd import models
from raykd.answers.layout import StudentUnits, lay_out_answers
from raykd.answers.source import AnswerSlots, SignalSource
from raykd.answers.vocabularies import VocabularyMatch
from raykd.config import RunConfig
from raykd.data.stream import BatchStream
from raykd.distill.adapting.adaptation import Adaptation
from raykd.distill.chunks import evaluate_hidden
from raykd.distill.features.sums import FeatureBatch
from raykd.distill.losses import compute_class_weights
from raykd.distill.shares import Counts, ObjectiveResult
from raykd.distill.signals import Signals
from raykd.models.starts.heads import set_start
from raykd.student.adversarial.alignment import Aligner
from raykd.student.adversarial.passes import MicroBatch, Perturbation
from raykd.student.engine import Engine
from raykd.student.evaluate import answer_rows, compute_language_scores, gather_ranks, join_system_answers
from raykd.student.matching.features import FeatureMatcher, States
from raykd.student.matching.held_out import (
    ask_held_out,
    draw_teachers,
    learn_from_held_out,
    measure_weights,
)
from raykd.student.matching.surpassed import SurpassedTeachers
from raykd.student.matching.vocabularies import match_vocabularies
from raykd.student.meter import Meter, reduce_sum
from raykd.student.padding import find_student_padding
from raykd.student.prefetch import PendingStep
from raykd.student.prepare import PreparedRows
from raykd.tasks import EncodedBatch
from raykd.text.buckets import MOST_SHAPES
from raykd.text.shapes import FittedShapes, fit_shapes

log = logging.getLogger("raykd.student")


class TaskTrainer:
    """One task of a loop.

    Args:
        name: Of the task; "" where it is the only one.
        config: The run that the task would be alone.
        prepared: Its rows and their tokens.
        student: The model of this task.
        source: Its teachers, or None for plain training.
        device: Where the student is.
        most_shapes: How many padded shapes its batches may have where few are wanted, those of scoring among them.

    Attributes:
        has_few_shapes: Whether they have few shapes (`raykd.text.shapes`), as on a GPU.

    Raises:
        DataError: The batch is larger than the data.
        ConfigError, ModelError: A teacher's vocabulary and the student's cannot be compared as the run wants.
    """

    measured: ClassVar[tuple[str, ...]] = ()
    """What the meter adds up beside the parts of the objective."""

    def __init__(
        self,
        name: str,
        config: RunConfig,
        prepared: PreparedRows,
        student: models.TextModel,
        source: SignalSource | None,
        device: torch.device,
        most_shapes: int = MOST_SHAPES,
    ) -> None:
        self.name, self.config, self.task, self.objective = name, config, config.task, config.objective
        self.prepared, self.device = prepared, device
        self.rows, self.tokens = prepared.train, prepared.train_tokens
        self.source = None if config.plain else source
        self.padding = find_student_padding(config, prepared.train, student)
        self.has_few_shapes = device.type == "cuda"
        self._scored_shapes = max(1, most_shapes // 4)
        self._trained_shapes = max(1, most_shapes - self._scored_shapes)
        self._shapes: FittedShapes | None = None
        self.stream = BatchStream(
            prepared.train,
            prepared.train_tokens.lengths_B,
            global_batch=config.train.batch_size,
            seed=config.seed,
            language_temperature=config.data.language_temperature,
            labelled_share=config.data.labelled_share,
            length_grouping=config.data.length_grouping,
        )
        names, codes_B = prepared.train.code_languages()
        self._languages = names, codes_B.astype(np.min_scalar_type(len(names)))
        self._matches: list[VocabularyMatch] = []
        if self.task.language and self.source is not None:
            teachers, theirs = self.source.teachers, self.source.vocabularies()
            self._matches = match_vocabularies(config, teachers, theirs, student.tokenizer, device)
        self._matcher: FeatureMatcher | None = None
        if self.objective.features and self.source is not None:
            self._matcher = FeatureMatcher(config, student, self.source, self.padding)
        moved = config.train.adversarial
        self.perturbation = None if moved is None else Perturbation(moved, student.model)
        aligned, self.aligner = config.train.alignment, None
        if aligned is not None:
            self.aligner = Aligner(aligned, config, student, self.rows, self.padding)
        self._total_steps = 1
        teachers = () if self.source is None else self.source.teachers
        kinds = list(self.objective.values_at(0.0).lambdas) if self.source is not None else []
        self.meter = Meter(
            kinds, teachers, self.measured if aligned is None else (*self.measured, "alignment")
        )
        begun = self.objective.weighting.begin(config.seed, teachers, names) if teachers else {}
        self.adaptation = Adaptation(begun)
        self.surpassed: SurpassedTeachers | None = None
        margin = self.objective.drop_surpassed
        if margin is not None and self.source is not None:
            self.surpassed = SurpassedTeachers(config, prepared.validation, self.source, margin)
        self.phases: dict[int, RunConfig] = {}
        """The run from each step on at which a phase begins."""
        self._facts = prepared.facts
        self._unit = self.task.measure_unit(self.rows)
        start = self.task.find_start(self.rows, config.data.labels)
        if start is not None:
            set_start(student.model, start)
        self._choices = len(self.task.name_choices(config.data.labels))
        self._class_weights_C = self._find_class_weights()

    def complete_student(self, student: models.TextModel) -> models.TextModel:
        """Return the trained student with what was chosen on the validation rows, and what its inputs are."""
        task, rows, tokens = self.task, self.prepared.validation, self.prepared.validation_tokens
        if task.is_tuned:
            module = student.model.eval().to(self.device)
            answers = answer_rows(module, task, tokens, range(len(rows)), self.device, self.padding)
            module.to("cpu")
            task = task.tune(answers, rows)
        return replace(
            student,
            no_answer=bool(self.rows.is_in_mode("optional").any()),
            pairs=task.form in ("text", "labels", "value") and self.rows.pairs is not None,
            settings=task.settings,
        )

    def ask(self, step: int, rank: int, world: int) -> PendingStep:
        """Return the rows of each micro-batch of a step, and ask the teachers about them.

        Args:
            step: Counted over the steps of this task.
            rank: Of this process.
            world: Number of ranks.
        """
        micro_batches = self.config.train.gradient_accumulation
        rows = self.stream.shard(step, rank, world, micro_batches)
        if self._shapes is None and self.has_few_shapes and self.padding.shapes == "longest":
            pieces = self.stream.list_pieces(step, world * micro_batches)
            self._shapes = fit_shapes(self.tokens, pieces, self._trained_shapes)
        if self.source is None:
            return PendingStep(rows, None)
        options: dict[str, Any] = {}
        if self._matcher is not None and self.objective.wants_features(step / self._total_steps):
            options["features"] = self._matcher.requests
        asked = [self.rows.take(part.tolist()).as_asked() for part in rows]
        return PendingStep(rows, [self.source.submit(batch, **options) for batch in asked])

    def make_micro_batch(
        self, rows: NDArray[np.int64], answers: list[AnswerSlots] | None, progress: float = 0.0
    ) -> MicroBatch:
        """Put a micro-batch on the device, with the teachers' answers laid out over its units."""
        padding = self.padding if self._shapes is None else self._shapes.find(rows).apply(self.padding)
        encoded, signals = self.task.collate(self.tokens, rows.tolist(), padding), None
        states: States | None = None
        if answers is not None and self._matcher is not None and self.objective.wants_features(progress):
            answers, states = self._matcher.lay_out(answers, encoded, self.device)
        if answers is not None:
            held_out, known = self.prepared.validation, self.adaptation.states
            self._facts = self._facts | learn_from_held_out(known, self.config, held_out, self.source)
            signals = self.signals(answers, encoded, rows.tolist())
            signals = signals if self.surpassed is None else self.surpassed.hide(signals)
            signals = self.objective.prepare(signals)
            self.meter.add_signals(answers, signals, encoded)
        counts = self.objective.counts(encoded.labels_N, signals)
        return MicroBatch(encoded.to(self.device), signals, rows, counts, states)

    def forward(self, engine: Engine, micro: MicroBatch) -> tuple[Any, FeatureBatch | None]:
        """Return the model's outputs for a micro-batch, and the states that feature terms compare."""
        run = partial(engine.forward, self.name)
        if self.aligner is not None:
            with self.aligner.recording():
                return micro.encoded.run(run), None
        if self._matcher is None or micro.states is None:
            return micro.encoded.run(run), None
        return self._matcher.forward(engine.module, run, micro.encoded, micro.states)

    def signals(self, answers: Sequence[AnswerSlots], encoded: EncodedBatch, rows: Sequence[int]) -> Signals:
        """Lay the teachers' answers to a micro-batch out over its units.

        Args:
            answers: One entry per teacher.
            encoded: The micro-batch in the student's tokens, on the host.
            rows: Which of the training rows it holds.
        """
        assert self.source is not None
        offsets_N, (names, codes_B) = self.tokens.extra.get("offsets_N"), self._languages
        units = StudentUnits(
            encoded.labels_N,
            encoded.counts_B,
            [names[code] for code in codes_B[rows].tolist()],
            groups=self.rows.take(rows).groups or () if self.objective.weighting.inner.reads_groups else (),
            choices=self._choices if encoded.choices is None else encoded.choices,
            seen_N=encoded.seen_N,
            visible_NC=encoded.extra.get("visible_NC"),
            offsets_N=None if offsets_N is None else offsets_N[self.tokens.find_units(rows)],
            targets=() if offsets_N is None else self.rows.take(rows).pairs or (),
            place=self.task.place_answers if self.task.vectors else None,
        )
        found = lay_out_answers(answers, self.source.teacher_languages, units, self._matches, self.device)
        if self.objective.weighting.inner.reads_losses:
            found = replace(found, numbers_N=torch.from_numpy(self.tokens.find_units(rows)))
        return replace(found, logits_MNC=found.logits_MNC / self._unit)

    def evaluate(
        self,
        engine: Engine,
        outputs: Any,
        micro: MicroBatch,
        progress: float,
        totals: Counts,
        features: FeatureBatch | None = None,
    ) -> ObjectiveResult:
        """Compute this micro-batch's share of the loss.

        Args:
            engine: It trains the model.
            outputs: The model's outputs for the micro-batch.
            micro: The micro-batch.
            progress: Step / total steps, in [0, 1].
            totals: Units of the optimizer step over all ranks and micro-batches.
            features: States of student and teachers, from `forward`.
        """
        encoded, signals = micro.encoded, micro.signals
        objective = self.adaptation.fix(self.objective)
        if signals is None and not objective.plain:  # of two networks, the one whom the teachers do not teach
            objective = objective.gold_alone()
        units, gold = self.task.gather_taught(outputs, encoded)
        if not self.task.language:
            values_N, logits_NC = (
                encoded.extra.get("values_N"),
                self.task.relate_units(units.float() / self._unit),
            )
            result = objective.evaluate(
                logits_NC,
                encoded.labels_N,
                signals,
                progress,
                totals,
                encoded.extra.get("open_NC"),
                own=micro.counts,
                class_weights_C=self._class_weights_C,
                values_N=None if values_N is None else values_N / self._unit,
                gold_logits_NC=gold,
                features=features,
            )
            return self.adaptation.measure(
                self.objective, result, logits_NC, encoded.labels_N, signals, progress
            )
        module: Any = engine.module
        head, size = module.head, int(encoded.host["vocabulary"])
        weight_VD, bias_V = head.weight_VD, head.bias_V
        if len(weight_VD) > size:  # padding rows stand for no token and must take no probability
            weight_VD, bias_V = weight_VD[:size], None if bias_V is None else bias_V[:size]
        return evaluate_hidden(
            self.objective,
            units,
            weight_VD,
            bias_V,
            encoded.labels_N,
            signals,
            progress,
            totals,
            after=head.after,
            dtype=engine.autocast_dtype,
            own=micro.counts,
        )

    def learn(self, sums: Sequence[Mapping[str, float]], totals: Counts, progress: float) -> None:
        """Update the learned values after a step, by the sums of this rank's micro-batches; all ranks must call."""
        if self.adaptation.update(self.objective, sums, totals, progress, reduce_sum):
            self._facts = self._facts | measure_weights(self.adaptation.states, self.config, self._held_out)

    def compare_with_teachers(self, history: Sequence[Mapping[str, float]]) -> None:
        """Leave teachers out, or draw them, by the scores of all evaluations and tasks; all ranks must call."""
        own = [{key.removeprefix(f"{self.name}/"): score for key, score in each.items()} for each in history]
        self._facts = self._facts | draw_teachers(self.adaptation.states, self.config, own, self.source)
        if self.surpassed is not None:
            self.surpassed.update(own[-1] if own else {})

    @cached_property
    def _held_out(self) -> Signals:
        assert self.source is not None
        return ask_held_out(self.config, self.prepared.validation, self.source)[1]

    def plan_phases(self, total_steps: int) -> None:
        """Lay the run's phases, which begin at shares of it, out over its steps."""
        self._total_steps = total_steps
        self.phases = {round(p.at * total_steps): self.config.at_progress(p.at) for p in self.config.phases}

    def enter_phase(self, step: int) -> RunConfig | None:
        """Take the objective of the phase that a step is in; return that phase's run, None before the first."""
        if not (begun := [at for at in self.phases if at <= step]):
            return None
        config = self.phases[max(begun)]
        if config.objective != self.objective:
            self.objective = config.objective
            self._class_weights_C = self._find_class_weights()
        return config

    def _find_class_weights(self) -> torch.Tensor | None:
        """Return the weights of the labels in the gold term, on the device; None where all count alike."""
        wanted = self.objective.class_weights
        if wanted is None:
            return None
        labels = self.config.data.labels
        weights_C = compute_class_weights(wanted, labels, self.tokens.labels_N)
        log.info("class weights of the gold term: %s", dict(zip(labels, weights_C.tolist(), strict=True)))
        return torch.from_numpy(weights_C).to(self.device)

    def forget_facts(self) -> None:
        """Do not log again, after a resume, what is logged once per run."""
        self._facts = {}

    def collect_values(self, progress: float) -> dict[str, float]:
        """Return the window's values of this task, empty where it had no step; all ranks must call."""
        if not self.meter.steps:
            return {}
        values = self.meter.flush() | self._facts
        self._facts = {}  # logged once
        scheduled = self.adaptation.fix(self.objective).values_at(progress)
        values["train/alpha"] = scheduled.alpha
        if self.source is not None:
            values.setdefault("train/temperature", scheduled.temperature)
            if self.surpassed is not None:
                values |= self.surpassed.to_values()
            values |= {f"train/lambda/{kind}": value for kind, value in scheduled.lambdas.items()}
        return values

    def scores(self, module: Any, begin: int, every: int, *, shared: bool) -> dict[str, float]:
        """Score the validation rows: ``eval/<language>/<metric>``.

        Args:
            module: The student, in evaluation mode.
            begin: First row of this rank.
            every: Step from one row of this rank to the next.
            shared: Whether all ranks run the same rows.
        """
        rows = self.prepared.validation
        mine = list(range(begin, len(rows), every))
        own_module = partial(module, self.name) if self.name else module
        answers = answer_rows(
            own_module,
            self.task,
            self.prepared.validation_tokens,
            mine,
            self.device,
            self.padding,
            self._scored_shapes if self.has_few_shapes else None,
        )
        parts = [(mine, answers)] if shared else gather_ranks((mine, answers))
        order = np.concatenate([np.asarray(picked, dtype=np.int64) for picked, _ in parts])
        joined = join_system_answers([part for _, part in parts])
        return compute_language_scores(self.task, joined, rows.select(order), self.config.data.labels)
