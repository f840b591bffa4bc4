"""`ModulePool`: lets several threads run one model, each with a module of its own over the same weights.

Decision record: some models keep state between forward passes (positions of a longer text, hooks), so a module is run
by one thread at a time. A further thread gets a twin: the tree of modules and its buffers are copied, the weights are
not. On a GPU there are no twins, because passes that run at once compete for the same cores; threads take turns.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger("raykd.teachers")


class ModulePool:
    """The modules of one model.

    Args:
        module: The model, frozen.
        most: How many threads may run it at once.
    """

    def __init__(self, module: nn.Module, most: int) -> None:
        self._module, self._most = module, most
        self._free, self._count = [module], 1
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Any]:
        """Give a module to this thread while the body runs; wait for one where all are in use."""
        with self._changed:
            while not self._free and not self._add_twin():
                self._changed.wait()
            module = self._free.pop()
        try:
            yield module
        finally:
            with self._changed:
                self._free.append(module)
                self._changed.notify_all()

    @contextlib.contextmanager
    def borrow_all(self) -> Iterator[Any]:
        """Let no other thread compute while the body runs, which may change the weights for a while."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._free) == self._count)
            yield self._module

    def _add_twin(self) -> bool:
        """Add a module over the same weights; return False where there are enough, or the model cannot be copied."""
        if self._count >= self._most:
            return False
        try:
            twin = copy.deepcopy(self._module, {id(each): each for each in self._module.parameters()})
        except Exception as error:  # code of others; one module is enough
            log.debug("a model cannot be copied, so one thread runs it: %s", error)
            self._most = self._count
            return False
        self._free.append(twin)
        self._count += 1
        return True
