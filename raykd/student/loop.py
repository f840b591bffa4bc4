"""`TrainingLoop`: one rank's training loop. Its method `step` is what a run does.

Decision record:

- The loop is a plain object that knows no Ray. Whoever hosts it (a Ray Train worker, a test, a benchmark) gives it
  rows, a model and a source of signals, and receives points and checkpoints through two callables.
- Everything that differs between two steps (the order of rows, dropout, schedules) is a function of (seed, step, rank),
  so a resumed run goes on exactly as an unbroken one.
- Counts of units are summed over all ranks before the first backward pass of a step. They are the only divisors of the
  loss. They follow from what the host knows, before anything is on the device.
- The host reads from the device once a step, after the backward pass is queued: whether the gradient is finite, and the
  numbers of the curves.
- What belongs to one task is in `TaskTrainer`. Each step is of one task, so a run of one task is the simplest case.

A step whose loss or gradient is not finite changes no weight on any rank. A bad loss is made a bad gradient, which
every rank sees after the reduction, so ranks need not exchange anything more. Up to `train.max_skipped_steps` of them
in a row are skipped and counted; one more takes the run back to its last checkpoint, once. The steps are then repeated
as they were. A passing fault (a flaky accelerator, a corrupted buffer) does not come again, and the curve is that of an
unbroken run. A fault of the data or the rates does come again, and ends the run with step, rows and parts of the loss.
No setting of the user's is adjusted to get past it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch

from raykd.answers.source import AnswerSlots, SignalSource
from raykd.config import Run
from raykd.data.task_order import TaskOrder
from raykd.devices import seed_generators
from raykd.distill.shares import Counts, ObjectiveResult
from raykd.models.multi import StudentModel
from raykd.point import Point
from raykd.student.adversarial.passes import MicroBatch, train_micro_batch
from raykd.student.engine import Engine
from raykd.student.evaluate import combine_task_scores, gather_ranks, prefix_with_task
from raykd.student.loop_state import LoopState
from raykd.student.matching.features import drop_projections
from raykd.student.meter import LOGGED_WINDOWS, reduce_sum, split_numbers
from raykd.student.nonfinite import describe_nonfinite, make_nonfinite_error
from raykd.student.padding import check_one_pass
from raykd.student.prefetch import PendingStep, Prefetcher, StepWork
from raykd.student.prepare import PreparedRows
from raykd.student.task_trainer import TaskTrainer
from raykd.student.trainers.build import (
    build_task_trainers,
    get_trained_module,
    list_networks,
    rebuild_best,
)
from raykd.tasks.scores.ranking import build_rank_key
from raykd.timeline import EpochStages, stage, step_part

log = logging.getLogger("raykd.student")
NOTICE_S = 5.0
"""Time between two checks for a notice that the node will be taken away; a check costs milliseconds."""


class TrainingLoop:
    """One rank of a run.

    Args:
        config: The run.
        prepared: Its rows and their tokens, the same on every rank; by task in a run of several.
        student: Model and tokenizer; the model is trained in place.
        source: The teachers, or None for plain training; by task in a run of several.
        rank: Of this process.
        world: Number of ranks.
        device: Name of torch's.
        publish: Takes a point of the curves; called on rank 0 only.
        is_noticed: Returns whether a checkpoint is wanted at once; called on all ranks together, and the same on all.

    Raises:
        DataError: The batch is larger than the data, or too large for a task ever to be trained.
    """

    def __init__(
        self,
        config: Run,
        prepared: PreparedRows | Mapping[str, PreparedRows],
        student: StudentModel,
        source: SignalSource | Mapping[str, SignalSource] | None,
        *,
        rank: int = 0,
        world: int = 1,
        device: str = "cpu",
        publish: Callable[[Point], None] = lambda point: None,
        is_noticed: Callable[[], bool] | None = None,
    ) -> None:
        self.config, self.student, self._is_noticed = config, student, is_noticed
        self.rank, self.world, self.device, self.publish = rank, world, torch.device(device), publish
        self.trainers = build_task_trainers(config, prepared, student, source, self.device)
        self.task_order = TaskOrder(
            {name: trainer.stream for name, trainer in self.trainers.items()},
            {name: len(trainer.rows) for name, trainer in self.trainers.items()},
            power=config.task_power,
            seed=config.seed,
        )
        self.total_steps = config.train.total_steps(self.task_order.steps_per_epoch)
        self.engine = Engine(
            get_trained_module(config, student),
            config.train,
            total_steps=self.total_steps,
            world=world,
            device=self.device,
            tuned=getattr(config.student, "tuning", None) is not None,
            networks=list_networks(config, student),
        )
        if self.engine.zero_stage == 3 and world > 1:
            check_one_pass((trainer.config, trainer.padding) for trainer in self.trainers.values())
        self.state = LoopState()
        self.best_weights: dict[str, torch.Tensor] | None = None
        self._evaluate_at = plan_evaluation_steps(self.total_steps, config.train.evaluations)
        self._log_every = max(1, self.total_steps // LOGGED_WINDOWS)
        for trainer in self.trainers.values():
            trainer.plan_phases(self.total_steps)
        self._works: Iterator[StepWork] | None = None
        self.kept: Path | None = None
        self._nonfinite: str | None = None
        self._wants_checkpoint, self._last_check = False, time.monotonic()
        self._rate = 0.0
        self._epochs = EpochStages(self.task_order.steps_per_epoch)
        self._enter_phase(0)

    @property
    def trainer(self) -> TaskTrainer:
        """The only task of a run of one."""
        (trainer,) = self.trainers.values()
        return trainer

    # one optimizer step ---------------------------------------------------------------------------------------

    def step(self, work: StepWork) -> None:
        """Run one optimizer step: count units over all ranks, then forward, objective, backward, update."""
        progress = work.step / self.total_steps
        trainer = self.trainers[self.task_order.at(work.step)[0]]
        if work.step in trainer.phases:
            self._enter_phase(work.step)
        seed_generators(_make_step_seed(self.config.seed, work.step, self.rank), self.device)
        answers: Sequence[list[AnswerSlots] | None] = work.answers or [None] * len(work.rows)
        with step_part("rows and answers"):
            micros = [
                trainer.make_micro_batch(*part, progress) for part in zip(work.rows, answers, strict=True)
            ]
            totals = self._global_counts(micros)
        self._rate = self.engine.learning_rate()
        results: list[ObjectiveResult] = []
        for micro in micros:
            result, applied, read = train_micro_batch(
                self.engine, trainer, micro, progress, totals, results, is_last=micro is micros[-1]
            )
            results.append(result)
        self.state.step = work.step + 1
        found = split_numbers(results, read)
        if applied:
            for numbers, micro in zip(found, micros, strict=True):
                trainer.meter.add(numbers, micro.encoded)
            trainer.meter.end_step(work.waited_s)
            trainer.learn([numbers.sums for numbers in found], totals, progress)
            self.state.in_a_row, self._nonfinite = 0, None
            return
        for result, numbers, micro in zip(results, found, micros, strict=True):
            if not numbers.finite and self._nonfinite is None:
                where = self._describe_rows(work.step, trainer, micro)
                self._nonfinite = f"{describe_nonfinite(result, micro.signals)} {where}"
        self._skip(self._describe_rows(work.step, trainer, micros[0]))

    def _global_counts(self, micros: Sequence[MicroBatch]) -> Counts:
        """Sum the units of this optimizer step over all ranks and micro-batches.

        Ranks must check for a notice together. Rank 0 says when, in the same reduction, which costs nothing more.
        """
        local = Counts()
        for micro in micros:
            local = local + micro.counts
        now = time.monotonic()
        due = self._is_noticed is not None and self.rank == 0 and now - self._last_check >= NOTICE_S
        *counted, check = reduce_sum([*astuple(local), float(due)])
        if check and self._is_noticed is not None:
            self._last_check, self._wants_checkpoint = now, self._is_noticed()
        return Counts(*map(int, counted))

    def _describe_rows(self, step: int, trainer: TaskTrainer, micro: MicroBatch) -> str:
        ids = [trainer.rows.ids[i] for i in micro.rows[:8]]
        return f"at step {step} of {self.total_steps}, rows {ids} and others of their batch"

    def _skip(self, where: str) -> None:
        """Count a step that was skipped on all ranks; where they are too many, go back or fail."""
        state, allowed = self.state, self.config.train.max_skipped_steps
        state.skipped, state.in_a_row = state.skipped + 1, state.in_a_row + 1
        if state.in_a_row <= allowed:
            why = self._nonfinite or f"its gradient is not finite {where}"
            log.warning(
                "step %d is left out%s", state.step - 1, f": {why}" if state.in_a_row == 1 else " too"
            )
            return
        self._roll_back(f"finite loss, gradient that is not finite, {where}")

    def _roll_back(self, otherwise: str) -> None:
        """Go back to the last checkpoint, once; all ranks must call.

        Args:
            otherwise: What to say where no rank met a loss that is not finite.

        Raises:
            NonFiniteError: The run went back before, or there is nothing to go back to.
        """
        state, found = self.state, [text for text in gather_ranks(self._nonfinite) if text is not None]
        error = make_nonfinite_error(found[0] if found else otherwise, state.in_a_row, state.rolled_back)
        if self.kept is None or state.rolled_back:
            raise error
        log.warning("%s; going back to %s", error.got, self.kept)
        self.load(self.kept)
        self.state.skipped, self.state.rolled_back = state.skipped, True

    # the run ---------------------------------------------------------------------------------------------------

    def run(self, checkpoint: Callable[[TrainingLoop], Path | None] = lambda loop: None) -> LoopState:
        """Train from the current state to the end (or until patience is out), with a checkpoint at each evaluation.

        Args:
            checkpoint: Writes one and returns where it is, for a run that has to go back to it.
        """
        while self.advance():
            with stage("checkpoints"):
                self.kept = checkpoint(self) or self.kept
        return self.state

    def advance(self) -> bool:
        """Train up to and including the next evaluation, or to a notice; False if the run had already ended."""
        while not self.state.stopped and self.state.step < self.total_steps:
            if self._works is None:
                self.engine.train()
                ahead = Prefetcher(self.ask, self.config.serving.prefetch)
                self._works = ahead.steps(self.state.step, self.total_steps)
            self._epochs.begin_step(self.state.step)
            with step_part("wait for answers"):
                work = next(self._works)
            self.step(work)
            is_last = self.state.step in self._evaluate_at or self._wants_checkpoint or self._works is None
            self._epochs.end_step(self.state.step, work.waited_s, is_last=is_last)
            if self._works is None:
                continue  # the step was skipped and the run went back
            done = self.state.step
            if done % self._log_every == 0 or done in self._evaluate_at:
                self._log(done)
            if done in self._evaluate_at and not self.evaluate():
                continue
            if done in self._evaluate_at or self._wants_checkpoint:
                self._wants_checkpoint = False
                return True
        return False

    @property
    def evaluation(self) -> int:
        """Number of evaluations at or before the current step."""
        return sum(step <= self.state.step for step in self._evaluate_at)

    def _enter_phase(self, step: int) -> None:
        """Apply what `config.phases` say from this step on."""
        for trainer in self.trainers.values():
            config = trainer.enter_phase(step)
            if config is not None:
                self.engine.set_rates(config.train)

    def ask(self, step: int) -> PendingStep:
        """Return the rows of a step for this rank, and ask the teachers of its task about them."""
        name, at = self.task_order.at(step)
        return self.trainers[name].ask(at, self.rank, self.world)

    def _log(self, done: int) -> None:
        progress = (done - 1) / self.total_steps
        values: dict[str, float] = {}
        for name, trainer in self.trainers.items():
            values |= prefix_with_task(name, trainer.collect_values(progress))
        values["train/learning_rate"] = self._rate
        values["train/epoch"] = done / self.task_order.steps_per_epoch
        if self.state.skipped:
            values["train/skipped_steps"] = float(self.state.skipped)
            values["train/rollbacks"] = float(self.state.rolled_back)
        if self.rank == 0:
            self.publish(Point(done, values))

    def evaluate(self) -> dict[str, float]:
        """Score the validation rows, keep the best weights, count patience; all ranks must call.

        Returns:
            The scores; empty where they are not finite and the run went back to its last checkpoint.
        """
        # Under ZeRO-3 each forward gathers parameters from all ranks, so all ranks must run the same ones.
        shared = self.engine.zero_stage == 3
        begin, every = (0, 1) if shared else (self.rank, self.world)
        with stage("evaluation"), self.engine.evaluating() as module:
            scores = {
                name: trainer.scores(module, begin, every, shared=shared)
                for name, trainer in self.trainers.items()
            }
        values = combine_task_scores(
            scores, {name: trainer.config.metric for name, trainer in self.trainers.items()}
        )
        # Before any comparison, in which NaN would never lose.
        name = "nll" if "eval/mean/nll" in values else self.config.metric
        if not math.isfinite(found := values[f"eval/mean/{name}"]):
            self._roll_back(
                f"validation {name.upper()} {found} after step {self.state.step} of {self.total_steps}"
            )
            return {}
        self._keep_best(values)
        self._compare_with_teachers()
        if self.rank == 0:
            self.publish(Point(self.state.step, values))
        return values

    def _compare_with_teachers(self) -> None:
        """Leave teachers out, or draw them, by the evaluations; all ranks must call."""
        for trainer in self.trainers.values():
            trainer.compare_with_teachers(self.state.history)

    def _keep_best(self, values: dict[str, float]) -> None:
        train, state = self.config.train, self.state
        score = values[f"eval/mean/{self.config.metric}"]
        higher = train.higher_is_better
        # Equal scores are ordered by NLL: accuracy ties are common early on.
        nll = values.get("eval/mean/nll")
        found = build_rank_key(score, nll, higher_is_better=higher)
        if state.best is None or found < build_rank_key(state.best, state.best_nll, higher_is_better=higher):
            state.best, state.best_step, state.stale = score, state.step, 0
            state.best_nll = nll
            self.best_weights = drop_projections(self.engine.weights())
        else:
            state.stale += 1
        state.stopped = train.patience is not None and state.stale >= train.patience
        state.history.append({"step": float(state.step), **values})

    # checkpoints -----------------------------------------------------------------------------------------------

    def save(self, directory: Path) -> None:
        """Write this rank's part of a checkpoint; all ranks must call, into one folder or each its own."""
        self.engine.save(directory, tag="engine")
        states = {name: trainer.adaptation.states for name, trainer in self.trainers.items()}
        self.state.learned = {name: own for name, own in states.items() if own}
        if self.rank == 0:
            torch.save(self.best_weights, directory / "best.pt")
            self.state.write(directory)

    def load(self, directory: Path) -> None:
        """Restore what `save` wrote."""
        self.engine.load(directory, tag="engine")
        self.state = LoopState.read(directory)
        for name, trainer in self.trainers.items():
            trainer.forget_facts()
            trainer.adaptation.load(self.state.learned.get(name, {}))
        self._compare_with_teachers()
        patience = self.config.train.patience  # may be more than when the checkpoint was written
        self.state.stopped = patience is not None and self.state.stale >= patience
        self._works, self._nonfinite, self.kept = None, None, directory
        # The checkpoint holds the rates of its time, perhaps of another run.
        self.engine.set_rates(self.config.train)
        self._enter_phase(self.state.step)
        if self.rank == 0:
            self.best_weights = torch.load(directory / "best.pt", weights_only=True)

    def best_student(self) -> StudentModel:
        """Return the student with its best weights; rank 0 only."""
        assert self.best_weights is not None, "no evaluation yet"
        return rebuild_best(self.student, self.best_weights, self.trainers)


def plan_evaluation_steps(total: int, evaluations: int) -> set[int]:
    """Return the steps after which the validation set is scored: spread evenly, always with the last step."""
    return {max(1, round(total * (i + 1) / evaluations)) for i in range(evaluations)} | {total}


def _make_step_seed(seed: int, step: int, rank: int) -> int:
    """Return a seed of 63 bits, as torch takes it, for (seed, step, rank)."""
    (state,) = np.random.SeedSequence([seed, step, rank]).generate_state(1, dtype=np.uint64)
    return int(state >> np.uint64(1))
