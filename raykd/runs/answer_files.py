"""Write the answers of a run's teachers into files that a teacher of `kind: file` reads (`raykd label --to`).

Decision record:

- The form is the one that anybody can write by hand (`raykd.teachers.backends.files.shards`): a row for each row of the
  run, with its id, language and texts, and the raw logits by label. float32 goes there and back without a change, so a
  student learns from the files what it learns from the models, to the last bit.
- A file holds what a run asks: training rows as its weighting asks for them, validation and test rows in full. Each
  teacher has a file of its own.
- The teachers together can be written as one teacher: what the run's weighting and mixture make of them at temperature
  1, without gold labels, as in the table of results. This is how an ensemble becomes a teacher of another run. The
  temperature is then applied to the mixture, not to its parts; at 1 there is no difference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from raykd.answers.source import AnswerSlots, SignalSource
from raykd.config import Run, RunConfig
from raykd.data.rows import Rows
from raykd.distill.signals import MASKED
from raykd.ensemble.mixing import mix_weighted
from raykd.errors import ConfigError
from raykd.folders.places import try_folder
from raykd.scoring.ensembles.choosing import Choice
from raykd.scoring.score import collect_unit_answers, stack_signals
from raykd.tasks import SystemAnswers
from raykd.tasks.scores.classification import is_known
from raykd.teachers.backends.files.columns import VALUE
from raykd.teachers.spec import TeacherInfo
from raykd.text.ragged import compute_starts

if TYPE_CHECKING:
    import pyarrow as pa
    from fsspec.spec import AbstractFileSystem

ENSEMBLE = "ensemble"
"""Stands for the name of a teacher where all are written as one."""
_ROWS = 2048
"""Rows that are asked for and written at once."""
_UNFINISHED = ".part"


@dataclass(frozen=True)
class AnswerTargets:
    """Where answers are written.

    Attributes:
        path: A file, or a pattern with `{teacher}` (and `{task}`); Parquet or JSON lines by its ending.
        together: Whether all teachers are written as one.
    """

    path: str
    together: bool = False

    def name_files(self, config: Run) -> dict[tuple[str, str], str]:
        """Return the file of each task and teacher, once it can be written.

        Raises:
            ConfigError: The path has another ending, several teachers would share a file, a file is there already, or a
                task has no labels.
        """
        found: dict[tuple[str, str], str] = {}
        for task, member in config.members.items():
            if not member.task.labelled and not member.task.has_scale:
                raise ConfigError(
                    f"answers to {member.task.kind} cannot be written to files",
                    got=f"--to {self.path}",
                    wanted="a task with labels or values: a file holds a number for each label, or the value",
                    next_step="raykd label RUN.yaml without --to stores them; the folder of the store may be copied",
                )
            for name in [ENSEMBLE] if self.together else [t.name for t in member.active_teachers]:
                found[task, name] = self.path.replace("{teacher}", name).replace("{task}", task)
        if not self.path.endswith((".parquet", ".jsonl")):
            raise ConfigError(
                "--to does not say what to write", got=self.path, wanted="NAME.parquet or NAME.jsonl"
            )
        if len(set(found.values())) < len(found):
            stem, dot, ending = self.path.rpartition(".")
            raise ConfigError(
                "several teachers would be written to one file",
                got=f"--to {self.path}, teachers {', '.join(name for _, name in found)}",
                wanted="a file for each",
                next_step=f"--to '{stem}-{{{'task' if self.together else 'teacher'}}}{dot}{ending}'"
                + ("" if self.together else "; --ensemble writes them as one teacher"),
            )
        for path in found.values():
            fs, place = _find_place(path)
            if fs.exists(place):
                raise ConfigError(
                    f"{path} is there already",
                    got="a file or folder",
                    wanted="a new file",
                    next_step="name another one, or remove it",
                )
            if "://" not in path:
                try_folder(Path(path).resolve().parent, "--to")
        return found


def make_target(
    path: str | None, *, ensemble: bool = False, choose: int | None = None
) -> AnswerTargets | Choice | None:
    """Return what a labelling writes to a path: answers, or rows for a person to label; None where it writes nothing.

    Raises:
        ConfigError: There is no path for the answers of an ensemble or for rows, or both are wanted.
    """
    if path is None and not (ensemble or choose):
        return None
    if ensemble and choose:
        raise ConfigError("one file cannot hold answers and chosen rows", wanted="--ensemble or --choose")
    if path is None:
        what = "chosen rows" if choose else "the ensemble's answers"
        raise ConfigError(f"nothing says where {what} go", wanted="--to PATH (to=...) as well")
    return Choice(choose, Path(path)) if choose else AnswerTargets(path, together=ensemble)


def _find_place(path: str) -> tuple[AbstractFileSystem, str]:
    from fsspec.core import url_to_fs

    fs, place = url_to_fs(path)
    return fs, str(place)


def write_answers(
    config: RunConfig,
    infos: Sequence[TeacherInfo],
    asked: Sequence[tuple[Rows, SignalSource]],
    paths: Mapping[str, str],
    report: Callable[[int, int], None],
) -> int:
    """Write what the teachers of a task answer, and return how many answers were written.

    Args:
        config: The run of the task.
        infos: What each of its teachers says of itself.
        asked: The parts of its rows, each with the teachers as they are asked for it.
        paths: File of each teacher by name; of `ENSEMBLE` alone where they are written as one.
        report: Called with (rows done, rows in all).
    """
    total, done, written = sum(len(rows) for rows, _ in asked), 0, 0
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(_AnswerWriter(path, _make_schema(name, infos, config, asked[0][0])))
            for name, path in paths.items()
        }
        for rows, source in asked:
            for begin in range(0, len(rows), _ROWS):
                batch = rows.select(np.arange(begin, min(begin + _ROWS, len(rows))))
                answers = source.submit(batch).result()
                if ENSEMBLE in paths:
                    found = {ENSEMBLE: _mix(config, answers, source, batch)}
                else:
                    found = {each.teacher: collect_unit_answers(config, each, batch) for each in answers}
                for name, own in found.items():
                    written += writers[name].write(batch, own, config)
                done += len(batch)
                report(done, total)
    return written


def _mix(
    config: RunConfig, answers: Sequence[AnswerSlots], source: SignalSource, rows: Rows
) -> SystemAnswers:
    """Return the answers of all teachers as those of one."""
    signals = stack_signals(config, answers, source.teacher_languages, rows)
    weights_MN = config.objective.weighting.weights(signals)
    target = mix_weighted(signals, weights_MN, config.objective.mixture)
    numbers_NK = target.logits_NK if config.task.has_scale else target.logp_NK
    return SystemAnswers(numbers_NK.numpy(), config.task.count_units(rows), target.covered_N.numpy())


def _join_labels(answers: SystemAnswers, labels: int) -> SystemAnswers:
    """Return units of a row and a label each as units of a row, with a number for each label."""
    yes_N = answers.logits_NC[:, 1] - answers.logits_NC[:, 0]
    yes_NL = np.where(answers.covered_N, yes_N, MASKED).astype(np.float32).reshape(-1, labels)
    covered_N = np.asarray(answers.covered_N.reshape(-1, labels).any(axis=1))
    return SystemAnswers(yes_NL, np.ones(len(yes_NL), dtype=np.int64), covered_N)


def _make_schema(name: str, infos: Sequence[TeacherInfo], config: RunConfig, rows: Rows) -> pa.Schema:
    """Return the columns of a file, with the labels that its teacher knows."""
    import pyarrow as pa

    own = [info for info in infos if name in (ENSEMBLE, info.name)]
    known = {i for info in own for i, columns in enumerate(info.columns) if columns}
    labels = [label for i, label in enumerate(config.data.labels) if i in known]
    numbers = pa.float32() if config.task.has_scale else pa.struct([(each, pa.float32()) for each in labels])
    texts = ["id", "language", "text", *(["text_pair"] if rows.pairs is not None else [])]
    fields = [(each, pa.string()) for each in texts]
    if rows.words is not None:
        fields += [("tokens", pa.list_(pa.string())), ("logits", pa.list_(numbers))]
    else:
        fields.append((VALUE if config.task.has_scale else "logits", numbers))
    said = {"teacher": name, "run": config.name, "answers": [info.answers for info in own]}
    return pa.schema(fields, metadata={"raykd": json.dumps(said)})


class _AnswerWriter:
    """Writes one file; it has its name once it is whole.

    Args:
        path: Of the file; its ending says the format.
        schema: Its columns.
    """

    def __init__(self, path: str, schema: pa.Schema) -> None:
        self._fs, self._place = _find_place(path)
        self._schema = schema

    def __enter__(self) -> _AnswerWriter:
        import pyarrow.parquet

        self._fs.makedirs(self._place.rpartition("/")[0] or ".", exist_ok=True)
        self._file = cast("IO[bytes]", self._fs.open(self._place + _UNFINISHED, "wb"))
        is_parquet = self._place.endswith(".parquet")
        self._parquet = pyarrow.parquet.ParquetWriter(self._file, self._schema) if is_parquet else None
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if self._parquet is not None:
            self._parquet.close()
        self._file.close()
        if failed is None:
            self._fs.mv(self._place + _UNFINISHED, self._place)
        else:
            self._fs.rm(self._place + _UNFINISHED)

    def write(self, rows: Rows, answers: SystemAnswers, config: RunConfig) -> int:
        """Write the rows that have an answer, and return how many they are.

        Args:
            rows: The rows.
            answers: To all units of all rows.
            config: The run of their task.
        """
        labels = config.task.name_choices(config.data.labels)
        if config.task.form == "labels":
            labels = config.data.labels
            answers = _join_labels(answers, len(labels))
        kind = self._schema.field(len(self._schema) - 1).type
        named = labels if config.task.has_scale else [part.name for part in getattr(kind, "value_type", kind)]
        known = [labels.index(label) for label in named]
        # A unit at which a mixture knows fewer labels than elsewhere is left out: a file says one list of labels.
        covered_N = answers.covered_N & is_known(answers.logits_NC[:, known]).all(axis=1)
        row_N = np.repeat(np.arange(len(rows)), answers.counts_B)
        picked = np.unique(row_N[covered_N])
        if not len(picked):
            return 0
        own = replace(answers, covered_N=covered_N).take(picked)
        table = self._build_table(rows.select(picked), own, known, named)
        if self._parquet is not None:
            self._parquet.write_table(table)
        else:
            for row in table.to_pylist():
                self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        return len(picked)

    def _build_table(
        self, rows: Rows, answers: SystemAnswers, known: Sequence[int], labels: Sequence[str]
    ) -> pa.Table:
        import pyarrow as pa

        logits_NK = answers.logits_NC[:, list(known)].astype(np.float32)
        if self._parquet is None:  # the shortest decimals that stand for these numbers
            logits_NK = logits_NK.astype(str).astype(np.float64)
        parts, name = [pa.array(column) for column in logits_NK.T], self._schema.names[-1]
        numbers = parts[0]
        if name != VALUE:
            mask = pa.array(~answers.covered_N)
            numbers = pa.StructArray.from_arrays(parts, names=list(labels), mask=mask)
        columns: dict[str, Any] = {"id": rows.ids, "language": rows.languages, "text": rows.texts}
        if rows.pairs is not None:
            columns["text_pair"] = rows.pairs
        if rows.words is not None:
            both = zip(rows.texts, rows.words, strict=True)
            columns["tokens"] = [[text[begin:end] for begin, end in words] for text, words in both]
            starts = pa.array(compute_starts(answers.counts_B).astype(np.int32))
            numbers = pa.ListArray.from_arrays(starts, numbers)
        table = pa.table({**{each: pa.array(list(cells)) for each, cells in columns.items()}, name: numbers})
        return table.cast(self._schema) if self._parquet is not None else table
