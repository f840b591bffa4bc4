"""Record where the time of a training run goes, from its process's start to its end, over all starts.

Decision record: a run's file of spans is written when its page is made and when it ends, however it ends. A start that
was killed leaves none, and later starts do not count it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from raykd.report.time_bar import format_times
from raykd.timeline import FILE, OTHER, Timeline, read_trace, recording, stage, write_trace
from raykd.timeline.recording import add_process_start

log = logging.getLogger("raykd.runs")


class RunTimes:
    """The time line of a run's driver.

    Args:
        profile: Whether parts of steps are recorded and the stages are printed at the end.
    """

    def __init__(self, *, profile: bool) -> None:
        self._timeline = Timeline("driver", profile=profile)
        self._path: Path | None = None

    def follow(self, folder: Path) -> None:
        """Keep the time line in the run's folder from now on, behind what earlier starts left there."""
        self._path = folder / FILE
        self._timeline.follow(read_trace(self._path))

    @contextlib.contextmanager
    def record(self, console: Console) -> Iterator[None]:
        """Record while the body runs, and write what was recorded.

        Args:
            console: Where the stages of a profiled run are printed.
        """
        add_process_start(self._timeline)
        with recording(self._timeline):
            try:
                with stage(OTHER):  # what no stage inside it names
                    yield
            finally:
                self._write(console)

    def _write(self, console: Console) -> None:
        if self._path is None or not self._path.parent.is_dir():
            return  # refused before its folder was opened, or given up without a trace
        try:
            write_trace(self._timeline.spans, self._path)
        except OSError:
            log.exception("the time line was not written")
            return
        if self._timeline.profile:
            for line in format_times(self._timeline.spans):
                console.print(line, markup=False, highlight=False)
            console.print(f"profile  {self._path}", markup=False, highlight=False, soft_wrap=True)
