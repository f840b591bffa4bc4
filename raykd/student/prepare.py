"""Tokenise the rows of a run for its student, once for all loops that read them.

Decision record: tokenising the training rows takes longer than anything else before the first step, and the trials of a
sweep mostly differ in settings that leave the tokens unchanged. So the tokens are an argument of the loop. Which rows
are longer than the task's limits is known only here, with the student's tokenizer, so they are counted, left out or
refused here. Held-out rows are never left out, because every system is measured on the same ones.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from raykd.answers.source import SignalSource
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.errors import ConfigError, DataError
from raykd.models import PretrainedStudent, Student
from raykd.models.tuning import is_by_language
from raykd.models.vocabulary import is_same_tokenizer
from raykd.student.tokens.cache import Tell, TokenJob, load_tokens
from raykd.student.tokens.learnt import choose_rows, learn_tokenizer
from raykd.tasks import EncodedRows, TaskBase
from raykd.text.codes import SOURCE_MARK
from raykd.text.tokens import Tokenizer, add_markers, add_prefix_blank, name_adapters
from raykd.tokenizers.trimming import compute_unknown_share
from raykd.tokenizers.union import UnionTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("raykd.student")


@dataclass(frozen=True)
class PreparedRows:
    """Rows and their tokens, row for row. Written by `prepare_rows`, read by the loop; never changed.

    Attributes:
        train: Training rows that the run sees.
        validation: All validation rows.
        train_tokens: Of the training rows.
        validation_tokens: Of the validation rows.
        facts: What a loop logs once, where it applies:

            - ``train/coverage``: Share of words (or other units that have a place) that the student sees.
            - ``train/long_rows``: Rows over the task's limits.
            - ``train/dropped_rows``: Those of them that are left out.
            - ``train/rows_without_markers``: Rows whose marker was cut off.
            - ``train/held_marks``: Rows whose prompt or target already held a mark of its beginning or end.
            - ``train/shared_words``: Share of words that the student reads at the same token as the word beside them.
            - ``validation/unknown_tokens``: With a trimmed vocabulary, the share of tokens that are the unknown one.
    """

    train: Rows
    validation: Rows
    train_tokens: EncodedRows
    validation_tokens: EncodedRows
    facts: dict[str, float] = field(default_factory=dict)


def fit_tokenizer(
    student: Student,
    parts: Sequence[tuple[TaskBase, Rows]],
    teachers: SignalSource | None = None,
    tell: Tell = lambda done, texts: None,
) -> Tokenizer:
    """Make the student's tokenizer, with the markers of its tasks and of languages to write as single tokens.

    It is learnt from the rows of the tasks, or a checkpoint's, trimmed to them; or, where the student's vocabulary is
    the union of its teachers', joined from theirs.

    Args:
        student: The student.
        parts: Its tasks with their training rows.
        teachers: Asked for their tokenizers where the vocabulary is a union.
        tell: Hears how many texts are read, of how many, where a vocabulary is learnt from many.

    Raises:
        ConfigError: The student's tokenizer cannot keep markers, or a union has no teacher for a language.
        ModelError: Tokenizers cannot be joined.
    """
    if getattr(student, "vocabulary", "own") == "union":
        return join_tokenizers(teachers, {lang for _, rows in parts for lang in rows.list_languages()})
    markers = tuple(dict.fromkeys(m for task, _ in parts for m in getattr(task, "markers", ())))
    source, trimmed = find_base_checkpoint(student), is_trimmed(student)
    if student.kind == "linear" or (source is not None and not trimmed):  # nothing is learnt
        tokenizer = student.fit_tokenizer(())
    else:
        rows = [own for _, own in parts]
        texts = _list_texts(rows if trimmed else choose_rows(rows), markers, trimmed=trimmed)
        tokenizer = learn_tokenizer(student, source, rows, texts, markers, tell=tell)
    if any(rows.is_in_mode("split").any() for _, rows in parts):
        tokenizer = add_prefix_blank(tokenizer)
    if is_by_language(student):
        name_adapters(tokenizer, sorted({lang for _, rows in parts for lang in rows.list_languages()}))
    return add_markers(tokenizer, (*markers, *_list_source_marks(student, parts)))


def _list_texts(parts: Sequence[Rows], markers: Sequence[str], *, trimmed: bool) -> Iterator[str]:
    """Yield the texts that a vocabulary is learnt from, or trimmed to."""
    # Markers are no words: they would only take places of the vocabulary.
    sign = re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True))))

    def clear(text: str) -> str:
        return sign.sub(" ", text) if markers else text

    for rows in parts:
        # The first of words that are cut one by one has a blank before it.
        is_split = trimmed and bool(rows.is_in_mode("split").any())
        for text in rows.texts:
            yield clear(text)
            if is_split:
                yield clear(f" {text}")
        yield from map(clear, rows.pairs or ())
        yield from map(clear, chain.from_iterable(rows.candidates or ()))


def _list_source_marks(student: Student, parts: Sequence[tuple[TaskBase, Rows]]) -> list[str]:
    """Return the tokens by which a student from scratch is told which of several languages to write."""
    written = {lang for task, rows in parts if task.marks_languages for lang in rows.list_languages()}
    if not getattr(student, "marks_sources", False) or len(written) < 2:
        return []
    return [SOURCE_MARK.format(language) for language in sorted(written)]


def join_tokenizers(teachers: SignalSource | None, languages: Iterable[str]) -> UnionTokenizer:
    """Join the teachers' tokenizers: each language gets that of the first teacher that speaks it.

    Raises:
        ConfigError: No teacher speaks one of the languages.
    """
    names = () if teachers is None else teachers.teachers
    spoken = () if teachers is None else teachers.teacher_languages
    wanted = sorted(set(languages))
    first = {
        language: next((m for m, own in enumerate(spoken) if own is None or language in own), None)
        for language in wanted
    }
    silent = [language for language, m in first.items() if m is None]
    if teachers is None or silent:
        raise ConfigError(
            "student.vocabulary: union needs a teacher for each language",
            got=f"teachers {', '.join(names) or 'none'}; none of them speaks {', '.join(silent)}",
            wanted="the tokenizer of one of its teachers for each language",
            next_step="add a teacher, or leave its rows out (data.select_languages)",
        )
    vocabularies = teachers.vocabularies()
    members: list[PreTrainedTokenizerFast] = []
    numbers: dict[int, int] = {}
    for m in sorted({m for m in first.values() if m is not None}):
        own = cast("PreTrainedTokenizerFast", vocabularies[m].tokenizer)
        at = next((k for k, other in enumerate(members) if is_same_tokenizer(own, other)), len(members))
        if at == len(members):
            members.append(own)
        numbers[m] = at
    chosen = {language: numbers[m] for language, m in first.items() if m is not None}
    return UnionTokenizer(members, chosen, default=wanted[0] if len(wanted) == 1 else None)


def prepare_rows(
    config: RunConfig,
    train: Rows,
    validation: Rows,
    tokenizer: Tokenizer,
    tell: Tell = lambda done, rows: None,
) -> PreparedRows:
    """Tokenise the rows that the run sees; plain training sees only the labelled ones.

    Args:
        config: The run of one task.
        train: Training rows.
        validation: Validation rows.
        tokenizer: The student's.
        tell: Hears how many of many rows are tokenised.

    Raises:
        DataError: A training row is too long and `data.on_long_row` is fail, or drop leaves too few.
    """
    train, encoded, long_B = _encode_visible(config, train, tokenizer, tell)
    facts: dict[str, float] = {"train/long_rows": float(long_B.sum())}
    if long_B.any():
        kept = _apply_long_row_policy(config, train, long_B)
        if len(kept) < len(train):
            facts["train/dropped_rows"] = float(len(train) - len(kept))
            train = kept
            encoded = _encode(config, train, tokenizer, tell)
    unmarked_B = encoded.extra.get("unmarked_B")
    if unmarked_B is not None:
        facts["train/rows_without_markers"] = float(unmarked_B.sum())
    held_B = encoded.extra.get("held_B")
    if held_B is not None and held_B.any():
        facts["train/held_marks"] = float(held_B.sum())
        log.warning(
            "%d of %d training rows already hold what the student's tokenizer puts around a text: nothing is put twice",
            held_B.sum(), len(train),
        )  # fmt: skip
    if encoded.coverage is not None:
        facts["train/coverage"] = encoded.coverage
    shared = encoded.extra.get("shared")
    if shared is not None and shared.any():
        facts["train/shared_words"] = float(shared.mean())
        log.warning(
            "%s words of %s are read at the same token as the word beside them",
            f"{shared.sum():,}",
            config.name,
        )
    validation_tokens = _encode(config, validation, tokenizer, tell)
    if is_trimmed(config.student):
        unknown = compute_unknown_share(tokenizer, validation_tokens.fields["input_ids"])
        facts["validation/unknown_tokens"] = unknown
        log.info(
            "a vocabulary of %s pieces; %.2f %% of the validation texts' are unknown",
            f"{len(tokenizer):,}", 100 * unknown,
        )  # fmt: skip
    return PreparedRows(
        train=train,
        validation=validation,
        train_tokens=encoded,
        validation_tokens=validation_tokens,
        facts=facts,
    )


def is_trimmed(student: Student) -> bool:
    """Return whether a student's vocabulary is a checkpoint's, trimmed to the training texts."""
    source = find_base_checkpoint(student)
    return source is not None and source.vocabulary == "trimmed"


def find_base_checkpoint(student: Student) -> PretrainedStudent | None:
    """Return the checkpoint that a student's tokenizer comes from; None if it is learnt or joined."""
    if student.kind == "lstm":
        return None if student.embedding_from is None else student.source()
    return student if student.kind == "pretrained" else None


def check_long_rows(parts: Sequence[tuple[RunConfig, Rows]]) -> None:
    """Report rows that are too long before a worker is taken, as `prepare_rows` would report them there.

    Runs that cut such rows are not checked.

    Args:
        parts: The tasks of a student with their training rows.

    Raises:
        DataError: As `prepare_rows`.
    """
    student = parts[0][0].student
    if getattr(student, "vocabulary", "own") == "union" or getattr(student, "is_awaited", False):
        return  # the tokenizer is not here yet
    strict = [(config, rows) for config, rows in parts if config.data.on_long_row != "truncate"]
    tokenizer = fit_tokenizer(student, [(config.task, rows) for config, rows in parts]) if strict else None
    for config, rows in strict:
        assert tokenizer is not None
        seen, _, long_B = _encode_visible(config, rows, tokenizer)
        if long_B.any():
            _apply_long_row_policy(config, seen, long_B)


def get_language_codes(config: RunConfig) -> dict[str, str]:
    """Return the run's languages with the codes of the student's tokenizer, where they are given."""
    codes: dict[str, str] = getattr(config.student, "language_codes", {})
    return codes


def _encode(
    config: RunConfig, rows: Rows, tokenizer: Tokenizer, tell: Tell = lambda done, rows: None
) -> EncodedRows:
    codes = get_language_codes(config)
    return load_tokens(TokenJob(config.task, tokenizer, rows, codes, config.workers.threads), tell)


def _encode_visible(
    config: RunConfig, rows: Rows, tokenizer: Tokenizer, tell: Tell = lambda done, rows: None
) -> tuple[Rows, EncodedRows, NDArray[np.bool_]]:
    """Return the rows that the run sees, their tokens, and which of them are too long."""
    if not config.reads_unlabelled:
        rows = rows.select(rows.labelled)
    encoded = _encode(config, rows, tokenizer, tell)
    return rows, encoded, np.zeros(len(rows), dtype=bool) if encoded.long_B is None else encoded.long_B


def _apply_long_row_policy(config: RunConfig, rows: Rows, long_B: NDArray[np.bool_]) -> Rows:
    """Return the rows to train on, after `data.on_long_row`."""
    what, count = config.data.on_long_row, int(long_B.sum())
    names = [rows.ids[i] for i in np.flatnonzero(long_B)[:5].tolist()]
    written = getattr(config.task, "max_target_length", None)
    limit = f"task.max_length {config.task.max_length}"
    limit += "" if written is None else f" (targets: task.max_target_length {written})"
    limit += f" in the tokens of the {config.student.kind} {config.name}"
    if what == "fail":
        raise DataError(
            f"{count} of {len(rows)} training rows are longer than the task's limits",
            got=f"rows {names}" + (" and others" if count > len(names) else ""),
            wanted=limit,
            next_step="raise task.max_length, shorten them, or set data.on_long_row: truncate or drop",
        )
    log.warning("%d of %d training rows are over %s: %s; %s", count, len(rows), limit, what, names)
    if what == "truncate":
        return rows
    kept = rows.select(~long_B)
    if len(kept) < config.train.batch_size:
        raise DataError(
            "data.on_long_row: drop leaves fewer training rows than a batch has",
            got=f"{len(kept)} of {len(rows)} rows are within {limit}",
            wanted=f"at least train.batch_size {config.train.batch_size}",
            next_step="raise task.max_length, or set data.on_long_row: truncate",
        )
    return kept
