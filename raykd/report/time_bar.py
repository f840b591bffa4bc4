"""Show in one bar where the time of a run went.

Decision record: the bar is plain HTML, because its widths follow the page's and its legend wraps on a phone. It ends
where the page is written, since what follows is not known yet; ``timeline.json`` in the run's folder has all of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from raykd.report.charts import COLOURS, GREY
from raykd.timeline import OTHER, Share, Span, compute_shares, get_active

TIME_TITLE = "Where the time went"
MOST_STAGES = 10
"""Stages with a piece of their own; the shorter ones and what no stage names are one piece."""
LEAST_S = 0.005
"""Shorter stages have no line on the terminal."""
_COLOURS = (*COLOURS[:-1], "#44546A", "#A6761D", "#B2A800")


@dataclass(frozen=True)
class TimePiece:
    """A piece of the bar.

    Attributes:
        name: The stage.
        seconds: Its time.
        percent: Of the whole bar.
        colour: A CSS colour.
    """

    name: str
    seconds: float
    percent: float
    colour: str


@dataclass(frozen=True)
class TimeBar:
    """The time of a run, by stage.

    Attributes:
        shares: In the order in which the stages began.
        starts: How many starts of the run they are of.
    """

    shares: tuple[Share, ...]
    starts: int = 1

    @property
    def seconds(self) -> float:
        """The whole time."""
        return sum(share.seconds for share in self.shares)

    @property
    def pieces(self) -> tuple[TimePiece, ...]:
        """The longest stages in their order, and the rest as the last piece."""
        stages = [share for share in self.shares if share.name != OTHER]
        longest = sorted(stages, key=lambda share: -share.seconds)[:MOST_STAGES]
        named = [share for share in stages if share in longest]
        rest = self.seconds - sum(share.seconds for share in named)
        pieces = [
            TimePiece(share.name, share.seconds, 100 * share.seconds / self.seconds, colour)
            for share, colour in zip(named, _COLOURS, strict=False)
        ]
        if len(named) < len(self.shares):
            pieces.append(TimePiece(OTHER, rest, 100 * rest / self.seconds, GREY))
        return tuple(pieces)

    @property
    def caption(self) -> str:
        """How to read the bar, in words."""
        starts = f" over {self.starts} starts of the run" if self.starts > 1 else ""
        return (
            f"{self.seconds:.1f} s of wall time{starts}, up to the writing of this page. Stages that ran beside others "
            "are in timeline.json, which chrome://tracing and ui.perfetto.dev open."
        )


def make_time_bar(spans: Iterable[Span] | None = None) -> TimeBar | None:
    """Return the bar of a run's spans; None where nothing was recorded.

    Args:
        spans: Of all processes and starts; None takes what this process has recorded so far.
    """
    timeline = get_active()
    listed = list(spans) if spans is not None else timeline.snapshot() if timeline is not None else []
    shares = compute_shares(listed)
    return TimeBar(shares, len({span.start for span in listed})) if shares else None


def format_times(spans: Iterable[Span]) -> list[str]:
    """Return a line for each stage, with each epoch apart: seconds, percent and name."""
    shares = compute_shares(spans, by_epoch=True)
    whole = sum(share.seconds for share in shares)
    shown = [share for share in shares if share.seconds >= LEAST_S]
    lines = [f"{s.seconds:9.2f} s {100 * s.seconds / whole:5.1f} %  {s.name}" for s in shown]
    return [*lines, f"{whole:9.2f} s         together"] if shares else []
