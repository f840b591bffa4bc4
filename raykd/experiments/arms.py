"""Hold an experiment: its arms, its seeds, and which training comes next.

Decision record: all arms of a seed follow one another, so that an experiment that is cut off has whole seeds. A
training is known by its arm and seed, not by its number. So a resume may add seeds and arms, and what is finished is
kept. The teachers are the union over all arms. An arm with fewer selects its own among them, so that every answer has
one place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from raykd.config import MultiRun, Run, RunConfig, TeacherConfig
from raykd.data.load import Dataset, load_data
from raykd.errors import ConfigError
from raykd.experiments.self_training import bind_teachers, has_self_training
from raykd.spaces.domains import Scalar
from raykd.spaces.search import Mode, Sampler
from raykd.spaces.space import Sample
from raykd.tasks.scores.metrics import is_higher_better
from raykd.teachers.pools.stored_pool import NeededAnswers


@dataclass(frozen=True)
class Arm:
    """One setting of an experiment.

    Attributes:
        name: Its name.
        run: The run; every seed is laid over it.
        changes: What differs from the base, for people.
        against: The arm that it is compared with; None takes the experiment's baseline.
        labelled: Labelled rows per language, of an arm of a budget curve.
        is_reference: Whether it is compared with no other arm.
        left_out: Value of `data.columns.group` that it learns nothing from, of an arm of `generate: left_out`.
        trials: The runs among which the arm chooses by its validation score before its seeds; empty trains `run`.
        trial_changes: What differs between them, for people.
        teachers_by_seed: Names of the teachers that are asked with each seed, where they differ (self-training).
    """

    name: str
    run: Run
    changes: str = ""
    against: str | None = None
    labelled: int | None = None
    is_reference: bool = False
    left_out: str | None = None
    trials: tuple[Run, ...] = ()
    trial_changes: tuple[str, ...] = ()
    teachers_by_seed: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def change_runs(self, change: Callable[[Run], Run]) -> Arm:
        """Return the arm with its run and those of its trials changed."""
        return replace(self, run=change(self.run), trials=tuple(map(change, self.trials)))

    def choose_trial(self, number: int) -> Arm:
        """Return the arm as one of its trials, which its seeds repeat."""
        changes = ", ".join(part for part in (self.changes, f"chosen: {self.trial_changes[number]}") if part)
        return replace(self, run=self.trials[number], changes=changes)


@dataclass(frozen=True)
class ExperimentPlan:
    """Arms x seeds over one base run. Made by `load_experiment` and `read_confirmation`.

    Attributes:
        name: Name of the experiment's folder.
        output: The folder above.
        base: The run that names the cluster, MLflow and the rows.
        arms: The arms.
        seeds: Seeds of every arm.
        baseline: The arm that others are compared with; None where each names its own.
        equal: What arms have in common (see `ExperimentConfig`).
        resample_labelled: Whether a seed also draws the labelled rows.
        tuning_seed: Seed with which arms are trained to choose among their trials.
        label: Whether teachers answer before the first training.
        max_concurrent_trials: Most trainings at one time; None sets no limit.
        max_failures: How often a crashed training is tried again.
        checkpoint_s: Least seconds between two checkpoints of a training.
        yaml: The experiment as YAML, for its folder.
        role: What MLflow calls it.
        title: Title of its page; empty is its name.
    """

    name: str
    output: str
    base: Run
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    baseline: str | None = None
    equal: Literal["steps", "as_written"] = "as_written"
    resample_labelled: bool = False
    tuning_seed: int = 0
    label: Literal["ahead", "on_demand"] = "ahead"
    max_concurrent_trials: int | None = None
    max_failures: int = 1
    checkpoint_s: float = 30.0
    yaml: str = ""
    role: Literal["comparison", "confirmation"] = "comparison"
    title: str = ""

    def describe(self) -> str:
        """Return the number of arms, seeds and trainings, and what arms have in common, as text."""
        count = f"{'1 arm' if len(self.arms) == 1 else f'{len(self.arms)} arms'} x {len(self.seeds)} seeds"
        count += f", {self.trainings} trainings"
        tuned = len(self.arms[0].trials) if self.arms else 0
        chosen = f"; each arm first chooses among {tuned} trials" if tuned else ""
        return count + chosen + ("; all train equally many steps" if self.equal == "steps" else "")

    @property
    def metric(self) -> str:
        """Name of the score that arms are compared by."""
        return self.base.metric

    @property
    def mode(self) -> Mode:
        """Direction of `metric`."""
        return "max" if is_higher_better(self.metric) else "min"

    @property
    def trainings(self) -> int:
        """Number of runs to train."""
        return len(self.arms) * len(self.seeds)

    def find_arm(self, name: str) -> Arm:
        """Return the arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)

    def find_reference(self, arm: Arm) -> str | None:
        """Return the arm that an arm is compared with; None if it is compared with none."""
        against = arm.against or self.baseline
        return None if arm.is_reference or against == arm.name else against

    def fingerprint(self) -> str:
        """Return the sha256 of all arms. The seeds are left out, so that a resume may add some."""
        parts = [
            [arm.name, arm.run.fingerprint(), *(run.fingerprint() for run in arm.trials)] for arm in self.arms
        ]
        return hashlib.sha256(json.dumps([parts, self.equal, self.resample_labelled]).encode()).hexdigest()

    def build_run(self, sample: Mapping[str, Scalar]) -> Run:
        """Return the run of an arm with a seed."""
        arm, seed = self.find_arm(str(sample["arm"])), int(str(sample["seed"]))
        run = arm.trials[int(str(sample["trial"]))] if "trial" in sample else arm.run
        update: dict[str, object] = {"seed": seed}
        drawn = {"labelled_seed": seed}
        if self.resample_labelled and isinstance(run, RunConfig):
            update["data"] = run.data.model_copy(update=drawn)
        elif self.resample_labelled and isinstance(run, MultiRun):
            tasks = {
                name: member.model_copy(update={"data": member.data.model_copy(update=drawn)})
                for name, member in run.task.tasks.items()
            }
            update["task"] = run.task.model_copy(update={"tasks": tasks})
        if seed in arm.teachers_by_seed:
            update["select_teachers"] = arm.teachers_by_seed[seed]
        return run.model_copy(update=update)

    def fix_steps(self, steps: int) -> ExperimentPlan:
        """Return the experiment in which every arm trains as long as `equal` says.

        Args:
            steps: Optimizer steps of the base.
        """
        if self.equal == "as_written":
            return self

        def fix(run: Run) -> Run:
            return run.model_copy(
                update={"train": run.train.model_copy(update={"steps": steps, "epochs": None})}
            )

        return replace(self, arms=tuple(arm.change_runs(fix) for arm in self.arms))

    def share_teachers(self) -> ExperimentPlan:
        """Return the experiment in which base and arms have all teachers, and each arm selects its own.

        Raises:
            ConfigError: Two arms have different teachers under one name.
        """
        return self._bind_self_training()._join_arms()

    def _bind_self_training(self) -> ExperimentPlan:
        """Return the experiment in which self-training has a teacher for each draw of the labelled rows."""
        seeds = (*self.seeds, *((self.tuning_seed,) if self.tuning_samples else ()))

        def bind(arm: Arm) -> Arm:
            if not has_self_training(arm.run):
                return arm
            found = {seed: bind_teachers(self.build_run({"arm": arm.name, "seed": seed})) for seed in seeds}
            known = {teacher.name: teacher for teachers in found.values() for teacher in teachers}
            names = {seed: tuple(teacher.name for teacher in teachers) for seed, teachers in found.items()}
            active = arm.run.active_teachers
            only_teach = [teacher for teacher in arm.run.needed_teachers if teacher not in active]
            chosen = {
                "teachers": (*only_teach, *known.values()),
                "select_teachers": tuple(known) if only_teach else None,
            }
            return replace(arm.change_runs(lambda run: run.model_copy(update=chosen)), teachers_by_seed=names)

        return replace(self, arms=tuple(map(bind, self.arms)))

    def _join_arms(self) -> ExperimentPlan:
        union = tuple(_join_teachers(self.arms))
        if not union:
            return self
        arms = [arm.change_runs(partial(_select, union)) for arm in self.arms]
        # Seeds may be added on a resume, so an arm is known by the teachers of its first seed.
        arms = [_select_first(arm, self.seeds[0]) for arm in arms]
        taught = next((arm.run for arm in arms if not arm.run.plain), self.base)
        objective = taught.objective if self.base.plain else self.base.objective
        active = {teacher.name for arm in self.arms for teacher in arm.run.active_teachers}
        chosen = tuple(teacher.name for teacher in union if teacher.name in active)
        base = self.base.model_copy(
            update={
                "teachers": union,
                "select_teachers": None if len(chosen) == len(union) else chosen,
                "objective": objective,
            }
        )
        return replace(self, base=base, arms=tuple(arms))

    def list_needed_answers(self, data: Mapping[str, Dataset]) -> dict[str, list[NeededAnswers]]:
        """Return which training rows the arms ask which teachers about, by task.

        Args:
            data: The base's rows, by task; arms with other `data` read their own.
        """
        known = {member.data.model_dump_json(): data[task] for task, member in self.base.members.items()}
        found: dict[str, list[NeededAnswers]] = {}
        for sample in (*self.tuning_samples, *self._samples):
            for task, member in self.build_run(sample).members.items():
                if member.plain:
                    continue
                key = member.data.model_dump_json()
                if key not in known:
                    known[key] = load_data(member.data, Path.cwd(), member.form)
                names = tuple(teacher.name for teacher in member.active_teachers)
                states = bool(member.objective.features)
                needed = NeededAnswers(known[key].asked, member.objective.weighting, names)
                parts = found.setdefault(task, [])
                at = next((i for i, other in enumerate(parts) if needed.is_same(other)), len(parts))
                parts[at : at + 1] = [
                    replace(needed, states=states or any(o.states for o in parts[at : at + 1]))
                ]
        return found

    @cached_property
    def _samples(self) -> list[Sample]:
        return [{"arm": arm.name, "seed": seed} for seed in self.seeds for arm in self.arms]

    @cached_property
    def tuning_samples(self) -> list[Sample]:
        """Every arm with every one of its trials, to be trained before the seeds."""
        return [
            {"arm": arm.name, "seed": self.tuning_seed, "trial": number}
            for number in range(max((len(arm.trials) for arm in self.arms), default=0))
            for arm in self.arms
            if number < len(arm.trials)
        ]

    def list_own_teachers(self) -> dict[str, tuple[str, ...]]:
        """Return the teachers of each distilled arm of `generate: left_out`, which no other arm has."""
        arms = [arm for arm in self.arms if arm.left_out is not None and not arm.run.plain]
        return {arm.name: tuple(teacher.name for teacher in arm.run.active_teachers) for arm in arms}

    def build_sampler(self) -> PairSampler:
        """Return what hands out the trainings."""
        return PairSampler(self._samples)


@dataclass
class PairSampler(Sampler):
    """Hands out every arm with every seed once.

    Attributes:
        waiting: Pairs that were not trained yet.
    """

    waiting: list[Sample]

    def __post_init__(self) -> None:
        self.waiting = list(self.waiting)
        self._all = [*self.waiting]

    def is_wanted(self, sample: Mapping[str, Scalar]) -> bool:
        """Return whether a training is still of the experiment: a resume may ask for other seeds."""
        return "trial" in sample or dict(sample) in self._all

    def ask(self, index: int) -> Sample | None:
        """Return the next pair, whatever its number."""
        return self.waiting.pop(0) if self.waiting else None

    def restore(self, index: int, sample: Mapping[str, Scalar], score: float | None, finished: bool) -> None:
        """Leave out a pair that an earlier start began."""
        self.waiting = [pair for pair in self.waiting if pair != dict(sample)]

    def name_trial(self, index: int, sample: Mapping[str, Scalar]) -> str:
        """Return the name of a training: its arm, and its trial or its seed."""
        if "trial" in sample:
            return f"{sample['arm']}-trial{sample['trial']}"
        return name_training(str(sample["arm"]), int(str(sample["seed"])))


def name_training(arm: str, seed: int) -> str:
    """Return the name of a training in progress, journal and MLflow."""
    return f"{arm}-seed{seed}"


def _select(union: tuple[TeacherConfig, ...], run: Run) -> Run:
    """Return the run with the teachers of all arms, among which it selects its own."""
    own, names = tuple(teacher.name for teacher in run.active_teachers), tuple(t.name for t in union)
    # An arm without teachers stays so: it is trained on the labelled rows alone.
    return (
        run.model_copy(update={"teachers": union, "select_teachers": None if own == names else own})
        if own
        else run
    )


def _select_first(arm: Arm, seed: int) -> Arm:
    if not arm.teachers_by_seed:
        return arm
    return arm.change_runs(lambda run: run.model_copy(update={"select_teachers": arm.teachers_by_seed[seed]}))


def _join_teachers(arms: Iterable[Arm]) -> Sequence[TeacherConfig]:
    """Return the teachers of all arms in the order of their first arm, with those that only teach a teacher.

    Raises:
        ConfigError: One name means two teachers.
    """
    found: dict[str, TeacherConfig] = {}
    for arm in arms:
        for teacher in arm.run.needed_teachers:
            if found.setdefault(teacher.name, teacher) != teacher:
                raise ConfigError(
                    f"two arms have different teachers under the name {teacher.name}",
                    got=f"{arm.name} changes the teacher {teacher.name}",
                    wanted="one teacher a name, since each answers once for all arms",
                    next_step="give the changed teacher a name of its own",
                )
    return list(found.values())
