"""The training loop: read `TrainingLoop.step` and you know what a run does.

Decision record: the loop is a plain object that knows no Ray. Whoever hosts it (a Ray Train worker, a test, a
benchmark) gives it rows, a model and a source of signals, and receives points and checkpoints through two
callables. Everything that differs between two steps is a function of (seed, step, rank): the order of rows,
dropout, schedules; so a resumed run goes on exactly as an unbroken one. Counts of units are made global
before the first backward of a step: that is the only division of the loss. What belongs to one task is in
`Member`; a step is of one task, and a run of one task is a run of several with one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from raykd import models
from raykd.config import MultiRun, Run
from raykd.data.mixture import Mixture
from raykd.distill.objective import Counts
from raykd.distill.signals import SignalSource, TeacherSignal
from raykd.errors import NonFiniteError
from raykd.models.multi import MultiModel, rebuilt
from raykd.point import Point
from raykd.student.engine import Engine
from raykd.student.evaluate import judged, named
from raykd.student.member import Member, Micro, members_of
from raykd.student.meter import reduce_sum
from raykd.student.prefetch import Asked, Prefetcher, StepWork
from raykd.student.prepare import Prepared
from raykd.student.reading import trained_module

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


class TrainingLoop:
    """One rank of a run.

    Args:
        config: the run. prepared: its rows and their tokens, the same on every rank.
        student: model and tokenizer; the model is trained in place.
        source: the teachers, or None for plain training.
        publish: takes a point of the curves; called on rank 0 only.
        A run of several tasks has ``prepared`` and ``source`` by the name of the task.
    Raises:
        DataError: the batch is larger than the data, or too large for a task ever to be trained.
    """

    def __init__(
        self,
        config: Run,
        prepared: Prepared | Mapping[str, Prepared],
        student: models.TextModel | MultiModel,
        source: SignalSource | Mapping[str, SignalSource] | None,
        *,
        rank: int = 0,
        world: int = 1,
        device: str = "cpu",
        publish: Callable[[Point], None] = lambda point: None,
    ) -> None:
        self.config, self.student = config, student
        self.rank, self.world, self.device, self.publish = rank, world, torch.device(device), publish
        self.members = members_of(config, prepared, student, source, self.device)
        self.mixture = Mixture(
            {name: member.stream for name, member in self.members.items()},
            {name: len(member.rows) for name, member in self.members.items()},
            power=config.task.power if isinstance(config, MultiRun) else 1.0,
            seed=config.seed,
        )
        self.total_steps = config.train.total_steps(self.mixture.steps_per_epoch)
        self.engine = Engine(
            trained_module(config, student.model),
            config.train,
            total_steps=self.total_steps,
            world=world,
            device=self.device,
        )
        self.state = LoopState()
        self.best_weights: dict[str, torch.Tensor] | None = None
        self._evaluate_at = evaluation_steps(self.total_steps, config.train.evaluations)
        self._log_every = max(1, self.total_steps // LOGGED_WINDOWS)
        for member in self.members.values():
            at = {round(p.at * self.total_steps): member.config.at(p.at) for p in member.config.phases}
            member.phases = at
        self._works: Iterator[StepWork] | None = None
        self._bad: str | None = None
        self._rate = 0.0
        self._enter_phase(0)

    @property
    def member(self) -> Member:
        """The only task of a run of one."""
        (member,) = self.members.values()
        return member

    # one optimizer step ---------------------------------------------------------------------------------------

    def step(self, work: StepWork) -> None:
        """One optimizer step: count units over all ranks, then forward, objective, backward, update."""
        progress = work.step / self.total_steps
        member = self.members[self.mixture.at(work.step)[0]]
        if work.step in member.phases:
            self._enter_phase(work.step)
        torch.manual_seed(_mix(self.config.seed, work.step, self.rank))
        answers: Sequence[list[TeacherSignal] | None] = work.signals or [None] * len(work.rows)
        micros = [member.micro(rows, said) for rows, said in zip(work.rows, answers, strict=True)]
        totals = self._global_counts(member, micros)
        self._rate = self.engine.learning_rate()
        for micro in micros:
            outputs = self.engine.forward(micro.encoded.inputs, route=member.name)
            result = member.reading.evaluate(
                member.objective, self.engine.module, outputs, micro.encoded, micro.signals, progress, totals
            )
            self._check_finite(result.loss, member, micro, work.step)
            self.engine.backward(result.loss)
            self.engine.step()
            member.meter.add(result, micro.encoded.real_tokens, micro.encoded.computed_tokens)
        member.meter.end_step(work.waited_s)
        self.state.step = work.step + 1

    def _global_counts(self, member: Member, micros: Sequence[Micro]) -> Counts:
        """Units of this optimizer step over all ranks and micro-batches; also where ranks agree on a bad loss."""
        local = Counts(0, 0, 0)
        for micro in micros:
            local = local + member.objective.counts(micro.encoded.labels_N, micro.signals)
        hard, soft, uncovered, bad = reduce_sum(
            [local.hard, local.soft, local.uncovered, float(self._bad is not None)]
        )
        if bad:
            self._fail_non_finite()
        return Counts(int(hard), int(soft), int(uncovered))

    def _check_finite(self, loss: torch.Tensor, member: Member, micro: Micro, step: int) -> None:
        if self._bad is None and not bool(torch.isfinite(loss.detach())):
            ids = [member.rows.ids[i] for i in micro.rows[:8]]
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
            ahead = Prefetcher(self.ask, self.config.serving.prefetch)
            self._works = ahead.steps(self.state.step, self.total_steps)
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
        for member in self.members.values():
            config = member.enter_phase(step)
            if config is not None:
                self.engine.set_rates(config.train)

    def ask(self, step: int) -> Asked:
        """The rows of a step for this rank, and what the teachers of its task were asked."""
        name, at = self.mixture.at(step)
        return self.members[name].ask(at, self.rank, self.world)

    def _log(self, done: int) -> None:
        progress = (done - 1) / self.total_steps
        values: dict[str, float] = {}
        for name, member in self.members.items():
            values |= named(name, member.logged(progress))
        values["train/learning_rate"] = self._rate
        values["train/epoch"] = done / self.mixture.steps_per_epoch
        if self.rank == 0:
            self.publish(Point(done, values))

    def evaluate(self) -> dict[str, float]:
        """Scores the validation rows, keeps the best weights, counts patience; all ranks must call."""
        if reduce_sum([float(self._bad is not None)])[0]:
            self._fail_non_finite()
        # Under ZeRO-3 each forward gathers parameters from all ranks, so all ranks must run the same ones.
        shared = self.engine.zero_stage == 3
        begin, every = (0, 1) if shared else (self.rank, self.world)
        with self.engine.evaluating() as module:
            found = {
                name: member.scores(module, begin, every, shared=shared)
                for name, member in self.members.items()
            }
        values = judged(found, {name: member.config.metric for name, member in self.members.items()})
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
        score = values[f"eval/mean/{self.config.metric}"]
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
        for member in self.members.values():
            member.go_on()
        self.state = LoopState(**json.loads((directory / "state.json").read_text(encoding="utf-8")))
        self._works = None
        # What the checkpoint says of rates is what they were when it was written, perhaps by another run.
        self.engine.set_rates(self.config.train)
        self._enter_phase(self.state.step)
        if self.rank == 0:
            self.best_weights = torch.load(directory / "best.pt", weights_only=True)

    def best_student(self) -> models.TextModel | MultiModel:
        """The student with its best weights; rank 0 only."""
        assert self.best_weights is not None, "no evaluation yet"
        # The trained module carries DeepSpeed's hooks; a fresh one of the same configuration does not.
        if isinstance(self.student, MultiModel):
            return rebuilt(self.student, self.best_weights)
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
