"""The embedded corpus: known Bayes accuracy, disjoint splits, more than a bag of words."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from raykd.config import Embedded
from raykd.data.embedded.rows import REVIEW_LABELS, list_embedded_languages, read_corpus
from raykd.data.overlap import normalize_text
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED
from raykd.errors import DataError
from tools.embedded_corpora.lexicon import load_lexicon
from tools.embedded_corpora.noiseless_label import noiseless_label

LANGUAGES = ("en", "fr", "zh")
BAYES = 0.95


@cache
def rows_of(split: str, count: int, noise: float = 0.05, seed: int = 0) -> Rows:
    source = Embedded(split=split, rows_per_language=count, label_noise=noise, seed=seed)  # type: ignore[arg-type]
    return read_corpus(source, LANGUAGES, "text")


def only(rows: Rows, language: str) -> Rows:
    return rows.select(np.asarray(rows.languages) == language)


def tokens(text: str, language: str) -> list[str]:
    return list(text) if language == "zh" else re.findall(r"\w+|[^\w\s]", text.lower())


def test_languages() -> None:
    assert list_embedded_languages() == LANGUAGES and REVIEW_LABELS == ("negative", "positive")


@pytest.mark.parametrize(
    ("text", "language", "label"),
    [
        ("The soup was good.", "en", 1),
        ("The soup was not good.", "en", 0),
        ("The soup was anything but bad.", "en", 1),
        ("I do not doubt that the soup is good.", "en", 1),
        ("I do not think that the soup is good.", "en", 0),
        ("It is not true that the soup was not good.", "en", 1),
        ("The room was bad, but the view is wonderful. It rained.", "en", 1),
        ("The room was wonderful. However the view is not good.", "en", 0),
        ("Although the room was bad, the view is good.", "en", 1),
        ("The view is good, although the room was bad.", "en", 1),
        ("My brother says that the view is bad. The view is good.", "en", 1),
        ("La soupe n'est pas bonne.", "fr", 0),
        ("Certes la soupe était mauvaise, le pain est loin d'être nul.", "fr", 1),
        ("Je ne doute pas que la soupe soit fade.", "fr", 0),
        ("Ma sœur dit que le pain est rassis. Le pain est un régal.", "fr", 1),
        ("汤不好。", "zh", 0),
        ("虽然汤不好，牛排算不上差。", "zh", 1),
        ("毫无疑问汤非常难吃。", "zh", 0),
        ("我哥哥说汤很好。不过汤并不好。", "zh", 0),
    ],
)
def test_reader(text: str, language: str, label: int) -> None:
    assert noiseless_label(text, language) == label


@pytest.mark.parametrize(
    "text", ["It rained.", "The soup is good. The room is bad.", "My brother says that it is good."]
)
def test_reader_refuses_what_is_not_of_the_corpus(text: str) -> None:
    with pytest.raises(ValueError, match="count in"):
        noiseless_label(text, "en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_without_noise_the_text_tells_the_label(language: str) -> None:
    rows = only(rows_of("train", 2000, noise=0.0), language)
    assert [noiseless_label(text, language) for text in rows.texts] == rows.labels_B.tolist()
    assert 0.46 < rows.labels_B.mean() < 0.54


def test_noise_flips_its_share_and_no_text() -> None:
    clean, noisy = rows_of("train", 2000, noise=0.0), rows_of("train", 2000, noise=0.2)
    assert clean.texts == noisy.texts
    # 6,000 coins of 0.2: one standard deviation is 0.005.
    assert np.mean(clean.labels_B != noisy.labels_B) == pytest.approx(0.2, abs=0.02)


def test_splits_are_disjoint_and_no_text_comes_twice() -> None:
    texts = [
        normalize_text(t)
        for s in ("train", "validation", "test", "unlabeled")
        for t in rows_of(s, 1500).texts
    ]
    assert len(set(texts)) == len(texts) == 4 * 3 * 1500
    assert set(rows_of("unlabeled", 1500).labels_B.tolist()) == {UNLABELLED}
    assert not set(rows_of("train", 1500, seed=1).texts) & set(rows_of("test", 1500).texts)


def test_a_row_is_a_function_of_seed_split_and_index() -> None:
    short, long = rows_of("validation", 50), rows_of("validation", 1500)
    for language in LANGUAGES:
        assert only(short, language).texts == only(long, language).texts[:50]
        assert only(short, language).labels_B.tolist() == only(long, language).labels_B.tolist()[:50]
    alone = read_corpus(Embedded(split="validation", rows_per_language=50), ["zh"], "text")
    assert alone.texts == only(short, "zh").texts
    assert rows_of("validation", 50, seed=1).texts != short.texts
    assert short.fingerprint() == PINNED, "another Python or another corpus: results change, say so"


PINNED = "fc7aaec638185d046a2cf2a9cad78e0b5991278e655dc6b65467ca5209379d81"


@pytest.mark.parametrize("language", LANGUAGES)
def test_vocabulary_and_lengths(language: str) -> None:
    rows = only(rows_of("unlabeled", 1500), language)
    counted = [tokens(text, language) for text in rows.texts]
    assert len(Counter(word for text in counted for word in text)) >= 400
    lengths = np.asarray([len(text) for text in counted])
    low, middle, high = np.percentile(lengths, [5, 50, 99])
    assert low <= 8 and 12 <= middle <= 24 and 35 <= high <= 65
    lexicon = load_lexicon(language)
    assert all(len({o.forms for o in d.opinions[label]}) >= 40 for d in lexicon.domains for label in (0, 1))
    assert not any(
        {o.forms for o in d.opinions[0]} & {o.forms for o in d.opinions[1]} for d in lexicon.domains
    )


def linear_accuracy(language: str, longest: int) -> float:
    """Test accuracy of logistic regression on n-grams of 1 to ``longest`` words (zh: characters), 2,000 rows."""
    train, test = only(rows_of("train", 2000), language), only(rows_of("test", 2000), language)
    counter = CountVectorizer(
        ngram_range=(1, longest),
        binary=True,
        lowercase=False,
        tokenizer=lambda t: tokens(t, language),
        token_pattern=None,
    )
    features = counter.fit_transform(train.texts)
    model = LogisticRegression(C=0.3, max_iter=300).fit(features, train.labels_B)
    return float(model.score(counter.transform(test.texts), test.labels_B))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_bag_of_words_is_not_enough(language: str) -> None:
    words, ngrams = linear_accuracy(language, 1), linear_accuracy(language, 3)
    assert 0.6 < words <= BAYES - 0.10
    assert ngrams >= words + 0.015


def test_more_rows_than_ship_are_refused_with_their_number() -> None:
    with pytest.raises(
        DataError, match=r"got: +rows_per_language 20000[\s\S]*at most 5000 of the split train"
    ):
        read_corpus(Embedded(rows_per_language=20_000), ["en"], "text")


def test_another_seed_takes_rows_in_another_order() -> None:
    first, other = (only(rows_of("train", 5000, seed=seed), "en") for seed in (0, 1))
    assert first.texts != other.texts and set(first.texts) == set(other.texts)
    assert only(rows_of("train", 100, seed=1), "en").texts == other.texts[:100]
    right = only(rows_of("train", 5000, noise=0.0), "en")
    clean = dict(zip(right.texts, right.labels_B, strict=True))
    wrong = np.mean([clean[text] != label for text, label in zip(other.texts, other.labels_B, strict=True)])
    assert wrong == pytest.approx(0.05, abs=0.02)


def test_unknown_language() -> None:
    with pytest.raises(DataError, match=r"got: +\['de'\][\s\S]*\['en', 'fr', 'zh'\]"):
        read_corpus(Embedded(), ["en", "de"], "text")
