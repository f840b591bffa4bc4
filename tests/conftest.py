"""Settings of all tests: one thread, no hub, explicit Ray authentication; which of them share a process.

Tests on a cluster mostly wait for processes to start, so `make test` runs them in two processes (pytest-xdist), each
with a cluster of its own. Files that share a costly fixture stay together; the longest begin first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_worker_niceness", "0")  # before the unit tests that run beside


TOGETHER = {
    "e2e/test_run": "runs",
    "e2e/test_resume": "runs",
    "e2e/test_lost_teachers": "runs",
    "e2e/test_workers": "runs",
    "e2e/test_sweep": "sweeps",
    "e2e/test_sweep_broken": "sweeps",
    "e2e/test_sweep_kinds": "sweeps",
}
FIRST = ("runs", "sweeps")


def _group(item: pytest.Item) -> str:
    file = f"{item.path.parent.name}/{item.path.stem}"
    return TOGETHER.get(file, file)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Names the process that a file's tests run in."""
    if "unit" not in item.path.parts:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first."""
    items.sort(key=lambda item: FIRST.index(_group(item)) if _group(item) in FIRST else len(FIRST))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One real local Ray cluster of four logical CPUs for all tests that need one."""
    import ray

    from raykd.config import RayConfig
    from raykd.runs.cluster import connect

    connect(RayConfig(num_cpus=4))
    yield
    ray.shutdown()
