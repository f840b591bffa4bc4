"""Teachers and ensemble as lines beside the arms of an experiment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raykd.experiments.scoring import build_references
from raykd.report.results import Predictions, Role, Score

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
