"""Describe what a run ran on: versions, processor, memory, commit.

Decision record: versions come from package metadata, since importing Ray, torch and DeepSpeed to print their versions
costs seconds.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = ("raykd", "ray", "torch", "transformers", "deepspeed", "mlflow", "datasets")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
"""Processor flags that decide how fast a model runs here; the last two are native bfloat16."""


def describe_environment() -> dict[str, str]:
    """Return python, platform, processor and its flags, cores, memory, versions, and the current folder's git commit.

    Costs milliseconds; nothing is imported.
    """
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **_describe_processor(),
        "cores": str(_count_cores()),
        "memory": _describe_memory(),
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if commit := _read_commit():
        found["git_commit"] = commit
    return found


def _count_cores() -> int:
    """Count the cores that this process may use; a container may have limited them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _describe_processor() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return {"cpu": platform.processor() or platform.machine()}
    # one block of lines for each core; reversed, so that the first block wins
    facts = dict(reversed([(k.strip(), v.strip()) for k, _, v in (line.partition(":") for line in lines)]))
    flags = facts.get("flags", facts.get("Features", "")).split()
    return {
        "cpu": facts.get("model name", platform.machine()),
        "cpu_flags": " ".join(flag for flag in _FLAGS if flag in flags) or "none of interest",
    }


def _describe_memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (ValueError, OSError, AttributeError):
        return "unknown"


def _read_commit() -> str | None:
    """Read the commit of the current folder, with ``+`` where files differ from it; None without a repository."""
    try:
        head = _run_git("rev-parse", "HEAD")
        return f"{head}+" if _run_git("status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.SubprocessError):
        return None


def _run_git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=True)
    return done.stdout.strip()
