"""`PartTracker`: one task of a run of several, recorded in the run behind the task's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raykd.point import Point
from raykd.tracking.tracker import Tracker


class PartTracker:
    """What `Tracker` records, with metrics, artifacts and tags behind a name.

    Args:
        run: where it all goes. name: of the task.
    """

    def __init__(self, run: Tracker, name: str) -> None:
        self._run, self._name = run, name
        self.run_id, self.uri = run.run_id, run.uri

    def log_points(self, points: Sequence[Point]) -> None:
        """As `Tracker.log_points`."""
        self._run.log_points(
            [
                Point(p.step, {f"{self._name}/{name}": value for name, value in p.values.items()})
                for p in points
            ]
        )

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """As `Tracker.set_tags`; names of teachers are those of the whole run already."""
        self._run.set_tags(
            {k if k.startswith("raykd.teacher.") else f"{k}.{self._name}": v for k, v in tags.items()}
        )

    def log_table(self, rows: Sequence[Mapping[str, Any]], artifact_path: str) -> None:
        """As `Tracker.log_table`."""
        self._run.log_table(rows, f"{self._name}/{artifact_path}")

    def log_text(self, text: str, artifact_path: str) -> None:
        """As `Tracker.log_text`."""
        self._run.log_text(text, f"{self._name}/{artifact_path}")

    def log_file(self, path: Path) -> None:
        """As `Tracker.log_file`."""
        self._run.log_file(path, self._name)

    def log_figure(self, figure: bytes | str, artifact_path: str) -> None:
        """As `Tracker.log_figure`."""
        self._run.log_figure(figure, f"{self._name}/{artifact_path}")

    def log_student(self, directory: Path, labels: Sequence[str], languages: Sequence[str]) -> str | None:
        """As `Tracker.log_student`: one model a task."""
        return self._run.log_student(directory, labels, languages)
