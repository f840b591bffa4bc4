"""Reading files of answers: seconds and memory of the first opening on a machine, and what a random row costs later.

Usage: python -m benchmarks.answer_files [--rows 100000,1000000] [--form parquet,jsonl] [--work DIR]

Made texts of about 60 characters, three labels, a column per label as pandas writes it. Each opening is a process of its
own, with an empty cache: its memory is the most that it ever held (resident, without the files that it maps), less what
it held before. Then 1,000 requests of 32 random rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

LABELS = ("negative", "neutral", "positive")
_CHUNK = 100_000


def make_text(row: int) -> str:
    """Return the text of a row."""
    return f"row {row}: the room was quiet, the food was good and we came again"


def write(path: Path, rows: int) -> None:
    """Write the answers to made rows."""
    import pyarrow as pa
    import pyarrow.parquet

    schema = pa.schema([("text", pa.string()), *((label, pa.float64()) for label in LABELS)])
    writer = pyarrow.parquet.ParquetWriter(path, schema) if path.suffix == ".parquet" else None
    with path.open("ab") as file:
        for begin in range(0, rows, _CHUNK):
            count = min(_CHUNK, rows - begin)
            p_NC = np.random.default_rng(begin).dirichlet(np.ones(len(LABELS)), count)
            texts = [make_text(row) for row in range(begin, begin + count)]
            table = pa.table([pa.array(texts), *(pa.array(column) for column in p_NC.T)], schema=schema)
            if writer is not None:
                writer.write_table(table)
            else:
                file.writelines(json.dumps(row).encode() + b"\n" for row in table.to_pylist())
    if writer is not None:
        writer.close()


def read_own_bytes() -> int:
    """Return the resident bytes of this process that no file backs."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def watch(peak: list[int]) -> None:
    """Keep the most that this process held."""
    while True:
        peak[0] = max(peak[0], read_own_bytes())
        time.sleep(0.02)


def open_files(path: Path, rows: int) -> dict[str, float]:
    """Open the files as a teacher does, and ask for random rows."""
    from raykd.config import FileTeacher
    from raykd.tasks import Classification
    from raykd.teachers.backends.files.backend import FileBackend
    from raykd.teachers.spec import TeacherSpec
    from raykd.text.batch import TextBatch

    teacher = FileTeacher(name="files", languages="all", path=str(path))
    backend = FileBackend(TeacherSpec(teacher, LABELS, Classification()))
    before = read_own_bytes()
    peak = [before]
    threading.Thread(target=watch, args=(peak,), daemon=True).start()
    begun = time.perf_counter()
    backend.load()
    opened, held = time.perf_counter(), peak[0]
    asked = np.random.default_rng(0).integers(rows, size=(1000, 32))
    for picked in asked.tolist():
        texts = tuple(make_text(row) for row in picked)
        answered = backend.compute(
            TextBatch(tuple(map(str, picked)), texts, ("en",) * 32, np.zeros(32, dtype=np.int64))
        )
        assert all(answered)
    ended = time.perf_counter()
    mb = (held - before) / 1e6
    return {"seconds": opened - begun, "mb": mb, "after_mb": (read_own_bytes() - before) / 1e6,
            "ms": ended - opened}  # fmt: skip


def measure(work: Path, forms: list[str], counts: list[int]) -> Iterator[str]:
    """Yield a row of the table for each form and number of rows."""
    for form in forms:
        for rows in counts:
            path = work / f"{rows}.{form}"
            if not path.exists():
                write(path, rows)
            with tempfile.TemporaryDirectory(dir=work) as cache:
                words = [
                    sys.executable,
                    "-m",
                    "benchmarks.answer_files",
                    "--open",
                    str(path),
                    "--rows",
                    str(rows),
                ]
                done = subprocess.run(
                    words,
                    env={**os.environ, "RAYKD_CACHE": cache},
                    check=True,
                    capture_output=True,
                    text=True,
                )
                index = sum(each.stat().st_size for each in Path(cache).rglob("*.*"))
            got = json.loads(done.stdout.splitlines()[-1])
            yield (
                f"| {form} | {rows:,} | {path.stat().st_size / 1e6:,.0f} | {got['seconds']:,.1f} | {got['mb']:,.0f} | "
                f"{got['after_mb']:,.0f} | {index / 1e6:,.0f} | {got['ms']:.2f} |"
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="100000,1000000")
    parser.add_argument("--form", default="parquet,jsonl")
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--open", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open is not None:
        print(json.dumps(open_files(options.open, int(options.rows))))
        return
    with tempfile.TemporaryDirectory() as own:
        work = options.work or Path(own)
        work.mkdir(parents=True, exist_ok=True)
        print(
            "| form | rows | file MB | s to open | MB held while | MB held after | index MB | ms for 32 rows |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for row in measure(work, options.form.split(","), [int(count) for count in options.rows.split(",")]):
            print(row, flush=True)


if __name__ == "__main__":
    main()
