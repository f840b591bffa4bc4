"""Store the findings of self-tests by content in the user's cache folder, so that each model is tested once.

Decision record: one small JSON file per model, written beside its place and renamed, so that several processes may
write the same file. A file that cannot be read counts as a model that was not tested. Where the folder cannot be
written, the test is made again each time. `RAYKD_CACHE` names another folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

if TYPE_CHECKING:
    from raykd.prediction.selftest import PaddingFinding

FORMAT = 3
"""Raised when findings mean something else, so that older ones are not read."""


def find_cache_folder() -> Path | None:
    """Return the folder for what raykd keeps of models on this machine; None where the user has no home."""
    named = os.environ.get("RAYKD_CACHE") or os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(named).expanduser() if named else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return None
    return root if os.environ.get("RAYKD_CACHE") else root / "raykd"


def compute_finding_key(
    fingerprint: str, task: str, max_length: int, dtype: str, device: str, rule: object = None
) -> str:
    """Return the name of a finding: a hash of all that it follows from.

    Args:
        fingerprint: Of weights, configuration and tokenizer (`raykd.models.fingerprint`).
        task: The kind of the task.
        max_length: Tokens at which this model's texts are cut.
        dtype: Number format of the weights.
        device: The kind of device, such as "cpu" or "cuda".
        rule: How the model is padded as its configuration says.
    """
    from importlib.metadata import version

    parts = [FORMAT, fingerprint, task, max_length, dtype, device.partition(":")[0]]
    parts += [version("torch"), version("transformers"), repr(rule)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_finding(key: str) -> PaddingFinding | None:
    """Return the finding of this name; None where there is none that can be read."""
    from raykd.prediction.selftest import PaddingFinding

    folder = find_cache_folder()
    if folder is None:
        return None
    try:
        values = json.loads((folder / "selftests" / f"{key}.json").read_text(encoding="utf-8"))
        return TypeAdapter(PaddingFinding).validate_python(values)
    except (OSError, ValueError):
        return None


def write_finding(key: str, finding: PaddingFinding) -> None:
    """Write a finding that holds for all rows; nothing happens where the folder cannot be written."""
    folder = find_cache_folder()
    if folder is None or not finding.is_conclusive:
        return
    fresh = folder / "selftests" / f".{uuid.uuid4().hex}"
    try:
        fresh.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(asdict(finding)), encoding="utf-8")
        fresh.replace(fresh.with_name(f"{key}.json"))
    except OSError:
        fresh.unlink(missing_ok=True)


def load_or_test(key: str, test: Callable[[], PaddingFinding]) -> PaddingFinding:
    """Return the stored finding of this name, or make the test and store what it finds."""
    known = read_finding(key)
    if known is None:
        known = test()
        write_finding(key, known)
    return known
