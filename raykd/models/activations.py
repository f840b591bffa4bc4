"""Replace activations that are written out in several operators by torch's own, which compute the same in one.

Decision record: GPT-2, GPT-J, MPNet's and other families compute ``x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`` in
eight operators forward and some twenty backward, each a pass over the widest tensor of the model. torch's GELU with
`approximate="tanh"` is that function. The model's parameters, state dict and configuration stay as they are, so
what is saved is what plain transformers saves.
"""

from __future__ import annotations

import torch


def fuse_activations(module: torch.nn.Module) -> int:
    """Replace the activations of a model in place; return how many.

    Args:
        module: The model; only activations of transformers are touched, each by its class.
    """
    from transformers.activations import FastGELUActivation, NewGELUActivation

    found = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in (NewGELUActivation, FastGELUActivation):
                setattr(parent, name, torch.nn.GELU(approximate="tanh"))
                found += 1
    return found
