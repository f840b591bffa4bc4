"""What a person may ask of the stores under a root: what is there, whether it is whole, and to remove it.

Decision record: the scan of a file runs in a process of its own, because a damaged file can end the process that
reads it; then that is the finding. Statistics come from meta pages alone and disturb nobody.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from raykd.errors import TeacherError
from raykd.teachers.store.bound import file_bytes, folders, last_used
from raykd.teachers.store.folder import DAMAGED, DATA, classes_of, forget, read_note, root_lock, unused
from raykd.teachers.store.pages import Damaged, read_metas

SCAN = "raykd.teachers.store.scan"


@dataclass(frozen=True)
class StoreStats:
    """One teacher's store. classes is None where answers are of any size, entries where the file cannot be read;
    last_used is in seconds since 1970."""

    fingerprint: str
    path: Path
    teachers: tuple[str, ...]
    classes: int | None
    entries: int | None
    bytes: int
    last_used: float
    set_aside: int

    @property
    def bytes_a_row(self) -> float | None:
        """Bytes on disk for one stored answer."""
        return self.bytes / self.entries if self.entries else None


@dataclass(frozen=True)
class Verdict:
    """What a scan of one store found. problem is None where the file is whole."""

    fingerprint: str
    teachers: tuple[str, ...]
    entries: int
    damaged_values: int
    problem: str | None

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged."""
        return self.problem is None and self.damaged_values == 0


def stats(root: Path) -> list[StoreStats]:
    """The stores under a root, the one used last first; no store, no entry."""
    found = []
    for path in folders(root):
        note = read_note(path)
        try:
            entries: int | None = read_metas(path / DATA)[0].main.entries
        except (OSError, Damaged):
            entries = None
        found.append(
            StoreStats(
                fingerprint=path.name,
                path=path,
                teachers=tuple(str(name) for name in note.get("teachers", ())),
                classes=classes_of(note),
                entries=entries,
                bytes=file_bytes(path),
                last_used=last_used(path),
                set_aside=len(list(path.glob(f"{DAMAGED}*"))),
            )
        )
    return sorted(found, key=lambda s: -s.last_used)


def verify(root: Path) -> list[Verdict]:
    """Reads every value of every store under a root."""
    return [_verify(s) for s in stats(root)]


def _verify(store: StoreStats) -> Verdict:
    command = [sys.executable, "-m", SCAN, str(store.path), str(store.classes or 0)]
    scan = subprocess.run(command, capture_output=True, text=True, check=False)
    if scan.returncode == 0:
        found = json.loads(scan.stdout.splitlines()[-1])
    else:
        said = (scan.stderr.strip().splitlines() or [f"exit code {scan.returncode}"])[-1]
        found = {"entries": 0, "damaged": 0, "problem": f"reading it ended the process: {said}"}
    return Verdict(store.fingerprint, store.teachers, found["entries"], found["damaged"], found["problem"])


def clear(root: Path, fingerprint: str | None = None, *, force: bool = False) -> list[StoreStats]:
    """Removes all stores under a root, or the one whose fingerprint begins so; returns what was removed.

    Args:
        force: also stores that a process has open; it goes on with a fresh one.
    Raises:
        TeacherError: there is no such store, or a process has one open.
    """
    chosen = [s for s in stats(root) if fingerprint is None or s.fingerprint.startswith(fingerprint)]
    if fingerprint is not None and len(chosen) != 1:
        raise TeacherError(
            f"{'no store' if not chosen else 'more than one store'} under {root} begins with {fingerprint}",
            got=", ".join(s.fingerprint for s in chosen or stats(root)) or "no store at all",
            wanted="the fingerprint of one, or its beginning",
            next_step="raykd store stats lists them",
        )
    if not chosen:
        return []
    with root_lock(root):
        busy = [] if force else [s for s in chosen if not unused(s.path)]
        if busy:
            raise TeacherError(
                "a process has the store open",
                got=", ".join(f"{s.fingerprint} ({', '.join(s.teachers)})" for s in busy),
                wanted="no run that uses it",
                next_step="wait for the run, or use --force: it goes on and computes again what it asks for",
            )
        for store in chosen:
            forget(store.path)
            shutil.rmtree(store.path, ignore_errors=True)
    return chosen
