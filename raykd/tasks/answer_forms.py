"""The forms in which a teacher answers over a vocabulary: what a user chooses, and how it is computed of its logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator

from raykd.answers.compress import MOST_DRAWS, TensorAnswer, compute_draws, compute_hidden, compute_top_k
from raykd.spec import Spec


@dataclass(frozen=True)
class Chunk:
    """Some units of a teacher's answer, on its device.

    Attributes:
        hidden_ND: What the output head reads.
        logits_NV: What it makes of that.
        gold_N: The target's tokens.
        uniforms_ND: A random number in [0, 1) per unit and draw, for answers that are drawn.
    """

    hidden_ND: torch.Tensor
    logits_NV: torch.Tensor
    gold_N: torch.Tensor
    uniforms_ND: torch.Tensor


class TopKAnswers(Spec):
    """The k largest logits, and a log-sum-exp for each temperature that the student may use."""

    kind: Literal["top_k"] = "top_k"
    k: int = Field(64, ge=1)
    """Logits per token; all others are one tail."""
    temperatures: tuple[float, ...] = Field((1.0, 1.5, 2.0, 3.0, 4.0), min_length=1)
    """Temperatures of the objective must be among them: others cannot be told from these."""

    @field_validator("temperatures")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) <= 0.0 or len(set(value)) != len(value):
            raise ValueError(f"temperatures must be positive and differ, got {list(value)}")
        return value

    def compute_answer(self, chunk: Chunk) -> TensorAnswer:
        """Return the answer for a chunk of units; waits for nothing."""
        return compute_top_k(chunk.logits_NV, self.k, self.temperatures, gold_N=chunk.gold_N)


class SampledAnswers(Spec):
    """Tokens drawn from the teacher (Anshumann et al., arXiv 2503.16870): unbiased, and smallest."""

    kind: Literal["sampled"] = "sampled"
    draws: int = Field(50, ge=1, le=MOST_DRAWS)
    """Draws per token, with replacement."""
    temperature: float = Field(1.0, gt=0.0)
    """Temperature of the draws; the objective's temperature must be the same."""

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The only temperature that the draws can serve."""
        return (self.temperature,)

    def compute_answer(self, chunk: Chunk) -> TensorAnswer:
        """Return the answer for a chunk of units; waits for nothing."""
        return compute_draws(chunk.logits_NV, chunk.uniforms_ND, self.temperature, gold_N=chunk.gold_N)


class HiddenAnswers(Spec):
    """The last hidden states. The student's side holds the teacher's output head: every logit, any temperature."""

    kind: Literal["hidden"] = "hidden"

    @property
    def temperatures(self) -> tuple[float, ...]:
        """() stands for any temperature."""
        return ()

    def compute_answer(self, chunk: Chunk) -> TensorAnswer:
        """Return the answer for a chunk of units; waits for nothing."""
        return compute_hidden(chunk.hidden_ND, logits_NV=chunk.logits_NV, gold_N=chunk.gold_N)


Answers = Annotated[TopKAnswers | SampledAnswers | HiddenAnswers, Field(discriminator="kind")]
"""How a teacher answers over a vocabulary."""
