"""Choose how many units over a vocabulary are computed at once, by the device.

Decision record: shared by the loss (`raykd.distill.chunks`) and by teachers that compress their logits. On a CPU a
chunk stays in the cache. A GPU has no such cache, and each chunk costs some twenty kernel launches, so there a chunk is
as large as memory allows, up to `CUDA_BYTES`: 16 rows x 512 tokens over 50,000 choices are 7 chunks instead of 99.
Where kernels read the logits as they are (`raykd.distill.wide`) nothing else of a chunk's size is made but gradients,
so it may have `WIDE_BYTES`: one chunk. Sizes are powers of two of bytes, so that a little more or less free memory does
not change them.
"""

from __future__ import annotations

import torch

from raykd.distill.wide.fused import has_kernels

CPU_BYTES = 16 * 2**20
"""Bytes of a chunk's float32 logits on a CPU: larger chunks fall out of the cache."""
CUDA_BYTES = 256 * 2**20
"""The most on a GPU, where 256 MiB take milliseconds to compute and a launch takes microseconds."""
WIDE_BYTES = 2**30
"""The most on a GPU where kernels read the logits in the precision of their product, in that precision."""
MEMORY_SHARE = 32
"""On a GPU a chunk takes at most this part of the free memory: losses hold several tensors of a chunk's size."""
CHUNK_UNITS = 64
"""Fewest units of a chunk: each chunk reads the whole head once, and its gradient."""


def choose_chunk_units(
    vocab: int, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> int:
    """Choose the number of units of a chunk.

    Args:
        vocab: Choices of a unit.
        device: Where the logits are computed; None is the CPU.
        dtype: Of the logits, where nothing but the kernels of `raykd.distill.wide` reads them; None for others.
    """
    if dtype is not None and has_kernels(device, vocab):
        return max(CHUNK_UNITS, find_chunk_bytes(device, WIDE_BYTES) // (dtype.itemsize * vocab))
    return max(CHUNK_UNITS, find_chunk_bytes(device) // (4 * vocab))


def find_chunk_bytes(device: torch.device | None = None, most: int = CUDA_BYTES) -> int:
    """Return the bytes that a chunk's logits may take on a device; waits for no computation there.

    Args:
        device: None is the CPU.
        most: The most on a GPU.
    """
    if device is None or device.type != "cuda":
        return CPU_BYTES
    # What torch keeps for later tensors is free as well.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    share = (torch.cuda.mem_get_info(device)[0] + kept) // MEMORY_SHARE
    return max(CPU_BYTES, min(most, 1 << max(0, share.bit_length() - 1)))
