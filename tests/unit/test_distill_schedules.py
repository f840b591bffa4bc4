"""Schedules against hand-computed values, at the ends, in the middle and at every corner."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from raykd.distill.schedules import (
    Constant,
    Cosine,
    Exponential,
    Linear,
    Schedule,
    ScheduleBase,
    Step,
    TeacherAnnealing,
    Warmup,
    WarmupStableDecay,
)

ADAPTER: TypeAdapter[Any] = TypeAdapter(Schedule)

VALUES = [
    (Constant(value=0.4), {0.0: 0.4, 0.5: 0.4, 1.0: 0.4}),
    (Linear(), {0.0: 1.0, 0.25: 0.75, 1.0: 0.0}),
    (Linear(start=2.0, end=5.0), {0.0: 2.0, 0.5: 3.5, 1.0: 5.0}),
    (Cosine(), {0.0: 1.0, 0.25: (1 + math.sqrt(0.5)) / 2, 0.5: 0.5, 1.0: 0.0}),
    (Cosine(start=1.0, end=0.2), {0.0: 1.0, 0.5: 0.6, 1.0: 0.2}),
    (Exponential(), {0.0: 1.0, 0.5: math.exp(-1.5), 1.0: math.exp(-3.0)}),
    (Exponential(start=2.0, rate=5.0, end=0.5), {0.0: 2.0, 0.2: 2.0 * math.exp(-1.0), 1.0: 0.5}),
    (Step(), {0.0: 1.0, 0.4999: 1.0, 0.5: 0.3, 0.7499: 0.3, 0.75: 0.1, 1.0: 0.1}),
    (Step(values=(0.7,), at=()), {0.0: 0.7, 1.0: 0.7}),
    (Warmup(), {0.0: 0.0, 0.05: 0.5, 0.1: 1.0, 1.0: 1.0}),
    (Warmup(fraction=0.5, value=3.0), {0.25: 1.5, 0.5: 3.0, 0.75: 3.0}),
    (Warmup(fraction=0.0, value=3.0), {0.0: 3.0, 1.0: 3.0}),
    (WarmupStableDecay(), {0.0: 0.0, 0.05: 0.5, 0.1: 1.0, 0.8: 1.0, 0.9: 0.5, 1.0: 0.0}),
    (
        WarmupStableDecay(warmup=0.0, decay=0.5, value=2.0, end=1.0),
        {0.0: 2.0, 0.5: 2.0, 0.75: 1.5, 1.0: 1.0},
    ),
    (WarmupStableDecay(warmup=0.5, decay=0.5), {0.25: 0.5, 0.5: 1.0, 0.75: 0.5, 1.0: 0.0}),
    (WarmupStableDecay(warmup=0.5, decay=0.0, end=0.3), {0.25: 0.5, 0.5: 1.0, 1.0: 1.0}),
    (TeacherAnnealing(), {0.0: 0.0, 0.3: 0.3, 1.0: 1.0}),
    (TeacherAnnealing(start=0.2, end=0.6), {0.0: 0.2, 0.5: 0.4, 1.0: 0.6}),
]


def name(value: object) -> str | None:
    return value.kind if isinstance(value, ScheduleBase) else None


@pytest.mark.parametrize(("schedule", "expected"), VALUES, ids=name)
def test_values(schedule: ScheduleBase, expected: dict[float, float]) -> None:
    assert {u: schedule.value_at(u) for u in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("schedule", "expected"), VALUES, ids=name)
def test_the_end_is_exact_and_rounding_is_clamped(
    schedule: ScheduleBase, expected: dict[float, float]
) -> None:
    assert schedule.value_at(1.0 + 1e-12) == schedule.value_at(1.0)
    assert schedule.value_at(-1e-12) == schedule.value_at(0.0)
    if not isinstance(schedule, Exponential):
        assert schedule.value_at(1.0) == expected.get(1.0, schedule.value_at(1.0))


@pytest.mark.parametrize("progress", [math.nan, math.inf, -0.01, 1.01])
def test_progress_that_is_no_progress(progress: float) -> None:
    with pytest.raises(ValueError, match="progress"):
        Linear().value_at(progress)


@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, len(VALUES) - 1), u=st.floats(0.0, 1.0))
def test_bounds_hold_everywhere_and_are_attained(index: int, u: float) -> None:
    schedule = VALUES[index][0]
    low, high = schedule.bounds()
    assert low - 1e-12 <= schedule.value_at(u) <= high + 1e-12
    knots = [schedule.value_at(k) for k in schedule.knots()]
    assert (min(knots), max(knots)) == (low, high)


def test_bounds_see_a_narrow_step() -> None:
    assert Step(values=(1.0, -7.0, 1.0), at=(0.61, 0.62)).bounds() == (-7.0, 1.0)


@pytest.mark.parametrize("schedule", [case[0] for case in VALUES], ids=name)
def test_round_trip(schedule: ScheduleBase) -> None:
    assert ADAPTER.validate_python(schedule.model_dump()) == schedule
    assert ADAPTER.validate_json(ADAPTER.dump_json(schedule)) == schedule


@pytest.mark.parametrize("number", [0, 1, 0.25, -3.0])
def test_a_number_is_a_constant(number: float) -> None:
    assert ADAPTER.validate_python(number) == Constant(value=number)
    assert ADAPTER.validate_json(str(number)) == Constant(value=number)


@pytest.mark.parametrize("value", [True, False, "0.5", None, math.nan, math.inf, {"kind": "polynomial"}, {}])
def test_what_is_no_schedule(value: object) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(value)


def test_a_wrong_kind_names_the_right_ones() -> None:
    with pytest.raises(ValidationError, match=r"polynomial.*warmup_stable_decay"):
        ADAPTER.validate_python({"kind": "polynomial"})


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("linear", {"stop": 1.0}),
        ("exponential", {"rate": -1.0}),
        ("exponential", {"start": 0.5, "end": 0.6}),
        ("step", {"values": (1.0, 0.5), "at": (0.2, 0.4)}),
        ("step", {"values": (1.0, 0.5, 0.1), "at": (0.5, 0.5)}),
        ("step", {"values": (1.0, 0.5, 0.1), "at": (0.7, 0.5)}),
        ("step", {"values": (1.0, 0.5), "at": (1.5,)}),
        ("warmup", {"fraction": 1.1}),
        ("warmup", {"fraction": -0.1}),
        ("warmup_stable_decay", {"warmup": 0.6, "decay": 0.5}),
    ],
)
def test_fields_that_cannot_work(kind: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python({"kind": kind, **fields})
