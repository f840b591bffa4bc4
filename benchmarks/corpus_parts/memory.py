"""The private memory of a command and of the processes that it starts, seen from outside through /proc.

Decision record: pages of mapped files are not counted, because the kernel drops them when anybody needs the room.
Shared memory is counted (Ray's object store), in proportion: it cannot be dropped.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.sweep_parts.processes import processes, title

EVERY_S = 0.2
ROLES = {"worker": re.compile(r"ray::SingleWorker"), "teachers": re.compile(r"ray::TeacherActor")}


def read_private(pid: int) -> int:
    """Return bytes of anonymous and of shared memory of a process; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE))
    return 1024 * (int(fields.get("Pss_Anon", 0)) + int(fields.get("Pss_Shmem", 0)))


@dataclass
class MemoryWatch:
    """Looks at a command and its descendants until it is left; used as a context.

    Attributes:
        pid: The command.
        peaks: Bytes, by role: the driver, and the processes that `ROLES` names.
    """

    pid: int
    peaks: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> MemoryWatch:
        self._over = threading.Event()
        self._ours = {self.pid}
        self._most: dict[int, int] = {}
        self._roles = {self.pid: "driver"}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            self.look()

    def look(self) -> None:
        """Take in what is there now."""
        there = dict(processes())
        while fresh := {pid for pid, s in there.items() if s.parent in self._ours and pid not in self._ours}:
            self._ours |= fresh
        for pid in self._ours & there.keys():
            self._most[pid] = max(self._most.get(pid, 0), read_private(pid))
            for role, pattern in ROLES.items():
                if pid not in self._roles and pattern.match(title(pid)):
                    self._roles[pid] = role

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        for pid, role in self._roles.items():
            self.peaks[role] = max(self.peaks.get(role, 0), self._most.get(pid, 0))
