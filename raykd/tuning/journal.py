"""The journal of a sweep: what every trial was given and what came of it, a line an event, on disk at once.

Decision record: Tune's own state is pickled objects that are written every few seconds and that nobody can read if
they are cut off. A sweep goes on from this file instead: lines of JSON, each flushed to the disk, the last one perhaps
torn. What a trial has reported twice (after a crash it does the same steps again) counts once.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from raykd.report.sweeps.trials import Evaluation, TrialRow

JOURNAL = "trials.jsonl"


@dataclass
class Labelling:
    """What the teachers answered ahead in one start of the sweep, in (text, teacher) pairs.

    Attributes:
        asked: All pairs.
        stored: Those that were there before.
        forwarded: Computed; None where the start was cut off.
        task: Whose texts; empty where there is one.
    """

    asked: int
    stored: int
    forwarded: int | None = None
    task: str = ""


TrialStatus = Literal["finished", "stopped", "failed", "diverged"]


@dataclass
class Trial:
    """What is known of a trial.

    Attributes:
        tune_ids: Tune's names for it, one a start of the sweep.
        evaluations: By number.
        objective: The best so far.
        segments: (first step, sample) of each part of its history, where population based training changed
            it; the evaluations of the parts before the last may then be those of the trial that it was copied
            from.
        status: None while it is not over.
    """

    name: str
    index: int
    sample: dict[str, Any]
    tune_ids: list[str] = field(default_factory=list)
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    objective: float | None = None
    total_steps: int = 0
    seconds: float = 0.0
    segments: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    status: TrialStatus | None = None
    error: str | None = None

    def row(self, higher_is_better: bool = True) -> TrialRow:
        """As the report shows it."""
        return TrialRow(
            name=self.name,
            status=self.status or ("cut off" if self.evaluations else "waiting"),
            sample=self.sample,
            evaluations=tuple(self.evaluations[k] for k in sorted(self.evaluations)),
            total_steps=self.total_steps,
            seconds=self.seconds,
            error=self.error,
            higher_is_better=higher_is_better,
        )


class Journal:
    """The events of a sweep, on disk and in memory.

    Args:
        path: The file; what an earlier start of the sweep wrote is read from it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.trials: dict[str, Trial] = {}
        self.teachers: list[Mapping[str, Mapping[str, float]]] = []
        """Counters of the teachers, one entry a start of the sweep; of one that was cut off the next one writes it."""
        self.labellings: list[Labelling] = []
        if path.exists():
            # Not splitlines: some characters of a label or an error end a line for Python, and not for JSON.
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                self._read(line)
            self._end_torn_line()

    def _read(self, line: str) -> None:
        try:
            row = json.loads(line)
            self._take(str(row.pop("event")), row)
        except (ValueError, LookupError, TypeError, AttributeError):
            return  # the last line of a killed driver may be torn

    def _end_torn_line(self) -> None:
        with self._path.open("rb+") as file:
            if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                file.write(b"\n")

    def _append(self, event: str, row: dict[str, Any]) -> None:
        with self._lock:
            self._take(event, json.loads(json.dumps(row)))
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps({"event": event, **row}, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())

    def record_begin(self, name: str, index: int, sample: Mapping[str, Any], tune_id: str) -> None:
        """A trial was handed to Tune, for the first time or again."""
        self._append("begin", {"name": name, "index": index, "sample": dict(sample), "tune_id": tune_id})

    def record_result(self, name: str, result: Mapping[str, Any]) -> None:
        """A trial came to an evaluation."""
        keys = ("evaluation", "trained_steps", "total_steps", "score", "nll", "objective", "trained_s")
        row = {key: _finite(result[key]) for key in keys}
        if result.get("diverged"):
            row["diverged"] = True
        if "segments" in result:
            row["segments"] = json.loads(result["segments"])
        if "history" in result:
            row["history"] = [[_finite(value) for value in part] for part in json.loads(result["history"])]
        self._append("result", {"name": name, **row})

    def record_end(self, name: str, status: TrialStatus, error: str | None = None) -> None:
        """A trial is over."""
        self._append("end", {"name": name, "status": status, "error": error})

    def record_labelling(self, asked: int, stored: int, task: str = "") -> None:
        """Teachers begin to answer the texts of a task ahead."""
        of = {"task": task} if task else {}
        self._append("labelling", {"asked": asked, "stored": stored, **of})

    def record_labelled(self, forwarded: int) -> None:
        """Every text is answered."""
        self._append("labelled", {"forwarded": forwarded})

    def record_counters(self, teachers: Mapping[str, Mapping[str, float]]) -> None:
        """What the teachers did in a start of the sweep."""
        self._append("teachers", {"counters": {name: dict(values) for name, values in teachers.items()}})

    def _take(self, event: str, row: dict[str, Any]) -> None:
        if event == "teachers":
            self.teachers.append(row["counters"])
        elif event == "labelling":
            self.labellings.append(Labelling(int(row["asked"]), int(row["stored"]), task=row.get("task", "")))
        elif event == "labelled":
            self.labellings[-1].forwarded = int(row["forwarded"])
        elif event == "begin":
            trial = self.trials.setdefault(row["name"], Trial(row["name"], row["index"], row["sample"]))
            trial.tune_ids.append(row["tune_id"])
            trial.status, trial.error = None, None
        elif event == "result":
            self._take_result(self.trials[row["name"]], row)
        elif event == "end":
            trial = self.trials[row["name"]]
            trial.status, trial.error = row["status"], row["error"]

    def _take_result(self, trial: Trial, row: dict[str, Any]) -> None:
        number = int(row["evaluation"])
        trial.total_steps = int(row["total_steps"])
        diverged = row.get(
            "diverged", False
        )  # then the scores are those of the last evaluation, if there was one
        if diverged or number not in trial.evaluations:
            trial.seconds += float(row["trained_s"])
        if not diverged:
            score, nll = float(row["score"]), float("nan" if row["nll"] is None else row["nll"])
            trial.evaluations[number] = Evaluation(number, int(row["trained_steps"]), score, nll)
            trial.objective = float(row["objective"])
        history = {
            int(k): Evaluation(int(k), int(step), float(score), float("nan" if nll is None else nll))
            for k, step, score, nll in row.get("history", ())
        }
        trial.evaluations = {**history, **trial.evaluations}
        if "segments" in row:
            trial.evaluations = history
            trial.segments = [(int(step), dict(sample)) for step, sample in row["segments"]]
            trial.sample = trial.segments[-1][1]

    @property
    def passes(self) -> float | None:
        """Teacher forwards over (text, teacher) pairs, over all starts; None where teachers answered on demand.

        What a start that was cut off computed is what the next one found more than it did.
        """
        if not self.labellings:
            return None
        forwarded = sum(
            int(c.get("computed_while_parked", 0)) for start in self.teachers for c in start.values()
        )
        for own in self._by_task():
            for one, following in zip(own, [*own[1:], None], strict=True):
                if one.forwarded is not None:
                    forwarded += one.forwarded
                elif following is not None:
                    forwarded += following.stored - one.stored
        return forwarded / max(1, self.pairs)

    @property
    def pairs(self) -> int:
        """Pairs of a text and a teacher that are answered ahead, over all tasks."""
        return sum(own[-1].asked for own in self._by_task())

    def _by_task(self) -> list[list[Labelling]]:
        found: dict[str, list[Labelling]] = {}
        for one in self.labellings:
            found.setdefault(one.task, []).append(one)
        return list(found.values())

    @property
    def unfinished(self) -> list[Trial]:
        """Trials that a resumed sweep goes on with: those that are not over, and those that failed."""
        return [t for t in self.trials.values() if t.status in (None, "failed")]

    @property
    def cut_off(self) -> list[Trial]:
        """Trials that are not over: where a start came to its end, those that the time budget ended."""
        return [t for t in self.trials.values() if t.status is None]

    @property
    def next_index(self) -> int:
        """The index of the first sample that was never drawn."""
        return max((t.index + 1 for t in self.trials.values()), default=0)


def _finite(value: Any) -> Any:
    """JSON has no NaN; None stands for it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
