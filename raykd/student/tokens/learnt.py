"""Keep tokenizers that were learnt from many texts, so that the next start over the same rows learns nothing.

Decision record: counting the words of a million texts takes half a minute, and trimming a vocabulary to them more. What
is learnt follows from the student's settings, its base checkpoint and the rows, so it is kept in raykd's cache as the
files that the tokenizer is saved to. A vocabulary of some ten thousand pieces is settled by `MOST_LEARNT` rows, so of
more rows evenly spaced ones are read. A trimmed vocabulary reads all: a character that it does not meet is unknown.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from raykd.cache import compute_key, read_entry, write_entry
from raykd.data.rows import Rows
from raykd.models import PretrainedStudent, Student
from raykd.models.embeddings import read_token_ids
from raykd.models.identity import describe_tokenizer
from raykd.pretrained.tokenizers import load_tokenizer
from raykd.student.tokens.cache import IN_MEMORY, Tell
from raykd.text.tokens import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("raykd.student")
KIND = "tokenizers"
TOLD_EVERY = 10_000
MOST_LEARNT = 500_000
"""Most rows that a vocabulary is learnt from."""


def choose_rows(parts: Sequence[Rows]) -> list[Rows]:
    """Return the rows that a vocabulary is learnt from: all, or evenly spaced ones where they are very many."""
    count = sum(map(len, parts))
    if count <= MOST_LEARNT:
        return list(parts)
    log.info("the vocabulary is learnt from %s of %s training rows", f"{MOST_LEARNT:,}", f"{count:,}")
    sizes = [len(rows) * MOST_LEARNT // count for rows in parts]
    return [
        rows.select(np.arange(size, dtype=np.int64) * len(rows) // max(1, size))
        for rows, size in zip(parts, sizes, strict=True)
    ]


def learn_tokenizer(
    student: Student,
    base: PretrainedStudent | None,
    rows: Sequence[Rows],
    texts: Iterable[str],
    *settings: object,
    tell: Tell = lambda done, texts: None,
) -> Tokenizer:
    """Return the tokenizer that a student learns from texts, kept where they are many.

    Args:
        student: The student.
        base: The checkpoint whose vocabulary it trims; None for a vocabulary of its own.
        rows: The rows that the texts are of, or are chosen from.
        texts: The texts; read once, or not at all.
        *settings: What the texts follow from beside the rows, as JSON.
        tell: Hears how many texts are read, of how many, where they are many and it is learnt anew.

    Raises:
        ModelError: It cannot be learnt, or the checkpoint cannot be loaded or trimmed.
    """
    if sum(map(len, rows)) <= IN_MEMORY:
        return student.fit_tokenizer(texts)
    prints = [own.fingerprint() for own in rows]
    described: list[object] = [student.tokenizer_key(), prints, MOST_LEARNT, settings]
    if base is not None:
        named = read_token_ids(base.path, revision=base.revision, trust_remote_code=base.trust_remote_code)
        described += [describe_tokenizer(base.load_tokenizer()), sorted(named)]
    key = compute_key(described, "tokenizers", "transformers")
    files = read_entry(KIND, key, dict[str, str])
    if files is not None:
        known = _read_files(files)
        cast("PreTrainedTokenizerFast", known).name_or_path = "" if base is None else base.path
        return known
    share = 1.0 if base is not None else min(1.0, MOST_LEARNT / sum(map(len, rows)))
    count = round(share * sum(len(own) * (1 if own.pairs is None else 2) for own in rows))
    learnt = student.fit_tokenizer(_count(texts, count, tell))
    write_entry(KIND, key, dict[str, str], _list_files(learnt))
    return learnt


def _count(texts: Iterable[str], total: int, tell: Tell) -> Iterator[str]:
    """Yield the texts, and tell how many were taken."""
    for done, text in enumerate(texts):
        if done % TOLD_EVERY == 0:
            tell(min(done, total), total)
        yield text
    tell(total, total)


def _list_files(tokenizer: Tokenizer) -> dict[str, str]:
    """Return the files that a tokenizer is saved to, by name."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_text(encoding="utf-8") for path in Path(folder).iterdir()}


def _read_files(files: dict[str, str]) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        return load_tokenizer(folder)
