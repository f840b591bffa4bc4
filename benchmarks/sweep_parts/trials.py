"""What the events of a sweep say of its trials: when each slot trained and when it did not.

A trial's `begin` is when the searcher handed it to Tune, a result's time minus its `trained_s` is when that training
began. A slot is a place for a trial: a new trial takes the place of the one that ended before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Times:
    """Seconds, one value a trial (first trials of each process left out).

    start_up: from the hand-over to the first step. between: from the last training of the trial before in this slot
    to the first step. waits: between two evaluations of a trial. trained: in training and evaluating, all trials.
    """

    start_up: list[float]
    between: list[float]
    waits: list[float]
    trained: float
    failed: int


def times_of(events: Sequence[dict[str, Any]], slots: int) -> Times:
    """The times of one unbroken sweep."""
    begun: dict[str, float] = {}
    last: dict[str, float] = {}
    order: list[str] = []
    ended: list[str] = []
    places: list[str] = []
    start_up, between, waits = [], [], []
    before: dict[str, str | None] = {}
    trained, failed = 0.0, 0
    for event in events:
        name = event.get("name", "")
        if event["event"] == "begin":
            order.append(name)
            begun[name] = event["seen"]
            # The trial whose place it takes: the earliest that ended and has no follower yet.
            before[name] = places.pop(0) if len(order) > slots and places else None
        elif event["event"] == "result":
            first_step = event["seen"] - event["trained_s"]
            trained += event["trained_s"]
            if name in last:
                waits.append(first_step - last[name])
            elif len(order) > slots and order.index(name) >= slots:
                start_up.append(first_step - begun[name])
                previous = before[name]
                if previous is not None:
                    between.append(first_step - last[previous])
            last[name] = event["seen"]
        elif event["event"] == "end":
            ended.append(name)
            failed += event["status"] in ("failed", "diverged")
            if name in last:
                places.append(name)
    return Times(start_up, between, waits, trained, failed)


def slope(walls: dict[int, float]) -> float:
    """Seconds a trial, by least squares over the numbers of trials."""
    trials = np.asarray(sorted(walls), dtype=float)
    return float(np.polyfit(trials, [walls[int(n)] for n in trials], 1)[0])


def on_the_line(walls: dict[int, float], trials: int) -> float:
    """What was measured for so many trials, or what the line through the rest says.

    Raises:
        ValueError: fewer than two numbers of trials, and this one is not among them.
    """
    if trials in walls:
        return walls[trials]
    if len(walls) < 2:
        raise ValueError("a line needs two points")
    a, b = np.polyfit(sorted(walls), [walls[n] for n in sorted(walls)], 1)
    return float(a * trials + b)
