"""Rows: selection, joining, fingerprints."""

from __future__ import annotations

import numpy as np
import pytest

from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED


def sample(pairs: tuple[str, ...] | None = None) -> Rows:
    labels_B = np.asarray([1, UNLABELLED, 0], dtype=np.int64)
    return Rows(("a", "b", "c"), ("one", "two", "三"), ("en", "en", "zh"), labels_B, pairs)


def test_take_and_select() -> None:
    rows = sample(("x", "y", "z"))
    batch = rows.take(np.asarray([2, 0]))
    assert batch.texts == ("三", "one") and batch.pairs == ("z", "x") and batch.labels_B.tolist() == [0, 1]
    assert rows.select(rows.labelled).ids == ("a", "c")
    assert rows.select([2, 2]).languages == ("zh", "zh")
    assert len(rows.select(np.zeros(3, dtype=bool))) == 0
    with pytest.raises(ValueError, match="mask of 2 for 3"):
        rows.select(np.asarray([True, False]))


def test_concat() -> None:
    joined = Rows.concat([sample(), sample().select([0])])
    assert joined.ids == ("a", "b", "c", "a") and joined.labels_B.tolist() == [1, UNLABELLED, 0, 1]
    assert joined.pairs is None
    with pytest.raises(ValueError, match="second text"):
        Rows.concat([sample(), sample(("x", "y", "z"))])


def test_unequal_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="unequal"):
        Rows(("a",), ("x", "y"), ("en", "en"), np.zeros(2, dtype=np.int64))


def test_fingerprint_is_of_content_and_order() -> None:
    rows = sample()
    assert rows.fingerprint() == sample().fingerprint()
    changed = [
        rows.select([1, 0, 2]),
        rows.without_labels(),
        Rows(rows.ids, ("onet", "wo", "三"), rows.languages, rows.labels_B),
        Rows(rows.ids, rows.texts, ("en", "fr", "zh"), rows.labels_B),
        Rows(rows.ids, rows.texts, rows.languages, rows.labels_B, rows.texts),
    ]
    assert len({rows.fingerprint(), *(c.fingerprint() for c in changed)}) == 6
    renamed = Rows(("x", "y", "z"), rows.texts, rows.languages, rows.labels_B)
    assert renamed.fingerprint() == rows.fingerprint()


def test_summary() -> None:
    assert sample().summary(["neg", "pos"]) == {
        "rows": 3,
        "labelled": 2,
        "unlabelled": 1,
        "languages": {"en": {"unlabelled": 1, "pos": 1}, "zh": {"neg": 1}},
    }
