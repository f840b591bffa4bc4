"""Refuse parts of an objective that mean nothing in a task."""

from __future__ import annotations

from collections.abc import Sequence

from raykd.distill.objective import Objective
from raykd.errors import ConfigError


def refuse_equal_choices(objective: Objective, why: str) -> None:
    """Refuse divergences that average over choices, where units have different ones.

    Args:
        objective: The run's.
        why: What the choices are, which completes the message.

    Raises:
        ConfigError: Names the divergence.
    """
    for term in objective.terms:
        if term.divergence.equal_choices:
            raise ConfigError(
                f"{term.divergence.kind} averages over choices, and {why}",
                got=f"objective.terms: {term.divergence.kind}",
                wanted="a divergence of probabilities, or logit_mse",
                next_step="use forward_kl, reverse_kl, jensen_shannon, total_variation or logit_mse",
            )


def refuse_keys(objective: Objective, keys: Sequence[str], why: str) -> None:
    """Refuse keys that play no part in a task.

    Args:
        objective: The run's.
        keys: Their names.
        why: The task, and why they play no part in it.

    Raises:
        ConfigError: Names the key.
    """
    for key in keys:
        if getattr(objective, key) != Objective.model_fields[key].default:
            raise ConfigError(
                f"objective.{key} plays no part in {why}",
                got=f"{key}: {getattr(objective, key)}",
                wanted="no such key",
            )
