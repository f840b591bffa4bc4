"""Count on a CPU what a step would cost an accelerator: operators, head products, padded shapes, waits of the host.

Decision record: there is no accelerator where raykd is developed, but most of what idles one can be counted without
it. An operator that is no view is about a kernel. A wait of the host (`Syncs`) is told from an ordinary read of host
memory by following each tensor: what is moved to an explicit ``torch.device("cpu")`` lies *on the device* here, and so
does everything that is computed from it; all other tensors say that they lie on ``cpu:0``, which is the host. What
`raykd.devices.copy_to_device` moves does not wait on a GPU. Tests use these counters as the benchmark does. With
``strict`` an operator that is given tensors of both places fails, as it would on an accelerator.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raykd.devices import copy_to_device

VIEWS = frozenset((
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh",
    "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind",
    "unsqueeze", "view", "view_as_real", "empty", "empty_like", "empty_strided", "new_empty",
    "new_empty_strided", "_local_scalar_dense", "is_same_size", "resize_", "set_", "unfold", "chunk",
    "narrow", "is_nonzero",
))  # fmt: skip
"""Operators that start no kernel."""
PRODUCTS = frozenset({"mm", "addmm", "bmm", "linear", "matmul", "addmm_"})
WAITING = frozenset((
    "_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "equal", "bincount",
))  # fmt: skip
"""Operators that wait for an accelerator, because a result's value or size is needed by the host."""


def name_operator(func: Any) -> str:
    """Return an operator's name without library and overload, such as ``addmm``."""
    return str(func.overloadpacket.__name__)


class Operators(TorchDispatchMode):
    """Counts the operators that are executed while it is entered, those of the backward pass included.

    Attributes:
        counts: By name.
        products: Matrix products, by the shape of their result.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.products: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = name_operator(func)
        self.counts[name] += 1
        if name in PRODUCTS and isinstance(result, torch.Tensor):
            self.products[tuple(result.shape)] += 1
        return result

    @property
    def kernels(self) -> int:
        """Number of operators that compute or copy something: about the kernels of an accelerator."""
        return sum(count for name, count in self.counts.items() if name not in VIEWS)

    @property
    def reads(self) -> int:
        """How often a value, or a size that depends on values, was read, wherever the tensor lies."""
        return sum(self.counts[name] for name in (*WAITING, "is_nonzero"))

    def count_chunks(self, vocabulary: int) -> int:
        """Return how many products with an output head there were: 1 where logits of a batch are made at once."""
        return sum(count for shape, count in self.products.items() if shape[-1] == vocabulary)


class Syncs:
    """Counts where the host would wait for an accelerator while it is entered, in the thread that entered it.

    - A value is read: ``item``, ``bool``, ``int``, ``float``, ``tolist``, ``cpu``, ``to("cpu")``, a copy to the host.
    - A result's size depends on values: ``nonzero``, a mask as an index, ``unique``, and their like.
    - A blocking copy to the device: ``to(device)`` without ``non_blocking``, ``torch.tensor(values, device=...)``, a
      list or an array on the host as an index.

    Args:
        resident: Tensors that lie on the device before, for example a model's parameters.
        strict: Whether an operator on tensors of the device and of the host raises a RuntimeError. Numbers, and
            indices on the host, may stand beside tensors of the device.
    """

    def __init__(self, resident: Iterable[torch.Tensor] = (), *, strict: bool = False) -> None:
        self.counts: Counter[str] = Counter()
        self.strict = strict
        self._held: dict[int, weakref.ref[Any]] = {}
        self._modes = (_Calls(self), _Results(self))
        for tensor in resident:
            self.mark(tensor)

    def __enter__(self) -> Syncs:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    @property
    def total(self) -> int:
        """All waits."""
        return sum(self.counts.values())

    def describe(self) -> str:
        """Return the waits by kind, for example "3: item 2, to device 1"."""
        parts = ", ".join(f"{name} {count}" for name, count in self.counts.most_common())
        return f"{self.total}: {parts}" if parts else "0"

    def mark(self, value: object) -> None:
        """Take all tensors in a value as lying on the device from now on."""
        for tensor in _list_tensors(value):
            storage = tensor.untyped_storage()
            # Forgotten with its memory, since the next tensor may get the same address.
            self._held[id(storage)] = weakref.ref(storage, partial(self._forget, id(storage)))

    def release(self, tensor: torch.Tensor) -> torch.Tensor:
        """Take a tensor as lying on the host; return it."""
        self._forget(id(tensor.untyped_storage()))
        return tensor

    def _forget(self, storage: int, _: object = None) -> None:
        self._held.pop(storage, None)

    def has(self, tensor: object) -> bool:
        """Return whether a tensor lies on the device."""
        return isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) in self._held


HOST = torch.device("cpu", 0)
_READS = {torch.Tensor.tolist: "tolist", torch.Tensor.cpu: "cpu", torch.Tensor.numpy: "numpy"}
_INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})
_BETWEEN = frozenset({"copy_", "_to_copy"})
"""Operators that move from one place to the other."""
_MAKERS = frozenset({torch.tensor, torch.as_tensor, torch.asarray})
"""Functions that copy values of the host to the device that they are given."""


class _Calls(TorchFunctionMode):
    """What is called from Python: reads and moves that are no operators on a CPU."""

    def __init__(self, syncs: Syncs) -> None:
        super().__init__()
        self._syncs = syncs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, syncs = dict(kwargs or {}), self._syncs
        if func == torch.Tensor.device.__get__:
            device = func(*args, **kwargs)
            return device if syncs.has(args[0]) or device.type != "cpu" else HOST
        device, here = _find_device(args, kwargs), bool(args) and syncs.has(args[0])
        if func in _READS and here:
            syncs.counts[_READS[func]] += 1
            result = func(*args, **kwargs)
            return syncs.release(result.clone()) if func is torch.Tensor.cpu else result
        if func is torch.Tensor.to and device is not None:
            return self._move(func, args, kwargs, device, here)
        result = func(*args, **kwargs)
        if _is_accelerator(device):
            if func in _MAKERS and not here:
                syncs.counts["tensor to device"] += 1
            syncs.mark(result)
        return result

    def _move(self, func: Any, args: Any, kwargs: dict[str, Any], device: object, here: bool) -> Any:
        syncs, waits = self._syncs, not (kwargs.get("non_blocking", False) or _is_queued())
        result = func(*args, **kwargs)
        if not _is_accelerator(device):
            if here and waits:
                syncs.counts["to cpu"] += 1
            return syncs.release(result.clone()) if here else result
        if not here:
            result = result.clone()
            syncs.mark(result)
            if waits:
                syncs.counts["to device"] += 1
        return result


class _Results(TorchDispatchMode):
    """What is executed, from Python or by autograd: follows tensors, and finds operators that wait."""

    def __init__(self, syncs: Syncs) -> None:
        super().__init__()
        self._syncs = syncs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, syncs, name = kwargs or {}, self._syncs, name_operator(func)
        held = [syncs.has(tensor) for tensor in _list_tensors((args, kwargs))]
        if any(held):
            if syncs.strict:
                self._check_devices(name, args, kwargs)
            reason = self._find_wait(name, func, args, kwargs)
            if reason:
                syncs.counts[reason] += 1
        result = func(*args, **kwargs)
        if any(held) and name != "_local_scalar_dense" and not (name == "copy_" and not syncs.has(args[0])):
            syncs.mark(result)
        return result

    def _check_devices(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Refuse tensors of the host beside those of the device.

        Raises:
            RuntimeError: There is one.
        """
        if name in _BETWEEN:
            return
        beside = (args[0], args[2:], kwargs) if name in _INDEXING else (args, kwargs)
        if any(tensor.ndim and not self._syncs.has(tensor) for tensor in _list_tensors(beside)):
            raise RuntimeError(f"expected all tensors of {name} to be on the same device")

    def _find_wait(self, name: str, func: Any, args: Any, kwargs: Mapping[str, Any]) -> str:
        """Return why the host waits; "" where it does not."""
        syncs = self._syncs
        if name in WAITING:
            return "item" if name == "_local_scalar_dense" else name
        if name == "repeat_interleave" and kwargs.get("output_size") is None and len(_list_tensors(args)) > 1:
            return "repeat_interleave"
        if name == "copy_":
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            both = syncs.has(args[0]), syncs.has(args[1])
            if waits and both[0] != both[1] and args[1].ndim:
                return "copy to device" if both[0] else "copy to host"
        if name in _INDEXING:
            indices = [each for each in args[1] if each is not None]
            if any(each.dtype in (torch.bool, torch.uint8) for each in indices):
                # A single value under a mask is a masked fill, whose size nobody needs.
                return "" if name != "index" and args[2].numel() == 1 else "mask as index"
            if any(not syncs.has(each) for each in indices):
                return "index from host"
        return ""


def _is_accelerator(device: object) -> bool:
    """Return whether a device stands for the accelerator; the name "cpu" and `HOST` are the host."""
    return isinstance(device, torch.device) and device != HOST


def _is_queued() -> bool:
    """Return whether `raykd.devices.copy_to_device` makes the copy at hand."""
    frame = sys._getframe(3)  # of the caller of Tensor.to
    return frame.f_code is copy_to_device.__code__


def _find_device(args: Any, kwargs: Mapping[str, Any]) -> object:
    """Return the device that a call names; None where it names none."""
    if kwargs.get("device") is not None:
        return kwargs["device"]
    return next((each for each in args[1:] if isinstance(each, torch.device) or each == "cpu"), None)


def _list_tensors(value: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


@contextmanager
def recording_shapes(vocabulary: int) -> Iterator[Counter[tuple[int, ...]]]:
    """Record the padded shapes ``(rows, tokens)`` that models with an embedding of so many rows read in the body."""
    found: Counter[tuple[int, ...]] = Counter()

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Embedding) and module.num_embeddings == vocabulary and args[0].ndim == 2:
            found[tuple(args[0].shape)] += 1

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield found
    finally:
        handle.remove()
