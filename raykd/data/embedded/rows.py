"""`embedded_rows`: the generated corpus of each form, in the run's label order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from raykd.config import DataConfig, Embedded
from raykd.data.embedded import answers as corpus_answers
from raykd.data.embedded import reviews as corpus
from raykd.data.embedded import tags as corpus_tags
from raykd.data.embedded import targets as corpus_targets
from raykd.data.embedded.lexicon import available
from raykd.data.rows import Rows
from raykd.errors import DataError
from raykd.tasks.forms import RowForm


def embedded_rows(source: Embedded, config: DataConfig, form: RowForm, labelled: bool) -> Rows:
    """Rows of the form; without gold where it is not asked for.

    Raises:
        DataError: a language that the corpus is not written in, a split without gold where gold is needed, labels
            that are not the corpus's.
    """
    if labelled and form != "plain" and source.split == "unlabeled":
        raise DataError(
            "the embedded split 'unlabeled' has no labels",
            got="split: unlabeled where labels are needed",
            wanted="split: train, validation or test",
            next_step="use it as data.unlabeled",
        )
    unknown = sorted(set(config.languages) - set(available()))
    if unknown:
        raise DataError(
            "the embedded corpus is not written in every language of data.languages",
            got=f"{unknown}",
            wanted=f"some of {list(available())}",
            next_step="give data.languages only these, or read files",
        )
    if form == "words":
        rows = corpus_tags.generate(source, config.languages, _ordered(config, corpus_tags.LABELS))
    elif form == "answers":
        rows = corpus_answers.generate(source, config.languages)
    elif form in ("target", "source_target"):
        rows = corpus_targets.generate(source, config.languages, form)
    elif form == "plain":
        rows = corpus.generate(source, config.languages)
        return replace(rows, labels_B=np.zeros_like(rows.labels_B))
    else:
        rows = corpus.generate(source, config.languages)
        if labelled:
            order = _ordered(config, corpus.LABELS)
            places = np.asarray([order.index(name) for name in corpus.LABELS], dtype=np.int64)
            rows = replace(rows, labels_B=places[rows.labels_B])
    if labelled:
        return rows
    if form in ("target", "source_target"):
        rows = replace(rows, pairs=("",) * len(rows))
    return rows.without_labels()


def _ordered(config: DataConfig, labels: tuple[str, ...]) -> tuple[str, ...]:
    if set(config.labels) != set(labels):
        raise DataError(
            "data.labels are not those of the embedded corpus",
            got=list(config.labels),
            wanted=f"{list(labels)}, in any order",
        )
    return config.labels
