"""Which library keeps teachers' answers best: SQLite beside LMDB.

    python -m benchmarks.store_engines --rows 1000000

Both keep the same values (a classifier's answer of ten classes, with the store's checksum) under the same keys, 64 rows
in a transaction, as a teacher writes them. Printed for each: rows a second while filling, bytes a row, milliseconds for
32 random rows (warm), and what is left after each fault: of rows read, how many are right, missing and wrong, and
whether the process that read them lived. LMDB is measured where it is installed (the extra `bench`).

LMDB is opened as it is, without a look at its pages beforehand; that a process dies of a flipped bit is its figure here.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.class_answers import encode_logits
from raykd.teachers.store import make_text_key
from raykd.teachers.store.sqlite import DATA, SqliteStore
from raykd.teachers.store.values import decode_value, encode_value

AT_ONCE, READ, CLASSES = 64, 32, 10
FAULT_ROWS = 4_000
FLIPS = 60


class Library(Protocol):
    """What is measured."""

    file: str

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]: ...

    def put(self, bodies: Mapping[bytes, bytes]) -> None: ...

    def close(self) -> None: ...


class Sqlite(SqliteStore):
    """SQLite as the store uses it."""

    file = DATA

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        super().__init__(folder, "immutable" if read_only else "create")


class Lmdb:
    """LMDB as the store used it before."""

    file = "data.mdb"

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        import lmdb

        options: dict[str, Any] = (
            {"readonly": True, "lock": False} if read_only else {"sync": False, "metasync": False}
        )
        self._env = lmdb.open(str(folder), map_size=64 << 30, max_readers=1024, readahead=False, **options)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The body of each key."""
        with self._env.begin() as read:
            return [decode_value(key, read.get(key)) for key in keys]

    def put(self, bodies: Mapping[bytes, bytes]) -> None:
        """One transaction."""
        with self._env.begin(write=True) as write:
            for key, body in bodies.items():
                write.put(key, encode_value(key, body))

    def close(self) -> None:
        """Flushes."""
        self._env.sync(True)
        self._env.close()


LIBRARIES: dict[str, Callable[..., Library]] = {"sqlite": Sqlite, "lmdb": Lmdb}
FILES = {"sqlite": Sqlite.file, "lmdb": Lmdb.file}


def keys_of(begin: int, end: int) -> list[bytes]:
    """Keys of numbered texts."""
    return [make_text_key(str(i), None) for i in range(begin, end)]


def bodies_of(begin: int, end: int) -> list[bytes]:
    """The right answer of each of them."""
    logits_NC = np.arange(begin, end, dtype=np.float32)[:, None] + np.arange(CLASSES, dtype=np.float32)
    return encode_logits(logits_NC)


def fill(store: Library, begin: int, end: int) -> float:
    """Writes the rows; returns the seconds that the library took."""
    seconds = 0.0
    for at in range(begin, end, AT_ONCE):
        stop = min(end, at + AT_ONCE)
        part = dict(zip(keys_of(at, stop), bodies_of(at, stop), strict=True))
        begun = time.perf_counter()
        store.put(part)
        seconds += time.perf_counter() - begun
    return seconds


def speed(name: str, folder: Path, rows: int) -> dict[str, float]:
    """Fill rate, bytes a row and the time for 32 random rows."""
    store = LIBRARIES[name](folder)
    seconds = fill(store, 0, rows)
    store.close()
    size = (folder / FILES[name]).stat()
    store = LIBRARIES[name](folder)
    rng, times = random.Random(0), []
    for number in range(2_500):
        keys = [make_text_key(str(rng.randrange(rows)), None) for _ in range(READ)]
        begun = time.perf_counter()
        found = store.get(keys)
        if number >= 500:
            times.append(1e3 * (time.perf_counter() - begun))
        assert None not in found
    store.close()
    return {
        "rows_a_second": rows / seconds,
        "bytes_a_row": min(size.st_size, 512 * size.st_blocks) / rows,
        "read_ms": statistics.median(times),
        "read_ms_90": sorted(times)[int(0.9 * len(times))],
    }


def outcome(store: Library, rows: int) -> dict[str, int]:
    """Reads all rows."""
    found: list[bytes | None] = []
    for at in range(0, rows, AT_ONCE):
        try:
            found += store.get(keys_of(at, min(rows, at + AT_ONCE)))
        except Exception:
            found += [None] * (min(rows, at + AT_ONCE) - at)
    own = bodies_of(0, rows)
    right = sum(a == b for a, b in zip(found, own, strict=True))
    return {"right": right, "missing": found.count(None), "wrong": rows - right - found.count(None)}


def child(name: str, what: str, folder: Path, number: int) -> None:
    """One process of a fault; prints what it read."""
    read_only = what == "read only"
    try:
        store = LIBRARIES[name](folder, read_only=read_only)
    except Exception as error:
        print(json.dumps({"right": 0, "missing": FAULT_ROWS, "wrong": 0, "said": str(error)[:80]}))
        return
    if what == "write":
        fill(store, number * FAULT_ROWS // 4, (number + 1) * FAULT_ROWS // 4)
        store.close()
    elif what == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        said = ""
        try:
            fill(store, 0, FAULT_ROWS)
        except Exception as error:
            said = str(error)[:80]
        print(json.dumps({**outcome(store, FAULT_ROWS), "said": said}))
    else:
        print(json.dumps(outcome(store, FAULT_ROWS)))


def run(name: str, what: str, folder: Path, number: int = 0) -> subprocess.Popen[str]:
    """A child process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.store_engines",
        "--child",
        name,
        what,
        str(folder),
        str(number),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def read(name: str, what: str, folder: Path) -> dict[str, Any]:
    """What a child process reads; it may die of it."""
    process = run(name, what, folder)
    out = process.communicate(timeout=120)[0]
    if process.returncode:
        return {"right": 0, "missing": 0, "wrong": 0, "died": 1}
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return {**found, "died": 0}


def damaged(
    name: str, folder: Path, damage: Callable[[bytearray, random.Random], None], times: int
) -> dict[str, Any]:
    """Sums over so many damaged copies of one store, each read by a process of its own."""
    whole, rng = (folder / FILES[name]).read_bytes(), random.Random(1)
    total: dict[str, Any] = {"right": 0, "missing": 0, "wrong": 0, "died": 0}
    for number in range(times):
        there = folder.parent / f"damaged-{name}-{number}"
        there.mkdir()
        data = bytearray(whole)
        damage(data, rng)
        (there / FILES[name]).write_bytes(data)
        found = read(name, "read", there)
        for key in total:
            total[key] += found[key]
        shutil.rmtree(there)
    return total


def _flip(data: bytearray, rng: random.Random) -> None:
    page = rng.randrange(len(data) // 4096)
    at = page * 4096 + rng.randrange(64 if rng.random() < 0.7 else 4096)
    data[at] ^= 1 << rng.randrange(8)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def faults(name: str, root: Path, flips: int) -> dict[str, dict[str, Any]]:
    """What is left after each fault."""
    folder = root / f"faults-{name}"
    folder.mkdir()
    store = LIBRARIES[name](folder)
    fill(store, 0, FAULT_ROWS)
    store.close()
    found = {
        "a flipped bit": damaged(name, folder, _flip, flips),
        "a cut file": damaged(name, folder, _cut, max(1, flips // 6)),
        "a read-only mount": read(name, "read only", folder),
    }
    full = root / f"full-{name}"
    full.mkdir()
    found["a full disk"] = read(name, "full", full)
    shared = root / f"shared-{name}"
    shared.mkdir()
    LIBRARIES[name](shared).close()
    writers = [run(name, "write", shared, number) for number in range(4)]
    file = shared / FILES[name]
    while file.stat().st_size < 100_000 and writers[0].poll() is None:
        time.sleep(0.001)
    writers[0].send_signal(signal.SIGKILL)
    for writer in writers:
        writer.communicate(timeout=120)
    found["four writers, one killed"] = read(name, "read", shared)
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000, help="Rows of the speed measurement.")
    parser.add_argument("--flips", type=int, default=FLIPS, help="Damaged copies; 0 leaves the faults out.")
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES), choices=list(LIBRARIES))
    parser.add_argument("--folder", type=Path, help="Where to write; a temporary folder by default.")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, what, folder, number = options.child
        child(name, what, Path(folder), int(number))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        for name in options.libraries:
            if name == "lmdb":
                try:
                    import lmdb  # noqa: F401
                except ImportError:
                    print("lmdb: not installed")
                    continue
            folder = Path(made) / name
            folder.mkdir()
            figures = speed(name, folder, options.rows)
            print(
                f"{name}: {options.rows:,} rows, {figures['rows_a_second']:,.0f} rows a second, "
                f"{figures['bytes_a_row']:.0f} bytes a row; 32 random rows {figures['read_ms']:.3f} ms "
                f"(90 % within {figures['read_ms_90']:.3f} ms)",
                flush=True,
            )
            shutil.rmtree(folder)
            for fault, left in faults(name, Path(made), options.flips).items() if options.flips else ():
                print(f"  {fault}: {', '.join(f'{key} {value}' for key, value in left.items())}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
