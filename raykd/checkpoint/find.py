"""Which checkpoint a run goes on from, and whether it is whole.

Decision record: Ray Train keeps its list of checkpoints in a file that it writes in place, so a driver that is
killed at the wrong moment leaves a list that nobody can read; a checkpoint that is cut off it would load again
and again. So its list is used neither over a resume (each start of a run is a Ray Train run of its own) nor after
workers were lost: rank 0 looks for the newest checkpoint that is whole, and tells the other ranks. What makes it
whole are manifests, one a rank: sizes and sha256 of the rank's files, the job, its configuration's fingerprint (for
people: whether a run may go on is judged by its settings, see `earlier`), the number of workers, the step. A manifest
is written last, to a file of another name that is then renamed: a checkpoint with all its manifests is one that was
finished. Only manifests are forced onto the disk; files that a power cut took are found by their hashes, and the
checkpoint before is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from raykd.checkpoint.ownership import foreign

log = logging.getLogger("raykd.runs")
_OF_A_RANK = re.compile(r"_pp_rank_(\d+)_")
_NAME = re.compile(r"checkpoint_\d{8}-\d+-(?P<job>.+)")


@dataclass(frozen=True)
class CheckpointMark:
    """What a checkpoint says of itself.

    job: what is trained. config: fingerprint of its configuration. world: ranks that wrote it. step: steps done.
    """

    job: str = ""
    config: str = ""
    world: int = 1
    step: int = 0


def folder_name(mark: CheckpointMark, attempt: int) -> str:
    """The name of a checkpoint: names are in the order of steps, then of attempts at them."""
    return f"checkpoint_{mark.step:08d}-{attempt}-{mark.job}"


def write_manifest(folder: Path, mark: CheckpointMark, rank: int = 0, parts: int = 1) -> None:
    """Adds the manifest of what this rank has written; with the last of ``parts`` manifests the checkpoint is finished.

    Files of several ranks lie in one folder: those that DeepSpeed names by a rank are that rank's, others rank 0's.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        owner = _OF_A_RANK.search(path.name)
        mine = parts == 1 or (int(owner[1]) if owner else 0) == rank
        if mine and path.is_file() and not path.name.startswith("manifest-"):
            files[str(path.relative_to(folder))] = {"size": path.stat().st_size, "sha256": _digest(path)}
    written = {**asdict(mark), "parts": parts, "files": files}
    target = folder / f"manifest-{rank}.json"
    fresh = target.with_suffix(".tmp")
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(written, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, target)


def problem(folder: Path, *, world: int | None = None) -> str | None:
    """Why a checkpoint cannot be used; None if it is whole.

    Args:
        world: how many ranks, where that may not differ.
    """
    if (wrong := foreign(folder)) is not None:
        return wrong
    manifests = sorted(folder.glob("manifest-*.json"))
    if not manifests:
        return "it has no manifest"
    for path in manifests:
        try:
            manifest = json.loads(path.read_text("utf-8"))
            parts, files = int(manifest["parts"]), dict(manifest["files"])
            job, config, ranks, step = (manifest[name] for name in asdict(CheckpointMark()))
            mark = CheckpointMark(str(job), str(config), int(ranks), int(step))
            sizes = {name: (int(f["size"]), str(f["sha256"])) for name, f in files.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
            return f"{path.name} cannot be read"
        if parts != len(manifests):
            return f"it has {len(manifests)} parts of {parts}"
        if world is not None and mark.world != world:
            return f"it is of {mark.world} workers, wanted {world}"
        for name, (size, digest) in sizes.items():
            file = folder / name
            if not os.path.isfile(file):  # which says no to what can be no name, too
                return f"{name[:80]} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes of {size}"
            if _digest(file) != digest:
                return f"{name} is not as it was written"
    return None


def newest(
    storage: Path,
    name: str,
    job: str,
    passed_over: Callable[[str], None] = log.warning,
    *,
    world: int | None = None,
) -> Path | None:
    """The newest whole checkpoint of a job over all starts of a Ray Train run.

    Args:
        passed_over: told of each newer one that cannot be used, and why. world: as for `problem`.
    """
    for folder in _checkpoints(storage, name, job):
        wrong = problem(folder, world=world)
        if wrong is None:
            return folder
        passed_over(f"passed over checkpoint {folder}: {wrong}")
    return None


def prune(storage: Path, name: str, current: str, keep: Path | None) -> None:
    """Removes what no attempt needs: earlier starts but for ``keep``, and checkpoints that were never finished.

    Checkpoints of the start ``current`` that were finished are left to Ray Train, which counts them.
    """
    for start in _starts(storage, name):
        if start.name != current and (keep is None or start != keep.parent):
            shutil.rmtree(start, ignore_errors=True)
            continue
        for folder in start.glob("checkpoint_*"):
            if folder != keep and not _finished(folder):
                shutil.rmtree(folder, ignore_errors=True)


def next_start(storage: Path, name: str) -> str:
    """A name for the next start."""
    last = max((int(start.name.rpartition("-")[2]) for start in _starts(storage, name)), default=0)
    return f"{name}-{last + 1}"


def _checkpoints(storage: Path, name: str, job: str) -> Iterator[Path]:
    found = [p for start in _starts(storage, name) for p in start.glob("checkpoint_*") if p.is_dir()]
    for folder in sorted(found, key=lambda path: path.name, reverse=True):
        match = _NAME.fullmatch(folder.name)
        if match is not None and match["job"] == job:
            yield folder


def _finished(folder: Path) -> bool:
    """Whether all manifests are there, without a look at the files."""
    manifests = list(folder.glob("manifest-*.json"))
    try:
        return bool(manifests) and json.loads(manifests[0].read_text("utf-8"))["parts"] == len(manifests)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _starts(storage: Path, name: str) -> list[Path]:
    return [
        path
        for path in sorted(storage.glob(f"{name}-*"))
        if path.is_dir() and path.name.removeprefix(f"{name}-").isdigit()
    ]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
