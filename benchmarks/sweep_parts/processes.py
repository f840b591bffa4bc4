"""What a command and everything below it does to the machine, seen from outside through /proc.

Decision record: a process that ended cannot be asked for its CPU time, and Ray's processes are not waited for by the
command that started them; so all processes of the machine are looked at twice a second (one small file each, about
a thousandth of a core) and those that descend from the command are remembered. What the rest of the machine used
meanwhile, and what the hypervisor took, says whether a time can be trusted: the load average alone also counts us.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
EVERY_S = 0.5
BUSY = 0.4
"""Share of a core from which on a thread counts as computing, in a look of half a second."""
COMPUTES = re.compile(r"ray::(TeacherActor|TrialHost|ResourceTrainable|Trainable)")
"""Titles of the processes that compute; a worker is called IDLE while it still imports."""
NOISE = 0.25
"""Cores that others may use before a time is called noisy."""


@dataclass(frozen=True)
class Stat:
    """One line of /proc: parent and CPU seconds."""

    parent: int
    cpu: float


def read_stat(path: Path) -> Stat | None:
    """Of a process or a thread; None if it is gone."""
    try:
        fields = path.read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return Stat(int(fields[1]), (int(fields[11]) + int(fields[12])) / TICK)


def processes() -> Iterator[tuple[int, Stat]]:
    """All that are there."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            stat = read_stat(path / "stat")
            if stat is not None:
                yield int(path.name), stat


def machine_cpu() -> tuple[float, float]:
    """CPU seconds since boot: spent by anyone, taken by the hypervisor."""
    with Path("/proc/stat").open() as file:
        user, nice, system, _, _, irq, soft, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + soft) / TICK, steal / TICK


def title(pid: int) -> str:
    """The command line; Ray's actors are called ``ray::Class.method``."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def shm_files() -> dict[str, int]:
    """Files under /dev/shm and their sizes."""
    found = {}
    for path in Path("/dev/shm").rglob("*"):
        try:
            if path.is_file():
                found[str(path)] = path.stat().st_size
        except OSError:
            continue
    return found


@dataclass
class Look:
    """One look at teachers and trials: busy threads at once, cores that they used, processes that used any."""

    busy: int
    cores: float
    actors: dict[str, int]


@dataclass
class Watch:
    """Looks at a command and its descendants until it is left; used as a context.

    pid: the command. actors: also look at the threads of teachers and trials (costs about a hundredth of a core).
    titles: the last one of each process.
    """

    pid: int
    actors: bool = False
    cpu: dict[int, float] = field(default_factory=dict)
    titles: dict[int, str] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)

    def __enter__(self) -> Watch:
        self._begun, self._before = time.perf_counter(), machine_cpu()
        self._self = time.process_time()
        self.load = os.getloadavg()[0]
        self._threads: dict[tuple[int, int], float] = {}
        self._last = self._begun
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            self.look()

    def look(self) -> None:
        """Takes in what is there now."""
        there = dict(processes())
        ours = {self.pid} | self.cpu.keys()
        while fresh := {pid for pid, s in there.items() if s.parent in ours and pid not in ours}:
            ours |= fresh
        for pid in ours & there.keys():
            self.cpu[pid] = max(there[pid].cpu, self.cpu.get(pid, 0.0))
            self.titles[pid] = title(pid) or self.titles.get(pid, "")
        if self.actors:
            self._look_at_threads([pid for pid in ours & there.keys() if COMPUTES.match(self.titles[pid])])

    def _look_at_threads(self, pids: list[int]) -> None:
        now = time.perf_counter()
        since, self._last = now - self._last, now
        busy, cores = 0, 0.0
        active: dict[str, int] = {}
        seen: dict[tuple[int, int], float] = {}
        for pid in pids:
            used = 0.0
            for path in Path(f"/proc/{pid}/task").glob("*"):
                stat = read_stat(path / "stat")
                if stat is None:
                    continue
                key = (pid, int(path.name))
                seen[key] = stat.cpu
                share = (
                    stat.cpu - self._threads.get(key, stat.cpu)
                ) / since  # what it did before is not of now
                busy += share >= BUSY
                used += share
            cores += used
            if used >= BUSY:
                name = self.titles[pid].removeprefix("ray::").partition(".")[0]
                active[name] = active.get(name, 0) + 1
        self._threads = seen
        self.looks.append(Look(busy, cores, active))

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.look()
        self.wall = time.perf_counter() - self._begun
        spent, stolen = (a - b for a, b in zip(machine_cpu(), self._before, strict=True))
        own = sum(self.cpu.values()) + time.process_time() - self._self
        self.others = max(0.0, spent - own + stolen) / self.wall

    def alive(self) -> list[int]:
        """Our processes that have not ended."""
        return [pid for pid in self.cpu if read_stat(Path(f"/proc/{pid}/stat")) is not None]

    def cpu_by_title(self) -> dict[str, float]:
        """CPU seconds by what the processes were called last."""
        total: dict[str, float] = {}
        for pid, used in self.cpu.items():
            words = self.titles.get(pid, "").split()
            name = " ".join(Path(w).name if "/" in w else w for w in words[:3])[:60]
            name = name.partition(".")[0] if name.startswith("ray::") else name
            total[name] = round(total.get(name, 0.0) + used, 2)
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    def noise(self) -> dict[str, float | bool]:
        """Load before, cores that others used meanwhile, and whether that is too much."""
        loud = self.others > NOISE or self.load > (os.cpu_count() or 1) + 0.5
        return {"load_before": round(self.load, 2), "others_cores": round(self.others, 3), "noisy": loud}
