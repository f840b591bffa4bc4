"""Settings of all tests: one thread, no hub, explicit Ray authentication."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ["RAYKD_CACHE"] = tempfile.mkdtemp(
    prefix="raykd-tests-"
)  # no finding of an earlier version of the code
os.environ.setdefault("RAY_worker_niceness", "0")  # before the unit tests that run beside


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One real local Ray cluster of four logical CPUs for all tests that need one."""
    import ray

    from raykd.cluster.connection import connect_ray
    from raykd.config import RayConfig

    connect_ray(RayConfig(num_cpus=4))
    yield
    ray.shutdown()
