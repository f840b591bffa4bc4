"""Store the findings of self-tests by content (`raykd.cache`), so that each model is tested once.

Decision record: a finding holds for the content of a model and for the versions of torch and transformers, not for
those of raykd: it says how a model computes. `FORMAT` is raised where findings mean something else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from raykd.cache import find_version, read_entry, write_entry

if TYPE_CHECKING:
    from raykd.prediction.selftest import PaddingFinding

FORMAT = 4
"""Raised when findings mean something else, so that older ones are not read."""
KIND = "selftests"
"""Their folder in the cache."""


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
    parts = [FORMAT, fingerprint, task, max_length, dtype, device.partition(":")[0]]
    parts += [find_version("torch"), find_version("transformers"), repr(rule)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_finding(key: str) -> PaddingFinding | None:
    """Return the finding of this name; None where there is none that can be read."""
    from raykd.prediction.selftest import PaddingFinding

    return read_entry(KIND, key, PaddingFinding)


def write_finding(key: str, finding: PaddingFinding) -> None:
    """Write a finding that holds for all rows; nothing happens where the folder cannot be written."""
    if finding.is_conclusive:
        write_entry(KIND, key, type(finding), finding)


def load_or_test(key: str, test: Callable[[], PaddingFinding]) -> PaddingFinding:
    """Return the stored finding of this name, or make the test and store what it finds."""
    known = read_finding(key)
    if known is None:
        known = test()
        write_finding(key, known)
    return known
