"""What one step of plain SGD with a discriminator must have done to the weights, by hand."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from raykd.distill.adversarial.alignment import DISCRIMINATOR

Weights = Mapping[str, torch.Tensor]


def assert_reversed(
    model: nn.Module,
    moved: tuple[Weights, Weights],
    plain: tuple[Weights, Weights],
    *,
    discriminator_atol: float,
    atol: float,
) -> float:
    """Compare a step with the gradients of the discriminator's loss, which the model holds.

    Args:
        model: With the gradients of the loss.
        moved: Its weights before and after the step, at learning rate 1 and weight 0.5.
        plain: Those of the same student without a discriminator.
        discriminator_atol: Of the discriminator's weights, which follow the gradient.
        atol: Of the student's, which go against half of it.

    Returns:
        The largest gradient in the student.
    """
    most = 0.0
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        step = moved[0][name] - moved[1][name]
        if name.startswith(DISCRIMINATOR):
            assert torch.allclose(step, gradient, atol=discriminator_atol), name
        else:
            own = plain[0][name] - plain[1][name]
            assert torch.allclose(step - own, -0.5 * gradient, atol=atol), name
            most = max(most, gradient.abs().max().item())
    return most
