"""Pools that outlive runs, on a real cluster and by real commands; see `named_pools` for what each part asserts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(600)
@pytest.mark.nightly
def test_named_pools(tmp_path: Path) -> None:
    """Its cluster needs a process of its own, which all parts share."""
    command = [sys.executable, "-m", "tests.local_cluster.named_pools", str(tmp_path)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=580, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
