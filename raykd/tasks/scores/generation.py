"""Score written text: chrF and BLEU by sacrebleu, ROUGE by rouge_score, exact match, perplexity.

Decision record: corpus scores, with the tokenization of the reference's language, because a score without it cannot
be compared: BLEU uses sacrebleu's ``zh`` for Chinese, ``char`` for the other scripts without blanks (``ja-mecab``
needs a dictionary that is not installed), ``13a`` for all else. The tokenizer that rouge_score brings keeps only a-z
and 0-9 and silently gives 0 for any other script, so it is replaced by words of `raykd.text.words`, lower
case, signs dropped; for English without accents the two are the same. chrF and BLEU run from 0 to 100 as sacrebleu
prints them, all else from 0 to 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from raykd.text.words import UNSPACED_LANGUAGES, split_words

NAMES = ("chrf", "bleu", "rouge1", "rouge2", "rougeL", "exact_match")
"""What `compute_generation_metrics` can measure."""
_ROUGE = ("rouge1", "rouge2", "rougeL")
_END = re.compile(r"(?:\s*(?:</s>|<eos>|<end_of_turn>|<\|[A-Za-z_]+\|>|\[(?:SEP|EOS)\]))+\s*\Z")
"""Ends of texts as tokenizers spell them. Written texts are decoded without; references of rendered chats have one."""


class _WordTokenizer:
    """A tokenizer as rouge_score wants one."""

    def tokenize(self, text: str) -> list[str]:
        return split_words(text.lower(), signs=False)


def choose_bleu_tokenizer(language: str) -> str:
    """Return sacrebleu's name of the tokenization for a language code."""
    main = language.lower().replace("_", "-").partition("-")[0]
    if main in ("zh", "yue"):
        return "zh"
    return "char" if main in UNSPACED_LANGUAGES else "13a"


def compute_perplexity(nll_sum: float, tokens: int) -> float:
    """Return ``exp`` of the mean negative log-likelihood (nats) per token; infinite where a float holds no such number.

    Raises:
        ValueError: There are no tokens.
    """
    if tokens < 1:
        raise ValueError("perplexity of no tokens")
    try:
        return math.exp(nll_sum / tokens)
    except OverflowError:
        return math.inf


def compute_generation_metrics(
    hypotheses: Sequence[str],
    references: Sequence[str],
    language: str,
    names: Sequence[str] = NAMES,
) -> dict[str, float]:
    """Return the scores of B texts of one language against one reference each.

    Args:
        hypotheses: The written texts.
        references: The references.
        language: Code of the language that is written; chooses BLEU's tokenization.
        names: Some of `NAMES`.

    Returns:
        Scores in the order of ``names``. ROUGE is the mean F-measure over texts.

    Raises:
        ValueError: There are no texts, the numbers of texts and references differ, or a name is not of `NAMES`.
    """
    hypotheses, references = [_END.sub("", t) for t in hypotheses], [_END.sub("", t) for t in references]
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} texts and {len(references)} references")
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ValueError(f"{unknown} cannot be measured on text, only {list(NAMES)}")
    found: dict[str, float] = {}
    if "chrf" in names or "bleu" in names:
        found |= _compute_sacrebleu(hypotheses, references, language)
    if any(name in _ROUGE for name in names):
        found |= _compute_rouge(hypotheses, references, [name for name in names if name in _ROUGE])
    if "exact_match" in names:
        same = [a.strip() == b.strip() for a, b in zip(hypotheses, references, strict=True)]
        found["exact_match"] = float(np.mean(same))
    return {name: found[name] for name in names}


def _compute_sacrebleu(
    hypotheses: Sequence[str], references: Sequence[str], language: str
) -> dict[str, float]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    texts, golds = list(hypotheses), [list(references)]
    return {
        "chrf": float(CHRF().corpus_score(texts, golds).score),
        "bleu": float(BLEU(tokenize=choose_bleu_tokenizer(language)).corpus_score(texts, golds).score),
    }


def _compute_rouge(
    hypotheses: Sequence[str], references: Sequence[str], names: Sequence[str]
) -> dict[str, float]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(names), tokenizer=_WordTokenizer())
    rows = [scorer.score(gold, text) for text, gold in zip(hypotheses, references, strict=True)]
    return {name: float(np.mean([row[name].fmeasure for row in rows])) for name in names}
