"""Hold the ensemble report of a run as plain data, which is also what `ensemble.json` contains.

Decision record: parts that a task does not have, or that a run can no longer tell, are empty, and `missing` says in
words which and why. Rates lie in [0, 1], NLL is in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from raykd.ensemble.advice import AdviceKind
from raykd.ensemble.agreement import PairAgreement
from raykd.ensemble.calibration import Calibration
from raykd.ensemble.contributions import Contribution
from raykd.errors import DataError
from raykd.report.sizes import Size

SystemRole = Literal["teacher", "ensemble", "student"]


@dataclass(frozen=True)
class Effect:
    """An expected change of one score, above 0 for the better.

    Attributes:
        value: In the score's unit.
        low: Lower end of its interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class AdviceLine:
    """One change that is worth making.

    Attributes:
        kind: What to do.
        teacher: With which teacher.
        languages: Where.
        score: Expected change of the score of all teachers together; None where nobody else covers its rows.
        nll: Expected change of the negative NLL.
        pairs: Expected change of the negative NLL of the teacher beside one other; None for one to add.
        other: The teacher that it copies; empty for none.
        equal_answers: Share of equal answers of the two.
        shared_errors: Share of their errors on which both give the same wrong label.
        line: The advice in words.
    """

    kind: AdviceKind
    teacher: str
    languages: tuple[str, ...]
    score: Effect | None
    nll: Effect | None
    pairs: Effect | None
    line: str
    other: str = ""
    equal_answers: float | None = None
    shared_errors: float | None = None


@dataclass(frozen=True)
class Departure:
    """Where the student chooses another label than its teachers together.

    Attributes:
        language: The language; empty for all.
        units: Labelled units.
        differing: Units on which student and teachers differ.
        student_right: Of these, the student is right.
        teachers_right: Of these, the teachers are right.
    """

    language: str
    units: int
    differing: int
    student_right: int
    teachers_right: int


@dataclass(frozen=True)
class View:
    """What one system says of one row: the label it chooses, and the probability that it gives to the gold label."""

    system: str
    label: str
    gold_probability: float


@dataclass(frozen=True)
class HardRow:
    """One row that the teachers together find hard.

    Attributes:
        row: Its id.
        language: Its language.
        gold: Its gold label; of a tagged row how many words it has.
        views: Of each system that answered.
        text: Its text; None where texts are not shown (`report.texts`).
    """

    row: str
    language: str
    gold: str
    views: tuple[View, ...]
    text: str | None = None


@dataclass(frozen=True)
class SystemSize:
    """Size and speed of one system, and the student beside it.

    Attributes:
        system: Its name.
        role: What it is.
        parameters: Of the model.
        megabytes: Of its weights on disk; None is not known.
        texts_per_s: Texts a second, tokenisation included; None is not known.
        student_texts_per_s: The student's, on the same texts and threads.
        timed_on: Threads and device of `texts_per_s`, in words; None is not known.
        texts: Training texts that it was asked about.
        seconds: What answering these takes, at that speed.
        price: What answering these costs, in the currency of `teachers[].price`; None is not known.
    """

    system: str
    role: SystemRole
    parameters: int
    megabytes: float | None = None
    texts_per_s: float | None = None
    student_texts_per_s: float | None = None
    timed_on: str | None = None
    texts: int | None = None
    seconds: float | None = None
    price: float | None = None

    @property
    def size(self) -> Size:
        """How large and fast it is."""
        ms = 1e3 / self.texts_per_s if self.texts_per_s else None
        return Size(self.parameters, self.megabytes, ms, self.timed_on)


@dataclass(frozen=True)
class EnsembleReport:
    """The ensemble report of one task of a run. Written by `scoring`.

    Attributes:
        run: Name of the run.
        task: Kind of its task.
        metric: The score that contributions are measured in.
        rows: Validation rows that everything is measured on.
        labelled: Whether these have gold labels; without any the ensemble's own answers stand for them.
        languages: Their languages.
        teachers: Names of the teachers.
        weighting: How the run combines them.
        coalitions: Coalitions that were scored.
        exact: Whether these are all.
        base: Score of all teachers together, mean over languages.
        guess: Score of no teacher: a guess.
        contributions: Shapley values.
        retrained: Leave-one-out with retrained students, where a comparison that ran it was named: by teacher the
            students' score without it minus the score with it, on the comparison's own rows.
        advice: What is worth changing.
        comparisons: How many intervals were looked at for it.
        agreement: Each two teachers.
        calibration: Teachers, ensemble and student.
        departures: Student beside the ensemble, in all languages and each.
        hardest: The rows that the teachers together find hardest.
        weights: By teacher, (share of the steps, mean weight) over training.
        sizes: Sizes and speeds.
        missing: What is not shown, and why; a sentence each.
        created: When.
    """

    run: str
    task: str
    metric: str
    rows: int
    labelled: bool
    languages: tuple[str, ...]
    teachers: tuple[str, ...]
    weighting: str
    coalitions: int = 0
    exact: bool = True
    base: float | None = None
    guess: float | None = None
    contributions: tuple[Contribution, ...] = ()
    retrained: Mapping[str, Effect] | None = None
    advice: tuple[AdviceLine, ...] = ()
    comparisons: int = 0
    agreement: tuple[PairAgreement, ...] = ()
    calibration: tuple[Calibration, ...] = ()
    departures: tuple[Departure, ...] = ()
    hardest: tuple[HardRow, ...] = ()
    weights: Mapping[str, tuple[tuple[float, float], ...]] | None = None
    sizes: tuple[SystemSize, ...] = ()
    missing: tuple[str, ...] = ()
    created: str = ""

    def to_json(self) -> object:
        """Return all of it as plain data. NaN becomes null."""
        return to_jsonable_python(self, inf_nan_mode="null")


def read_ensemble_report(text: str, place: str) -> EnsembleReport:
    """Read what `EnsembleReport.to_json` gave.

    Args:
        text: The JSON.
        place: Where it stands, for the message.

    Raises:
        DataError: It is something else.
    """
    try:
        return TypeAdapter(EnsembleReport).validate_json(text)
    except ValidationError as error:
        raise DataError(
            f"{place} cannot be read",
            got=str(error).splitlines()[0],
            wanted="the ensemble report as raykd wrote it",
            next_step="remove it; raykd explain RUN writes it again from the stored answers",
        ) from None
