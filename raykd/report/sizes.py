"""Show how large and fast a system is, the same way in every table of systems.

Decision record: "x smaller" and "x faster" have one meaning everywhere: the system of the line beside all teachers of
its run together. A ratio of times is shown only where both were taken with equal threads on equal devices, because any
other says more about the machine than about the models.
"""

from __future__ import annotations

from dataclasses import dataclass

from raykd.report.formats import ABSENT, format_count, format_megabytes, format_ratio, format_speed

SIZE_HEADS = ["parameters", "MB", "texts/s"]
"""Headings of `format_size`."""
RATIO_HEADS = ["x smaller", "x faster"]
"""Headings of `format_ratios`."""
RATIO_REMARK = (
    "x smaller, x faster: than the teachers together, where a text goes to the teachers of its language; a ratio of "
    "times needs equal threads and devices, and each system runs in its own number format"
)
NARROW_HEADS = {
    "parameters": "params",
    "texts/s": "texts\n/s",
    "x smaller": "x\nsmaller",
    "x faster": "x\nfaster",
}
"""These headings on several lines, for a terminal."""


@dataclass(frozen=True)
class Size:
    """What one system takes to keep and to run; None is not known.

    Attributes:
        parameters: Of the model; the sum over an ensemble; 0 is a teacher without weights.
        megabytes: Of its weights on disk; the sum over an ensemble.
        ms: Milliseconds per text.
        timed_on: Threads and device of `ms`, in words.
    """

    parameters: int | None = None
    megabytes: float | None = None
    ms: float | None = None
    timed_on: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether something can be set beside it: functions and files have neither weights nor times."""
        return bool(self.parameters or self.ms)

    @property
    def texts_s(self) -> float | None:
        """Texts a second."""
        return 1e3 / self.ms if self.ms else None


def format_size(size: Size | None) -> list[str]:
    """Return parameters, megabytes and texts a second; dashes for what is not known."""
    size = size or Size()
    count = format_count(size.parameters) if size.parameters else ABSENT
    return [count, format_megabytes(size.megabytes), format_speed(size.ms)]


def format_ratios(together: Size | None, size: Size | None) -> list[str]:
    """Return how many times a system is smaller and faster than the teachers together; dashes where not known."""
    if together is None or size is None:
        return [ABSENT, ABSENT]
    smaller = together.parameters / size.parameters if together.parameters and size.parameters else None
    alike = together.timed_on is not None and together.timed_on == size.timed_on
    faster = together.ms / size.ms if alike and together.ms and size.ms else None
    return [ABSENT if ratio is None else format_ratio(ratio) for ratio in (smaller, faster)]
