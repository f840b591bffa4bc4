"""The training loop: read `TrainingLoop.step` and you know what a run does.

Decision record: the loop is a plain object that knows no Ray. Whoever hosts it (a Ray Train worker, a test, a
benchmark) gives it rows, a model and a source of signals, and receives points and checkpoints through two
callables. Everything that differs between two steps is a function of (seed, step, rank): the order of rows,
dropout, schedules; so a resumed run goes on exactly as an unbroken one. Counts of units are made global
before the first backward of a step: that is the only division of the loss.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from raykd import models
from raykd.config import RunConfig
from raykd.data.stream import BatchStream
from raykd.distill.bodies import lay_out
from raykd.distill.objective import Counts
from raykd.distill.signals import Signals, SignalSource, TeacherSignal, stack
from raykd.errors import NonFiniteError
from raykd.point import Point
from raykd.student.engine import Engine
from raykd.student.evaluate import gather_ranks, join, say, scores_by_language
from raykd.student.meter import Meter, reduce_sum
from raykd.student.prefetch import Prefetcher, StepWork
from raykd.student.prepare import Prepared
from raykd.tasks import EncodedBatch

LOGGED_WINDOWS = 200
"""A run logs its training curves in so many windows (or every step, if it has fewer)."""


@dataclass
class LoopState:
    """What a checkpoint keeps beside the engine: JSON, small.

    step: optimizer steps done. best: the best validation metric so far, at step best_step; best_nll breaks ties.
    stale: evaluations since then. stopped: whether patience ended the run. history: the evaluations.
    """

    step: int = 0
    best: float | None = None
    best_nll: float | None = None
    best_step: int = 0
    stale: int = 0
    stopped: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Micro:
    """One micro-batch, ready for the forward pass."""

    encoded: EncodedBatch
    signals: Signals | None
    rows: NDArray[np.int64]


class TrainingLoop:
    """One rank of a run.

    Args:
        config: the run. prepared: its rows and their tokens, the same on every rank.
        student: model and tokenizer; the model is trained in place.
        source: the teachers, or None for plain training.
        publish: takes a point of the curves; called on rank 0 only.
    Raises:
        DataError: the batch is larger than the data.
    """

    def __init__(
        self,
        config: RunConfig,
        prepared: Prepared,
        student: models.TextModel,
        source: SignalSource | None,
        *,
        rank: int = 0,
        world: int = 1,
        device: str = "cpu",
        publish: Callable[[Point], None] = lambda point: None,
    ) -> None:
        if config.plain:
            source = None
        self.config, self.task, self.objective = config, config.task, config.objective
        self.train_rows, self.validation_rows, self.student = prepared.train, prepared.validation, student
        self.rank, self.world, self.device, self.publish = rank, world, torch.device(device), publish
        self._source = source
        self._encoded, self._encoded_validation = prepared.train_tokens, prepared.validation_tokens
        self.stream = BatchStream(
            prepared.train,
            self._encoded.lengths_B,
            global_batch=config.train.batch_size,
            seed=config.seed,
            language_temperature=config.data.language_temperature,
            labelled_share=config.data.labelled_share,
            length_grouping=config.data.length_grouping,
        )
        self.total_steps = config.train.total_steps(self.stream.steps_per_epoch)
        self.engine = Engine(
            student.model, config.train, total_steps=self.total_steps, world=world, device=self.device
        )
        names = () if source is None else source.teachers
        kinds = [term.divergence.kind for term in self.objective.terms] if source is not None else []
        self.meter = Meter(kinds, names)
        self._facts = prepared.facts
        self.state = LoopState()
        self.best_weights: dict[str, torch.Tensor] | None = None
        self._evaluate_at = evaluation_steps(self.total_steps, config.train.evaluations)
        self._log_every = max(1, self.total_steps // LOGGED_WINDOWS)
        self._phases = {round(phase.at * self.total_steps): config.at(phase.at) for phase in config.phases}
        self._works: Iterator[StepWork] | None = None
        self._bad: str | None = None
        self._rate = 0.0
        self._enter_phase(0)

    # one optimizer step ---------------------------------------------------------------------------------------

    def step(self, work: StepWork) -> None:
        """One optimizer step: count units over all ranks, then forward, objective, backward, update."""
        progress = work.step / self.total_steps
        if work.step in self._phases:
            self._enter_phase(work.step)
        torch.manual_seed(_mix(self.config.seed, work.step, self.rank))
        micros = [self._micro(rows, at, work) for at, rows in enumerate(work.rows)]
        totals = self._global_counts(micros)
        self._rate = self.engine.learning_rate()
        for micro in micros:
            outputs = self.engine.forward(micro.encoded.inputs)
            units_NC = self.task.gather(outputs, micro.encoded).float()
            result = self.objective.evaluate(
                units_NC, micro.encoded.labels_N, micro.signals, progress, totals
            )
            self._check_finite(result.loss, micro, work.step)
            self.engine.backward(result.loss)
            self.engine.step()
            self.meter.add(result, micro.encoded.real_tokens, micro.encoded.computed_tokens)
        self.meter.end_step(work.waited_s)
        self.state.step = work.step + 1

    def _micro(self, rows: NDArray[np.int64], at: int, work: StepWork) -> Micro:
        encoded = self.task.collate(self._encoded, rows.tolist()).to(self.device)
        if work.signals is None or self._source is None:
            return Micro(encoded, None, rows)
        answers: Sequence[TeacherSignal] = work.signals[at]
        languages = tuple(self.train_rows.languages[i] for i in rows)
        signals = self._signals(answers, encoded, languages)
        self.meter.add_signals(answers, signals, encoded)
        return Micro(encoded, signals, rows)

    def _signals(
        self, answers: Sequence[TeacherSignal], encoded: EncodedBatch, languages: tuple[str, ...]
    ) -> Signals:
        assert self._source is not None
        spoken = self._source.teacher_languages
        if self.task.row_units:
            return stack(answers, spoken, encoded.labels_N, languages)
        return lay_out(
            answers,
            spoken,
            encoded.labels_N,
            languages,
            encoded.counts_B,
            choices=len(self.config.data.labels) if encoded.choices is None else encoded.choices,
            seen_N=encoded.seen_N,
        )

    def _global_counts(self, micros: Sequence[Micro]) -> Counts:
        """Units of this optimizer step over all ranks and micro-batches; also where ranks agree on a bad loss."""
        local = Counts(0, 0, 0)
        for micro in micros:
            local = local + self.objective.counts(micro.encoded.labels_N, micro.signals)
        hard, soft, uncovered, bad = reduce_sum(
            [local.hard, local.soft, local.uncovered, float(self._bad is not None)]
        )
        if bad:
            self._fail_non_finite()
        return Counts(int(hard), int(soft), int(uncovered))

    def _check_finite(self, loss: torch.Tensor, micro: Micro, step: int) -> None:
        if self._bad is None and not bool(torch.isfinite(loss.detach())):
            ids = [self.train_rows.ids[i] for i in micro.rows[:8]]
            where = f"step {step} of {self.total_steps}, rows {ids} and others of their batch"
            self._bad = f"loss {float(loss.detach())} at {where}"
            if self.world == 1:
                self._fail_non_finite()

    def _fail_non_finite(self) -> None:
        raise NonFiniteError(
            "the training loss is not finite",
            got=self._bad or "a non-finite loss on another worker",
            wanted="a finite loss",
            next_step="lower train.learning_rate, set train.gradient_clipping, or look at these rows; "
            "the checkpoints written before are intact",
        )

    # the run ---------------------------------------------------------------------------------------------------

    def run(self, checkpoint: Callable[[TrainingLoop], None] = lambda loop: None) -> LoopState:
        """Trains from the current state to the end (or until patience is out), with a checkpoint at each evaluation."""
        while self.advance():
            checkpoint(self)
        return self.state

    def advance(self) -> bool:
        """Trains to the next evaluation, included; False if the run had already ended."""
        if self.state.stopped or self.state.step >= self.total_steps:
            return False
        if self._works is None:
            self.engine.train()
            self._works = Prefetcher(
                self._source, self._rows_of, self.train_rows.take, self.config.serving.prefetch
            ).steps(self.state.step, self.total_steps)
        for work in self._works:
            self.step(work)
            done = self.state.step
            if done % self._log_every == 0 or done in self._evaluate_at:
                self._log(done)
            if done in self._evaluate_at:
                self.evaluate()
                return True
        return False  # pragma: no cover - the last step is always an evaluation

    @property
    def evaluation(self) -> int:
        """Evaluations that lie at or before the current step."""
        return sum(step <= self.state.step for step in self._evaluate_at)

    def _enter_phase(self, step: int) -> None:
        """What `config.phases` say from this step on; the steps of earlier phases are past."""
        begun = [at for at in self._phases if at <= step]
        if begun:
            config = self._phases[max(begun)]
            self.objective = config.objective
            self.engine.set_rates(config.train)

    def _rows_of(self, step: int) -> list[NDArray[np.int64]]:
        return self.stream.shard(step, self.rank, self.world, self.config.train.gradient_accumulation)

    def _log(self, done: int) -> None:
        values = self.meter.flush() | self._facts
        self._facts = {}  # said once; a resumed loop says it again
        knobs = self.objective.knobs((done - 1) / self.total_steps)
        values["train/alpha"] = knobs.alpha
        if self._source is not None:
            values["train/temperature"] = knobs.temperature
            values |= {f"train/lambda/{kind}": value for kind, value in knobs.lambdas.items()}
        values["train/learning_rate"] = self._rate
        values["train/epoch"] = done / self.stream.steps_per_epoch
        if self.rank == 0:
            self.publish(Point(done, values))

    def evaluate(self) -> dict[str, float]:
        """Scores the validation rows, keeps the best weights, counts patience; all ranks must call."""
        if reduce_sum([float(self._bad is not None)])[0]:
            self._fail_non_finite()
        # Under ZeRO-3 each forward gathers parameters from all ranks, so all ranks must run the same ones.
        shared = self.engine.zero_stage == 3
        begin, every = (0, 1) if shared else (self.rank, self.world)
        mine = list(range(begin, len(self.validation_rows), every))
        rows = self.validation_rows
        with self.engine.evaluating() as module:
            said = say(module, self.task, self._encoded_validation, mine, self.device)
        parts = [(mine, said)] if shared else gather_ranks((mine, said))
        order = np.concatenate([np.asarray(picked, dtype=np.int64) for picked, _ in parts])
        values = scores_by_language(
            self.task, join([part for _, part in parts]), rows.select(order), self.config.data.labels
        )
        if not math.isfinite(nll := values["eval/mean/nll"]):  # before it is judged: NaN loses to nothing
            raise NonFiniteError(
                "the validation scores are not finite",
                got=f"NLL {nll} after step {self.state.step} of {self.total_steps}",
                wanted="finite logits",
                next_step="lower train.learning_rate or set train.gradient_clipping; the checkpoints written before "
                "are intact",
            )
        self._judge(values)
        if self.rank == 0:
            self.publish(Point(self.state.step, values))
        return values

    def _judge(self, values: dict[str, float]) -> None:
        train, state = self.config.train, self.state
        score = values[f"eval/mean/{train.metric}"]
        sign = 1.0 if train.higher_is_better else -1.0
        # Of two evaluations that score alike, the one with the lower NLL: accuracy ties are common early on.
        rank = (sign * score, -values["eval/mean/nll"])
        if state.best is None or rank > (sign * state.best, -(state.best_nll or 0.0)):
            state.best, state.best_step, state.stale = score, state.step, 0
            state.best_nll = values["eval/mean/nll"]
            self.best_weights = self.engine.weights()
        else:
            state.stale += 1
        state.stopped = train.patience is not None and state.stale >= train.patience
        state.history.append({"step": float(state.step), **values})

    # checkpoints -----------------------------------------------------------------------------------------------

    def save(self, directory: Path) -> None:
        """Writes this rank's part of a checkpoint; all ranks must call, into folders of their own or one."""
        self.engine.save(directory, tag="engine")
        if self.rank == 0:
            torch.save(self.best_weights, directory / "best.pt")
            (directory / "state.json").write_text(json.dumps(asdict(self.state)), encoding="utf-8")

    def load(self, directory: Path) -> None:
        """Restores what `save` wrote."""
        self.engine.load(directory, tag="engine")
        self.state = LoopState(**json.loads((directory / "state.json").read_text(encoding="utf-8")))
        self._works = None
        # What the checkpoint says of rates is what they were when it was written, perhaps by another run.
        self.engine.set_rates(self.config.train)
        self._enter_phase(self.state.step)
        if self.rank == 0:
            self.best_weights = torch.load(directory / "best.pt", weights_only=True)

    def best_student(self) -> models.TextModel:
        """The student with its best weights; rank 0 only."""
        assert self.best_weights is not None, "no evaluation yet"
        # The trained module carries DeepSpeed's hooks; a fresh one of the same configuration does not.
        model = type(self.student.model)(self.student.model.config)
        model.load_state_dict(self.best_weights)
        return replace(self.student, model=model)


def evaluation_steps(total: int, evaluations: int) -> set[int]:
    """Steps after which the validation set is scored: spread evenly, the last step always among them."""
    return {max(1, round(total * (i + 1) / evaluations)) for i in range(evaluations)} | {total}


def _mix(seed: int, step: int, rank: int) -> int:
    """A seed of 63 bits for (seed, step, rank)."""
    return int(
        np.random.SeedSequence([seed, step, rank]).generate_state(1, dtype=np.uint64)[0] >> np.uint64(1)
    )
