"""Private names of Python 3.11."""

from __future__ import annotations

import atexit
import importlib.util
import sys
import threading
import types
from importlib.machinery import ModuleSpec
from typing import Any


def run_end_of_process() -> None:
    """Do what Python does at the end of a process before it takes modules apart.

    Threads of pools are told to end and waited for, then what was registered with `atexit` is called.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


def import_later(name: str) -> None:
    """Let ``import name`` cost nothing in this process until something of the module is used.

    `importlib.util.LazyLoader` of Python 3.11 does the same, but where two threads use the module at once the second
    one finds it half made.

    Args:
        name: A package that is not imported yet; nothing happens where there is none.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is not None:
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _LaterModule
        sys.modules[name] = module
        sys.meta_path.insert(0, _PartsFinder(name))


class _LaterModule(types.ModuleType):
    """A package that runs as soon as anything is asked of it but what its spec knows."""

    def __getattribute__(self, name: str) -> Any:
        if name in _KNOWN:
            return types.ModuleType.__getattribute__(self, name)
        with _running:
            # Else another thread has run it meanwhile, or this one is running it.
            if type(self) is _LaterModule and _BEGUN not in self.__dict__:
                self.__dict__[_BEGUN] = True
                try:
                    self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
                except BaseException:
                    del self.__dict__[_BEGUN]
                    raise
                self.__class__ = types.ModuleType  # type: ignore[assignment]
        return types.ModuleType.__getattribute__(self, name)


class _PartsFinder:
    """Finds the parts of a package that its own run has imported.

    ``import torch.utils`` as the first use of torch asks for torch's path, which runs torch, which imports torch.utils;
    Python would then run that part a second time, as another module than the one that torch holds.
    """

    def __init__(self, package: str) -> None:
        self._prefix = f"{package}."

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return how to find a part that is there already; None for all else, and to load one anew."""
        if not name.startswith(self._prefix) or name not in sys.modules or target is not None:
            return None
        return ModuleSpec(name, self, loader_state=sys.modules[name].__spec__)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        """Return the part."""
        return sys.modules[spec.name]

    def exec_module(self, module: types.ModuleType) -> None:
        """Give it back its own spec."""
        module.__spec__ = module.__spec__.loader_state  # type: ignore[union-attr]


_KNOWN = {"__class__", "__dict__", "__file__", "__loader__", "__name__", "__package__", "__spec__"}
"""Without ``__path__``, which the import of a submodule asks for."""
_BEGUN = "_raykd_begun"
_running = threading.RLock()
