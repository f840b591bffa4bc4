"""`CallableBackend`: a Python function over texts, in the process that serves it.

Decision record: a function has no weights whose bytes could name its answers. The store's name holds the hash of the
file that the function stands in, or the `version` that its user writes. What else it reads (a pickled model, a library)
is not seen, and that is said wherever the key is explained. The function is imported only because a run file names it.
A file travels with the teacher (`TeacherSpec.source`), so the nodes that serve it need not have it, and all of them run
what the driver has read.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.config import CallableTeacher
from raykd.distill.signals import MASKED
from raykd.errors import ModelError, RaykdError
from raykd.teachers.backends.base import BackendBase
from raykd.teachers.backends.given_numbers import check_label_width, convert_to_logits
from raykd.teachers.backends.self_test import compare_answers
from raykd.teachers.spec import TeacherInfo, TeacherSpec
from raykd.text.batch import TextBatch


class CallableBackend(BackendBase[CallableTeacher]):
    """A function that gives logits or probabilities for texts, or for the words of each text.

    Args:
        spec: What to call. Nothing is imported before the first `describe` or `compute`.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        super().__init__(spec)
        self._function: Callable[..., Any] | None = None
        self._info: TeacherInfo | None = None
        self._is_tested = False
        self._who = f"teacher {spec.name} ({self.teacher.function})"

    def describe(self) -> TeacherInfo:
        """Return labels and fingerprint; imports the function where the run file does not say its labels.

        Raises:
            ModelError: It cannot be found or imported, says no labels, or the task has none.
            LabelMismatchError: Its labels are not the run's.
        """
        if self._info is None:
            task, teacher = self.spec.task, self.teacher
            if not task.labelled and not task.has_scale and task.form != "candidates":
                raise ModelError(
                    f"{self._who} cannot teach {task.kind}",
                    got=f"task {task.kind}",
                    wanted="a task with labels, values or candidates: a function gives a number for each of them",
                )
            labels = teacher.labels or (self._read_labels() if task.labelled else ())
            named_by = f"version {teacher.version}" if teacher.version else f"content {self._hash_source()}"
            parts = [teacher.function.rpartition(":")[2], teacher.output, *labels, named_by]
            fingerprint = hashlib.sha256("\0".join(parts).encode()).hexdigest()
            said = f"a function, whose answers are stored by its {named_by[:20]}"
            self._info = self.build_info(fingerprint, labels, dtype_reason=said)
        return self._info

    @property
    def loaded(self) -> bool:
        """Whether the function is imported."""
        return self._function is not None

    def load(self) -> Callable[..., Any]:
        """Import the function.

        Raises:
            ModelError: It cannot be imported, or is no function.
        """
        if self._function is None:
            module, (place, _, name) = self._import(), self.teacher.function.rpartition(":")
            function = getattr(module, name, None)
            if not callable(function):
                there = [key for key, value in vars(module).items() if callable(value) and key[:1] != "_"]
                raise ModelError(
                    f"{self._who}: there is no function {name}",
                    got=f"{name} in {place}",
                    wanted=f"one of {sorted(there)[:20]}",
                    next_step=f"correct teachers.{self.spec.name}.function",
                )
            self._function = function
        return self._function

    def compute(self, batch: TextBatch) -> list[bytes]:
        """Call the function; the first time also on rows of the batch twice, in another order and alone.

        Raises:
            ModelError: It raises, or what it returns is not what was asked for, or depends on other texts.
        """
        if not self._is_tested:
            self.try_out(batch)
        return self.finish(batch, self._answer(batch))

    def try_out(self, batch: TextBatch) -> str:
        """See `BackendBase.try_out`."""
        found = compare_answers(
            lambda rows: [body for body in self._answer(rows) if body], batch, self.spec.name
        )
        self._is_tested = True
        return found

    def _answer(self, batch: TextBatch) -> list[bytes | None]:
        labels, task = self.describe().labels, self.spec.task
        if batch.candidates is not None:
            return self.encode_logits(batch, self._score_candidates(batch.texts, batch.candidates))
        values_NC = self._call(batch)
        check_label_width(values_NC.shape[1], labels if task.labelled else ("value",), self._who)
        key = f"teachers.{self.spec.name}.output"
        form = "logits" if task.has_scale else self.teacher.output
        several = task.form == "labels"
        return self.encode_logits(batch, convert_to_logits(values_NC, form, self._who, key, several=several))

    def _call(self, batch: TextBatch) -> NDArray[np.float64]:
        """Return what the function gives, one row of numbers per unit."""
        function, task = self.load(), self.spec.task
        asked: list[Any] = list(batch.texts)
        if batch.words is not None:
            pairs = zip(batch.texts, batch.words, strict=True)
            asked = [[text[begin:end] for begin, end in words] for text, words in pairs]
        try:
            given = function(asked) if batch.pairs is None else function(asked, list(batch.pairs))
            if batch.words is None:
                values = np.asarray(self._order_columns(given), dtype=np.float64)
                if task.has_scale and values.ndim == 1:
                    values = values[:, None]
                return self._check_shape(values, len(batch), "text")
            rows = [np.asarray(self._order_columns(row), dtype=np.float64) for row in given]
        except RaykdError:
            raise
        except (Exception, SystemExit) as error:
            raise self._build_call_error(error) from error
        if len(rows) != len(batch):
            raise self._build_shape_error(
                f"{len(rows)} arrays for {len(batch)} texts", "an array for each text"
            )
        counts = task.count_units(batch).tolist()
        return np.concatenate(
            [self._check_shape(row, count, "word") for row, count in zip(rows, counts, strict=True) if count]
        )

    def _order_columns(self, given: Any) -> Any:
        """Put the columns of a data frame into the order of the labels, whose names they have; returns others as is.

        Raises:
            ModelError: The columns have names, and those are not the labels.
        """
        names, labels = list(getattr(given, "columns", ())), list(self.describe().labels)
        if not names or not labels or not all(isinstance(name, str) for name in names):
            return given
        if sorted(names) != sorted(labels):
            raise self._build_shape_error(f"columns {', '.join(names)}", f"columns {', '.join(labels)}")
        return given[labels]

    def _score_candidates(
        self, queries: Sequence[str], candidates: Sequence[Sequence[str]]
    ) -> NDArray[np.float32]:
        """Return ``[B, C]``: what the function gives for each query and candidate, `MASKED` where there is none."""
        counts_B = [len(own) for own in candidates]
        repeated = [query for query, count in zip(queries, counts_B, strict=True) for _ in range(count)]
        try:
            given = np.asarray(self.load()(repeated, list(chain(*candidates))), dtype=np.float64)
        except RaykdError:
            raise
        except (Exception, SystemExit) as error:
            raise self._build_call_error(error) from error
        if given.shape != (len(repeated),):
            shape = f"({len(repeated)},): a score for each query and candidate"
            raise self._build_shape_error(f"an array of shape {given.shape}", shape)
        logits_NC = np.full((len(counts_B), max(counts_B)), MASKED, dtype=np.float32)
        key = f"teachers.{self.spec.name}.output"
        scores = convert_to_logits(given[:, None], "logits", self._who, key)[:, 0]
        logits_NC[np.arange(max(counts_B)) < np.asarray(counts_B)[:, None]] = scores
        return logits_NC

    def _check_shape(self, values: NDArray[np.float64], units: int, unit: str) -> NDArray[np.float64]:
        if values.ndim != 2 or len(values) != units:
            wanted = (
                f"({units}, {len(self.describe().labels)}): a row for each {unit}, a number for each label"
            )
            raise self._build_shape_error(f"an array of shape {values.shape}", wanted)
        return values

    def _build_shape_error(self, got: str, wanted: str) -> ModelError:
        return ModelError(
            f"{self._who} returned another shape than asked for",
            got=got,
            wanted=wanted,
            next_step="return one row for each, in the order in which they came",
        )

    def _build_call_error(self, error: BaseException) -> ModelError:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return ModelError(
            f"{self._who} failed",
            got=f"{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})",
            wanted="an array of numbers for a list of texts",
            next_step="call it by hand with a few texts of the training rows",
        )

    def _read_labels(self) -> tuple[str, ...]:
        labels = getattr(self.load(), "labels", None)
        if labels is None or isinstance(labels, str) or not len(labels):
            raise ModelError(
                f"{self._who} does not say its labels",
                got="no key labels, and no attribute labels of the function",
                wanted="its labels in the order of its numbers",
                next_step=f"write teachers.{self.spec.name}.labels: [...], or set {self.teacher.function} .labels",
            )
        return tuple(str(label) for label in labels)

    def _find_source(self) -> tuple[str, Path | None]:
        """Return the module's name or file as written, and its file; None where it has no file."""
        place = self.teacher.function.rpartition(":")[0]
        if place.endswith(".py"):
            return place, Path(place)
        try:
            found = importlib.util.find_spec(place)
        except (ImportError, ValueError) as error:
            raise self._build_import_error(place, error) from error
        if found is None:
            raise self._build_import_error(place, ModuleNotFoundError(f"No module named {place!r}"))
        return place, Path(found.origin) if found.has_location and found.origin else None

    def _hash_source(self) -> str:
        place, file = self._find_source()
        if self.spec.source is not None:
            return hashlib.sha256(self.spec.source).hexdigest()
        if file is None or not file.is_file():
            raise self._build_import_error(place, FileNotFoundError(f"no file of source at {file}"))
        return hashlib.sha256(file.read_bytes()).hexdigest()

    def _import(self) -> ModuleType:
        place, file = self._find_source()
        try:
            if not place.endswith(".py"):
                return importlib.import_module(place)
            assert file is not None
            name = f"raykd_function_{hashlib.sha256(place.encode()).hexdigest()[:12]}"
            module = ModuleType(name)
            module.__file__ = str(file)
            sys.modules[name] = module  # as an import does, so that classes of the file can be pickled
            source = file.read_bytes() if self.spec.source is None else self.spec.source
            exec(compile(source, str(file), "exec"), vars(module))
            return module
        except (Exception, SystemExit) as error:
            raise self._build_import_error(place, error) from error

    def _build_import_error(self, place: str, error: BaseException) -> ModelError:
        inside = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == place
        ]
        return ModelError(
            f"{self._who}: {place} cannot be imported",
            got=f"{type(error).__name__}: {error}",
            wanted="a file that runs to its end when it is imported"
            if inside
            else "a file NAME.py beside the run file, or a module that is installed on every node",
            next_step=f"see line {inside[0]} of it"
            if inside
            else f"correct teachers.{self.spec.name}.function, or the module; a file has its ending there: "
            f"{place.removesuffix('.py')}.py:FUNCTION",
        )
