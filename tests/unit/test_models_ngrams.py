"""`HashedNgrams` against a slow reference that hashes one n-gram at a time."""

from __future__ import annotations

import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.errors import ModelError
from raykd.models import HashedNgrams
from raykd.tokenizers.ngrams import _LOWER, CHARS_PER_WORD

MASK = 2**64 - 1
HAN = [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)]


def mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def polynomial(text: str) -> int:
    total = 0
    for character in reversed(text):
        total = (total * 0x9E3779B97F4A7C15 + ord(character)) & MASK
    return total


def split(text: str) -> list[str]:
    """Words, one by one: Chinese characters and marks alone, letters and digits together."""
    words: list[str] = []
    joins = False
    for character in text:
        han = any(low <= ord(character) <= high for low, high in HAN)
        letter = re.match(r"\w", character) is not None and not han
        if letter and joins:
            words[-1] += character
        elif not character.isspace() or letter:
            words.append(character)
        joins = letter
    return words


def reference(text: str, tokenizer: HashedNgrams, part: int = 0) -> list[int]:
    """Ids of one text, without truncation."""
    text = unicodedata.normalize("NFKC", " ".join(text.split()))
    text = " ".join((text.lower() if tokenizer.lowercase else text).split())
    found: list[int] = []

    def add(value: int, kind: int, n: int) -> None:
        salt = mix((part << 16) | (kind << 8) | n)
        found.append(1 + mix(value ^ salt) % (tokenizer.buckets - 1))

    if tokenizer.char_ngrams:
        for n in range(tokenizer.char_ngrams[0], tokenizer.char_ngrams[1] + 1):
            for stretch in text.split(" ") if text else []:
                edged = f" {stretch} "
                for at in range(len(edged) - n + 1):
                    if edged[at : at + n].strip(" "):
                        add(polynomial(edged[at : at + n]), 0, n)
    if tokenizer.word_ngrams:
        hashes = [mix(polynomial(word)) for word in split(text)]
        for n in range(tokenizer.word_ngrams[0], tokenizer.word_ngrams[1] + 1):
            for at in range(len(hashes) - n + 1):
                value = hashes[at]
                for other in hashes[at + 1 : at + n]:
                    value = (value * 0xD1342543DE82EF95 + other) & MASK
                add(value, 1, n)
    return sorted(found if tokenizer.counted else set(found))


TOKENIZERS = [
    HashedNgrams(),
    HashedNgrams(buckets=97, counted=True),
    HashedNgrams(char_ngrams=None, word_ngrams=(1, 3), lowercase=False),
    HashedNgrams(char_ngrams=(2, 5), word_ngrams=None, buckets=2**20),
]
TEXTS = [
    "Hello, World! It's n-grams.",
    "很好的电影，我喜欢 touchbar。",
    "",
    " ",
    "x",
    "Où ça ? Fin de l'été…",
    "🙂🙂 ok\n\nok",
    "𠀀𠀁 ﬁne",
]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=str)
def test_batches_are_hashed_as_the_reference_hashes_each_text(tokenizer: HashedNgrams) -> None:
    encoded = tokenizer(TEXTS, TEXTS[::-1])
    for row, first, second in zip(encoded["input_ids"], TEXTS, TEXTS[::-1], strict=True):
        wanted = reference(first, tokenizer) + reference(second, tokenizer, part=1)
        assert row.tolist() == (sorted(wanted) if tokenizer.counted else sorted(set(wanted)))
    for row, text in zip(tokenizer(TEXTS)["input_ids"], TEXTS, strict=True):
        assert row.tolist() == reference(text, tokenizer)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=5)
)
def test_any_text_is_hashed_as_the_reference_does(texts: list[str]) -> None:
    tokenizer = HashedNgrams(buckets=1009)
    encoded = tokenizer(texts)
    assert [row.tolist() for row in encoded["input_ids"]] == [reference(text, tokenizer) for text in texts]
    assert [len(mask) for mask in encoded["attention_mask"]] == [len(row) for row in encoded["input_ids"]]


def test_a_row_does_not_depend_on_its_batch() -> None:
    tokenizer = HashedNgrams()
    many = [f"text number {i} 好" for i in range(1100)]
    together = tokenizer(many)["input_ids"]
    for i in (0, 511, 512, 1099):
        assert np.array_equal(together[i], tokenizer([many[i]])["input_ids"][0])


PINNED = [17, 96, 188, 207, 224, 239, 269, 292, 300, 371, 510, 645, 671, 703, 795]


def test_ids_are_pinned() -> None:
    assert HashedNgrams(buckets=1000)(["ab 好"])["input_ids"][0].tolist() == PINNED


def test_ids_are_spread_evenly() -> None:
    tokenizer = HashedNgrams(buckets=257, char_ngrams=None, word_ngrams=(1, 1))
    rows = tokenizer([f"word{i}" for i in range(25600)])["input_ids"]
    counts = np.bincount(np.concatenate(rows), minlength=257)
    assert counts[0] == 0
    chi_squared = float(((counts[1:] - 100.0) ** 2 / 100.0).sum())
    assert 160 < chi_squared < 365  # 255 degrees of freedom; standard deviation 22.6


def test_the_texts_of_a_pair_are_told_apart() -> None:
    tokenizer = HashedNgrams()
    one, other = (tokenizer(a, b)["input_ids"][0] for a, b in ((["good"], ["evil"]), (["evil"], ["good"])))
    assert len(np.intersect1d(one, other)) <= 2
    with pytest.raises(ValueError, match="1 texts and 2"):
        tokenizer(["a"], ["b", "c"])


def test_max_length_counts_words() -> None:
    tokenizer = HashedNgrams()

    def cut(text: str, limit: int) -> list[int]:
        return tokenizer([text], truncation=True, max_length=limit)["input_ids"][0].tolist()

    assert cut("one two three four", 2) == reference("one two", tokenizer)
    assert cut("很好的电影", 3) == reference("很好的", tokenizer)
    assert cut("one two", 128) == reference("one two", tokenizer)
    assert cut(" " * 5000 + "late", 1) == reference("late", tokenizer)
    assert cut("x" * 10**6, 2) == reference("x" * (2 * CHARS_PER_WORD), tokenizer)
    assert tokenizer(["one two"], truncation=False, max_length=1)["input_ids"][0].tolist() == reference(
        "one two", tokenizer
    )


@pytest.mark.parametrize(
    ("first", "second", "kept_first", "kept_second"),
    [
        ("a b c d e f", "v", "a b c", "v"),
        ("a", "v w x y z", "a", "v w x"),
        ("a b c d", "w x y z", "a b", "w x"),
        ("a b", "y z", "a b", "y z"),
        ("a b", "", "a b", ""),
    ],
)
def test_the_longer_text_of_a_pair_is_cut_first(
    first: str, second: str, kept_first: str, kept_second: str
) -> None:
    tokenizer = HashedNgrams()
    got = tokenizer([first], [second], truncation=True, max_length=4)["input_ids"][0].tolist()
    assert got == sorted({*reference(kept_first, tokenizer), *reference(kept_second, tokenizer, part=1)})


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text(alphabet="aB İΣﷺ\u00a0\n好.\u0301½", max_size=60), min_size=1, max_size=4),
    st.integers(1, 9),
)
def test_a_text_is_cut_as_the_reference_cuts_its_normal_form(texts: list[str], limit: int) -> None:
    tokenizer = HashedNgrams(buckets=1009)
    encoded = tokenizer(texts, max_length=limit)
    for text, row, is_long in zip(texts, encoded["input_ids"], encoded.long_B, strict=True):
        whole = unicodedata.normalize("NFKC", " ".join(text.split()))
        whole = " ".join(whole.lower().split())
        short = whole[: CHARS_PER_WORD * limit]
        ends = [m.end() for m in re.finditer(r"好|[^\W好]+|[^\w\s]", short)]
        kept = short[: ends[limit - 1]] if len(ends) > limit else short
        assert row.tolist() == reference(kept, tokenizer)
        assert bool(is_long) == (len(ends) > limit or len(short) < len(whole))


def test_lower_case_is_at_most_twice_as_long_and_stays() -> None:
    """What `HashedNgrams._normalise` builds on, for every character of this Python's Unicode."""
    characters = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    assert max(len(c.lower()) for c in characters) == _LOWER
    assert all(c.lower().lower() == c.lower() for c in characters)
    assert "\n" not in "".join(unicodedata.normalize("NFKC", c).lower() for c in characters if c != "\n")


def test_lower_case_is_an_option() -> None:
    def same(tokenizer: HashedNgrams) -> bool:
        one, other = tokenizer(["Good", "good"])["input_ids"]
        return np.array_equal(one, other)

    assert same(HashedNgrams()) and not same(HashedNgrams(lowercase=False))


def test_saved_settings_come_back(tmp_path: Path) -> None:
    for tokenizer in TOKENIZERS:
        tokenizer.save_pretrained(str(tmp_path))
        assert HashedNgrams.from_pretrained(tmp_path) == tokenizer
    for broken in ("", "[]", '{"format": 2}', '{"format": 1, "buckets": 9}', '{"format": 1, "colour": 1}'):
        (tmp_path / "hashed_ngrams.json").write_text(broken)
        with pytest.raises(ModelError, match=r"hashed_ngrams\.json cannot be read"):
            HashedNgrams.from_pretrained(tmp_path)


def test_python_hash_seed_changes_nothing() -> None:
    script = (
        "from raykd.models import HashedNgrams; print(HashedNgrams()(['Où 好'])['input_ids'][0].tolist())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1
