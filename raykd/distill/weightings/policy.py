"""A policy that draws the teachers of each unit, rewarded by how well the student then knows the unit (RL-KD).

Decision record:

- The reward is minus the student's CE with the gold label where a labelled unit is read again: the paper's first one,
  after the student has learnt from what was drawn, and without a further forward pass. The loss of the batch after a
  step says too little: a step moves it by far less than batches differ, and all units of a step share it.
- An episode is a part of the run in which each labelled row is read about once or more often. In an episode
  coefficients are fixed, and a unit has the same draw at each reading. So a draw is a function of seed, episode, unit,
  teacher and coefficients, and is made again in the next episode to be rewarded: nothing is kept of a unit, and memory
  and checkpoints do not grow with the rows.
- The baseline is the moving mean of the CE in the unit's language, and its deviation the scale, so that rewards of a
  hard language, or early in the run, are no larger than others.
- Teachers may know the labels of training rows by heart, and the student too: the reward is not one of held-out rows.
  `bandit` has those, tens of them in a run.
"""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from raykd.distill.signals import UNLABELLED, Signals
from raykd.distill.weightings.base import Languages, States, normalise, speaks, spread_evenly
from raykd.distill.weightings.scored import ScoredWeighting
from raykd.errors import ConfigError

log = logging.getLogger("raykd.distill")
_MEMORY = 100.0
"""Units of a language over which its baseline forgets."""
_EPISODE, _SEED, _BASELINE = "episode", "seed", "baseline/"


class Policy(ScoredWeighting):
    """RL-KD (arXiv:2012.06048): a teacher is drawn with probability ``pi_m = sigmoid(score_m)``, those drawn share.

    The score is ``b_m + b_{m, language} + sum_j theta_j f_j(m)``. An episode ends with REINFORCE over the N labelled
    units of several teachers that were read in it: ``theta += rate / N sum_n A_n sum_m (a_nm - pi_nm) f_nm``. There
    ``a_nm`` says who was drawn in the episode before, and ``A_n = (mean - CE_n) / deviation`` how well the student
    knows the unit now. Where no teacher is drawn, all share. Outside of training a teacher has the weight that is
    expected over draws.
    """

    reads_gold: ClassVar[bool] = True
    reads_losses: ClassVar[bool] = True
    learns_from_answers: ClassVar[bool] = False
    kind: Literal["policy"] = "policy"
    features: tuple[Literal["language", "entropy", "confidence", "agreement", "gold"], ...] = (
        *("language", "entropy", "confidence", "agreement", "gold"),
    )
    """What it reads beside who the teacher is: the features of `gate`, and by how much its probability of the gold
    label is above the mean of the unit's teachers (0 without a label)."""
    episodes: int = Field(default=8, ge=3)
    """Equal parts of the run. The policy changes after each but the first; what was drawn in the last has no reward."""
    rate: float = Field(default=10.0, gt=0.0)
    """Step size."""

    def check(
        self, teachers: Sequence[str], teacher_languages: Sequence[Languages], languages: Sequence[str]
    ) -> None:
        if not any(sum(speaks(own, code) for own in teacher_languages) > 1 for code in languages):
            raise ConfigError(
                "objective.weighting policy chooses among the teachers of a row",
                got=f"no language with two of the teachers {', '.join(teachers)}",
                wanted="two teachers or more for some language of the run",
                next_step="add teachers, or set objective.weighting=by_language",
            )

    def count_labelled(self, teachers: int) -> int:
        """Return how many labelled training rows it learns from at least."""
        return 20 * teachers

    def begin(self, seed: int, teachers: Sequence[str], languages: Sequence[str]) -> States:
        """Return coefficients of 0, each as (now, in the episode before, sum of gradients), and what is kept beside.

        Args:
            seed: Of the run.
            teachers: Their names.
            languages: Of the training rows.
        """
        names = [f"teacher//{name}" for name in teachers]
        names += [name for name in self.features if name != "language"]
        if "language" in self.features:
            names += [f"language/{code}/{name}" for code in languages for name in teachers]
        found: dict[str, tuple[float, ...]] = dict.fromkeys(names, (0.0, 0.0, 0.0))
        found |= {f"{_BASELINE}{code}": (0.0, 0.0, 0.0) for code in languages}
        # States are floats, which hold 32 bits of a seed exactly.
        return found | {_SEED: (float(zlib.crc32(str(seed).encode())),), _EPISODE: (0.0, 0.0)}

    def measure(self, signals: Signals, loss_N: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the sums of a micro-batch that `learn` needs.

        Args:
            signals: The teachers' answers.
            loss_N: The student's CE with the gold label, where there is one.

        Returns:
            Under the names of states a coefficient's gradient; ``baseline/<language>/0`` to 2: the number, sum and sum
            of squares of the losses.
        """
        eligible_MN = self.eligible(signals) if signals.eligible_MN is None else signals.eligible_MN
        judged_N = (signals.labels_N != UNLABELLED) & (eligible_MN.sum(dim=0) > 1)
        loss_N = torch.where(judged_N, loss_N.double(), 0.0)
        codes = [name.removeprefix(_BASELINE) for name in self.states if name.startswith(_BASELINE)]
        in_LN = judged_N & torch.tensor([[code == own for own in signals.languages] for code in codes]).to(
            judged_N.device
        )
        found: dict[str, torch.Tensor] = {}
        for power in range(3):
            sums_L = (in_LN * loss_N**power).sum(dim=1).unbind()
            found |= {f"{_BASELINE}{code}/{power}": s for code, s in zip(codes, sums_L, strict=True)}
        kept = [_describe(*self.states[f"{_BASELINE}{code}"]) for code in signals.languages]
        mean_N, deviation_N = torch.tensor(kept, dtype=torch.float64).reshape(-1, 2).T.to(loss_N.device)
        gain_N = torch.where(judged_N, (mean_N - loss_N) / deviation_N, 0.0)
        numbers, episode = self._measure(signals), int(self.states[_EPISODE][0])
        pi_MN = self._score(signals, numbers, at=1).sigmoid()
        slope_MN = gain_N * (self._draw(signals, pi_MN, episode - 1).double() - pi_MN)
        slope_MN = torch.where(eligible_MN & (episode > 0), slope_MN, 0.0)
        by_feature = {name: (slope_MN * number_MN).sum() for name, number_MN in numbers.items()}
        for m, name in enumerate(signals.teachers):
            found[f"teacher//{name}"] = slope_MN[m].sum()
            if "language" in self.features:
                own_L = (in_LN * slope_MN[m]).sum(dim=1).unbind()
                found |= {f"language/{code}/{name}": s for code, s in zip(codes, own_L, strict=True)}
        return found | by_feature

    def learn(self, sums: Mapping[str, float], progress: float) -> tuple[States, bool]:
        episode, units = self.states[_EPISODE]
        found = dict(self.states)
        for name in (name for name in found if name.startswith(_BASELINE)):
            own = [sums[f"{name}/{power}"] for power in range(3)]
            left = math.exp(-own[0] / _MEMORY)
            found[name] = tuple(left * kept + new for kept, new in zip(found[name], own, strict=True))
            units += own[0]
        is_over = int(progress * self.episodes) > episode
        for name in sums.keys() & found.keys():
            now, before, slope = found[name]
            slope += sums[name]
            found[name] = (
                (now + self.rate * slope / max(units, 1.0), now, 0.0) if is_over else (now, before, slope)
            )
        found[_EPISODE] = (episode + 1.0, 0.0) if is_over else (episode, units)
        if is_over and episode:
            plain = {name: own[0] for name, own in found.items() if name in sums and "language/" not in name}
            told = ", ".join(f"{name} {value:+.2f}" for name, value in plain.items())
            log.info("policy: after episode %d of %d, %d units: %s", episode + 1, self.episodes, units, told)
        return found, is_over

    def _spread_as_learned(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        pi_MN = torch.where(eligible_MN, self._score(signals).sigmoid(), 0.0)
        if signals.numbers_N is None:
            return normalise(_expect_share(pi_MN, eligible_MN), eligible_MN)
        drawn_MN = self._draw(signals, pi_MN, int(self.states[_EPISODE][0]))
        return torch.where(
            drawn_MN.any(dim=0, keepdim=True), spread_evenly(drawn_MN), spread_evenly(eligible_MN)
        )

    def _draw(self, signals: Signals, pi_MN: torch.Tensor, episode: int) -> torch.Tensor:
        """Return who is drawn in an episode, bool ``[M, N]``."""
        assert signals.numbers_N is not None
        seed, names = int(self.states[_SEED][0]), [zlib.crc32(name.encode()) for name in signals.teachers]
        keys = [
            np.random.SeedSequence([seed, max(episode, 0), name]).generate_state(1, np.uint64)
            for name in names
        ]
        units_N = signals.numbers_N.numpy().astype(np.uint64)
        uniform_MN = np.stack([_mix(units_N * np.uint64(0x9E3779B97F4A7C15) + key) for key in keys])
        return torch.from_numpy(uniform_MN).to(pi_MN.device) < pi_MN


def _describe(number: float, total: float, squares: float) -> tuple[float, float]:
    """Return mean and standard deviation; of fewer than two values a deviation that makes their reward nearly 0."""
    if number < 2.0:
        return total / max(number, 1.0), 1e12
    mean = total / number
    return mean, math.sqrt(max(squares / number - mean**2, 1e-12))


def _mix(word_N: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each word of 64 bits: the finaliser of SplitMix64 (Steele et al., 2014)."""
    word_N = (word_N ^ (word_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word_N = (word_N ^ (word_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((word_N ^ (word_N >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _expect_share(pi_MN: torch.Tensor, eligible_MN: torch.Tensor) -> torch.Tensor:
    """Return the expected weight of each teacher over draws, ``[M, N]``.

    A drawn teacher's is ``E 1 / (1 + S)`` with S others drawn: ``int_0^1 prod_{j != m} (1 - pi_j + pi_j t) dt``, a
    polynomial of degree M - 1 that these Gauss points integrate exactly.
    """
    at_G, weight_G = np.polynomial.legendre.leggauss(len(pi_MN) // 2 + 1)
    share_MN = torch.where(eligible_MN, (1.0 - pi_MN).prod(dim=0) / eligible_MN.sum(dim=0).clamp_min(1), 0.0)
    for at, weight in zip((at_G + 1.0) / 2.0, weight_G / 2.0, strict=True):
        factor_MN = 1.0 - pi_MN + pi_MN * at
        share_MN = share_MN + weight * pi_MN * factor_MN.prod(dim=0) / factor_MN
    return share_MN
