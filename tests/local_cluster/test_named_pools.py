"""Pools that outlive runs, on a real cluster and by real commands; see `named_pools` for what each part asserts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PARTS = {
    "life": "up by one command, asked by other drivers bit for bit, shown with dead and stuck replicas, down",
    "refusals": "a start that fails leaves nothing; other teachers are refused; a killed driver leaves its pool",
    "runs": "a whole run over a named pool gives the student that its own pool gives",
}


@pytest.mark.parametrize("part", PARTS)
def test_named_pools(part: str, tmp_path: Path) -> None:
    """Each part has a cluster of its own, which needs a process of its own."""
    command = [sys.executable, "-m", "tests.local_cluster.named_pools", str(tmp_path), part]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
