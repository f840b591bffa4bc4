"""The faults: each really happens to a process, a file or a node of a run that is under way."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.soak_parts.world import World

LOCKED_S = 5.0


@dataclass(frozen=True)
class Scene:
    """A command under way and where chance comes from."""

    world: World
    kind: str
    name: str
    process: subprocess.Popen[str]
    chance: random.Random

    @property
    def folder(self) -> Path:
        """Of the run or the sweep."""
        return self.world.runs / self.name


@dataclass(frozen=True)
class Fault:
    """What is done. kinds: the commands that it is done to. ends: whether the command ends of it and is resumed."""

    name: str
    do: Callable[[Scene], bool]
    kinds: tuple[str, ...] = ("train", "sweep")
    ends: bool = False


def _signal_one(actor: str, number: int) -> Callable[[Scene], bool]:
    def do(scene: Scene) -> bool:
        pids = scene.world.actors(actor)
        if not pids:
            return False
        os.kill(scene.chance.choice(pids), number)
        return True

    return do


def _end_driver(number: int) -> Callable[[Scene], bool]:
    def do(scene: Scene) -> bool:
        scene.process.send_signal(number)
        return True

    return do


def _newest_file(scene: Scene) -> Path | None:
    """The largest file of the newest checkpoint."""
    found = [p for p in scene.folder.glob("ray/student-*/checkpoint_*") if p.is_dir()]
    found += [p for p in scene.folder.glob("checkpoints/*/*") if p.is_dir() and p.suffix != ".part"]
    if not found:
        return None
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    files = [p for p in newest.rglob("*") if p.is_file() and not p.name.startswith("manifest")]
    return max(files, key=lambda path: path.stat().st_size, default=None)


def _spoil_checkpoint(spoil: Callable[[Path, random.Random], None]) -> Callable[[Scene], bool]:
    """The driver is killed, and what it wrote last is damaged before it is started again."""

    def do(scene: Scene) -> bool:
        scene.process.kill()
        scene.process.wait()
        time.sleep(3.0)  # workers of a killed driver may still be writing
        path = _newest_file(scene)
        if path is not None:
            spoil(path, scene.chance)
        return True

    return do


def _cut(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def _flip(path: Path, chance: random.Random) -> None:
    with path.open("rb+") as file:
        at = chance.randrange(path.stat().st_size)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << chance.randrange(8))]))


def _flip_store(scene: Scene) -> bool:
    files = [p for p in (scene.world.runs / "store").rglob("*.mdb") if p.stat().st_size]
    if not files:
        return False
    for _ in range(50):
        _flip(scene.chance.choice(files), scene.chance)
    return True


def _delete_store(scene: Scene) -> bool:
    shutil.rmtree(scene.world.runs / "store", ignore_errors=True)
    return True


def _lock_database(scene: Scene) -> bool:
    """For a while nobody else writes."""

    def hold() -> None:
        connection = sqlite3.connect(scene.world.database, timeout=10.0)
        try:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(LOCKED_S)
            connection.rollback()
        except sqlite3.Error:
            pass
        finally:
            connection.close()

    threading.Thread(target=hold, daemon=True).start()
    return True


def _lose_node(scene: Scene) -> bool:
    scene.world.replace_node()
    return True


FAULTS = (
    Fault("teacher killed", _signal_one("TeacherActor", signal.SIGKILL), ("train",)),
    Fault("teacher frozen", _signal_one("TeacherActor", signal.SIGSTOP), ("train",)),
    Fault("student worker killed", _signal_one("RayTrainWorker", signal.SIGKILL), ("train",)),
    Fault("trial killed", _signal_one("ResourceTrainable", signal.SIGKILL), ("sweep",)),
    Fault("driver killed", _end_driver(signal.SIGKILL), ends=True),
    Fault("driver terminated", _end_driver(signal.SIGTERM), ends=True),
    Fault("checkpoint cut off", _spoil_checkpoint(_cut), ends=True),
    Fault("checkpoint bit flipped", _spoil_checkpoint(_flip), ends=True),
    Fault("store bits flipped", _flip_store, ("sweep",)),
    Fault("store deleted", _delete_store, ("sweep",)),
    Fault("MLflow database locked", _lock_database),
    Fault("node lost", _lose_node, ("train",)),
)
