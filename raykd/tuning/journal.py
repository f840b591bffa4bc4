"""Record each trial's samples and results in the journal of a sweep, one JSON line per event.

Decision record: Tune's own state is pickled every few seconds and cannot be read when a write was cut off. A sweep
continues from this file instead. Every line is flushed to disk at once; the last line of a killed driver may be torn.
An evaluation that a trial reports twice (after a crash it repeats the same steps) counts once.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from raykd.parse import JsonObject
from raykd.parse.json_lines import append_json_rows, read_json_rows
from raykd.report.sweeps.trials import Evaluation, TrialRow
from raykd.spaces.domains import Scalar
from raykd.spaces.space import Sample

JOURNAL = "trials.jsonl"


@dataclass
class Labelling:
    """What the teachers answered ahead in one start of the sweep. Counts (text, teacher) pairs.

    Attributes:
        asked: All pairs.
        stored: Pairs whose answer was stored before.
        forwarded: Pairs whose answer was computed; None if the start was interrupted.
        task: Name of the task; empty in a run of one task.
    """

    asked: int
    stored: int
    forwarded: int | None = None
    task: str = ""


TrialStatus = Literal["finished", "stopped", "failed", "diverged"]


@dataclass
class Trial:
    """What the journal holds about one trial.

    Attributes:
        name: For example "t0007".
        index: Number of its sample, from 0.
        sample: Value of each active searched key.
        tune_ids: Tune's names for it, one per start of the sweep.
        evaluations: By number, from 1.
        objective: The best score so far.
        total_steps: Optimizer steps of a whole trial.
        seconds: Training time.
        cpu_s: Processor seconds of the training, over all its processes.
        segments: (first step, sample) per part of its history, if population based training changed the sample.
            Evaluations before the last part may come from the trial that it was copied from.
        status: None while the trial is unfinished.
        error: The whole message of a trial that failed or diverged.
    """

    name: str
    index: int
    sample: Sample
    tune_ids: list[str] = field(default_factory=list)
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    objective: float | None = None
    total_steps: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    segments: list[tuple[int, Sample]] = field(default_factory=list)
    status: TrialStatus | None = None
    error: str | None = None

    def row(self, higher_is_better: bool = True) -> TrialRow:
        """Return the trial as a row of the report."""
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
        path: The file. Events of earlier starts of the sweep are read from it.

    Attributes:
        trials: By name, in the order in which they began.
        teachers: Counters of the teachers, one entry per start of the sweep. The counters of an interrupted start are
            written by the next one.
        labellings: What the teachers answered ahead, per start and task.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.trials: dict[str, Trial] = {}
        self.teachers: list[Mapping[str, Mapping[str, float]]] = []
        self.labellings: list[Labelling] = []
        list(read_json_rows(path, lambda row: self._take(str(row.pop("event")), row)))

    def _append(self, event: str, row: JsonObject) -> None:
        with self._lock:
            # The round trip makes memory equal to what a resume reads back (tuples become lists, keys texts).
            self._take(event, json.loads(json.dumps(row)))
            append_json_rows(self._path, [{"event": event, **row}], lasting=True)

    def record_begin(self, name: str, index: int, sample: Mapping[str, Scalar], tune_id: str) -> None:
        """Record that a trial is handed to Tune, for the first time or again."""
        self._append("begin", {"name": name, "index": index, "sample": dict(sample), "tune_id": tune_id})

    def record_result(self, name: str, result: JsonObject) -> None:
        """Record an evaluation of a trial.

        Args:
            name: The trial.
            result: What the trial reported (see `TrialHost.step`).
        """
        keys = ("evaluation", "trained_steps", "total_steps", "score", "nll", "objective", "trained_s")
        row = {key: _finite(result[key]) for key in keys}
        if "cpu_s" in result:
            row["cpu_s"] = _finite(result["cpu_s"])
        if result.get("diverged"):
            row["diverged"] = True
        if "segments" in result:
            row["segments"] = json.loads(result["segments"])
        if "history" in result:
            row["history"] = [[_finite(value) for value in part] for part in json.loads(result["history"])]
        self._append("result", {"name": name, **row})

    def record_end(self, name: str, status: TrialStatus, error: str | None = None) -> None:
        """Record the end of a trial."""
        self._append("end", {"name": name, "status": status, "error": error})

    def record_labelling(self, asked: int, stored: int, task: str = "") -> None:
        """Record that the teachers begin to answer the texts of a task ahead."""
        named = {"task": task} if task else {}
        self._append("labelling", {"asked": asked, "stored": stored, **named})

    def record_labelled(self, forwarded: int) -> None:
        """Record that every text is answered."""
        self._append("labelled", {"forwarded": forwarded})

    def record_counters(self, teachers: Mapping[str, Mapping[str, float]]) -> None:
        """Record the counters of the teachers for one start of the sweep."""
        self._append("teachers", {"counters": {name: dict(values) for name, values in teachers.items()}})

    def _take(self, event: str, row: JsonObject) -> None:
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

    def _take_result(self, trial: Trial, row: JsonObject) -> None:
        number = int(row["evaluation"])
        trial.total_steps = int(row["total_steps"])
        # A diverged trial repeats the scores of its last evaluation.
        diverged = row.get("diverged", False)
        if diverged or number not in trial.evaluations:
            trial.seconds += float(row["trained_s"])
            trial.cpu_s += float(row.get("cpu_s") or 0.0)
        if not diverged:
            trial.evaluations[number] = _evaluation(number, row["trained_steps"], row["score"], row["nll"])
            trial.objective = float(row["objective"])
        history = {int(part[0]): _evaluation(*part) for part in row.get("history", ())}
        trial.evaluations = {**history, **trial.evaluations}
        if "segments" in row:
            trial.evaluations = history
            trial.segments = [(int(step), dict(sample)) for step, sample in row["segments"]]
            trial.sample = trial.segments[-1][1]

    @property
    def passes(self) -> float | None:
        """Teacher forwards per (text, teacher) pair, over all starts; None where teachers answered on demand.

        An interrupted start has no count of its own. It computed what the next start found stored beyond that.
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
        """Number of (text, teacher) pairs that are answered ahead, over all tasks."""
        return sum(own[-1].asked for own in self._by_task())

    def _by_task(self) -> list[list[Labelling]]:
        found: dict[str, list[Labelling]] = {}
        for one in self.labellings:
            found.setdefault(one.task, []).append(one)
        return list(found.values())

    @property
    def unfinished(self) -> list[Trial]:
        """Trials that a resumed sweep continues: unfinished and failed ones."""
        return [t for t in self.trials.values() if t.status in (None, "failed")]

    @property
    def cut_off(self) -> list[Trial]:
        """Unfinished trials. After a start that came to its end, these are the trials that the time budget stopped."""
        return [t for t in self.trials.values() if t.status is None]

    @property
    def next_index(self) -> int:
        """Index of the first sample that was never drawn."""
        return max((t.index + 1 for t in self.trials.values()), default=0)


def _evaluation(number: int, step: int, score: float, nll: float | None) -> Evaluation:
    return Evaluation(int(number), int(step), float(score), float("nan" if nll is None else nll))


def _finite(value: object) -> object:
    """Return None for NaN and infinity, which JSON lacks, and any other value unchanged."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
