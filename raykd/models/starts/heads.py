"""Let a new head begin where its task says, before it has learnt anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from raykd.networks.crf import find_crf

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel


def set_start(model: PreTrainedModel, value: float | NDArray[np.float32]) -> None:
    """Let a new head begin where its task says, if it has learnt nothing yet: its one bias, or a chain's scores."""
    if isinstance(value, np.ndarray):
        crf = find_crf(model)
        if crf is not None and not bool(crf.scores_XC.any()):
            crf.scores_XC.data.copy_(torch.from_numpy(value))
        return
    biases = [
        p
        for name, p in model.named_parameters()
        if name.endswith("bias") and p.shape == (1,) and p.requires_grad
    ]
    heads = len(getattr(model, "peft_config", ())) or 1  # each adapter has its own
    if len(biases) == heads and not any(bool(bias.any()) for bias in biases):
        with torch.no_grad():
            for bias in biases:
                bias.fill_(value)
