"""Copy what a device computed to the host, with one wait for all of it.

Decision record: a copy on the stream of the passes would make the host wait for every pass queued before it, those of
the next request too. So the copies run on a stream of their own, into pinned memory, behind an event that marks the end
of these passes. Used on an H100 (docs/figures.md); what the stream gains was not measured apart.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray

Arrays = list[list[NDArray[Any]]]


def start_copies(tensors: Sequence[Sequence[torch.Tensor]], device: torch.device) -> Callable[[], Arrays]:
    """Queue the copies of all tensors to the host.

    Args:
        tensors: The tensors of each pass, which may still be computed.
        device: Where they are.

    Returns:
        Waits for the copies and returns the arrays of each pass. Called once, from any thread.
    """
    if device.type != "cuda":
        return lambda: [[tensor.numpy() for tensor in own] for own in tensors]
    stream = _open_copy_stream(device.index)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        copies = [[_start_copy(tensor, stream) for tensor in own] for own in tensors]
        copied = torch.cuda.Event()
        copied.record(stream)

    def fetch() -> Arrays:
        copied.synchronize()
        return [[copy.numpy() for copy in own] for own in copies]

    return fetch


def _start_copy(tensor: torch.Tensor, stream: torch.cuda.Stream) -> torch.Tensor:
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    tensor.record_stream(stream)  # its memory is not given to another tensor before it is read
    return copy


@functools.cache
def _open_copy_stream(index: int | None) -> torch.cuda.Stream:
    """Return the stream of copies of a GPU, one for all threads; None is the current GPU."""
    return torch.cuda.Stream(device=index)
