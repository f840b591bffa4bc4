"""`FileBackend`: answers that were made elsewhere and lie in files.

Decision record:

- A file is a teacher like any other: what it answers goes to the store under the content of the files, so workers read
  it there, and a sweep or a second run opens no file. The store is keyed by text. `by: text` is then the same question.
  With `by: id` the ids of a run's rows lead to texts, so one text needs one answer: ids of equal texts with different
  answers, or with and without one, are refused by name when the run's rows are known
  (`raykd.driver.given_answers`). That an id is not in the files is never stored, because another run may ask for the
  same text under another id.
- A row without an answer is a row that the teacher was not asked for (`NO_ANSWER`): other teachers share its weight,
  else its gold label teaches alone. `raykd check` and the start of a run count such rows before a student starts.
- The tasks are those whose numbers have a name for each column: the run's labels. The answers of a language model are
  numbers for the tokens of one tokenizer, with what softens them at each temperature, and those of question answering
  are for the words of a context. Both are refused; their answers travel as the store does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.answers.source import NO_ANSWER
from raykd.config import FileTeacher
from raykd.errors import ModelError
from raykd.teachers.backends.base import BackendBase
from raykd.teachers.backends.files.columns import (
    TEXTS,
    GivenNumbers,
    NumberColumns,
    find_number_columns,
    read_cells,
)
from raykd.teachers.backends.files.index import (
    NOT_FOUND,
    AnsweredRows,
    AnswerIndex,
    Space,
    open_index,
)
from raykd.teachers.backends.files.shards import AnswerFiles, list_answer_files, read_batches, read_shape
from raykd.teachers.backends.given_numbers import SUM, convert_to_logits
from raykd.teachers.spec import TeacherInfo, TeacherSpec
from raykd.teachers.store.values import make_text_key
from raykd.text.batch import TextBatch
from raykd.text.words import join_tokens

_LAYOUT = 1
"""Of the index; part of its name."""


class FileBackend(BackendBase[FileTeacher]):
    """Looks answers up that stand in files.

    Args:
        spec: What to read. Nothing is read before the first `describe` or `compute`.
    """

    is_concurrent = True

    def __init__(self, spec: TeacherSpec) -> None:
        super().__init__(spec)
        self.keeps_gaps = self.teacher.by == "text"
        self.who = f"teacher {spec.name}"
        self._info: TeacherInfo | None = None
        self._files: AnswerFiles | None = None
        self._numbers: NumberColumns | None = None
        self._index: AnswerIndex | None = None

    def describe(self) -> TeacherInfo:
        """Return labels and fingerprint; reads the heads of the files and samples of their bytes.

        Raises:
            ModelError: There are no such files, they hold no answers, or the task has no labels.
            LabelMismatchError: Their labels are not the run's.
        """
        if self._info is None:
            task, teacher = self.spec.task, self.teacher
            if not task.labelled and not task.has_scale:
                raise ModelError(
                    f"{self.who} cannot teach {task.kind} from files",
                    got=f"task {task.kind}",
                    wanted="a task with labels or values: a file holds a number for each label, or the value",
                    next_step="name the model (kind: model); its answers are stored, and the folder of the store may "
                    "be copied",
                )
            self._files = list_answer_files(teacher.path, self.who)
            shape = read_shape(self._files)
            self._numbers = find_number_columns(shape, teacher, self.spec.labels, task, self.who)
            self._check_columns(tuple(shape))
            self.map_columns(self._numbers.labels)  # wrong labels are refused before gigabytes are hashed
            named_by = f"version {teacher.version}" if teacher.version else self._files.digest()
            parts = [named_by, teacher.by, teacher.rest, *map(repr, vars(self._numbers).values())]
            said = f"{len(self._files.paths)} files of answers, found by {teacher.by}"
            labels = self._numbers.labels if task.labelled else ()
            fingerprint = hashlib.sha256("\0".join(parts).encode()).hexdigest()
            self._info = self.build_info(fingerprint, labels, dtype_reason=said)
        return self._info

    def _check_columns(self, there: Sequence[str]) -> None:
        wanted = self._list_key_columns()
        if not set(wanted) & set(there):
            raise ModelError(
                f"{self.who}: its files do not say which rows they answer",
                got=f"columns {', '.join(there)}",
                wanted=f"a column {' or '.join(wanted)} (by: {self.teacher.by})",
                next_step="rename one (df.rename(columns={...})), or match rows by: "
                f"{'text' if self.teacher.by == 'id' else 'id'}",
            )

    def _list_key_columns(self) -> tuple[str, ...]:
        if self.teacher.by == "id":
            return ("id",)
        return ("text", "tokens") if self.spec.task.form == "words" else ("text",)

    @property
    def loaded(self) -> bool:
        """Whether the index of the files is open."""
        return self._index is not None

    def load(self) -> AnswerIndex:
        """Open the index of the files; the first time on a machine reads them whole.

        Raises:
            ModelError: What they hold is not what it is called; names file and row.
        """
        if self._index is None:
            info, task = self.describe(), self.spec.task
            assert self._numbers is not None
            key = hashlib.sha256(f"{_LAYOUT} {info.fingerprint} {task.form}".encode()).hexdigest()
            space: Space = "value" if task.has_scale else "each" if task.form == "labels" else "choice"
            self._index = open_index(key, len(self._numbers.labels), space, self._read_rows, self.who)
        return self._index

    def compute(self, batch: TextBatch) -> list[bytes]:
        """Return the answers to a batch; `NO_ANSWER` for rows that the files do not answer.

        Raises:
            ModelError: An answer has another number of units than its row.
        """
        found_B = self.find(batch)
        rows = np.flatnonzero(found_B != NOT_FOUND)
        answers: list[bytes | None] = [NO_ANSWER] * len(batch)
        if len(rows):
            some, logits_NC = batch.take(rows.tolist()), self.load().read(found_B[rows])
            covered_N = None
            if self.spec.task.form == "words":  # else rows without numbers are not found
                covered_N = np.asarray(~np.isnan(logits_NC).all(axis=1))
                logits_NC = np.where(covered_N[:, None], logits_NC, np.float32(0.0))
            bodies = self.encode_logits(some, logits_NC, covered_N)
            for row, body in zip(rows.tolist(), bodies, strict=True):
                answers[row] = body
        return self.finish(batch, answers)

    def find(self, batch: TextBatch) -> NDArray[np.int64]:
        """Return where in the index the answer to each row stands; `NOT_FOUND` where there is none.

        Raises:
            ModelError: An answer has another number of units than its row.
        """
        index = self.load()
        if self.teacher.by == "id":
            keys = [make_text_key(name, None) for name in batch.ids]
        else:
            pairs = batch.pairs or (None,) * len(batch)
            keys = [make_text_key(*both) for both in zip(batch.texts, pairs, strict=True)]
        found_B = index.find(keys)
        if self.spec.task.form == "words":
            self._check_words(batch, found_B)
        return found_B

    def _check_words(self, batch: TextBatch, found_B: NDArray[np.int64]) -> None:
        """Refuse answers with another number of words than their row has."""
        index, counts_B = self.load(), self.spec.task.count_units(batch)
        there = np.flatnonzero(found_B != NOT_FOUND)
        wrong = there[index.counts[found_B[there]] != counts_B[there]]
        if len(wrong):
            row = int(wrong[0])
            raise ModelError(
                f"{self.who} answers for another number of words than a row has",
                got=f"{index.counts[found_B[row]]} for {len(wrong)} rows such as {batch.ids[row]}: "
                f"{batch.texts[row][:60]!r}",
                wanted=f"{counts_B[row]}, one for each word",
                next_step="give the files the same words as the run: a column tokens, with the rows' own tokens",
            )

    def show_key(self) -> str:
        """Return the text or id of the first row in the files, for messages."""
        self.describe()
        assert self._files is not None and self._numbers is not None
        _, _, columns = next(read_batches(self._files, self._numbers, TEXTS))
        return str(next(columns[name][0] for name in self._list_key_columns() if name in columns))

    def try_out(self, batch: TextBatch) -> str:
        """See `BackendBase.try_out`; an answer that is read depends on no other text."""
        answered = sum(body != NO_ANSWER for body in self.compute(batch))
        return f"{answered} of {len(batch)} rows answered"

    def _read_rows(self) -> Iterator[AnsweredRows]:
        self.describe()
        assert self._files is not None and self._numbers is not None
        for file, first, columns in read_batches(self._files, self._numbers, TEXTS):
            given = read_cells(columns, self._numbers, f"{self.who} ({file}, rows from {first})")
            counts_B = given.counts_B
            row_N = np.repeat(np.arange(len(counts_B)) + first, counts_B)
            logits_NC = self._convert(given, partial(self._name_unit, file, row_N))
            if not self._numbers.nested:  # a row without numbers has no answer
                counts_B = np.where(np.isnan(logits_NC).all(axis=1), 0, 1)
                logits_NC = logits_NC[counts_B > 0]
            yield AnsweredRows(file, first, self._make_keys(columns, file, first), logits_NC, counts_B)

    def _name_unit(self, file: str, row_N: NDArray[np.int64], unit: int) -> str:
        return f"{self.who} ({file}, row {row_N[unit]})"

    def _convert(self, given: GivenNumbers, name_unit: Callable[[int], str]) -> NDArray[np.float32]:
        """Return logits, NaN for a unit without an answer.

        Args:
            given: Numbers of all units.
            name_unit: Names teacher, file and row of a unit, for messages.
        """
        assert self._numbers is not None
        values_NC, null_NC = given.values_NC, given.null_NC
        units = np.flatnonzero(~null_NC.all(axis=1))
        part_N = np.asarray(null_NC.any(axis=1) & ~null_NC.all(axis=1))
        if part_N.any():
            self._refuse_part(null_NC[part_N][0], name_unit(int(part_N.argmax())))
            values_NC = _share_rest(values_NC, null_NC, part_N)
        form, key = self._numbers.output, f"teachers.{self.spec.name}.output"
        several = self.spec.task.form == "labels"
        logits_NC = np.full(values_NC.shape, np.nan, dtype=np.float32)
        try:
            logits_NC[units] = convert_to_logits(values_NC[units], form, self.who, key, several=several)
        except ModelError:
            for unit in units.tolist():  # the first that is refused, by its place
                convert_to_logits(values_NC[unit : unit + 1], form, name_unit(unit), key, several=several)
            raise
        return logits_NC

    def _refuse_part(self, null_C: NDArray[np.bool_], who: str) -> None:
        """Refuse numbers of some labels alone, unless the run file says what that means."""
        assert self._numbers is not None
        labels, is_logits = self._numbers.labels, self._numbers.output == "logits"
        several = self.spec.task.form == "labels"
        if self.teacher.rest == "even" and not is_logits and not several:
            return
        hint = f"teachers.{self.spec.name}.rest: even shares what is missing to 1 among the other labels"
        if is_logits:
            hint = "top-k logits need the logsumexp of all: write exp(logit - logsumexp) as probabilities"
        if several:
            hint = "a label that no row names may be left out of the files: teachers.NAME.missing"
        raise ModelError(
            f"{who} gave numbers for some of the labels alone",
            got=", ".join(label for label, null in zip(labels, null_C.tolist(), strict=True) if not null),
            wanted=f"a number for each of {list(labels)}, or for none of them",
            next_step=hint,
        )

    def _make_keys(self, columns: dict[str, Any], file: str, first: int) -> list[bytes]:
        """Return the key of each row's id, or of its text or pair.

        Raises:
            ModelError: A row has none.
        """
        wanted = self._list_key_columns()
        name = next((each for each in wanted if each in columns), wanted[0])
        cells = columns[name].to_pylist() if name in columns else [None]
        if name == "id":  # numbers are ids as well
            cells = [str(cell) if isinstance(cell, int) else cell for cell in cells]
        for at, cell in enumerate(cells):
            if not isinstance(cell, list if name == "tokens" else str):
                raise ModelError(
                    f"{self.who} ({file}, row {first + at}) does not say which row of the run it answers",
                    got=f"{name}: {cell!r}",
                    wanted="a whole number or a text" if name == "id" else "a text",
                    next_step="drop the row, or give it one",
                )
        if name == "tokens":
            cells = [join_tokens(cell)[0] for cell in cells if cell is not None]
        has_pairs = name == "text" and "text_pair" in columns
        pairs = columns["text_pair"].to_pylist() if has_pairs else [None] * len(cells)
        return [make_text_key(*both) for both in zip(cells, pairs, strict=True)]


def _share_rest(
    values_NC: NDArray[np.float64], null_NC: NDArray[np.bool_], part_N: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return probabilities in which labels that are not named share what the named ones lack to 1."""
    lacking_N = 1.0 - np.where(null_NC, 0.0, values_NC).sum(axis=1)
    # More than 1 in all is left as it is, to be refused as such.
    share_N = np.where(lacking_N > -SUM, np.maximum(lacking_N, 0.0), 0.0) / np.maximum(null_NC.sum(axis=1), 1)
    return np.where(null_NC & part_N[:, None], share_N[:, None], values_NC)
