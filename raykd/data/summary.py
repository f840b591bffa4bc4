"""Count what a set of rows holds: labels, entities, questions or characters, as its form has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import repeat

import numpy as np

from raykd.data.rows import Rows
from raykd.tasks.forms import RowForm


def summarize_rows(rows: Rows, form: RowForm, labels: Sequence[str] = ()) -> dict[str, object]:
    """Return counts: rows, labelled, unlabelled, and for each language the counts of its form.

    - text, marked: rows by label
    - labels: rows with each label, and rows without any
    - words: words, and entities of labelled rows (spans that begin with B-, U-, S- or W-)
    - answers: questions, accepted answers, questions without an answer, different contexts
    - target, source_target: pairs, pairs without a prompt, characters of the targets
    - plain: characters
    - value: rows, and the mean, standard deviation, least and largest value
    - sentences: the same of rows with a score, and pairs
    - candidates: queries, candidates, relevant candidates, and labelled queries without one

    Args:
        rows: The rows.
        form: What a row consists of.
        labels: The run's labels.
    """
    if form in ("text", "marked"):
        return rows.summary(labels)
    languages: dict[str, Counter[str]] = {}
    contexts: dict[str, set[str]] = {}
    begins = {i for i, label in enumerate(labels) if label[:2] in ("B-", "U-", "S-", "W-")}
    columns = zip(
        rows.languages,
        (rows.labels_B >= 0).tolist(),
        rows.texts,
        repeat(()) if rows.golds is None else rows.golds,
        repeat("") if rows.pairs is None else rows.pairs,
        repeat(()) if rows.words is None else rows.words,
        repeat(()) if rows.candidates is None else rows.candidates,
        repeat(()) if rows.values is None else rows.values,
        strict=False,
    )
    for language, labelled, text, gold, pair, words, own, values in columns:
        counts = languages.setdefault(language, Counter())
        counts["labelled" if labelled else "unlabelled"] += 1
        if form == "labels":
            counts.update(labels[i] for i, holds in enumerate(gold) if holds == 1 and i < len(labels))
            counts["without any"] += bool(gold) and 1 not in gold
        elif form in ("value", "sentences"):
            counts["rows"] += 1
            if form == "sentences":
                counts["pairs"] += bool(pair)
        elif form == "candidates":
            counts["queries"] += 1
            counts["candidates"] += len(own)
            counts["relevant"] += sum(value > 0.0 for value in values)
            counts["without a relevant one"] += labelled and not any(values)
        elif form == "plain":
            counts["characters"] += len(text)
        elif form == "words":
            counts["words"] += len(words)
            counts["entities"] += sum(label in begins for label in gold)
        elif form == "answers":
            counts["questions"] += 1
            counts["answers"] += len(gold) // 2
            if labelled and not gold:
                counts["without answer"] += 1
            contexts.setdefault(language, set()).add(pair)
        else:
            counts["pairs"] += 1
            counts["without prompt"] += not text
            counts["target characters"] += len(pair)
    for language, found in contexts.items():
        languages[language]["contexts"] = len(found)
    with_gold = int(rows.labelled.sum())
    return {
        "rows": len(rows),
        "labelled": with_gold,
        "unlabelled": len(rows) - with_gold,
        "languages": {
            language: dict(counts) | _describe_values(rows, language)
            for language, counts in sorted(languages.items())
        },
    }


def _describe_values(rows: Rows, language: str) -> dict[str, float]:
    """Return mean, standard deviation, least and largest of a language's values; nothing for rows without any."""
    if rows.candidates is not None:
        return {}  # relevances are counted
    own = zip(rows.values or (), rows.languages, strict=False)
    found = np.asarray([value for values, code in own if code == language for value in values])
    if not len(found):
        return {}
    numbers = {"mean": found.mean(), "deviation": found.std(), "least": found.min(), "largest": found.max()}
    return {name: round(float(number), 4) for name, number in numbers.items()}
