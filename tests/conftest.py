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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Names the process that a file's tests run in, and puts the longest files first."""
    files = {item: f"{item.path.parent.name}/{item.path.stem}" for item in items}
    groups = {item: TOGETHER.get(file, file) for item, file in files.items()}
    for item, group in groups.items():
        if "unit" not in item.path.parts:
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: FIRST.index(groups[item]) if groups[item] in FIRST else len(FIRST))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One real local Ray cluster of four logical CPUs for all tests that need one."""
    import ray

    from raykd.config import RayConfig
    from raykd.runs.cluster import connect

    connect(RayConfig(num_cpus=4))
    yield
    ray.shutdown()
