"""Put a linear-chain CRF behind any tagger: scores of tags that follow each other (`raykd.tasks.chains`).

Decision record: the scores are a module of the tagger and stand in its checkpoint as ``crf.scores_XC``, so any
architecture can have them and plain transformers still loads the tagger, without them and with a warning. A forward
hook adds them to the outputs; only `TokenClassification.gather` knows which words are a row. Rows that the scheme
forbids are left possible in training, since teachers give them probability, and are impossible in evaluation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from raykd.distill.signals import MASKED
from raykd.tasks.schemes import parse_scheme
from raykd.tasks.scores.entities import list_transitions

CONFIG_KEY = "raykd_crf"
"""In config.json: whether the checkpoint holds a chain's scores."""
WEIGHT = "crf.scores_XC"


class TransitionScores(nn.Module):
    """Scores ``[C + 2, C]``: of each tag after each; of tags at the beginning of a row; of those at its end.

    Args:
        labels: The tags.
    """

    barred_XC: torch.Tensor

    def __init__(self, labels: tuple[str, ...]) -> None:
        super().__init__()
        follows_CC, begins_C, ends_C = list_transitions(parse_scheme(labels))
        allowed_XC = np.concatenate([follows_CC, begins_C[None], ends_C[None]])
        barred_XC = torch.from_numpy(np.where(allowed_XC, 0.0, MASKED)).float()
        self.scores_XC = nn.Parameter(torch.zeros(barred_XC.shape))
        self.register_buffer("barred_XC", barred_XC.to(self.scores_XC.device), persistent=False)

    def forward(self) -> torch.Tensor:
        """Return the scores; in evaluation those of what the scheme forbids are `MASKED`."""
        # A new tensor, because ZeRO-3 takes the parameter away again when this module is left.
        return self.scores_XC + (0.0 if self.training else 1.0) * self.barred_XC


def add_crf(model: PreTrainedModel) -> PreTrainedModel:
    """Give a tagger without a chain one, in place, whose scores are 0: it tags as before, but by the scheme."""
    if find_crf(model) is not None:
        return model
    setattr(model.config, CONFIG_KEY, True)
    model.crf = (
        TransitionScores(list_tags(model)).to(dtype=model.dtype, device=model.device).train(model.training)
    )
    model.register_forward_hook(_add_transitions)
    return model


def find_crf(model: nn.Module) -> TransitionScores | None:
    """Return a model's chain; None if it has none."""
    found = getattr(model, "crf", None)
    return found if isinstance(found, TransitionScores) else None


def list_tags(model: PreTrainedModel) -> tuple[str, ...]:
    """Return a tagger's tags in the order of its logits."""
    return tuple(label for _, label in sorted((model.config.id2label or {}).items()))


def build_like(model: PreTrainedModel) -> PreTrainedModel:
    """Build a model of the same configuration with random weights, and with a chain where this one has one."""
    made = type(model)(model.config)
    return made if find_crf(model) is None else add_crf(made)


def _add_transitions(model: Any, inputs: object, outputs: Any) -> None:
    """Add `transitions` ``[S, C + 2, C]`` to a tagger's outputs: the same for each of its sequences."""
    scores_XC = model.crf()
    outputs.transitions = scores_XC.expand(len(outputs.logits), *scores_XC.shape)
