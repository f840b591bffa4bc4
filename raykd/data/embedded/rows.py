"""Read the embedded corpora: one per form of rows, and one by name, in en, fr and zh.

Decision record: the rows are data, one file of JSON lines for each corpus, language and split. Their generators are
no part of the package: `tools/embedded_corpora` wrote the files, and a test writes the first rows again. Wrong gold is
drawn here, because `label_noise` is the user's, by a generator of its own, so the texts do not depend on it.

Row i of a split is a function of (seed, language, split, i), whatever the number of rows. No two splits share a text,
and no split holds one twice.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from raykd.config import DataConfig, Embedded
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED
from raykd.errors import DataError
from raykd.tasks.forms import RowForm
from raykd.text.batch import Spans
from raykd.text.words import join_tokens

REVIEW_LABELS = ("negative", "positive")
"""Label 0 and label 1 of the reviews."""
NAME_TYPES = ("PER", "LOC", "ORG")
NAME_TAGS = ("O", *(f"{prefix}-{kind}" for kind in NAME_TYPES for prefix in "BI"))
"""Tags of the sentences with names, in IOB2."""
_CORPORA: dict[RowForm, str] = {
    "text": "reviews",
    "plain": "reviews",
    "words": "tags",
    "answers": "answers",
    "target": "dialogue",
    "source_target": "translation",
    "candidates": "answers",
}


_NAMED: dict[str, RowForm] = {"summaries": "source_target"}
"""The form of the corpora that a source names."""


@dataclass(frozen=True)
class _Row:
    text: str
    pair: str = ""
    label: int = 0
    words: Spans = ()
    gold: tuple[int, ...] = ()
    candidates: tuple[str, ...] = ()
    values: tuple[float, ...] = ()


@cache
def list_embedded_languages() -> tuple[str, ...]:
    """Return the languages that the corpora are written in."""
    files = (Path(__file__).parent / "reviews").glob("*-train.jsonl.xz")
    return tuple(sorted(file.name.partition("-")[0] for file in files))


def load_embedded_rows(source: Embedded, config: DataConfig, form: RowForm, labelled: bool) -> Rows:
    """Return the corpus of a form, in the run's label order.

    Args:
        source: Which rows.
        config: The languages and the labels of the run.
        form: What a row consists of.
        labelled: Whether gold is asked for; the rows are without it otherwise.

    Raises:
        DataError: A split without gold where gold is needed, or as `read_corpus`.
    """
    bare = form != "plain" and source.split == "unlabeled"
    if labelled and bare and config.empty_label == "unlabeled":
        labelled = False
    if labelled and bare:
        raise DataError(
            "the embedded split 'unlabeled' has no labels",
            got="split: unlabeled where labels are needed",
            wanted="split: train, validation or test",
            next_step="use it as data.unlabeled, or set data.empty_label: unlabeled",
        )
    named = form == "words" or (form == "text" and labelled)
    rows = read_corpus(source, config.languages, form, config.labels if named else None)
    if labelled or form == "plain":
        return rows
    if form in ("target", "source_target"):
        rows = replace(rows, pairs=("",) * len(rows))
    return rows.without_labels()


def read_corpus(
    source: Embedded, languages: Sequence[str], form: RowForm, labels: Sequence[str] | None = None
) -> Rows:
    """Return the first ``rows_per_language`` rows of each language, one language after the other.

    Args:
        source: Split, seed and noise.
        languages: Some of `list_embedded_languages`.
        form: Which corpus.
        labels: Order of the labels or tags; by default `REVIEW_LABELS` or `NAME_TAGS`.

    Raises:
        DataError: A language that the corpus is not written in, labels that are not the corpus's, or more rows than
            there are.
    """
    corpus = _choose_corpus(source, languages, form)
    own = NAME_TAGS if form == "words" else REVIEW_LABELS
    order = own if labels is None else labels
    if set(order) != set(own):
        raise DataError(
            "data.labels are not those of the embedded corpus",
            got=list(order),
            wanted=f"{list(own)}, in any order",
        )
    ids: list[str] = []
    codes: list[str] = []
    rows: list[_Row] = []
    for language in languages:
        noise = Random(_derive_seed(source, language, corpus, "noise"))
        for at, record in enumerate(_read_records(source, language, corpus)):
            ids.append(f"{language}-{source.split}-{at}")
            codes.append(language)
            rows.append(_build_row(record, form, noise, source.label_noise, order))
    labels_B = np.asarray([row.label for row in rows], dtype=np.int64)
    if form == "text" and source.split == "unlabeled":
        labels_B = np.full_like(labels_B, UNLABELLED)
    found = Rows(
        tuple(ids),
        tuple(row.text for row in rows),
        tuple(codes),
        labels_B,
        tuple(row.pair for row in rows) if form in ("answers", "target", "source_target") else None,
        tuple(row.words for row in rows) if form == "words" else None,
        tuple(row.gold for row in rows) if form in ("words", "answers") else None,
        candidates=tuple(row.candidates for row in rows) if form == "candidates" else None,
        values=tuple(row.values for row in rows) if form == "candidates" else None,
    )
    return found.with_mode("split") if form == "words" else found


def _choose_corpus(source: Embedded, languages: Sequence[str], form: RowForm) -> str:
    """Return the name of the corpus that has such rows in these languages.

    Raises:
        DataError: There is none.
    """
    unknown = sorted(set(languages) - set(list_embedded_languages()))
    if unknown:
        raise DataError(
            "the embedded corpus is not written in every language of data.languages",
            got=f"{unknown}",
            wanted=f"some of {list(list_embedded_languages())}",
            next_step="give data.languages only these, or read files",
        )
    corpus = source.corpus or _CORPORA.get(form, "")
    if not corpus or _NAMED.get(corpus, form) != form:
        raise DataError(
            "no embedded corpus has what rows of this task need",
            got=f"kind: embedded, corpus {corpus or 'of the task'} for rows of the form {form}",
            wanted="kind: files or hub",
            next_step="name files: data.train: {kind: files, paths: [...]}",
        )
    return corpus


def _derive_seed(source: Embedded, language: str, corpus: str, what: str) -> str:
    middle = "" if corpus == "reviews" else f"{corpus}/"
    return f"{source.seed}/{language}/{source.split}/{middle}{what}"


@lru_cache(maxsize=16)
def _read_records(source: Embedded, language: str, corpus: str) -> tuple[object, ...]:
    """Records of a language; seed 0 takes them in the order of the file, any other seed in an order of its own.

    Kept, since teachers and student read the same ones; a corpus is a few megabytes.
    """
    file = Path(__file__).parent / corpus / f"{language}-{source.split}.jsonl.xz"
    with lzma.open(file, "rt", encoding="utf-8") as stream:
        lines = list(stream)
    if source.rows_per_language > len(lines):
        raise DataError(
            f"the embedded corpus has no more texts in {language!r}",
            got=f"rows_per_language {source.rows_per_language}",
            wanted=f"at most {len(lines)} of the split {source.split}",
        )
    if source.seed:
        random = Random(_derive_seed(source, language, corpus, "order"))
        lines = [line for _, line in sorted((random.random(), line) for line in lines)]
    return tuple(json.loads(line) for line in lines[: source.rows_per_language])


def _build_row(record: Any, form: RowForm, noise: Random, share: float, labels: Sequence[str]) -> _Row:
    """One row; a share of the gold is wrong."""
    if form == "plain":
        return _Row(record[0])
    if form == "text":
        name = REVIEW_LABELS[record[1] ^ (noise.random() < share)]
        return _Row(record[0], label=labels.index(name))
    if form == "words":
        tokens, names = record
        text, spans = join_tokens(tokens)
        return _Row(text, words=spans, gold=_build_tags(len(tokens), names, noise, share, labels))
    if form in ("answers", "candidates"):
        question, context, (right, *others) = record
        answer = _choose(noise, others) if noise.random() < share else right
        begin = context.index(answer)
        if form == "candidates":
            return _build_ranked_row(question, context, begin)
        return _Row(question, context, gold=(begin, begin + len(answer)))
    given, target, wrong = record
    return _Row(given, wrong if noise.random() < share else target)


def _build_ranked_row(question: str, context: str, begin: int) -> _Row:
    """A question, the sentences of its context, and which of them holds the answer that begins there."""
    ends = [match.end() for match in re.finditer(r"[.。]", context)]
    right = sum(end <= begin for end in ends)
    return _Row(
        question,
        candidates=tuple(context[first:last].strip() for first, last in pairwise([0, *ends])),
        values=tuple(float(at == right) for at in range(len(ends))),
    )


def _build_tags(
    count: int, names: Sequence[tuple[int, int, str]], noise: Random, share: float, labels: Sequence[str]
) -> tuple[int, ...]:
    tags = ["O"] * count
    for begin, end, right in names:
        kind = right
        if noise.random() < share:
            kind = _choose(noise, [other for other in NAME_TYPES if other != right])
        tags[begin:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - begin - 1)
    return tuple(labels.index(tag) for tag in tags)


def _choose(random: Random, pool: Sequence[str]) -> str:
    # Not Random.choice, whose use of the generator is not promised from Python to Python.
    return pool[int(random.random() * len(pool))]
