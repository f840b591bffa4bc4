"""`LogitMap`: what a model does to the product of hidden states and output head to get its logits.

Decision record: families scale it (Cohere, Granite, Falcon-H1) or cap it softly (Gemma 2, arXiv:2408.00118); both are
functions of one number, so a chunk of units goes through them without knowing the rest of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LogitMap:
    """``z = cap * tanh(scale * y / cap)``, or ``scale * y`` where cap is None."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, product_NV: torch.Tensor) -> torch.Tensor:
        """Return the model's logits."""
        scaled_NV = product_NV if self.scale == 1.0 else product_NV * self.scale
        return scaled_NV if self.cap is None else torch.tanh(scaled_NV / self.cap) * self.cap

    def backward(self, grad_NV: torch.Tensor, logits_NV: torch.Tensor) -> torch.Tensor:
        """Return the gradient with respect to the product.

        Args:
            grad_NV: The gradient with respect to the logits.
            logits_NV: What the call returned.
        """
        if self.cap is not None:
            grad_NV = grad_NV * (1.0 - (logits_NV / self.cap) ** 2)
        return grad_NV if self.scale == 1.0 else grad_NV * self.scale


PLAIN = LogitMap()
"""The product is the logits."""
