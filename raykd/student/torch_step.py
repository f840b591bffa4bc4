"""`TorchStep`: the end of an optimizer step where the optimizer is torch's: clip, check, update, read numbers back.

Decision record:

- DeepSpeed clips parameter by parameter, reduces the norm over one rank as over many, and copies two constants to the
  device, each time waiting for it. torch's clipping does all parameters in a few kernels. Gradients are equal on all
  ranks when they are clipped, so ranks exchange nothing.
- The host reads from the device once, when the backward pass is queued: the norm, which decides whether the step is
  made, and with it all that the loop wants to know of the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from raykd.compat.deepspeed_private import mark_counted


def read_numbers(tensors: Sequence[torch.Tensor]) -> list[float]:
    """Read tensors of any shapes back from the device in one copy, one after the other."""
    return torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors]).tolist() if tensors else []


class TorchStep:
    """Replaces what a DeepSpeed engine without ZeRO does between the backward pass and the next step.

    A step whose gradient is not finite is skipped. DeepSpeed then counts it like those its own optimizers skip.

    Attributes:
        wanted: What is read back with the norm at the next update.
        read: What was read at the last one.

    Args:
        engine: The DeepSpeed engine, changed in place.
        networks: Those that its module consists of, each clipped by its own norm.
    """

    def __init__(self, engine: Any, networks: Sequence[nn.Module]) -> None:
        self.wanted: Sequence[torch.Tensor] = ()
        self.read: list[float] = []
        self._clipping = float(engine.gradient_clipping())
        self._optimizer, self._update = engine.optimizer, engine.optimizer.step
        self._networks = [[p for p in network.parameters() if p.requires_grad] for network in networks]

        def step(*arguments: Any, **named: Any) -> Any:
            return self._step(*arguments, **named)

        mark_counted(step)
        engine.optimizer.step, engine.zero_grad = step, self._drop_gradients
        engine.clip_fp32_gradients = lambda: None  # `step` clips

    def _step(self, *arguments: Any, **named: Any) -> Any:
        norms = [
            torch.nn.utils.get_total_norm([p.grad for p in network if p.grad is not None])
            for network in self._networks
        ]
        if self._clipping > 0.0:
            for network, norm in zip(self._networks, norms, strict=True):
                torch.nn.utils.clip_grads_with_norm_(network, self._clipping, norm)
        read = read_numbers([*norms, *self.wanted])
        self.read, self.wanted = read[len(norms) :], ()  # what was wanted holds the step's graph
        self._optimizer.overflow = not all(map(math.isfinite, read[: len(norms)]))
        return None if self._optimizer.overflow else self._update(*arguments, **named)

    def _drop_gradients(self) -> None:
        for network in self._networks:
            for parameter in network:
                parameter.grad = None
