"""What of a step is not finite: which part of the loss, and which teacher's answers; looked at only when it happens."""

from __future__ import annotations

import torch

from raykd.distill.objective import ObjectiveResult
from raykd.distill.signals import Signals
from raykd.errors import NonFiniteError


def is_finite(result: ObjectiveResult) -> bool:
    """Whether the loss is finite, and the teachers' weights too.

    An answer that is no number makes them so, and units without a weight fall back to gold: the loss would not show it.
    """
    loss = result.loss.detach()
    return bool(torch.isfinite(loss if result.weights_M is None else loss + 0.0 * result.weights_M.sum()))


def describe_nonfinite(result: ObjectiveResult, signals: Signals | None) -> str:
    """The loss, its parts that are not finite, and the teachers whose answers are not."""
    parts = [f"{name} {float(value)}" for name, value in result.sums.items() if not _finite(value)]
    if result.weights_M is not None and not _finite(result.weights_M):
        parts.append("weights of teachers nan")
    said = f"loss {float(result.loss.detach())}"
    if parts:
        said += f" ({', '.join(parts)})"
    if signals is None:
        return said
    teachers = _teachers(signals)
    return f"{said}, answers of teacher {', '.join(teachers)} not finite," if teachers else said


def _teachers(signals: Signals) -> list[str]:
    """Teachers that gave a logit that is no number or plus infinity for a unit that they cover."""
    if not signals.logits_MNC.shape[-1]:
        return []
    # Minus infinity may stand for a label that is out of the question.
    bad_MNC = signals.logits_MNC.isnan() | signals.logits_MNC.isposinf()
    bad_M = (bad_MNC.any(-1) & signals.covered_MN).any(-1)
    return [name for name, bad in zip(signals.teachers, bad_M.tolist(), strict=True) if bad]


def _finite(value: torch.Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def make_nonfinite_error(got: str, in_a_row: int, rolled_back: bool) -> NonFiniteError:
    """The end of a run whose steps stay bad.

    Args:
        got: what was met first. in_a_row: training steps that were not finite, one after the other.
        rolled_back: whether the run had gone back to a checkpoint before.
    """
    after = f", and {in_a_row - 1} steps after it were no better" if in_a_row > 1 else ""
    again = "; so it was before the run went back to its last checkpoint" if rolled_back else ""
    return NonFiniteError(
        "training is not finite",
        got=f"{got}{after}{again}",
        wanted="a finite loss and gradient, or at most train.max_skipped_steps in a row that are not",
        next_step="lower train.learning_rate, set train.gradient_clipping, or look at these rows; "
        "the checkpoints written before are intact",
    )
