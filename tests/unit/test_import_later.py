"""A package that is imported when it is used, and what is read without torch."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib import reload
from pathlib import Path

import pytest

from raykd.compat.python_private import import_later

SLOW = """
import time
loads = globals().get("loads", 0) + 1
time.sleep(0.2)
value = 7
from . import own as held
def __getattr__(name):
    if name == "made":
        return "made when asked"
    raise AttributeError(name)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = "raykd_slow_package"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(SLOW)
    (folder / "part.py").write_text(f"from {name} import value\n")
    (folder / "own.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]
    sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "_prefix", "") != f"{name}."]


def is_loaded(name: str) -> bool:
    return "value" in sys.modules[name].__dict__


def test_it_is_imported_when_it_is_used_and_not_before(package: str) -> None:
    import_later(package)
    module = __import__(package)
    assert module.__name__ == package and hasattr(module, "__file__") and not is_loaded(package)
    assert module.value == 7 and module.made == "made when asked" and is_loaded(package)
    with pytest.raises(AttributeError):
        _ = module.missing
    import_later(package)
    assert sys.modules[package] is module and module.loads == 1


def test_a_submodule_finds_its_package_imported(package: str) -> None:
    import_later(package)
    part = __import__(f"{package}.part", fromlist=["value"])
    assert part.value == 7 and is_loaded(package)


def test_a_submodule_that_its_package_imports_runs_once(package: str) -> None:
    """A library that begins with ``import torch.utils.dlpack`` (thinc, under spaCy) found two modules torch.utils."""
    import_later(package)
    own = __import__(f"{package}.own", fromlist=["value"])
    assert own is sys.modules[package].held and own is sys.modules[f"{package}.own"]
    assert own.__spec__.origin and reload(own) is own


def test_threads_that_use_it_at_once_find_it_whole(package: str) -> None:
    import_later(package)
    module, found = __import__(package), []
    threads = [threading.Thread(target=lambda: found.append(module.value)) for _ in range(4)]
    for thread in threads:
        thread.start()
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert found == [7] * 4 and module.loads == 1


def test_what_cannot_be_imported_says_so_each_time(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "__init__.py").write_text("raise OSError('no library')")
    import_later(package)
    for _ in range(2):
        with pytest.raises(OSError, match="no library"):
            _ = sys.modules[package].value


def test_a_package_that_is_not_there_stays_so() -> None:
    import_later("raykd_no_such_package")
    assert "raykd_no_such_package" not in sys.modules


WITHOUT_TORCH = """
import sys
from raykd.compat.python_private import import_later
import_later("torch")
import raykd.cli, raykd.api, raykd.config.loading, raykd.experiments.checks, raykd.runs.train
print("loaded" if "Tensor" in sys.modules["torch"].__dict__ else "later", "ray.tune" in sys.modules)
"""


def test_a_configuration_is_read_and_checked_without_torch_and_tune() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["later", "False"]


def test_the_class_of_an_optimizer_is_found_where_torch_is_imported_when_it_is_used() -> None:
    """As in every run of the command line: a part of torch that is asked for before the whole would be run twice."""
    code = (
        "from raykd.compat.python_private import import_later; import_later('torch'); "
        "from raykd.config.kinds.optimizers import AdamW; print(AdamW().find_class().__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["AdamW"], done.stderr
