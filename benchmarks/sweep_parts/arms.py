"""Whole sweeps as commands in processes of their own: timed from the start of the process to its end.

Decision record: a sweep is timed as a person meets it, imports, Ray, MLflow and report included. Its journal is
followed while it grows, which costs the sweep nothing and gives the time of every event: a result's line minus
its `trained_s` is when its training began, so what lies between two trainings is start-up, reporting and waiting.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.sweep_parts.processes import Watch, shm_files
from benchmarks.sweep_parts.setting import TEACHERS, Setting, sweep_tree

POLL_S = 0.02
GONE_S = 20.0
JOURNAL = "trials.jsonl"


def settle(limit_s: float = 30.0) -> None:
    """Waits until the load of what ran before has gone down, but not for ever."""
    until = time.monotonic() + limit_s
    while os.getloadavg()[0] > (os.cpu_count() or 1) and time.monotonic() < until:
        time.sleep(1.0)


class Follower:
    """The lines of a journal with the time when each was seen.

    since: lines that were there before are not given.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at = path.stat().st_size if path.exists() else 0
        self.events: list[dict[str, Any]] = []

    def look(self) -> None:
        """Takes in whole lines that are new."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.at)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self.at += len(whole)
        for line in whole.splitlines():
            if line.strip():
                self.events.append({"seen": time.time(), **json.loads(line)})


def command(
    arguments: list[str],
    log: Path,
    *,
    follow: Path | None = None,
    actors: bool = False,
    kill: Callable[[list[dict[str, Any]]], bool] = lambda events: False,
) -> dict[str, Any]:
    """Runs a command to its end (or kills it with SIGKILL when ``kill`` says so), and tells what it did."""
    settle()
    log.parent.mkdir(parents=True, exist_ok=True)
    before = shm_files()
    follower = Follower(follow) if follow is not None else None
    begun, started = time.perf_counter(), time.time()
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=out, stderr=out)
        try:
            with Watch(process.pid, actors) as watch:
                killed = _follow(process, follower, kill)
                wall = time.perf_counter() - begun
                left = _wait_for_the_rest(watch)
        finally:
            if process.poll() is None:  # we were interrupted
                process.terminate()
                process.wait()
    if process.returncode != 0 and not killed:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SystemExit(
            f"{' '.join(arguments)} ended with {process.returncode}\n{tail}\nthe whole log: {log}"
        )
    after = shm_files()
    return {
        "wall": wall,
        "started": started,
        "events": [] if follower is None else follower.events,
        "driver_cpu": watch.cpu.get(process.pid, 0.0),
        "own_cpu": sum(watch.cpu.values()),
        "cpu_by_title": watch.cpu_by_title(),
        "left_over_processes": left,
        "shm_left": {k: v for k, v in after.items() if k not in before},
        "looks": [[look.busy, round(look.cores, 2), look.actors] for look in watch.looks],
        "killed": killed,
        **watch.noise(),
    }


def _follow(
    process: subprocess.Popen[bytes], follower: Follower | None, kill: Callable[[list[dict[str, Any]]], bool]
) -> bool:
    """Waits for a command and reads its journal meanwhile; whether it was killed."""
    killed = False
    while process.poll() is None:
        time.sleep(POLL_S)
        if follower is not None:
            follower.look()
            if not killed and kill(follower.events):
                killed = True
                process.send_signal(signal.SIGKILL)
    if follower is not None:
        follower.look()
    return killed


def _wait_for_the_rest(watch: Watch) -> list[str]:
    """Waits for processes below a command that has ended; those that stay are ended one by one and named."""
    until = time.monotonic() + GONE_S
    while watch.alive() and time.monotonic() < until:
        time.sleep(0.1)
    left = watch.alive()
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return [watch.titles.get(pid, "")[:120] for pid in left]


def plain(setting: Setting, trials: int) -> dict[str, Any]:
    """A sweep of so many trials in the plain way."""
    shutil.rmtree(setting.work / "plain", ignore_errors=True)
    arguments = ["benchmarks.sweep", "--arm", "plain", "--trials", str(trials), "--work", str(setting.work)]
    return command(arguments, setting.work / "logs" / f"plain-{trials}.txt")


def served(
    setting: Setting, name: str, trials: int, output: Path, *, resume: bool = False, **how: Any
) -> dict[str, Any]:
    """A sweep of so many trials with raykd, and what its teachers did in this start of it."""
    setting.work.mkdir(parents=True, exist_ok=True)
    space = setting.work / f"{name}.yaml"
    space.write_text(yaml.safe_dump(sweep_tree(setting, name, trials, output)), encoding="utf-8")
    journal = output / name / JOURNAL
    arguments = ["raykd.cli", "sweep", *(["--resume", str(output / name)] if resume else [str(space)])]
    suffix = "-resumed" if resume else ""
    run = command(arguments, setting.work / "logs" / f"{name}{suffix}.txt", follow=journal, **how)
    teachers = [e["counters"] for e in run["events"] if e["event"] == "teachers"]
    return {**run, "counters": teachers[-1] if teachers else None, "trials": trials}


def fresh(path: Path) -> Path:
    """An empty output folder."""
    shutil.rmtree(path, ignore_errors=True)
    return path


def restarted(setting: Setting, trials: int) -> dict[str, Any]:
    """A sweep whose driver is killed after a few trials and that is resumed; then another one in the same output.

    What the killed start computed is counted by itself: its journal says what its labelling did.
    """
    output = fresh(setting.work / "output-restart")
    after = max(1, trials // 4)

    def kill(events: list[dict[str, Any]]) -> bool:
        return sum(e["event"] == "end" for e in events) >= after

    first = served(setting, "restart", trials, output, actors=True, kill=kill)
    stored = stored_rows(output)
    resumed = served(setting, "restart", trials, output, resume=True, actors=True)
    again = served(setting, "second", trials, output)
    return {
        "killed": first,
        "killed_forwarded": sum(e["forwarded"] for e in first["events"] if e["event"] == "labelled"),
        "killed_trials_over": sum(e["event"] == "end" for e in first["events"]),
        "stored_when_killed": stored,
        "resumed": resumed,
        "stored_at_the_end": stored_rows(output),
        "second": again,
    }


def stored_rows(output: Path) -> int:
    """Entries of all stores of an output folder."""
    from raykd.teachers.store.inventory import list_stores

    return sum(store.entries or 0 for store in list_stores(output / "store"))


def counted(counters: dict[str, dict[str, float]], what: str) -> float:
    """Sum over teachers."""
    return sum(counters[name].get(what, 0.0) for name in TEACHERS)
