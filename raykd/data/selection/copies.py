"""Make the changed copies of training rows (`data.augment`): which texts of a row are changed, and what must stay.

Decision record: a row is a list of passages (text, second text, candidates), so every kind of change serves every form
of rows. What teachers said of the words of a text is taught at the words of the copy, so these must correspond: of a
question's context a copy is left out unless its words are the changed words of its text, one for one. Markers of a
relation are no words, so nothing that keeps words touches them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import regex

from raykd.config.augmentation import Augmentation
from raykd.config.kinds.copies import Passage
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED
from raykd.errors import ConfigError
from raykd.tasks.forms import RowForm
from raykd.tasks.markers import MARKERS
from raykd.text.batch import Spans
from raykd.text.words import find_word_spans

_MARKER = regex.compile("|".join(map(regex.escape, MARKERS)))


class _Copy(NamedTuple):
    """A changed copy: of which row, by what name, its texts, and whether teachers are asked about the row."""

    at: int
    row_id: str
    passages: list[Passage]
    of_text: bool


def make_copies(
    rows: Rows,
    changes: Sequence[Augmentation],
    left_out: dict[str, int] | None = None,
    form: RowForm = "text",
) -> Rows:
    """Return the changed copies of all rows (`data.augment`), without gold labels, and what teachers are asked about.

    Args:
        rows: What is copied.
        changes: How copies are made; each kind of all rows.
        left_out: How many copies of each kind are left out is added to it.
        form: What a row consists of.

    Raises:
        ConfigError: Rows have two texts, and a kind changes one.
    """
    found = _list_copies(rows, changes, {} if left_out is None else left_out, form)
    parents = rows.select([copy.at for copy in found])

    def ask(column: Sequence[Any] | None, nothing: object) -> list[Any] | None:
        if column is None:
            return None
        return [own if copy.of_text else nothing for own, copy in zip(column, found, strict=True)]

    ranked = rows.candidates is not None
    return replace(
        parents,
        ids=[copy.row_id for copy in found],
        texts=[copy.passages[0].text for copy in found],
        pairs=None if rows.pairs is None else [copy.passages[1].text for copy in found],
        words=None if rows.words is None else [copy.passages[0].words or () for copy in found],
        candidates=[tuple(one.text for one in copy.passages[1:]) for copy in found] if ranked else None,
        labels_B=np.full(len(found), UNLABELLED, dtype=np.int64),
        golds=None if rows.golds is None else [()] * len(found),
        values=None if rows.values is None else [()] * len(found),
        asked=ask(parents.texts, ""),
        asked_pairs=ask(parents.pairs, ""),
        asked_words=ask(parents.words, ()),
        asked_candidates=ask(parents.candidates, ()),
    )


def find_words_between_markers(text: str) -> Spans:
    """Return begin and end of each word of a marked text; the markers are none."""
    marks = [(0, 0), *(match.span() for match in _MARKER.finditer(text)), (len(text), len(text))]
    found: list[tuple[int, int]] = []
    for (_, begin), (end, _) in pairwise(marks):
        found += [(begin + first, begin + last) for first, last in find_word_spans(text[begin:end]).tolist()]
    return tuple(found)


def _list_passages(rows: Rows, form: RowForm, *, of_text: bool) -> list[list[Passage]]:
    """Return the texts of each row; with their words where a copy has to have the same ones."""
    found = []
    for at, (text, language) in enumerate(zip(rows.texts, rows.languages, strict=True)):
        words: Spans | None = None if rows.words is None else rows.words[at]
        own = [Passage(text, language, find_words_between_markers(text) if form == "marked" else words)]
        if rows.pairs is not None:
            second = rows.pairs[at]
            kept = (
                tuple(map(tuple, find_word_spans(second).tolist())) if form == "answers" and of_text else None
            )
            own.append(Passage(second, language, kept))
        if rows.candidates is not None:
            own += [Passage(candidate, language) for candidate in rows.candidates[at]]
        found.append(own)
    return found


def _change_passages(change: Augmentation, passages: list[list[Passage]]) -> Iterator[list[list[Passage]]]:
    """Yield the copies of each row, by all their texts; what is not changed, or empty, is in each copy as it is."""
    first = change.parts == "first"
    places = [
        (at, part)
        for at, own in enumerate(passages)
        for part in range(1 if first else len(own))
        if own[part].text
    ]
    made = dict(zip(places, change.make_all([passages[at][part] for at, part in places]), strict=True))
    for at, own in enumerate(passages):
        copies = [made.get((at, part)) for part in range(len(own))]
        count = min(len(one) for one in copies if one is not None)
        yield [
            [text if one is None else one[number] for text, one in zip(own, copies, strict=True)]
            for number in range(count)
        ]


def _list_copies(
    rows: Rows, changes: Sequence[Augmentation], left_out: dict[str, int], form: RowForm
) -> list[_Copy]:
    """Return the copies that are not empty and equal neither their row nor one another, row by row of each kind."""
    found: list[_Copy] = []
    seen: set[tuple[object, ...]] = set()
    for change in changes:
        _check_pairs(rows, change)
        of_text = change.targets == "of_the_text"
        passages = _list_passages(rows, form, of_text=of_text)
        seen |= {(at, *(one.text for one in own)) for at, own in enumerate(passages)}
        same = f"train: copies by {change.kind} that are empty, or equal their text or another copy"
        moved = f"train: copies by {change.kind} whose context has other words than its text"
        left_out.setdefault(same, 0)
        for at, copies in enumerate(_change_passages(change, passages)):
            for number, copy in enumerate(copies):
                key = (at, *(one.text for one in copy))
                blank = any(
                    own.text and not one.text.strip() for own, one in zip(passages[at], copy, strict=True)
                )
                if blank or key in seen:
                    left_out[same] += 1
                    continue
                if form == "answers" and of_text and not _has_its_words(copy[1]):
                    left_out[moved] = left_out.get(moved, 0) + 1
                    continue
                seen.add(key)
                found.append(_Copy(at, f"{rows.ids[at]} {change.kind} {number}", copy, of_text))
    return found


def _has_its_words(passage: Passage) -> bool:
    """Return whether a copy's words are those that its text's words became, one for one."""
    return tuple(map(tuple, find_word_spans(passage.text).tolist())) == passage.words


def _check_pairs(rows: Rows, change: Augmentation) -> None:
    if change.reads_pairs or change.parts == "first":
        return
    two = [name for name, second in zip(rows.ids, rows.pairs or (), strict=False) if second]
    if two:
        raise ConfigError(
            f"data.augment: {change.kind} changes single texts, and these rows have two",
            got=f"rows with a second text, such as {two[0]}",
            wanted="spelling, lexicon, masked_lm or back_translation; or parts: first",
            next_step="leave it out",
        )
