"""Move what a step needs to the device without making the host wait for it.

Decision record: a copy from ordinary memory to a GPU, and every number that Python reads from one, stops the host until
the device has done all that was asked of it. So batches are copied from pinned memory without waiting, and numbers are
read in one copy, once a step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def without_gradients(body: Callable[P, R]) -> Callable[P, R]:
    """Run a function under `torch.no_grad`, which as a decorator would need torch where the function is defined.

    A configuration, whose classes are tasks and losses, is read without torch.
    """

    @functools.wraps(body)
    def run(*args: P.args, **options: P.kwargs) -> R:
        with torch.no_grad():
            return body(*args, **options)

    return run


def copy_to_device(tensor: torch.Tensor, device: torch.device | str | None) -> torch.Tensor:
    """Copy a tensor to a device without waiting; where it is there already, or device is None, it is returned as it is.

    Args:
        tensor: On the host, or anywhere.
        device: Name of torch's; None for where the tensor is.
    """
    if device is None or tensor.device == torch.device(device):
        return tensor
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        # torch keeps the pinned block until the copy has run, so the tensor may go out of scope here.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def leave_out_cudnn_attention(device: torch.device) -> None:
    """Let attention of this process run without cuDNN, where the device is a GPU.

    In half precision cuDNN plans each new padded shape anew, for a third of a second. Flash and memory-efficient
    attention do not.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the random numbers of the host and of one device.

    As `torch.manual_seed`, which also asks each other kind of device, a third of a millisecond a call.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        at = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[at].manual_seed(seed)


def read_generators(device: torch.device) -> list[torch.Tensor]:
    """Return the states of the random numbers of the host and of one device, for `set_generators`."""
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *own]


def set_generators(states: Sequence[torch.Tensor], device: torch.device) -> None:
    """Set the random numbers back to what `read_generators` returned."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
