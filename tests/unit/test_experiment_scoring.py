"""Teachers and ensemble as lines beside the arms of an experiment."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raykd.config import RunConfig
from raykd.data.load import Dataset
from raykd.data.rows import Rows
from raykd.experiments.scoring import build_references
from raykd.report.results import Predictions, Role, Score
from raykd.scoring.teacher_systems import score_reference_systems
from raykd.teachers.source import ReadyBatch
from raykd.teachers.timing import describe_conditions
from raykd.text.batch import TextBatch
from tests.fakes import answer_slots
from tests.worlds import run_config

EMPTY = (np.zeros((0, 2), np.float32), np.zeros(0, bool), np.zeros(0, np.int64), ())


def system(name: str, role: Role, parameters: int, **accuracies: float) -> tuple[Predictions, Score]:
    """A system with an accuracy in each language, and their mean."""
    macro = float(np.mean(list(accuracies.values())))
    score = Score({x: {"accuracy": a} for x, a in accuracies.items()}, {"accuracy": macro}, {})
    return Predictions(name, role, *EMPTY, parameters, 5.0, megabytes=1.5, timed_on="1 thread, cpu"), score


def world(*tasks: str, judged: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """A run and a job of these tasks, which are measured on test rows."""
    member = SimpleNamespace(metric="accuracy")
    base = SimpleNamespace(
        members=dict.fromkeys(tasks, member), metric="accuracy" if tasks == ("",) else "score"
    )
    data = SimpleNamespace(held_out="test", judged=judged)
    return base, SimpleNamespace(data=dict.fromkeys(tasks, data))


def test_scores_have_the_names_of_those_of_students() -> None:
    base, job = world("")
    own = [system("zh", "teacher", 10, zh=0.7), system("e", "ensemble", 30, zh=0.8, en=0.6)]
    teacher, together = build_references(base, {"": own}, job)
    assert (teacher.name, teacher.role) == ("teacher zh", "teacher")
    assert teacher.scores == {"test/zh/accuracy": 0.7, "test/macro/accuracy": 0.7}
    assert together.name == "teachers' ensemble" and together.scores["test/macro/accuracy"] == pytest.approx(
        0.7
    )
    assert (together.parameters, together.ms_per_1000, together.timed_on) == (30, 5.0, "1 thread, cpu")


def test_the_ensembles_of_several_tasks_are_one_line_with_the_mean_over_tasks() -> None:
    base, job = world("opinion", "names")
    systems = {
        "opinion": [system("a", "teacher", 10, en=0.9), system("e", "ensemble", 10, en=0.9)],
        "names": [system("b", "teacher", 20, en=0.5), system("e", "ensemble", 20, en=0.5)],
    }
    a, b, together = build_references(base, systems, job)
    assert a.scores == {"test/opinion en/accuracy": 0.9, "test/opinion mean/accuracy": 0.9}
    assert b.scores == {"test/names en/accuracy": 0.5, "test/names mean/accuracy": 0.5}
    assert together.name == "teachers' ensembles" and together.parameters == 30
    assert together.megabytes == 3.0 and together.ms_per_1000 is None, (
        "times of different texts do not add up"
    )
    assert together.scores["test/macro/score"] == pytest.approx(0.7)
    only = build_references(base, {"opinion": systems["opinion"]}, job)
    assert [one.role for one in only] == ["teacher"], (
        "a task without teachers leaves no ensemble of the whole run"
    )


class TimedPool:
    """Two teachers of two labels over rows whose text ends with the gold label; counts what it is asked."""

    def __init__(self, names: tuple[str, ...] = ("good", "bad")) -> None:
        teacher = SimpleNamespace(model_path=None)
        specs = [SimpleNamespace(name=name, teacher=teacher) for name in names]
        languages = dict.fromkeys(names)
        self.handle: Any = SimpleNamespace(
            teachers=names,
            teacher_languages=list(languages.values()),
            groups=[SimpleNamespace(specs=specs)],
            submit=self.submit,
        )
        self.replicas: Any = self
        self.asked: list[str] = []

    def submit(self, batch: TextBatch) -> ReadyBatch:
        self.asked += batch.ids
        gold_B = np.asarray([int(text[-1]) for text in batch.texts])
        signals = []
        for name in self.handle.teachers:
            logits = np.zeros((len(batch), 2), np.float32)
            logits[np.arange(len(batch)), gold_B if name == "good" else 1 - gold_B] = (
                5.0 if name == "good" else 1.0
            )
            signals.append(answer_slots(name, logits, np.ones(len(batch), bool)))
        return ReadyBatch(signals)

    def measure_times(self, samples: Any, student: object) -> dict[str, Any]:
        assert student is None, "there is no student yet"
        at = describe_conditions(["a"], 1, "cpu", "float32")
        return {"good": (replace(at, ms=2.0), None), "bad": (replace(at, ms=6.0), None)}


def test_references_are_measured_once_on_the_held_out_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykd.scoring.score.PoolSource", lambda handle: handle)
    texts = tuple(f"text {i}" for i in (0, 1, 10, 11))
    rows = Rows(tuple("abcd"), texts, ("en",) * 4, np.asarray([0, 1, 0, 1]))
    pool: Any = TimedPool()
    infos: Any = [
        SimpleNamespace(name=name, parameters=100, columns=((0,), (1,))) for name in pool.handle.teachers
    ]
    teachers = [{"name": name, "languages": "all", "path": "x"} for name in pool.handle.teachers]
    tree = run_config({"alpha": 0.1, "weighting": {"kind": "uniform"}}).model_dump(mode="json")
    config = RunConfig.model_validate({**tree, "teachers": teachers})
    found = score_reference_systems(config, Dataset(rows, rows, rows), pool, infos, ["good", "bad"])
    macro = {p.name: (s.macro or {})["accuracy"] for p, s in found}
    assert macro == {"good": 1.0, "bad": 0.0, "teacher ensemble": 1.0}, "the sure one decides"
    assert pool.asked == list("abcd")
    together = found[-1][0]
    assert (together.parameters, together.ms_per_1000, together.timed_on) == (200, 8000.0, "1 thread, cpu")
    assert score_reference_systems(config, Dataset(rows, rows, rows), pool, infos, ["another"]) == []
    judged = Dataset(rows, rows, rows, judged=("test",))
    named = score_reference_systems(config, judged, pool, infos, ["good", "bad"])
    assert "agreement" in (named[0][1].macro or {})
