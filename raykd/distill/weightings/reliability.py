"""Weights by how often a teacher was right on held-out rows, where it says what it says now.

Decision record: what is kept are counts, so that `by`, `smoothing` and `tau` act on them at each use and may differ
between phases. Precision is what is read (how often a teacher is right that says a label), not recall, because a unit
to be weighted has an answer and no gold label.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from raykd.devices import copy_to_device
from raykd.distill.signals import Signals
from raykd.distill.weightings.base import LearnedWeighting, States, find_judged, softmax_over_teachers


class HeldOutReliability(LearnedWeighting):
    """``w_m ~ r_m ** (1 / tau)``, r_m how often teacher m was right on held-out rows of a unit's language.

    By class, it is the share of right answers among those with the label that m gives the unit: a teacher that often
    mistakes sport for music counts less where it says music. With n answers it is ``(right + smoothing a) / (n +
    smoothing)``, a the teacher's accuracy in the language, itself drawn alike to that in all languages, and this one to
    1/2 by one answer each way. In a language without held-out rows all languages count.
    """

    kind: Literal["reliability"] = "reliability"
    by: Literal["class", "language"] = "class"
    """Whether a teacher is judged by the label that it gives, or by its accuracy in the language alone."""
    smoothing: float = Field(default=10.0, gt=0.0)
    """Answers that the accuracy counts for, beside those that were counted."""
    tau: float = Field(default=0.25, gt=0.0)
    """Sharpness: small trusts the most reliable teacher alone, large is uniform."""

    def count_needed(self, teachers: int) -> int:
        return 50

    def fit(self, held_out: Signals) -> States:
        """Count right answers by label, and then all answers by label, for each language and teacher.

        Under the language "" are those of all languages.
        """
        chosen_MN, judged_MN = held_out.known_logits().argmax(dim=-1), find_judged(held_out)
        right_MN, choices = chosen_MN == held_out.labels_N, held_out.logits_MNC.shape[-1]
        found: dict[str, tuple[float, ...]] = {}
        for language in ("", *sorted(set(held_out.languages))):
            here_N = torch.tensor([language in ("", code) for code in held_out.languages])
            for m, teacher in enumerate(held_out.teachers):
                told_N = judged_MN[m] & here_N
                counts = [
                    chosen_MN[m][among_N].bincount(minlength=choices)
                    for among_N in (told_N & right_MN[m], told_N)
                ]
                found[f"{language}/{teacher}"] = tuple(torch.cat(counts).double().tolist())
        return found

    def rates(self, language: str, teacher: str, choices: int) -> list[float]:
        """Return r by label."""
        everywhere = self.states.get(f"/{teacher}", (0.0,) * (2 * choices))
        here = self.states.get(f"{language}/{teacher}", everywhere)
        here = here if any(here) else everywhere
        accuracy = _draw(sum(everywhere[:choices]), sum(everywhere[choices:]), 0.5, 2.0)
        accuracy = _draw(sum(here[:choices]), sum(here[choices:]), accuracy, self.smoothing)
        if self.by == "language":
            return [accuracy] * choices
        pairs = zip(here[:choices], here[choices:], strict=True)
        return [_draw(right, told, accuracy, self.smoothing) for right, told in pairs]

    def _spread_as_learned(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        names, choices = sorted(set(signals.languages)), signals.logits_MNC.shape[-1]
        table = [[self.rates(name, teacher, choices) for teacher in signals.teachers] for name in names]
        codes_N = torch.tensor([names.index(code) for code in signals.languages], dtype=torch.int64)
        rates_MNC = torch.tensor(table, dtype=torch.float64).transpose(0, 1)[:, codes_N]
        rates_MNC = copy_to_device(rates_MNC, eligible_MN.device)
        told_MN1 = signals.known_logits().argmax(dim=-1, keepdim=True)
        score_MN = rates_MNC.gather(-1, told_MN1).squeeze(-1).log() / self.tau
        return softmax_over_teachers(score_MN, eligible_MN).float()


def _draw(right: float, told: float, towards: float, by: float) -> float:
    """Return the share of right answers, drawn to a number by so many answers more."""
    return (right + by * towards) / (told + by)
