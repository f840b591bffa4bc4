"""A teacher is left out of a language once the student is as good there as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raykd.distill.signals import Signals
from raykd.point import Point
from raykd.scoring.teacher_results import average_weights
from raykd.student.matching.surpassed import SurpassedTeachers, read_surpassed
from tests.worlds import build_loop, rows, run_config, source

ALWAYS, NEVER = -2.0, 2.0
"""Margins of an accuracy."""


def tracker(margin: float) -> SurpassedTeachers:
    config = run_config({"weighting": {"kind": "uniform"}, "drop_surpassed": margin})
    asked = source(config)
    assert asked is not None
    return SurpassedTeachers(config, rows(60, 2, unlabelled=0.0), asked, margin)


def count_accuracy(teacher: int, language: str) -> float:
    """What `FixedSource` answers, scored with numpy."""
    held = rows(60, 2, unlabelled=0.0)
    right = []
    for text, code, label in zip(held.texts, held.languages, held.labels_B, strict=True):
        if code == language:
            logits = [np.float32(np.sin(len(text) + teacher + c) * 3) for c in range(2)]
            right.append(int(np.argmax(logits)) == label)
    return float(np.mean(right))


def test_teachers_are_left_out_where_the_student_is_as_good() -> None:
    found = tracker(0.05)
    en, multi_en, multi_zh = count_accuracy(0, "en"), count_accuracy(2, "en"), count_accuracy(2, "zh")
    assert en != multi_en
    low, high = sorted((en, multi_en))
    between = (low + high) / 2 if high - low > 0.1 else low + 0.05
    found.update({"eval/en/accuracy": between, "eval/zh/accuracy": multi_zh + 0.04})
    wanted = {("en", "multi")[en > multi_en]} if between - high < 0.05 else {"en", "multi"}
    assert found.pairs == {(name, "en") for name in wanted} | (
        {("zh", "zh")} if multi_zh + 0.04 - count_accuracy(1, "zh") >= 0.05 else set()
    )
    values = found.to_values()
    assert sum(value for name, value in values.items() if name.endswith("/surpassed")) == len(found.pairs)
    curve = [Point(1, dict.fromkeys(values, 1.0)), Point(2, values)]
    assert set(read_surpassed(curve, ["en", "zh", "multi"], ["en", "zh"])) == found.pairs
    found.update({"eval/en/accuracy": 0.0, "eval/zh/accuracy": 0.0})
    assert found.pairs == frozenset()
    found.update({})
    assert found.pairs == frozenset()


def test_only_the_units_of_that_language_lose_the_teacher() -> None:
    found = tracker(0.0)
    found.pairs = frozenset({("multi", "zh")})
    signals = Signals(
        teachers=("en", "zh", "multi"),
        teacher_languages=(frozenset({"en"}), frozenset({"zh"}), frozenset({"en", "zh"})),
        logits_MNC=torch.zeros(3, 3, 2),
        covered_MN=torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1]]).bool(),
        labels_N=torch.zeros(3, dtype=torch.int64),
        languages=("en", "zh", "en"),
    )
    hidden = found.hide(signals).covered_MN.int().tolist()
    assert hidden == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_the_table_of_weights_knows_which_teachers_were_left_out_at_the_end() -> None:
    """Alone, `multi` has all the weight in zh; where the student has surpassed it, nobody has any."""
    config = run_config({"weighting": {"kind": "uniform"}, "drop_surpassed": 0.0})
    signals = Signals(
        teachers=("zh", "multi"),
        teacher_languages=(frozenset({"zh"}), frozenset({"en", "zh"})),
        logits_MNC=torch.zeros(2, 2, 2),
        covered_MN=torch.tensor([[False, True], [True, True]]),
        languages=("en", "zh"),
        labels_N=torch.tensor([0, 1]),
    )

    def weigh(*pairs: str) -> list[dict[str, float]]:
        values = dict.fromkeys((f"teacher/{pair.replace(' ', '/surpassed/')}" for pair in pairs), 1.0)
        return average_weights(config, signals, ["zh", "multi"], [Point(1, values)])

    assert weigh() == [{"en": 0.0, "zh": 0.5}, {"en": 1.0, "zh": 0.5}]
    assert weigh("multi zh") == [{"en": 0.0, "zh": 1.0}, {"en": 1.0, "zh": 0.0}]
    assert weigh("multi zh", "zh zh") == [{"en": 0.0, "zh": 0.0}, {"en": 1.0, "zh": 0.0}]


def train(margin: float | None) -> tuple[list[dict[str, float]], Any]:
    points: list[dict[str, float]] = []
    objective = {"alpha": 0.2, "weighting": {"kind": "by_language"}, "drop_surpassed": margin}
    loop = build_loop(run_config(objective), publish=lambda point: points.append(dict(point.values)))
    loop.run()
    return [point for point in points if "train/alpha" in point], loop


def test_a_run_without_teachers_left_falls_back_to_gold() -> None:
    plain, loop = train(None)
    never, _ = train(NEVER)
    always, _ = train(ALWAYS)
    losses = [[point["train/loss"] for point in run] for run in (plain, never, always)]
    assert losses[0] == losses[1]
    # Three evaluations of 12 steps: nothing is left out before the first.
    assert losses[2][:4] == losses[0][:4]
    assert losses[2][4:] != losses[0][4:]
    assert all(point["train/uncovered"] == 1.0 for point in always[4:])
    assert all(point["teacher/multi/weight"] == 0.0 for point in always[4:])
    assert always[-1]["teacher/multi/surpassed"] == 2.0
    assert always[0]["teacher/en/surpassed"] == 0.0
    assert loop.trainer.surpassed is None


def test_a_resumed_run_leaves_out_the_same(tmp_path: Path) -> None:
    _, whole = train(0.0)
    first = build_loop(whole.config)
    first.advance()
    first.save(tmp_path)
    second = build_loop(whole.config)
    second.load(tmp_path)
    assert second.trainer.surpassed is not None
    assert second.trainer.surpassed.pairs == first.trainer.surpassed.pairs  # type: ignore[union-attr]
    second.run()
    assert second.state.history == whole.state.history


def test_phases_and_fingerprints() -> None:
    tree = run_config({"alpha": 0.2}).model_dump(mode="json")
    tree["phases"] = [{"at": 0.5, "set": {"objective": {"drop_surpassed": 0.0}}}]
    with pytest.raises(ValidationError, match="phases may not change which teachers"):
        type(run_config()).model_validate(tree)
