"""Write training data for sequence-level distillation: the texts that teachers write for the training sources.

Kim and Rush, arXiv 1606.07947: a student that is trained on a teacher's beam output has one answer to learn where the
data has many. Decision record: the output is data, not a store entry, because people read, filter and keep it. It is
JSON lines that `data.train` reads as they are. Each teacher that would teach a row writes it once. An interrupted
command goes on where the file ends, and a file of anything else is not added to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console

from raykd.config import RunConfig
from raykd.data.load import load_data
from raykd.data.rows import Rows
from raykd.errors import ConfigError, DataError
from raykd.folders.places import try_folder
from raykd.runs.labelling import find_labelling_teachers, open_teachers_alone
from raykd.tasks.kinds.language import LanguageTask
from raykd.teachers.pool_source import PoolSource
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.pools.replica_client import TEXTS_PER_CALL
from raykd.timeline.progress import show_progress


def write_sequences(config: RunConfig, path: Path, console: Console, *, beams: int = 5) -> int:
    """Write what its teachers write for each training source into a file (`raykd label --sequences`).

    Args:
        config: The run of a language task.
        path: File of JSON lines ``{id, src, tgt, lang, teacher}``. Rows that it holds are not written again.
        console: Where progress is shown.
        beams: Beams of the search.

    Returns:
        How many rows were written now.

    Raises:
        ConfigError: The task is no language task, or there are no teachers.
        DataError: The file holds something else.
        ModelError, TeacherError: The teachers cannot be opened, or cannot write.
    """
    task = config.task
    if not isinstance(task, LanguageTask):
        raise ConfigError(
            "sequences are written by language models",
            got=f"task {task.kind}",
            wanted="task causal_lm or seq2seq",
            next_step="raykd label RUN.yaml without --sequences keeps the teachers' answers",
        )
    trained = find_labelling_teachers(config)
    if path.is_dir():
        raise ConfigError(
            "--sequences is a folder, not a file", got=str(path), wanted="a file for JSON lines"
        )
    try_folder(path.resolve().parent, "--sequences")
    data = load_data(config.data, Path.cwd(), config.form, targets_needed=False)
    written = _read_written(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        open_teachers_alone(config, trained) as pools,
        path.open("a", encoding="utf-8") as file,
        show_progress(console, "sequences") as report,
    ):
        pool, _ = pools[""]
        work = _plan_work(config, pool, data.train, written)
        done, total = 0, sum(len(picked) for _, picked in work)
        report(done, total)
        for m, picked in _batches(work):
            rows = data.train.take(picked)
            made = pool.replicas.generate(m, rows, beams=beams, max_new_tokens=task.max_new_tokens)
            for i, text in zip(picked, made, strict=True):
                file.write(_line(data.train, i, text, pool.handle.teachers[m]))
            file.flush()
            done += len(picked)
            report(done, total)
    return done


def _line(rows: Rows, i: int, text: str, teacher: str) -> str:
    row = {
        "id": rows.ids[i],
        "src": rows.texts[i],
        "tgt": text,
        "lang": rows.languages[i],
        "teacher": teacher,
    }
    if rows.source_languages is not None and rows.source_languages[i]:
        row["src_lang"] = rows.source_languages[i]
    return json.dumps(row, ensure_ascii=False) + "\n"


def _plan_work(
    config: RunConfig, pool: TeacherPool, rows: Rows, written: set[tuple[str, str, str]]
) -> list[tuple[int, list[int]]]:
    """Return for each teacher the rows that it would teach and has not written; equal sources in one language once."""
    asked_MN = PoolSource(pool.handle, config.objective.weighting).router.route(rows.take(range(len(rows))))
    work = []
    for m, name in enumerate(pool.handle.teachers):
        asked = np.flatnonzero(asked_MN[m]).tolist()
        first = {(rows.texts[i], rows.languages[i]): i for i in reversed(asked)}
        work.append((m, sorted(i for key, i in first.items() if (name, *key) not in written)))
    return work


def _batches(work: list[tuple[int, list[int]]]) -> Iterator[tuple[int, list[int]]]:
    size = 8 * TEXTS_PER_CALL
    for m, picked in work:
        for at in range(0, len(picked), size):
            yield m, picked[at : at + size]


def _read_written(path: Path) -> set[tuple[str, str, str]]:
    """Return teacher, source and language of each line. A last line that was cut short is removed.

    Raises:
        DataError: A line was not written by this command.
    """
    if not path.exists():
        return set()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read {path}", got=str(error), wanted="JSON lines of ours, or no file"
        ) from None
    if lines[-1]:
        path.write_text("".join(f"{line}\n" for line in lines[:-1]), encoding="utf-8")
    found = set()
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
            found.add((str(row["teacher"]), str(row["src"]), str(row["lang"])))
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{path}:{number} is not a line of this command",
                got=line[:80],
                wanted="a file that it wrote, or none",
                next_step="name another file",
            ) from None
    return found
