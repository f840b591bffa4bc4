"""Say whether a constraint of a run (`raykd.distill.adapting.learned.Constraint`) holds on the held-out rows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.config import RunConfig
from raykd.distill.adapting.adaptation import fix_learned, list_learned, measure_gaps
from raykd.distill.adapting.learned import Constraint
from raykd.distill.signals import Signals


def measure_constraints(
    config: RunConfig, student_NC: NDArray[np.float32], signals: Signals | None
) -> tuple[tuple[str, ...], dict[str, float]]:
    """Measure the gap between student and teachers where a run bounds it.

    Args:
        config: The run of one task.
        student_NC: The student's logits of all held-out units.
        signals: The teachers' answers to them, without gold labels; None where they cannot be compared.

    Returns:
        A sentence per constraint, and what MLflow records: ``constraint/<kind>/<mean, p95, p99, max, epsilon>``.
    """
    objective = config.at_progress(1.0).objective
    bounds = {name: own for name, own in list_learned(objective).items() if isinstance(own, Constraint)}
    if not bounds or signals is None or len(student_NC) != len(signals.labels_N):
        return (), {}
    gaps = measure_gaps(
        fix_learned(objective, {}), torch.from_numpy(student_NC), signals.labels_N, signals, progress=1.0
    )
    notes: list[str] = []
    values: dict[str, float] = {}
    for kind, bound in bounds.items():
        found_N = gaps[kind].gap_N[gaps[kind].covered_N].double().numpy()
        if not len(found_N):
            continue
        mean, (p95, p99) = float(found_N.mean()), np.quantile(found_N, (0.95, 0.99)).tolist()
        held = "holds" if mean <= bound.epsilon else "does not hold"
        notes.append(
            f"the constraint {kind} <= {bound.epsilon:g} {held} on {len(found_N):,} held-out units: mean {mean:.4g}, "
            f"95th percentile {p95:.4g}, 99th {p99:.4g}, maximum {found_N.max():.4g}"
        )
        numbers = {
            "mean": mean,
            "p95": p95,
            "p99": p99,
            "max": float(found_N.max()),
            "epsilon": bound.epsilon,
        }
        values |= {f"constraint/{kind}/{name}": value for name, value in numbers.items()}
    return tuple(notes), values
