"""A gate over features of a row, learned on held-out rows.

Decision record: coefficients of 0 are uniform, and a Gaussian prior draws them there. All rows are one batch of L-BFGS
in float64: the same rows give the same coefficients.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from pydantic import Field

from raykd.distill.signals import Signals
from raykd.distill.weightings.base import States, find_judged, softmax_over_teachers
from raykd.distill.weightings.scored import ScoredWeighting

log = logging.getLogger("raykd.distill")
_MOST_ITERATIONS = 200


class Gate(ScoredWeighting):
    """``w_m ~ exp(b_m + b_{m, language} + sum_j theta_j f_j(m))`` with the least NLL of the mixture on held-out rows.

    The NLL is that of ``sum_m w_m p_m(y)`` at T = 1, a mixture of experts (Jacobs et al. 1991) whose experts stay as
    they are, plus ``penalty / 2`` times the squares of all coefficients over all rows.
    """

    kind: Literal["gate"] = "gate"
    features: tuple[Literal["language", "group", "entropy", "confidence", "agreement"], ...] = (
        *("language", "entropy", "confidence", "agreement"),
    )
    """What it reads beside who the teacher is: the row's language, or its value in the column `data.columns.group`; the
    entropy of the teacher's answer as a share of the largest, the probability of its likeliest label, and the share of
    the other teachers that say the same label."""
    penalty: float = Field(default=1.0, gt=0.0)
    """Inverse variance of the prior: large is uniform."""

    @property
    def reads_groups(self) -> bool:  # type: ignore[override]
        """Whether it reads the column `data.columns.group`."""
        return "group" in self.features

    def count_needed(self, teachers: int) -> int:
        return 20 * (teachers + len(self.features))

    def fit(self, held_out: Signals) -> States:
        judged_MN = find_judged(held_out)
        known_N = judged_MN.any(dim=0)
        gold_MN = (-held_out.gold_ce().double()).masked_fill(~judged_MN, -torch.inf)[:, known_N]
        kinds, numbers = self._list_kinds(held_out), self._measure(held_out)
        values = {kind: sorted(set(of_unit)) for kind, of_unit in kinds.items()}
        codes = {k: torch.tensor([values[k].index(one) for one in kinds[k]])[known_N] for k in kinds}
        numbers = {name: number_MN[:, known_N] for name, number_MN in numbers.items()}
        shapes = {k: (len(values[k]), len(held_out.teachers)) for k in kinds}
        made = {k: torch.zeros(shape, dtype=torch.float64, requires_grad=True) for k, shape in shapes.items()}
        made |= {n: torch.zeros((), dtype=torch.float64, requires_grad=True) for n in numbers}
        units = int(known_N.sum())

        def measure() -> torch.Tensor:
            score_MN = sum((made[k][codes[k]].T for k in kinds), torch.zeros_like(gold_MN))
            score_MN = score_MN + sum(made[n] * numbers[n] for n in numbers)
            logw_MN = score_MN.masked_fill(~judged_MN[:, known_N], -torch.inf).log_softmax(dim=0)
            return -(logw_MN + gold_MN).logsumexp(dim=0).sum() / units

        uniform = float(measure().detach())
        _minimise(list(made.values()), lambda: measure() + self._penalise(made, units))
        found: dict[str, tuple[float, ...]] = {n: (float(made[n].detach()),) for n in numbers}
        for kind in kinds:
            rows = zip(values[kind], made[kind].tolist(), strict=True)
            for value, row in rows:
                found |= {
                    f"{kind}/{value}/{name}": (b,) for name, b in zip(held_out.teachers, row, strict=True)
                }
        told = ", ".join(f"{name} {coefficient:+.2f}" for name, (coefficient,) in found.items())
        now = float(measure().detach())
        log.info("gate: NLL %.4f on %d validation units, %.4f if uniform: %s", now, units, uniform, told)
        return found

    def _penalise(self, made: Mapping[str, torch.Tensor], units: int) -> torch.Tensor:
        return self.penalty / (2.0 * units) * torch.stack([b.square().sum() for b in made.values()]).sum()

    def _spread_as_learned(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        return softmax_over_teachers(self._score(signals), eligible_MN).float()


def _minimise(parameters: list[torch.Tensor], measure: Callable[[], torch.Tensor]) -> None:
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=_MOST_ITERATIONS, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def close() -> torch.Tensor:
        optimizer.zero_grad()
        loss = measure()
        loss.backward()
        return loss

    optimizer.step(close)
