"""Add up the gradients of hidden states, output head and bias over chunks of units.

Decision record: a chunk's gradient of the hidden states is written where it belongs, and the first chunk's gradient of
the head is taken as it is, so no buffer is filled with zeros. Each further chunk adds a product of the head's size,
which is the only large thing that chunks cost beside a step without chunks; a GPU adds it inside the product where its
torch can.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch


class HeadGradients:
    """Adds up the gradients of hidden states, head and bias, a chunk of units at a time.

    Those of head and bias are float32 whatever the parameters are, because many small chunks are added up in them.

    Args:
        states_ND: The hidden states as they are multiplied.
        head_VD: The head as it is multiplied.
        wanted: Whether a gradient is wanted for states, head and, where there is one, bias.
    """

    def __init__(self, states_ND: torch.Tensor, head_VD: torch.Tensor, wanted: Sequence[bool]) -> None:
        self._states_ND, self._head_VD, self._wanted = states_ND, head_VD, wanted
        self._by_states_ND = torch.empty_like(states_ND) if wanted[0] else None
        self._by_head_VD: torch.Tensor | None = None
        self._by_bias_V: torch.Tensor | None = None

    def add(self, begin: int, end: int, grad_NV: torch.Tensor) -> None:
        """Add a chunk's part: the units from begin to before end, by the gradient of their products with the head."""
        states_ND = self._states_ND[begin:end]
        if self._by_states_ND is not None:
            torch.mm(grad_NV, self._head_VD, out=self._by_states_ND[begin:end])
        if self._wanted[1]:
            self._by_head_VD = _add_product(self._by_head_VD, grad_NV.T, states_ND)
        if self._wanted[2:] == [True]:
            summed_V = grad_NV.sum(dim=0, dtype=torch.float32)
            self._by_bias_V = summed_V if self._by_bias_V is None else self._by_bias_V.add_(summed_V)

    def list_all(self) -> list[torch.Tensor | None]:
        """Return the gradients of states, head and, where there is one, bias; None where none is wanted."""
        return [self._by_states_ND, self._by_head_VD, self._by_bias_V][: len(self._wanted)]


def _add_product(
    total_VD: torch.Tensor | None, left_VN: torch.Tensor, right_ND: torch.Tensor
) -> torch.Tensor:
    """Return a product, added to the float32 total of those before, if possible without a tensor between."""
    if adds_products(left_VN.device, left_VN.dtype):
        if total_VD is None:
            return torch.mm(left_VN, right_ND, torch.float32)
        return torch.addmm(total_VD, left_VN, right_ND, torch.float32, out=total_VD)
    if total_VD is None:
        return (left_VN @ right_ND).float()
    if left_VN.dtype == total_VD.dtype:
        return total_VD.addmm_(left_VN, right_ND)
    return total_VD.add_(left_VN @ right_ND)


@functools.cache
def adds_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether a device adds products of half precision to a float32 total in one kernel, and rightly.

    torch has it on CUDA, in some versions only for a total of half precision too, so it is tried once.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    ones = torch.ones(16, 16, device=device, dtype=dtype)
    try:
        total = torch.mm(ones, ones, torch.float32)
        torch.addmm(total, ones, ones, torch.float32, out=total)
    except (RuntimeError, TypeError):
        return False
    return bool((total == 32.0).all())
