"""A bandit: which teacher teaches a language is tried out, and how the student's held-out loss falls is the reward.

Decision record: a round is from one evaluation to the next, because a loss on held-out rows is measured there, and all
units of a language have the round's teacher, so that its reward is its own. What was drawn and learned follows from the
losses of the evaluations and the seed; these are in the checkpoint, so there is no state beside them. A run has tens of
such rewards, too few for a policy that reads each row: `policy` has others.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from raykd.distill.signals import Signals
from raykd.distill.weightings.base import LearnedWeighting, States, lay_out_table, spread_evenly


class Bandit(LearnedWeighting):
    """EXP3.S for each language (Auer et al., 2002): one teacher at a time, drawn by what its earlier rounds brought.

    The reward of a round is by what share of itself the NLL of the language's validation rows fell, scaled to [-1, 1]
    between the 20th and 80th percentile of the rounds so far (Graves et al., arXiv:1704.03003). Then ``log v_m += rate
    reward / pi_m`` of the drawn teacher, an even share ``1 / (t + 1)`` of all weights is mixed in, and ``pi_m = (1 -
    explore) v_m / sum v + explore / M``. Up to the first evaluation, and where the drawn teacher does not cover a unit,
    its teachers share it equally.
    """

    needs_probabilities: ClassVar[bool] = False
    learns_from_answers: ClassVar[bool] = False
    kind: Literal["bandit"] = "bandit"
    rate: float = Field(default=0.3, gt=0.0)
    """Step size."""
    explore: float = Field(default=0.2, gt=0.0, le=1.0)
    """Share of the rounds in which any teacher is drawn alike."""

    def count_needed(self, teachers: int) -> int:
        return 50

    def count_evaluations(self, teachers: int) -> int:
        """Return how many evaluations a run needs at least: two rounds for each teacher, after the first one."""
        return 2 * teachers + 1

    def follow(
        self, losses: Sequence[Mapping[str, float]], arms: Mapping[str, Sequence[str]], seed: int
    ) -> States:
        """Return what each language is taught by until the next evaluation.

        Args:
            losses: NLL of the validation rows by language, an entry for each evaluation.
            arms: The teachers of each language.
            seed: Of the run.

        Returns:
            By ``<language>/<teacher>``, whether it was drawn (0 or 1), and its probability.
        """
        found: dict[str, tuple[float, ...]] = {}
        for language, teachers in arms.items():
            own = [each[language] for each in losses if language in each]
            if not own or not teachers:
                continue
            drawn, pi_M = self._play(np.asarray(own), len(teachers), [seed, zlib.crc32(language.encode())])
            for m, teacher in enumerate(teachers):
                found[f"{language}/{teacher}"] = (float(m == drawn), float(pi_M[m]))
        return found

    def _play(
        self, losses_T: NDArray[np.float64], arms: int, entropy: Sequence[int]
    ) -> tuple[int, NDArray[np.float64]]:
        """Return the teacher of the round after the last loss, and the probabilities by which it was drawn."""
        falls_T = -np.diff(losses_T) / np.maximum(losses_T[:-1], 1e-12)
        log_M: NDArray[np.float64] = np.zeros(arms)
        for t in range(len(losses_T)):
            v_M = np.exp(log_M - log_M.max())
            pi_M = (1.0 - self.explore) * v_M / v_M.sum() + self.explore / arms
            drawn = int(np.random.default_rng([*entropy, t]).choice(arms, p=pi_M))
            if t == len(falls_T):
                break
            log_M[drawn] += self.rate * scale_reward(falls_T[: t + 1]) / pi_M[drawn]
            v_M, share = np.exp(log_M - log_M.max()), 1.0 / (t + 2)
            log_M = np.log((1.0 - share) * v_M + share * v_M.mean())
        return drawn, pi_M

    def _spread_as_learned(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        drawn_MN = lay_out_table(
            signals.languages,
            lambda language: [self.states.get(f"{language}/{m}", (0.0,))[0] for m in signals.teachers],
            signals,
        )
        chosen_MN = eligible_MN & (drawn_MN > 0.0)
        return torch.where(chosen_MN.any(dim=0, keepdim=True), chosen_MN.float(), spread_evenly(eligible_MN))


def scale_reward(falls_T: NDArray[np.float64]) -> float:
    """Return the last one in [-1, 1], between the 20th and 80th percentile of all; 0 where these are the same."""
    low, high = np.quantile(falls_T, (0.2, 0.8))
    return float(np.clip(2.0 * (falls_T[-1] - low) / (high - low) - 1.0, -1.0, 1.0)) if high > low else 0.0
