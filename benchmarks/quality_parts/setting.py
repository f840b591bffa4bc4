"""What `benchmarks.quality` compares: rows, teachers, students, arms and the claims about them.

Decision record: an experiment is data. Every arm of one has the same student, tokenizer, labelled rows, number of
steps, batch size and evaluation; every arm chooses among as many trials as any other, on validation rows and on a seed
that is not reported. What differs is who is asked. Teachers learn from all labelled training rows of their languages;
the student is shown a few labelled rows a language and the texts of all training rows without their labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from raykd.config import RunConfig, TrainedTeacher

TUNING_SEED = 100
"""Seed on which trials are compared by their validation score; not reported."""
PLAIN, DISTILLED, UNIFORM = "undistilled", "distilled, routed", "distilled, uniform"
SAME, OTHER = "distilled, same tokenizer", "distilled, other tokenizer"

TokenizerOf = Literal["own", "student", "bytepair"]


@dataclass(frozen=True)
class Maker:
    """A teacher that is trained first.

    tokenizer: learnt by the teacher from its own rows, the student's, or byte pairs learnt from its own rows.
    rows: labelled rows of each language that it learns from; None is all.
    like: a teacher whose quality it is to have: of its checkpoints that one is kept whose validation score is nearest
        to the other's best, not its own best.
    """

    name: str
    languages: tuple[str, ...] | Literal["all"]
    model: Mapping[str, Any]
    train: Mapping[str, Any]
    tokenizer: TokenizerOf = "own"
    rows: int | None = None
    like: str | None = None

    def config(self) -> TrainedTeacher:
        """The teacher as a run has it."""
        data = {} if self.rows is None else {"labelled_per_language": self.rows}
        made = {"model": self.model, "train": self.train, "data": data}
        return TrainedTeacher.model_validate(
            {"name": self.name, "languages": self.languages, "training": made}
        )


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    teachers: names of those asked; none is plain training.
    anywhere: all of them are declared for any language, whatever they were trained on.
    objective: beside what the trials set. trials: overlays of (objective, train), one of which validation chooses.
    as_chosen_for: takes the trial that was chosen for another arm (of the same trials).
    """

    name: str
    trials: tuple[Mapping[str, Mapping[str, Any]], ...]
    teachers: tuple[str, ...] = ()
    anywhere: bool = False
    objective: Mapping[str, Any] = field(default_factory=dict)
    as_chosen_for: str | None = None


@dataclass(frozen=True)
class Claim:
    """``better - worse`` is above ``least`` points with its whole 95 % interval; or, with ``base``, the gain of
    ``better`` over ``base`` is at least ``least`` times the gain of ``worse``.

    alike: two teachers that must be of equal quality, else the claim is void.
    """

    text: str
    better: str
    worse: str
    least: float = 0.0
    base: str | None = None
    alike: tuple[str, str] | None = None


@dataclass(frozen=True)
class Experiment:
    """Arms on one set of rows.

    metric: of the task, as a share; reported in points. floors: what needs no training, by its name in `fitting.FLOORS`; claims may
    compare with it as with an arm.
    """

    name: str
    metric: str
    tree: Mapping[str, Any]
    teachers: tuple[Maker, ...]
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    floors: tuple[str, ...] = ()

    def arm(self, name: str) -> Arm:
        """The arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)

    def maker(self, name: str) -> Maker:
        """The teacher of this name."""
        return next(maker for maker in self.teachers if maker.name == name)

    def config(self, arm: Arm, trial: int, seed: int) -> RunConfig:
        """The run of one arm: the seed draws weights, order and labelled rows."""
        chosen = arm.trials[trial]
        objective: dict[str, Any] = {} if arm.teachers else {"alpha": 1.0}
        objective |= {**arm.objective, **chosen.get("objective", {})}
        teachers = [self._asked(self.maker(name), arm.anywhere) for name in arm.teachers]
        return RunConfig.model_validate(
            {
                **self.tree,
                "seed": seed,
                "data": {**self.tree["data"], "labelled_seed": seed},
                "teachers": teachers,
                "objective": objective,
                "train": {**self.tree["train"], **chosen.get("train", {})},
            }
        )

    @staticmethod
    def _asked(maker: Maker, anywhere: bool) -> dict[str, Any]:
        return {
            "name": maker.name,
            "languages": "all" if anywhere else maker.languages,
            "path": "trained first",
        }


def files(data: Path, folder: str, languages: tuple[str, ...], split: str) -> dict[str, Any]:
    """The files of one split."""
    return {"kind": "files", "paths": [str(data / folder / lang / f"{split}.jsonl") for lang in languages]}


def parts(data: Path, folder: str, languages: tuple[str, ...], labelled: int) -> dict[str, Any]:
    """Where the rows of a task are: few labelled, and all training texts once more without their labels."""
    return {
        "languages": languages,
        "train": files(data, folder, languages, "train"),
        "validation": files(data, folder, languages, "validation"),
        "test": files(data, folder, languages, "test"),
        "unlabeled": files(data, folder, languages, "train"),
        "labelled_per_language": labelled,
        "labelled_share": 0.2,
    }


def trials(rates: tuple[float, ...], key: str, values: tuple[float, ...]) -> tuple[dict[str, Any], ...]:
    """Every learning rate with every value of one key of the objective."""
    return tuple({"train": {"learning_rate": r}, "objective": {key: v}} for r in rates for v in values)
