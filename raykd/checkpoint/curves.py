"""Keep the curves of a run's jobs in memory for the report, and on disk for a resume.

Decision record: a worker repeats the steps after its last checkpoint, so a point may come twice. It counts once: a
value is dropped if its metric is known at this step or a later one. The file lets a resumed run show the whole curve,
and send to MLflow what the killed driver still had in memory (MLflow drops what it has already).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from raykd.parse import JsonObject
from raykd.parse.json_lines import append_json_rows, read_json_rows
from raykd.point import Point

FILE = "curves.jsonl"
"""File of the curves in a run's folder."""


class Curves:
    """Points by job. The steps of each metric grow.

    Args:
        path: The file. Points of earlier starts are read from it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: dict[tuple[str, str], int] = {}
        self.by_job: dict[str, list[Point]] = {}
        for job, point in read_json_rows(path, lambda row: (str(row["job"]), _from_row(row))):
            self._keep(job, point)

    def _keep(self, job: str, point: Point) -> None:
        self.by_job.setdefault(job, []).append(point)
        self._last.update({(job, name): point.step for name in point.values})

    def add(self, job: str, point: Point) -> Point | None:
        """Keep the new values of a point, also in the file, and return them; None if there are none."""
        values = {
            name: value
            for name, value in point.values.items()
            if point.step > self._last.get((job, name), -1)
        }
        if not values:
            return None
        fresh = Point(point.step, values, point.time_ms)
        append_json_rows(self._path, [{"job": job, **_to_row(fresh)}])
        self._keep(job, fresh)
        return fresh


def save_points(path: Path, points: Sequence[Point]) -> None:
    """Write a job's points into its checkpoint, since points on their way to a killed driver are lost."""
    path.write_text(json.dumps([_to_row(point) for point in points]), encoding="utf-8")


def load_points(path: Path) -> list[Point]:
    """Return what `save_points` wrote."""
    return [_from_row(row) for row in json.loads(path.read_text(encoding="utf-8"))]


def _to_row(point: Point) -> dict[str, object]:
    values = {name: value if math.isfinite(value) else str(value) for name, value in point.values.items()}
    return {"step": point.step, "time_ms": point.time_ms, "values": values}


def _from_row(row: JsonObject) -> Point:
    values = {str(name): float(value) for name, value in row["values"].items()}
    return Point(int(row["step"]), values, int(row["time_ms"]))
