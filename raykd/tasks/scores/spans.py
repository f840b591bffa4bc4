"""Score extractive answers: characters to words and back, the best span, exact match and F1.

Decision record: an answer is two places among the words of the context (`raykd.text.words`), which every
tokenizer shares. An answer that begins or ends inside a word is widened to whole words, because no model can point
between two tokens of its own choosing. Scores are those of the official scripts: English is SQuAD v1.1's; other
languages are MLQA's (all of Unicode's punctuation removed, articles of the language, and for scripts without blanks the
overlap of characters, mixed with blank-separated words of other scripts, which is also CMRC 2018's). MLQA has no
French; there the articles are le, la, les, du, des, au, aux, un, une and the elided l'.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raykd.tasks.scores.classification import log_softmax
from raykd.text.batch import TextBatch
from raykd.text.words import UNSPACED_LANGUAGES, find_word_spans, is_unspaced

_ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "fr": r"\b(le|la|les|du|des|au|aux|un|une)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "ar": r"\sال^|ال",
}
_ELIDED = re.compile(r"\bl['’]")


def find_answer_words(spans_W2: NDArray[np.integer], answers_A2: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return first and last word ``[A, 2]`` of each answer, widened to whole words; -1, -1 where it touches no word.

    Args:
        spans_W2: Words of the context in characters, in order.
        answers_A2: Begin and end of each answer in characters.
    """
    answers_A2 = np.asarray(answers_A2, dtype=np.int64).reshape(-1, 2)
    first_A = np.searchsorted(spans_W2[:, 1], answers_A2[:, 0], side="right")
    last_A = np.searchsorted(spans_W2[:, 0], answers_A2[:, 1], side="left") - 1
    found_A2: NDArray[np.int64] = np.stack([first_A, last_A], axis=1).astype(np.int64)
    found_A2[first_A > last_A] = -1
    return found_A2


def find_best_answers(
    logits_NC: NDArray[np.floating],
    words_B: NDArray[np.int64],
    null_B: NDArray[np.int64],
    max_answer_words: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return each row's most probable answer, how probable it is, and how probable it is that there is none.

    Args:
        logits_NC: N = 2 B units, for each row the start and then the end, over C words; `MASKED` where a row has no
            such word or the model did not see it.
        words_B: Words of each context; the choices that answers are made of come first.
        null_B: The choice "no answer", or -1 where a row has none: its log-probability is then -inf.
        max_answer_words: No answer has more words.

    Returns:
        First and last word ``[B, 2]``, its log-probability ``[B]``, and that of no answer ``[B]``.

    Raises:
        ValueError: The number of units is odd, there are no words, or the limit is below 1.
    """
    if len(logits_NC) % 2 or logits_NC.shape[1] == 0 or max_answer_words < 1:
        raise ValueError(f"{logits_NC.shape} logits, answers of at most {max_answer_words} words")
    logp_NC = log_softmax(logits_NC)
    null_logp_B = np.full(len(null_B), -np.inf)
    (rows,) = np.nonzero(null_B >= 0)
    null_logp_B[rows] = logp_NC[2 * rows, null_B[rows]] + logp_NC[2 * rows + 1, null_B[rows]]
    logp_NC[np.arange(logp_NC.shape[1]) >= np.repeat(words_B, 2)[:, None]] = -np.inf
    return *_find_best_spans(logp_NC, max_answer_words), null_logp_B


def _find_best_spans(
    logp_NC: NDArray[np.float64], max_answer_words: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    start_BC, end_BC = logp_NC[0::2], logp_NC[1::2]
    wide = end_BC.shape[1]
    best_BC = end_BC.copy()
    far_BC = np.zeros(end_BC.shape, dtype=np.int64)
    for step in range(1, min(max_answer_words, wide)):
        later = end_BC[:, step:]
        # Words that share a token have equal logits: the answer ends with the last of them, as the token does.
        better = later >= best_BC[:, : wide - step]
        best_BC[:, : wide - step][better] = later[better]
        far_BC[:, : wide - step][better] = step
    total_BC = start_BC + best_BC
    first_B = total_BC.argmax(axis=1)
    rows = np.arange(len(first_B))
    return np.stack([first_B, first_B + far_BC[rows, first_B]], axis=1), total_BC[rows, first_B]


def read_span_text(context: str, spans_W2: NDArray[np.integer], first: int, last: int) -> str:
    """Return the text from the first word to the last, both included; empty for words that the context has not."""
    if not 0 <= first <= last < len(spans_W2):
        return ""
    return context[int(spans_W2[first, 0]) : int(spans_W2[last, 1])]


def normalize_answer(answer: str, language: str) -> list[str]:
    """Return the tokens by which answers are compared: lower case, without punctuation and the language's articles."""
    language = language.lower().replace("_", "-").partition("-")[0]
    text = answer.lower()
    if language == "fr":
        text = _ELIDED.sub(" ", text)
    text = "".join(c for c in text if not _is_punctuation(c, language))
    if language in _ARTICLES:
        text = re.sub(_ARTICLES[language], " ", text)
    if language not in UNSPACED_LANGUAGES:
        return text.split()
    return "".join(f" {c} " if is_unspaced(c) else c for c in text).split()


def _is_punctuation(character: str, language: str) -> bool:
    if character in string.punctuation:
        return True
    return language != "en" and unicodedata.category(character).startswith("P")


def compute_exact_match(predicted: str, accepted: Sequence[str], language: str) -> float:
    """Return 1 if the answer is an accepted answer after normalisation, else 0."""
    own = normalize_answer(predicted, language)
    return float(any(own == normalize_answer(answer, language) for answer in accepted))


def compute_f1(predicted: str, accepted: Sequence[str], language: str) -> float:
    """Return the overlap of tokens with the best accepted answer: harmonic mean of precision and recall."""
    own = Counter(normalize_answer(predicted, language))
    best = 0.0
    for answer in accepted:
        theirs = Counter(normalize_answer(answer, language))
        common = (own & theirs).total()
        if common:
            best = max(best, 2 * common / (own.total() + theirs.total()))
    return best


def compute_answer_metrics(
    predicted: Sequence[str], accepted: Sequence[Sequence[str]], languages: Sequence[str]
) -> dict[str, float]:
    """Return mean exact match and F1 (0 to 1) of B rows; each row is normalised by the rules of its language.

    In a row without accepted answers only "" (or what normalisation leaves nothing of) is right.

    Raises:
        ValueError: There are no rows, or the arguments differ in their numbers of rows.
    """
    exact_B, f1_B = score_answers(predicted, accepted, languages)
    return {"exact_match": float(exact_B.mean()), "f1": float(f1_B.mean())}


def find_best_thresholds(
    predicted: Sequence[str],
    doubt_B: NDArray[np.float64],
    accepted: Sequence[Sequence[str]],
    languages: Sequence[str],
) -> dict[str, float]:
    """Return exact match and F1 of B rows where doubtful answers are dropped at the best threshold, as in SQuAD v2.

    Args:
        predicted: The best answer that is not empty.
        doubt_B: Score of "no answer", less the score of this answer.
        accepted: The accepted answers of each row.
        languages: The language of each row.
    """
    found = {}
    none_B = np.asarray([not row for row in accepted])
    order = np.argsort(doubt_B, kind="stable")
    for name, scores_B in zip(
        ("exact_match", "f1"), score_answers(predicted, accepted, languages), strict=True
    ):
        # With every answer dropped, the rows without an answer are right; each answer given changes that by its score.
        gain_B = np.where(none_B, [-float(bool(text)) for text in predicted], scores_B)
        found[f"best_{name}"] = (none_B.sum() + max(0.0, float(np.cumsum(gain_B[order]).max()))) / len(
            predicted
        )
    return {name: float(value) for name, value in found.items()}


def score_answers(
    predicted: Sequence[str], accepted: Sequence[Sequence[str]], languages: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return exact match and F1 ``[B]`` (0 to 1) of each row; arguments and rules as of `compute_answer_metrics`."""
    if not predicted or not len(predicted) == len(accepted) == len(languages):
        raise ValueError(f"{len(predicted)} answers, {len(accepted)} rows, {len(languages)} languages")
    rows = list(zip(predicted, accepted, languages, strict=True))
    exact_B = np.asarray([compute_exact_match(own, wanted or ("",), code) for own, wanted, code in rows])
    f1_B = np.asarray(
        [
            compute_f1(own, wanted, code) if wanted else compute_exact_match(own, ("",), code)
            for own, wanted, code in rows
        ]
    )
    return exact_B, f1_B


def count_words(batch: TextBatch) -> NDArray[np.int64]:
    """Return ``[B]``: the words of each context."""
    return np.asarray([len(find_word_spans(context)) for context in batch.pairs or ()], dtype=np.int64)


def find_null_choices(batch: TextBatch) -> NDArray[np.int64]:
    """Return ``[B]``: the choice "no answer" of each row, behind its last word; -1 where the row has no such choice."""
    optional_B = batch.is_in_mode("optional")
    if not optional_B.any():
        return np.full(len(batch), -1, dtype=np.int64)
    return np.where(optional_B, count_words(batch), -1)
