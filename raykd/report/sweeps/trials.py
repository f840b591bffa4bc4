"""What a sweep tried and how good each trial was, as plain data. Filled by `tuning`, read by everything here.

Decision record: a trial's score is the best of its evaluations, because its best checkpoint is what a sweep keeps.
Which of two scores is better is decided by `raykd.tasks.scores.ranking`: of equal scores the one with the lower NLL,
then the earlier one. A trial that failed or diverged is never the best, whatever it scored before, because its setting
cannot be run again with confidence. A trial that the scheduler stopped can be the best. The key paths of the samples
are data, so the report knows no configuration.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from raykd.report.key_names import fold_sample
from raykd.report.sizes import Size
from raykd.tasks.scores.ranking import build_rank_key

if TYPE_CHECKING:
    from raykd.report.sweeps.importance import Importance

Status = Literal["finished", "stopped", "failed", "diverged", "cut off", "waiting"]
"""finished: ran to its end. stopped: by the scheduler. diverged: its loss stopped being a number. cut off: with the
sweep. waiting: cut off before its first evaluation."""
STATUSES: tuple[Status, ...] = get_args(Status)
BROKEN: tuple[Status, ...] = ("failed", "diverged")
"""Trials that are never the best."""


@dataclass(frozen=True)
class Evaluation:
    """One measurement on the validation rows.

    Attributes:
        evaluation: Its number, from 1.
        step: Optimizer step.
        score: The sweep's metric as it is given: a rate in [0, 1], NLL in nats.
        nll: In nats.
    """

    evaluation: int
    step: int
    score: float
    nll: float


@dataclass(frozen=True)
class TrialRow:
    """One trial.

    Attributes:
        name: For example ``t0007``.
        sample: Searched key path to JSON scalar. A conditional key that is inactive in this trial is absent.
        evaluations: In any order; sorted here.
        total_steps: Optimizer steps of a whole run.
        seconds: Wall clock.
        error: The whole message where something went wrong.
        higher_is_better: Direction of the score. `SweepReport` sets it, so that rows need not repeat it.
        size: How large and fast its student is; None is not known.
    """

    name: str
    status: Status
    sample: Mapping[str, Any]
    evaluations: tuple[Evaluation, ...]
    total_steps: int
    seconds: float
    error: str | None = None
    higher_is_better: bool = True
    size: Size | None = None

    def __post_init__(self) -> None:
        ordered = sorted(self.evaluations, key=lambda e: (e.evaluation, e.step))
        object.__setattr__(self, "evaluations", tuple(ordered))

    @property
    def best(self) -> Evaluation | None:
        """The best evaluation: by score, then lower NLL, then earlier; None without a finite score."""
        scored = [e for e in self.evaluations if math.isfinite(e.score)]
        higher = self.higher_is_better
        return min(
            scored,
            key=lambda e: (build_rank_key(e.score, e.nll, higher_is_better=higher), e.step),
            default=None,
        )

    @property
    def score(self) -> float | None:
        """The best score; None without a finite one."""
        return None if self.best is None else self.best.score

    @property
    def nll(self) -> float | None:
        """NLL at the best evaluation, in nats; None if unknown."""
        return None if self.best is None or not math.isfinite(self.best.nll) else self.best.nll

    @property
    def best_step(self) -> int | None:
        """Optimizer step of the best evaluation."""
        return None if self.best is None else self.best.step

    @property
    def last(self) -> Evaluation | None:
        """The last evaluation, finite or not."""
        return self.evaluations[-1] if self.evaluations else None

    @property
    def last_evaluation(self) -> int:
        """Number of the last evaluation; 0 before the first."""
        return 0 if self.last is None else self.last.evaluation

    @property
    def last_step(self) -> int:
        """Optimizer step of the last evaluation; 0 before the first."""
        return 0 if self.last is None else self.last.step

    @property
    def order(self) -> tuple[bool, tuple[float, float], str]:
        """A key to sort trials by, the best first. Those that cannot be the best come last, by name."""
        if not self.is_eligible or self.score is None:
            return (True, (0.0, 0.0), self.name)
        return (
            False,
            build_rank_key(self.score, self.nll, higher_is_better=self.higher_is_better),
            self.name,
        )

    @property
    def is_eligible(self) -> bool:
        """Whether it can be the best: scored, and neither failed nor diverged."""
        return self.best is not None and self.status not in BROKEN

    def score_at(self, evaluation: int) -> float | None:
        """Return the score at this evaluation; None if there is no finite one."""
        # a trial that was resumed may have evaluated twice; the later one stays
        found = [e.score for e in self.evaluations if e.evaluation == evaluation]
        return found[-1] if found and math.isfinite(found[-1]) else None


@dataclass(frozen=True)
class SweepReport:
    """Everything the page of a sweep shows.

    Attributes:
        summary: One sentence that says what was searched.
        metric: Name of the score, for example ``accuracy``.
        trials: In the order they were started.
        rungs: Numbers of the evaluations at which the scheduler judged; empty without early stopping.
        best_yaml: The whole configuration of the best trial.
        space_yaml: What was searched.
        teachers: Teacher to counters over the whole sweep. ``texts`` is the number of distinct texts that were needed,
            ``answered`` of texts that trials asked for, ``forwarded`` of texts that needed a forward pass;
            ``store_hit_rate`` is in [0, 1]. Any other number is shown as it is.
        best_path: Where ``best.yaml`` was written, for the command on the page.
        log_keys: Searched keys whose domain is logarithmic. A positive key that spans over two decades is drawn so
            without being named here.
        teacher_sizes: How large and fast each teacher is.
        together: The teachers as one system; None is not known.
    """

    title: str
    summary: str
    metric: str
    higher_is_better: bool
    trials: tuple[TrialRow, ...]
    rungs: tuple[int, ...]
    best_yaml: str
    space_yaml: str
    teachers: Mapping[str, Mapping[str, float]]
    environment: Mapping[str, str]
    facts: Mapping[str, str]
    notes: tuple[str, ...]
    created: str
    best_path: str = "best.yaml"
    log_keys: tuple[str, ...] = ()
    teacher_sizes: Mapping[str, Size] = field(default_factory=dict)
    together: Size | None = None

    def __post_init__(self) -> None:
        rows = [dataclasses.replace(t, higher_is_better=self.higher_is_better) for t in self.trials]
        object.__setattr__(self, "trials", tuple(rows))
        twice = [name for name, n in Counter(t.name for t in rows).items() if n > 1]
        if twice:
            raise ValueError(f"trials with the same name: {', '.join(twice)}")

    @property
    def keys(self) -> tuple[str, ...]:
        """Searched key paths, in the order in which trials name them first."""
        return tuple(dict.fromkeys(key for t in self.trials for key in t.sample))

    @property
    def shown_keys(self) -> tuple[str, ...]:
        """Key paths that have a column in tables. A number that is an option of a choice is in the choice's column."""
        return tuple(dict.fromkeys(key for t in self.trials for key in fold_sample(t.sample)))

    @property
    def best(self) -> TrialRow | None:
        """The best trial: by score, then lower NLL, then name; None while no trial is eligible."""
        return next((t for t in self.rank_trials() if t.is_eligible), None)

    @property
    def has_sizes(self) -> bool:
        """Whether trials have students of different sizes."""
        return len({t.size.parameters for t in self.trials if t.size is not None}) > 1

    @property
    def by_status(self) -> dict[Status, int]:
        """Number of trials of each status that occurs."""
        counts = Counter(t.status for t in self.trials)
        return {status: counts[status] for status in STATUSES if counts[status]}

    @cached_property
    def importance(self) -> Importance | None:
        """Importance of the searched keys; takes some seconds, once."""
        from raykd.report.sweeps.importance import compute_importance

        return compute_importance(self)

    def rank_trials(self) -> list[TrialRow]:
        """Return all trials, the best first. Those that cannot be the best come last, by name."""
        return sorted(self.trials, key=lambda trial: trial.order)
