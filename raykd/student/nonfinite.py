"""Find the source of a non-finite loss.

`guard_loss` runs in every micro-batch and reads nothing back from the device: what is not finite makes the gradient so,
and the check of the gradient finds it. The rest runs only after that check has failed, so it may wait for the device
freely.
"""

from __future__ import annotations

import torch

from raykd.distill.shares import ObjectiveResult
from raykd.distill.signals import Signals
from raykd.errors import NonFiniteError


def guard_loss(result: ObjectiveResult) -> torch.Tensor:
    """Return the loss of a micro-batch, with a gradient of NaN where it or a teacher weight is not finite.

    A loss that is not finite may have a finite gradient. A NaN logit makes its teacher's weight NaN, and units without
    a valid weight fall back to the gold label, so that the loss alone would not show it.

    Args:
        result: The objective's result, before the backward pass.
    """
    checked = result.loss.detach()
    if result.weights_M is not None:
        checked = checked + result.weights_M.sum()
    return result.loss * (1.0 + 0.0 * checked)  # 0 times NaN or infinity is NaN


def describe_nonfinite(result: ObjectiveResult, signals: Signals | None) -> str:
    """Describe which loss terms and which teachers are not finite.

    Args:
        result: The result of the micro-batch.
        signals: The teachers' answers for the same micro-batch; None in a run without teachers.

    Returns:
        The middle of a sentence, such as "loss nan (soft/forward_kl nan), answers of teacher fr not finite,".
    """
    parts = [f"{name} {float(value)}" for name, value in result.sums.items() if not value.isfinite()]
    if result.weights_M is not None and not result.weights_M.isfinite().all():
        parts.append("weights of teachers nan")
    text = f"loss {float(result.loss.detach())}" + (f" ({', '.join(parts)})" if parts else "")
    teachers = [] if signals is None else _find_teachers(signals)
    return f"{text}, answers of teacher {', '.join(teachers)} not finite," if teachers else text


def _find_teachers(signals: Signals) -> list[str]:
    """Return the teachers with a NaN or +inf logit for a unit that they cover."""
    if not signals.logits_MNC.shape[-1]:  # answers over a vocabulary: no logits are kept
        return []
    # -inf is legal: it marks a label that the teacher rules out.
    bad_MNC = signals.logits_MNC.isnan() | signals.logits_MNC.isposinf()
    bad_M = (bad_MNC.any(-1) & signals.covered_MN).any(-1)
    return [name for name, bad in zip(signals.teachers, bad_M.tolist(), strict=True) if bad]


def make_nonfinite_error(got: str, in_a_row: int, rolled_back: bool) -> NonFiniteError:
    """Make the error that ends a run whose steps stay non-finite.

    Args:
        got: What was met first.
        in_a_row: Training steps that were not finite, one after the other.
        rolled_back: Whether the run had gone back to a checkpoint before.
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
