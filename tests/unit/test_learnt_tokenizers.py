"""Tokenizers that are learnt from many rows: kept, read again as they were, from evenly spaced rows of very many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raykd.data.rows import Rows
from raykd.models import LSTMStudent, PretrainedStudent, TransformerStudent
from raykd.models.identity import describe_tokenizer
from raykd.student.prepare import fit_tokenizer
from raykd.student.tokens import learnt
from raykd.tasks import Classification
from tests.unit.test_models import checkpoint  # noqa: F401  (a fixture)

TEXTS = ("a good film", "une belle histoire", "这部电影很好", "not worth it", "a bad one", "zest")


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(learnt, "IN_MEMORY", 3)


def rows_of(texts: tuple[str, ...] = TEXTS, pairs: tuple[str, ...] | None = None) -> Rows:
    count = len(texts)
    return Rows(tuple(map(str, range(count))), texts, ("en",) * count, np.zeros(count, np.int64), pairs)


def count_fits(monkeypatch: pytest.MonkeyPatch, kind: Any) -> list[list[str]]:
    fits, fit = [], kind.fit_tokenizer

    def counting(student: Any, texts: Iterator[str]) -> Any:
        fits.append(list(texts))
        return fit(student, fits[-1])

    monkeypatch.setattr(kind, "fit_tokenizer", counting)
    return fits


@pytest.mark.parametrize("student", [TransformerStudent(vocab_size=120), LSTMStudent(vocab_size=120)])
def test_what_is_learnt_from_many_rows_is_kept(student: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Classification(markers=("<e>", "</e>"))
    marked = ("<e>a</e> good film", *TEXTS[1:])
    fits = count_fits(monkeypatch, type(student))
    first, second = (fit_tokenizer(student, [(task, rows_of(marked))]) for _ in range(2))
    assert fits == [[" a  good film", *TEXTS[1:]]]
    assert describe_tokenizer(first) == describe_tokenizer(second) and len(first) == len(second)
    assert second(["<e>a</e> good"]) == first(["<e>a</e> good"])  # type: ignore[call-arg]
    fit_tokenizer(student, [(task, rows_of((*marked[1:], "other")))])
    fit_tokenizer(student.model_copy(update={"vocab_size": 110}), [(task, rows_of(marked))])
    fit_tokenizer(student, [(Classification(), rows_of(marked))])
    assert len(fits) == 4
    for _ in range(2):  # few rows are learnt from each time
        fit_tokenizer(student, [(Classification(), rows_of(TEXTS[:3]))])
    assert len(fits) == 6


def test_a_trimmed_vocabulary_is_kept(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    student = PretrainedStudent(path=str(checkpoint), vocabulary="trimmed")
    fits = count_fits(monkeypatch, PretrainedStudent)
    pairs = tuple(reversed(TEXTS))
    first, second = (fit_tokenizer(student, [(Classification(), rows_of(pairs=pairs))]) for _ in range(2))
    assert fits == [[*TEXTS, *pairs]] and describe_tokenizer(first) == describe_tokenizer(second)
    assert vars(first)["name_or_path"] == vars(second)["name_or_path"] == str(checkpoint)


def test_of_very_many_rows_evenly_spaced_ones_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learnt, "MOST_LEARNT", 4)
    fits = count_fits(monkeypatch, TransformerStudent)
    parts = [(Classification(), rows_of()), (Classification(), rows_of(("x", "y", "z", "u", "v", "w")))]
    monkeypatch.setattr(learnt, "TOLD_EVERY", 2)
    told: list[tuple[int, int]] = []
    for _ in range(2):  # the second one is read from the cache, and tells nothing
        fit_tokenizer(
            TransformerStudent(vocab_size=120), parts, tell=lambda done, total: told.append((done, total))
        )
    assert fits == [[TEXTS[0], TEXTS[3], "x", "u"]]
    assert told == [(0, 4), (2, 4), (4, 4)]
