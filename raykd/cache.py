"""Cache what was computed about models and libraries in the user's cache folder, under keys of content.

Decision record: one small JSON file per entry, written beside its place and renamed, so that several processes may
write the same file. A file that cannot be read counts as absent. Where the folder cannot be written, everything is
computed each time. `RAYKD_CACHE` names another folder.

Only results are cached, never errors, so a refusal is the same the first time and the hundredth. A key holds all that
its result follows from: contents of files, settings, versions of libraries, and the source files of raykd itself. A
changed byte or another version is another key.

What is too large for JSON (tokens, rows) is a folder per key, written by whoever needs it first. The time of the file
`USED` in it is that of its last use; folders that were not used for longest are removed first.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")
USED = "used"
_STALE_S = 2 * 86400.0
"""Age from which on a hidden folder is what a killed process left."""


def find_cache_folder() -> Path | None:
    """Return the folder for what raykd keeps of models on this machine; None where the user has no home."""
    named = os.environ.get("RAYKD_CACHE") or os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(named).expanduser() if named else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return None
    return root if os.environ.get("RAYKD_CACHE") else root / "raykd"


def read_entry(kind: str, key: str, shape: type[T]) -> T | None:
    """Return a cached result; None where there is none that can be read.

    Args:
        kind: What was computed, the name of a folder.
        key: A hash of all that it follows from.
        shape: Its type, as pydantic reads it.
    """
    folder = find_cache_folder()
    if folder is None:
        return None
    try:
        return TypeAdapter(shape).validate_python(json.loads((folder / kind / f"{key}.json").read_bytes()))
    except (OSError, ValueError):
        return None


def write_entry(kind: str, key: str, shape: type[T], result: T) -> None:
    """Cache a result; nothing happens where the folder cannot be written."""
    folder = find_cache_folder()
    if folder is None:
        return
    fresh = folder / kind / f".{uuid.uuid4().hex}"
    try:
        fresh.parent.mkdir(parents=True, exist_ok=True)
        # Unlike pydantic's own writer this keeps infinity and halves of surrogate pairs.
        fresh.write_text(json.dumps(TypeAdapter(shape).dump_python(result, mode="json")), encoding="ascii")
        fresh.replace(fresh.with_name(f"{key}.json"))
    except OSError:
        fresh.unlink(missing_ok=True)


def load_or_compute(
    kind: str, describe: Callable[[], object], shape: type[T], compute: Callable[[], T], *libraries: str
) -> T:
    """Return the cached result, or compute and cache it.

    Args:
        kind: What is computed, the name of a folder.
        describe: Describes all that it follows from, as JSON. It is called again after computing: what changed
            meanwhile is not cached.
        shape: The type of the result, as pydantic reads it.
        compute: Computes it. Its errors are raised and not cached.
        *libraries: Packages whose versions it depends on.
    """
    described = describe()
    key = compute_key(described, *libraries)
    known = read_entry(kind, key, shape)
    if known is None:
        known = compute()
        if describe() == described:
            write_entry(kind, key, shape, known)
    return known


def compute_key(described: object, *libraries: str) -> str:
    """Return the name of an entry: a hash of what its result follows from, this raykd and these libraries."""
    parts = [described, stamp_code(), platform.python_version(), *map(find_version, libraries)]
    return hashlib.sha256(json.dumps(parts, default=str).encode("utf-8", "surrogatepass")).hexdigest()


def open_cache_folder(kind: str) -> Path | None:
    """Return the folder of a kind, made if need be; None where it cannot be written."""
    cache = find_cache_folder()
    with suppress(OSError):
        if cache is not None:
            (cache / kind).mkdir(parents=True, exist_ok=True)
            return cache / kind if os.access(cache / kind, os.W_OK) else None
    return None


def mark_used(folder: Path) -> None:
    """Remember that the content of a folder of the cache is used now."""
    with suppress(OSError):
        (folder / USED).touch()


@dataclass(frozen=True)
class CachedFolder:
    """A folder of the cache, its bytes, and when it was used last (seconds since 1970)."""

    path: Path
    bytes: int
    last_used: float


def list_cached_folders(kind: str) -> list[CachedFolder]:
    """Return the folders of a kind, those used last first."""
    cache, found = find_cache_folder(), []
    for used in [] if cache is None else (cache / kind).glob(f"*/{USED}"):
        with suppress(OSError):  # removed meanwhile
            size = sum(file.stat().st_size for file in used.parent.iterdir())
            found.append(CachedFolder(used.parent, size, used.stat().st_mtime))
    return sorted(found, key=lambda folder: -folder.last_used)


def remove_old_folders(kind: str, most: int, *, keep: str = "") -> list[CachedFolder]:
    """Remove the folders of a kind that were not used for longest, until the others take at most so many bytes.

    Args:
        kind: The name of the folder that they are in.
        most: Bytes.
        keep: The name of a folder that stays.

    Returns:
        What was removed.
    """
    total, removed = 0, []
    for own in list_cached_folders(kind):
        total += own.bytes
        if total > most and own.path.name != keep:
            shutil.rmtree(own.path, ignore_errors=True)
            removed.append(own)
    cache = find_cache_folder()
    for left in [] if cache is None else (cache / kind).glob(".*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_S:
                shutil.rmtree(left, ignore_errors=True)
    return removed


@cache
def find_version(package: str) -> str:
    """Return a package's version; "" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@cache
def stamp_code() -> str:
    """Return a hash of the names, sizes and times of raykd's source files, which stays equal as long as they do."""
    root = Path(__file__).parent
    states = ((path.relative_to(root), path.stat()) for path in sorted(root.rglob("*.py")))
    parts = [f"{path} {state.st_size} {state.st_mtime_ns}" for path, state in states]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
