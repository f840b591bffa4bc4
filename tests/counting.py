"""Count the operators that a piece of code calls, and the numbers that it reads back from a tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique")
"""Operators for which the host waits for a GPU."""


class OperatorCount(TorchDispatchMode):
    """While it is entered, counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def reads(self) -> int:
        """How often the host would wait for a GPU."""
        return sum(self.calls[name] for name in READS)

    @property
    def total(self) -> int:
        """All operators that compute or copy; those that only look at a tensor in another way do not count."""
        views = {"view", "_unsafe_view", "t", "transpose", "detach", "expand", "unsqueeze", "squeeze", "select",
                 "slice", "alias", "permute", "as_strided", "lift_fresh", "split", "unbind"}  # fmt: skip
        return sum(count for name, count in self.calls.items() if name not in views)
