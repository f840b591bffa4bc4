"""Compare models with what a run asks of them.

Decision record: these checks need files and settings alone, so `raykd check` and the start of every run make them
before a worker is taken. An error names the key. What is only worth knowing is returned as notes, which the check
prints on the model's line and the run logs. What needs a tokenizer or a class of transformers, which takes seconds to
import, is cached by content (`raykd.cache`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raykd import models
from raykd.cache import load_or_compute
from raykd.config import ModelTeacher, Run, RunConfig, SavedModelTeacher
from raykd.data.load import Dataset
from raykd.data.rows import Rows
from raykd.driver.language_models import check_language_model
from raykd.errors import ConfigError, DataError, LabelMismatchError, ModelError, RaykdError, prefix_errors
from raykd.models.starts.handover import FACTORISED_START, describe_labels
from raykd.models.starts.peer_tokens import check_peer_tokens
from raykd.preflight.sizes import inspect_pretrained
from raykd.pretrained.adapters import read_adapter_folders
from raykd.pretrained.files import read_config
from raykd.pretrained.labels import check_activation
from raykd.pretrained.lengths import check_room, check_student_length, check_target, compute_teacher_length
from raykd.pretrained.stamp import LIBRARIES, stamp_model
from raykd.student.prepare import find_base_checkpoint, fit_tokenizer
from raykd.tasks.kinds.language import LanguageTask
from raykd.text.tokens import call_tokenizer, find_marker_ids
from raykd.tokenizers.trimming import compute_unknown_share

log = logging.getLogger("raykd.runs")
NOTE = "note: "
"""How a note begins on a line of the check."""
_SPECIAL = {"transformer": (2, 3), "lstm": (2, 3), "decoder": (1, 1), "encoder_decoder": (1, 1)}
"""How many special tokens raykd's own tokenizers add to a text, and to a pair, by kind of student."""


def look_at_teacher(teacher: ModelTeacher, config: RunConfig, folder: Path) -> tuple[str, tuple[str, ...]]:
    """Compare a teacher's directory with a run.

    Returns:
        What the model is, and notes.

    Raises:
        ModelError, LabelMismatchError, ConfigError: As loading it or asking it would raise.
    """
    task, name = config.task, teacher.name
    with prefix_errors(f"teacher {name}", RaykdError):
        _check_one_adapter(folder)
        looked = models.inspect_model(folder, task.head, trust_remote_code=teacher.trust_remote_code)
        if task.has_scale:
            check_activation(
                read_config(folder), str(folder), f"teachers.{name}.scale", written=teacher.scale is not None
            )
    try:
        columns = task.map_columns(
            looked.labels, config.data.labels, teacher.label_map, name, teacher.missing
        )
    except LabelMismatchError as error:
        next_step = "; ".join(filter(None, [error.next_step, *looked.notes]))
        raise LabelMismatchError(
            error.what, got=error.got, wanted=error.wanted, next_step=next_step
        ) from None
    length, said = compute_teacher_length(name, teacher.max_length, looked.trained_length, looked, task)
    set_by = f"teachers.{name}.max_length" if teacher.max_length is not None else "task.max_length"
    if teacher.max_length is None and length < task.max_length:
        set_by = f"the length of teacher {name}"
    check_room(set_by, length, looked.tokenizer.special, task, pairs=has_pairs(config))
    check_target(f"teacher {name}", looked, task)
    _check_markers(config, folder, f"teacher {name}", trust_remote_code=teacher.trust_remote_code)
    types = looked.token_types is not None and looked.token_types < 2 and looked.tokenizer.token_types
    if types and has_pairs(config):
        said = "; ".join(filter(None, [said, "token types are left out, as its table has one row"]))
    what = "; ".join(
        filter(None, [looked.kind, describe_columns(looked.labels, config.data.labels, columns)])
    )
    set_aside = _check_language_model(f"teacher {name}", folder, config, teacher, length)
    return "; ".join(filter(None, [what, set_aside])), (*looked.notes, *filter(None, [said]))


def _check_one_adapter(folder: Path) -> None:
    """Refuse an adapter for each language as a teacher: answers are stored under texts, not under their languages.

    Raises:
        ModelError: Names the folder of one of them.
    """
    if places := read_adapter_folders(folder):
        language, place = next(iter(places.items()))
        raise ModelError(
            f"{folder} holds an adapter for each of several languages, and a teacher has one",
            got=", ".join(places),
            wanted="a teacher for each language",
            next_step=f"languages: [{language}], path: {place}; and so on",
        )


def describe_columns(own: Sequence[str], wanted: Sequence[str], columns: Sequence[Sequence[int]]) -> str:
    """Describe a teacher's labels, and what they are in the run where they differ; "" without labels."""
    if not columns:
        return ""
    said = f"labels {_join_names(own, ', ')}"
    pairs = [(label, [own[i] for i in column]) for label, column in zip(wanted, columns, strict=True)]
    changed = [
        f"{label} is {_join_names(names, ' + ')}" for label, names in pairs if names not in ([label], [])
    ]
    lacking = [label for label, column in pairs if not column]
    used = {i for column in columns for i in column}
    dropped = [label for i, label in enumerate(own) if i not in used]
    return "; ".join(
        [
            said + (f"; {', '.join(changed)}" if changed else ""),
            *([f"dropped {_join_names(dropped, ', ')}"] if dropped else []),
            *([f"does not teach {', '.join(lacking)}"] if lacking else []),
        ]
    )


def _join_names(names: Sequence[str], sign: str) -> str:
    """Return names in a line, many tags by their types: spaCy's English pipeline has 73."""
    if len(names) <= 8 or not all(name == "O" or name[1:2] == "-" for name in names):
        return sign.join(names)
    letters: dict[str, str] = {}
    for name in names:
        letters[name[2:]] = letters.get(name[2:], "") + name[0]
    kinds: dict[str, list[str]] = {}
    for kind, own in letters.items():
        kinds.setdefault(own, []).append(kind)
    return sign.join(own if found == [""] else f"{own} of {', '.join(found)}" for own, found in kinds.items())


def preview_source(model: SavedModelTeacher | models.PretrainedStudent, key: str = "") -> Path:
    """Return a directory from which a model can be inspected; downloads no weights.

    Args:
        model: A teacher or student with a path.
        key: Its key in the run file, for the message where the path leads nowhere.

    Raises:
        ModelError: There is no such directory, or the hub does not give the model.
    """
    try:
        models.find_local(model.path)
    except ModelError as error:
        step = f"correct {key}.path"
        step += ", or write kind: file for a file of answers" if Path(model.path).is_file() else ""
        raise ModelError(error.what, got=error.got, wanted=error.wanted, next_step=step) from None
    return models.preview_model(
        model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
    )


def describe_source(model: SavedModelTeacher | models.PretrainedStudent) -> str:
    """Describe where a model of the hub comes from; "" for a directory."""
    return models.describe_hub_model(model.path, model.revision)


def append_notes(what: str, notes: Sequence[str]) -> str:
    """Join what a model is with its notes, as a line of the check."""
    return "; ".join([what, *(f"{NOTE}{note}" for note in notes)])


def look_at_teachers(config: Run) -> None:
    """Compare the run's teachers with it, also those with a hub name, and log the notes.

    Raises:
        RaykdError: As `look_at_teacher`; or the hub does not have a model.
    """
    for member in config.members.values():
        for teacher in member.active_teachers:
            if not isinstance(teacher, SavedModelTeacher):
                continue
            folder = models.resolve_model(
                teacher.path, revision=teacher.revision, trust_remote_code=teacher.trust_remote_code
            )
            if not isinstance(teacher, ModelTeacher):
                continue
            for note in look_at_teacher(teacher, member, folder)[1]:
                log.warning("teacher %s: %s", teacher.name, note)


def check_made(model: models.Student, config: RunConfig, key: str) -> tuple[str, tuple[str, ...]]:
    """Compare a model that a run trains, student or teacher, with the run.

    Returns:
        A description ("" if there is nothing to say), and notes.

    Raises:
        ModelError, ConfigError: A checkpoint that it starts from cannot be loaded, or the task does not fit it.
    """
    task = config.task
    markers = getattr(task, "markers", ())
    if markers and model.kind == "linear":
        raise ConfigError(
            f"{key}: a linear model counts pieces of words and keeps no marker of the task whole",
            got=f"kind linear, markers {list(markers)}",
            wanted="a model with a tokenizer",
            next_step="choose another kind (lstm, transformer, pretrained), or a task without markers",
        )
    if model.kind == "lstm" and model.embedding_from is not None:
        return _check_word_vectors(model, config, key), ()
    if model.kind != "pretrained":
        special = _SPECIAL.get(model.kind, (0, 0))
        if getattr(model, "vocabulary", "own") == "own":
            check_room("task.max_length", task.max_length, special, task, pairs=has_pairs(config))
        return "", ()
    if model.teacher is not None:
        lost = () if model.embedding_size is None else (f"without the teacher's head: {FACTORISED_START}",)
        return f"starts from the teacher {model.teacher}, which is trained first", lost
    with prefix_errors(key, RaykdError):
        folder = preview_source(model, key)
    with prefix_errors(key if "." in key else f"the {key}", RaykdError):
        looked = inspect_pretrained(model, config.data.labels, config.task.head)
    note = check_student_length(looked, task)
    check_room("task.max_length", task.max_length, looked.tokenizer.special, task, pairs=has_pairs(config))
    check_target("the student", looked, task)
    set_aside = _check_language_model(f"the {key}", folder, config, model, None)
    factorised = model.embedding_size is not None
    started = describe_labels(folder, config.data.labels, task.head, factorised=factorised)
    notes = (note, f"{model.path}: {started}" if started else "")
    return "; ".join(filter(None, [describe_source(model), set_aside])), tuple(filter(None, notes))


def look_at_peer(config: RunConfig) -> tuple[str, tuple[str, ...]]:
    """Compare the peer of a student with it and with the run; returns and raises as `check_made`."""
    if config.peer is None:
        return "", ()
    second = config.peer.student
    what, notes = check_made(second, config, "peer.student")
    if not any(getattr(one, "is_awaited", False) for one in (config.student, second)):
        check_peer_tokens(config.student, second)
    return "; ".join(filter(None, [f"beside it as its peer {second.kind}", what])), notes


def _check_word_vectors(model: models.LSTMStudent, config: RunConfig, key: str) -> str:
    """Check the checkpoint of an LSTM's word vectors; says what is not checked."""
    from raykd.models.vectors import check_separators, check_width

    source, task = model.source(), config.task
    with prefix_errors(f"{key}.embedding_from", RaykdError):
        looked = inspect_pretrained(source, config.data.labels, task.head)
        check_separators(looked.tokenizer.special[1], task.head, source.path)
        if looked.table is not None:
            check_width(source.path, model.embedding, looked.table[1])
    check_room("task.max_length", task.max_length, looked.tokenizer.special, task, pairs=has_pairs(config))
    return f"word vectors of {source.path}"


def _check_language_model(
    who: str,
    folder: Path,
    config: RunConfig,
    model: ModelTeacher | models.PretrainedStudent,
    max_length: int | None,
) -> str:
    """Check a model's folder for a language task, once for each state of folder, task and languages."""
    task, trusted = config.task, model.trust_remote_code
    spoken = model.language_set if isinstance(model, ModelTeacher) else None

    def check() -> str:
        return check_language_model(
            who, folder, config, max_length, spoken, model.language_codes, trust_remote_code=trusted
        )

    if trusted or not isinstance(task, LanguageTask):
        return check()
    languages = list(config.data.select_languages or config.data.languages)
    asked = [task.model_dump(mode="json"), languages, max_length, model.language_codes]
    asked.append(None if spoken is None else sorted(spoken))
    return load_or_compute("language_models", lambda: [stamp_model(folder), *asked], str, check, *LIBRARIES)


def has_pairs(config: RunConfig) -> bool:
    """Return whether the rows of a run have two texts."""
    return config.data.columns.text_pair is not None


def _check_markers(config: RunConfig, folder: Path, who: str, *, trust_remote_code: bool) -> None:
    """Refuse a teacher whose tokenizer cuts the task's markers to pieces.

    Raises:
        ConfigError: Names the teacher and the markers.
    """
    markers = tuple(getattr(config.task, "markers", ()))
    if not markers:
        return

    def find_ids() -> list[int]:
        tokenizer = models.load_tokenizer(folder, trust_remote_code=trust_remote_code)
        return [int(i) for i in find_marker_ids(tokenizer, markers)]

    with prefix_errors(who, RaykdError):
        if trust_remote_code:
            find_ids()
        else:
            load_or_compute(
                "markers", lambda: (stamp_model(folder), markers), list[int], find_ids, *LIBRARIES
            )


@dataclass(frozen=True)
class TrimmedVocabulary:
    """A checkpoint's vocabulary, trimmed to the training texts. Made by `measure_vocabulary`.

    Attributes:
        tokens: Its size.
        whole: The checkpoint's.
        unknown: Share of the validation texts' tokens that are unknown.
    """

    tokens: int
    whole: int
    unknown: float

    def describe(self, parameters: int | None) -> str:
        """Describe it, with the parameters of the student."""
        return (
            f"trimmed to {self.tokens:,} of {self.whole:,} pieces: {parameters or 0:,} parameters; "
            f"{100 * self.unknown:.2f} % of the validation texts' pieces are unknown"
        )


def measure_vocabulary(config: Run, data: Mapping[str, Dataset]) -> TrimmedVocabulary | None:
    """Trim the student's vocabulary as the run will; None if it is not trimmed, or its checkpoint not here."""
    source = find_base_checkpoint(config.student)
    if source is None or source.vocabulary != "trimmed" or source.is_awaited:
        return None
    parts = [(config.members[task].task, own.train) for task, own in data.items()]
    tokenizer, whole = fit_tokenizer(config.student, parts), source.load_tokenizer()
    texts = [text for own in data.values() for text in [*own.validation.texts, *(own.validation.pairs or ())]]
    ids = call_tokenizer(tokenizer, texts, add_special_tokens=False, verbose=False)["input_ids"]
    return TrimmedVocabulary(len(tokenizer), len(whole), compute_unknown_share(tokenizer, ids))


MOST_ROWS = 100_000
"""How many rows are searched for special tokens."""


def sign_notes(config: RunConfig, rows: Rows) -> list[str]:
    """Count rows whose text contains a special token of a teacher or of the student's checkpoint.

    A tokenizer reads "[SEP]" in a text as the token itself. Language tasks count such rows themselves.

    Raises:
        DataError: A row holds a special token that the model has no row for.
    """
    task, found = config.task, []
    if isinstance(task, LanguageTask):
        return []
    for teacher in config.active_teachers:
        if isinstance(teacher, SavedModelTeacher):
            head = task.head if isinstance(teacher, ModelTeacher) else None
            looked = models.inspect_model(
                preview_source(teacher), head, trust_remote_code=teacher.trust_remote_code
            )
            found.append(
                _signs_in(rows, task, f"teacher {teacher.name}", looked.tokenizer.signs, looked.rowless)
            )
    student = config.student
    if student.kind == "pretrained" and not student.is_awaited:
        signs = inspect_pretrained(student, config.data.labels, task.head).tokenizer.signs
        found.append(_signs_in(rows, task, "the student", signs, ()))
    return [note for note in found if note]


def _signs_in(rows: Rows, task: object, who: str, signs: Sequence[str], rowless: Sequence[str]) -> str:
    """Describe the special tokens of one model that occur in the rows; "" if none does."""
    count, shown = _count([sign for sign in signs if sign not in getattr(task, "markers", ())], rows)
    if broken := sorted(set(shown) & set(rowless)):
        raise DataError(
            f"texts hold special tokens of {who} that its model has no row for",
            got=f"{', '.join(broken)} in {count:,} training rows",
            wanted="texts without them",
            next_step="take them out of the texts, or resize the model (resize_token_embeddings) and save it again",
        )
    return (
        f"{count:,} training rows hold {', '.join(shown)} as text, which {who} reads as special tokens"
        if count
        else ""
    )


def _count(signs: Sequence[str], rows: Rows) -> tuple[int, list[str]]:
    """Count the rows among the first `MOST_ROWS` that contain a special token, and list these tokens."""
    if not signs:
        return 0, []
    pattern = re.compile("|".join(map(re.escape, sorted(signs, key=len, reverse=True))))
    seconds = rows.pairs or ()
    held: list[set[str]] = [set(pattern.findall(text)) for text in rows.texts[:MOST_ROWS]]
    for at, text in enumerate(seconds[:MOST_ROWS]):
        held[at] |= set(pattern.findall(text))
    return sum(map(bool, held)), sorted(set().union(*held))
