"""Hold what the evaluation of a saved model found. Importing this module imports neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from raykd.parse import JsonObject
    from raykd.report.sizes import Size
    from raykd.tasks.scores.classes import ClassScores
    from raykd.tasks.scores.intervals import Interval


@dataclass(frozen=True)
class Slice:
    """Scores of some of the rows.

    Attributes:
        by: What the rows share: all, language, value of the column `group`, length, or whether they were cut at the
            model's longest text.
        name: The language, the value or the range of lengths.
        rows: Number of rows.
        metrics: By name: rates in [0, 1], NLL in nats.
        interval: 95 % bootstrap interval of the main metric over rows; None of one row, or if all rows score alike.
    """

    by: Literal["all", "language", "group", "length", "cut"]
    name: str
    rows: int
    metrics: Mapping[str, float]
    interval: Interval | None


@dataclass(frozen=True)
class CalibrationBin:
    """Answers whose probability lies in one of 15 equal ranges.

    Attributes:
        low: Lower end of the range.
        high: Upper end, included.
        count: Answers in it; may be 0.
        confidence: Their mean probability.
        accuracy: The share of them that is right.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Reliability:
    """Whether a model is right as often as its probabilities say.

    Attributes:
        ece: Expected calibration error over all answers of the file, in [0, 1].
        unit: What an answer is of: row or word.
        bins: 15 equal ranges of probability.
    """

    ece: float
    unit: str
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What the evaluation of a saved model on a file found.

    Attributes:
        model: Folder of the model.
        file: The file.
        task: The model's task.
        rows: Rows with gold that were scored.
        metric: The main metric, of which intervals are.
        overall: All rows together.
        mean_of_languages: Unweighted mean over languages, as a run's table has it; None of a single language.
        slices: Rows by language, by group, by length, and those that were cut.
        classes: Scores by class and the confusion table; None for a task without classes.
        calibration: None for a task that gives no probabilities of answers.
        notes: What a reader must know.
        size: How large and fast the model is; a model that writes texts is not timed; None was not measured.
    """

    model: str
    file: str
    task: str
    rows: int
    metric: str
    overall: Slice
    mean_of_languages: Mapping[str, float] | None
    slices: tuple[Slice, ...] = field(repr=False)
    classes: ClassScores | None = field(repr=False)
    calibration: Reliability | None = field(repr=False)
    notes: tuple[str, ...] = field(repr=False)
    size: Size | None = field(default=None, repr=False)

    @property
    def metrics(self) -> dict[str, float]:
        """Scores over all rows, by name: rates in [0, 1], NLL in nats."""
        return dict(self.overall.metrics)

    def to_json(self) -> JsonObject:
        """Return plain values; those of the attributes, by their names."""
        return asdict(self)
