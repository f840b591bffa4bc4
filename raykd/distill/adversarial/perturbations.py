"""The union `Adversarial`: move the embedded tokens of a text to where the loss is larger, and train there too.

Decision record:

- What is moved is what the embedding layer gives, anew for each micro-batch, so nothing is kept between steps. Targets
  stay those of the text as it is: teachers are asked about texts, and a moved vector is none.
- Shares of the passes add up to 1, and all passes over a micro-batch have the same dropout. So a run whose epsilon is
  0 is the plain run, and the scale of the loss (which clipping sees) does not depend on the number of passes.
- Norms are Euclidean, over all tokens of one sequence together.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field

from raykd.spec import Spec

_TINY = 1e-12
"""Below a norm; a sequence that adds nothing to the loss has no gradient, and is not moved."""


class AdversarialBase(Spec):
    """What all kinds share."""

    kind: str
    epsilon: float = Field(ge=0.0)
    """Largest norm of what is added to the embedded tokens of one sequence."""

    @property
    @abstractmethod
    def shares(self) -> tuple[float, ...]:
        """Share of each pass over a micro-batch in the loss; they add up to 1."""

    @abstractmethod
    def begin(
        self, embedded_SLD: torch.Tensor, mask_SL: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Return what is added in the first pass, float32.

        Args:
            embedded_SLD: The embedded tokens.
            mask_SL: Which of them are no padding.
            generator: Of the draws, on the device.
        """

    @abstractmethod
    def move(self, added_SLD: torch.Tensor, gradient_SLD: torch.Tensor) -> torch.Tensor:
        """Return what is added in the next pass.

        Args:
            added_SLD: In the last one.
            gradient_SLD: Of its loss, by what was added.
        """


class FGM(AdversarialBase):
    """The fast gradient method: ``(1 - weight) L(x) + weight L(x + epsilon g / |g|)``, g the gradient of L(x) by x.

    Miyato et al., arXiv:1605.07725, whose sum of both losses is weight 0.5 and twice the scale. It costs two passes.
    """

    kind: Literal["fgm"] = "fgm"
    epsilon: float = Field(0.3, ge=0.0)
    """Norm of what is added to the embedded tokens of one sequence."""
    weight: float = Field(0.5, gt=0.0, lt=1.0)
    """Share of the moved pass in the loss."""

    @property
    def shares(self) -> tuple[float, ...]:
        """See `AdversarialBase`."""
        return 1.0 - self.weight, self.weight

    def begin(
        self, embedded_SLD: torch.Tensor, mask_SL: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Return zeros."""
        return torch.zeros_like(embedded_SLD, dtype=torch.float32)

    def move(self, added_SLD: torch.Tensor, gradient_SLD: torch.Tensor) -> torch.Tensor:
        """Return ``epsilon g / |g|``."""
        return self.epsilon * _normalise(gradient_SLD)


class FreeLB(AdversarialBase):
    """``1 / steps sum_t L(x + d_t)``, with d_0 drawn and ``d_{t+1} = project(d_t + step_size g_t / |g_t|)``.

    Zhu et al., arXiv:1909.11764: projected gradient ascent whose every pass trains. It costs `steps` passes.
    """

    kind: Literal["freelb"] = "freelb"
    epsilon: float = Field(0.3, ge=0.0)
    """Largest norm of what is added to the embedded tokens of one sequence."""
    steps: int = Field(3, ge=2)
    """Passes over a micro-batch; K in the paper."""
    step_size: float = Field(0.15, gt=0.0)
    """Norm of each step; alpha in the paper."""

    @property
    def shares(self) -> tuple[float, ...]:
        """See `AdversarialBase`."""
        return (1.0 / self.steps,) * self.steps

    def begin(
        self, embedded_SLD: torch.Tensor, mask_SL: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Return draws between -1 and 1, times ``epsilon / sqrt(numbers of a sequence)``: norms of 0.58 epsilon."""
        drawn_SLD = torch.empty_like(embedded_SLD, dtype=torch.float32).uniform_(
            -1.0, 1.0, generator=generator
        )
        numbers_S = mask_SL.sum(dim=1).clamp(min=1) * embedded_SLD.shape[2]
        scale_S = self.epsilon * numbers_S.float().rsqrt()
        return drawn_SLD * mask_SL[..., None] * scale_S[:, None, None]

    def move(self, added_SLD: torch.Tensor, gradient_SLD: torch.Tensor) -> torch.Tensor:
        """Return the next step, no longer than epsilon."""
        moved_SLD = added_SLD + self.step_size * _normalise(gradient_SLD)
        return moved_SLD * (self.epsilon / _measure(moved_SLD)).clamp(max=1.0)


def _measure(values_SLD: torch.Tensor) -> torch.Tensor:
    """Return the norm of each sequence, ``[S, 1, 1]``."""
    return values_SLD.square().sum(dim=(1, 2), keepdim=True).sqrt().clamp(min=_TINY)


def _normalise(values_SLD: torch.Tensor) -> torch.Tensor:
    # Gradients of a mean over many units are small, and their squares smaller still: the largest number is 1 first.
    largest_S11 = values_SLD.abs().amax(dim=(1, 2), keepdim=True)
    scaled_SLD = values_SLD / largest_S11.clamp(min=torch.finfo(values_SLD.dtype).tiny)
    return scaled_SLD / _measure(scaled_SLD)


Adversarial = Annotated[FGM | FreeLB, Field(discriminator="kind")]
