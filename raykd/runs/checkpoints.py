"""Which checkpoint a resumed run goes on from, and whether it is whole.

Decision record: Ray Train keeps its list of checkpoints in a file that it writes in place, so a driver that is
killed at the wrong moment leaves a list that nobody can read; a checkpoint that is cut off it would load again
and again. So its list is not used over a resume: each start of a run is a Ray Train run of its own, and every
rank puts a manifest with the hashes of its files into its part of a checkpoint. The newest checkpoint whose
manifests are all there and true is the one to go on from.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path

from raykd.runs.owned import foreign

log = logging.getLogger("raykd.runs")


def write_manifest(folder: Path, rank: int, world: int) -> None:
    """Adds this rank's manifest to what it has written in a checkpoint's folder."""
    files = {
        str(path.relative_to(folder)): _digest(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    (folder / f"manifest-{rank}.json").write_text(json.dumps({"world": world, "files": files}), "utf-8")


def problem(folder: Path) -> str | None:
    """Why a checkpoint cannot be used; None if it is whole."""
    if (wrong := foreign(folder)) is not None:
        return wrong
    manifests = sorted(folder.glob("manifest-*.json"))
    if not manifests:
        return "it has no manifest"
    for path in manifests:
        try:
            manifest = json.loads(path.read_text("utf-8"))
            world, files = int(manifest["world"]), dict(manifest["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return f"{path.name} cannot be read"
        if world != len(manifests):
            return f"it has {len(manifests)} parts of {world}"
        for name, digest in files.items():
            if not (folder / name).is_file() or _digest(folder / name) != digest:
                return f"{name} is not as it was written"
    return None


def newest(storage: Path, name: str) -> Path | None:
    """The newest whole checkpoint of all starts of a Ray Train run; says in the log what it passes over."""
    found = [p for start in _starts(storage, name) for p in start.glob("checkpoint_*") if p.is_dir()]
    for folder in sorted(found, key=lambda path: path.name, reverse=True):
        wrong = problem(folder)
        if wrong is None:
            log.info("going on from %s", folder)
            return folder
        log.warning("passed over %s: %s", folder, wrong)
    return None


def next_start(storage: Path, name: str, keep: Path | None) -> str:
    """A name for the next start; earlier starts are removed but for the one that holds ``keep``."""
    before = _starts(storage, name)
    for start in before:
        if keep is None or start != keep.parent:
            shutil.rmtree(start, ignore_errors=True)
    last = max((int(start.name.rpartition("-")[2]) for start in before), default=0)
    return f"{name}-{last + 1}"


def _starts(storage: Path, name: str) -> list[Path]:
    return [
        path
        for path in sorted(storage.glob(f"{name}-*"))
        if path.is_dir() and path.name.removeprefix(f"{name}-").isdigit()
    ]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
