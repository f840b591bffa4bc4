"""Read the log-probabilities of given tokens from the replies of servers.

Decision record:

- Two forms are read: `prompt_logprobs` (vLLM), whose entries are named by token ids, and `echo` with `logprobs`
  (SGLang, llama-cpp-python, OpenAI's first API), whose entries are named by text. A text that several tokens share
  names none of them: what it holds is left to the tail.
- A reply is believed where its tokens are those that were sent. Other tokens are a `TokensDifferError`.
- Log-probabilities at T = 1 give the exact tail at T = 1 and at no other temperature, whatever their number. So a unit
  for which a server gives fewer than were asked for is coarser, never wrong.
- All units of a row hold equally many entries: as many as 19 of 20 have. The few with less are not covered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from raykd.answers.answer import TopKAnswer
from raykd.parse import JsonObject
from raykd.tasks.kinds.language import count_vocabulary
from raykd.text.tokens import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SUM = 0.01
"""How far the probabilities of a unit may sum up beyond 1, which a server's number format explains."""
_POOREST = 0.05
"""Share of a row's units that may hold fewer entries than the row is written with."""
_HALF_MIN = float(np.finfo(np.float16).min)


class TokensDifferError(ValueError):
    """The tokens of a reply are not those that were sent."""


class UnreadableReplyError(ValueError):
    """A reply lacks what was asked for, or holds something else."""


@dataclass(frozen=True)
class TokenScores:
    """What a model says at one place of a text.

    Attributes:
        logp: Log-probabilities at T = 1 by token id, at most k, the likeliest.
        gold: Of the token that stands there.
    """

    logp: dict[int, float]
    gold: float


class TokenNames:
    """How servers write the tokens of a tokenizer as text.

    Args:
        tokenizer: The served model's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.vocab = count_vocabulary(tokenizer)
        self._tokenizer = cast("PreTrainedTokenizerBase", tokenizer)
        self._ids: dict[int, dict[str, int]] = {}

    @cached_property
    def styles(self) -> tuple[list[str], ...]:
        """The text of every id, in each way in which servers write it."""
        raw = [str(t or "") for t in self._tokenizer.convert_ids_to_tokens(list(range(self.vocab)))]
        spaced = [_name_byte(token.replace("▁", " ")) for token in raw]
        decoded = self._tokenizer.batch_decode(
            [[i] for i in range(self.vocab)], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return decoded, spaced, raw

    def is_named(self, token: int, text: str) -> bool:
        """Return whether a server may write a token so. Parts of characters and special tokens have no text."""
        return _is_vague(text) or any(style[token] == text for style in self.styles)

    def choose_style(self, tokens: Sequence[int], texts: Sequence[str]) -> int | None:
        """Return the way in which these texts name these tokens, the one that tells most apart; None for no way."""
        fitting = [
            number
            for number, style in enumerate(self.styles)
            if all(_is_vague(text) or style[i] == text for i, text in zip(tokens, texts, strict=True))
        ]
        return max(fitting, key=lambda number: len(self._find_ids(number)), default=None)

    def find(self, style: int, text: str) -> int | None:
        """Return the only token with this text; None where there is none, or several."""
        found = self._find_ids(style).get(text, -1)
        return None if found < 0 or _is_vague(text) else found

    def _find_ids(self, style: int) -> dict[str, int]:
        """Return the token of each text; -1 for a text that several have."""
        if style not in self._ids:
            ids: dict[str, int] = {}
            for i, text in enumerate(self.styles[style]):
                ids[text] = -1 if text in ids else i
            self._ids[style] = ids
        return self._ids[style]


def read_prompt_logprobs(
    reply: JsonObject, tokens: Sequence[int], k: int, names: TokenNames
) -> list[TokenScores | None]:
    """Read vLLM's `prompt_logprobs`: for each token that was sent what the model says there; None at the first.

    Raises:
        TokensDifferError: They are those of other tokens.
        UnreadableReplyError: There are none.
    """
    places = _read_choice(reply).get("prompt_logprobs", reply.get("prompt_logprobs"))
    if not isinstance(places, list):
        raise UnreadableReplyError("no prompt_logprobs")
    if len(places) != len(tokens):
        raise TokensDifferError(f"{len(places)} tokens, {len(tokens)} were sent")
    found: list[TokenScores | None] = []
    for token, entries in zip(tokens, places, strict=True):
        if not entries:
            found.append(None)
            continue
        own = entries.get(str(token))
        if own is None:
            raise TokensDifferError(
                f"entries of {sorted(entries)[:5]} without the token {token} that was sent"
            )
        text = own.get("decoded_token") if isinstance(own, dict) else None
        if text is not None and not names.is_named(token, text):
            raise TokensDifferError(f"the text {text!r} for token {token}")
        logp = {int(name): _read_number(entry) for name, entry in entries.items()}
        found.append(_make_scores(logp, _read_number(own), k, names.vocab))
    return found


def read_echo(
    reply: JsonObject, tokens: Sequence[int], k: int, names: TokenNames, marks: Collection[int] = ()
) -> list[TokenScores | None]:
    """Read an `echo` with `logprobs`: as `read_prompt_logprobs`.

    Args:
        reply: The server's.
        tokens: Those that were sent, or those of the text that was sent.
        k: Entries per token that were asked for.
        names: The texts of tokens.
        marks: Special tokens where a text was sent: a server may put them before it, and writes none at its end. ()
            where tokens were sent.

    Raises:
        TokensDifferError: The reply is over other tokens.
        UnreadableReplyError: It holds no log-probabilities.
    """
    logprobs = _read_choice(reply).get("logprobs")
    try:
        texts, tops = list(map(str, logprobs["tokens"])), list(logprobs["top_logprobs"])
        own = list(logprobs["token_logprobs"])
    except (TypeError, KeyError):
        raise UnreadableReplyError("no logprobs with tokens, token_logprobs and top_logprobs") from None
    if not len(texts) == len(tops) == len(own):
        raise UnreadableReplyError("logprobs of different lengths")
    body = [i for i, token in enumerate(tokens) if token not in marks]
    first, last = (body[0], body[-1] + 1) if body else (0, 0)
    inner, skip, style = tokens[first:last], 0, None
    for skip in range(3 if marks else 1):  # the server's own marks: written, or written as nothing
        written = texts[skip : skip + len(inner)]
        style = names.choose_style(inner, written) if len(written) == len(inner) else None
        if style is not None:
            break
    if style is None:
        raise TokensDifferError(_show_difference(inner, texts, names))
    found: list[TokenScores | None] = [None] * len(tokens)
    for place, at in enumerate(range(skip, skip + len(inner)), start=first):
        if tops[at] and own[at] is not None:
            known = {names.find(style, text): float(value) for text, value in _list_entries(tops[at])}
            logp = {i: value for i, value in known.items() if i is not None}
            found[place] = _make_scores(logp, float(own[at]), k, names.vocab)
    return found


def build_answer(
    scores: Sequence[TokenScores | None], offsets_N: NDArray[np.int64], vocab: int
) -> tuple[TopKAnswer, int]:
    """Return the answer to one row, and how many entries its units hold.

    Args:
        scores: Of each unit; None where nothing usable is known.
        offsets_N: As `Answer` has them.
        vocab: Size of the vocabulary.
    """
    counts = [len(unit.logp) for unit in scores if unit is not None and unit.logp]
    width = int(np.quantile(counts, _POOREST, method="lower")) if counts else 1
    n = len(scores)
    covered_N = np.zeros(n, dtype=np.bool_)
    ids_NK = np.full((n, width), -1, dtype=np.int32)
    logits_NK, lse_NG = np.zeros((n, width), np.float16), np.zeros((n, 1), np.float32)
    gold_N = np.zeros(n, np.float32)
    for i, unit in enumerate(scores):
        if unit is None or len(unit.logp) < width:
            continue
        kept = sorted(unit.logp.items(), key=lambda item: -item[1])[:width]
        covered_N[i] = True
        ids_NK[i] = [token for token, _ in kept]
        logits_NK[i], lse_NG[i, 0] = _shift(np.asarray([value for _, value in kept], dtype=np.float64))
        gold_N[i] = max(unit.gold, _HALF_MIN)
    answer = TopKAnswer(
        covered_N=covered_N,
        offsets_N=offsets_N,
        gold_logp_N=gold_N,
        ids_NK=ids_NK,
        logits_NK=logits_NK,
        lse_NG=lse_NG,
        temperatures=(1.0,),
        vocab=vocab,
    )
    return answer, width


def _shift(logp_K: NDArray[np.float64]) -> tuple[NDArray[np.float16], float]:
    """Return logits whose largest is 0, as float16, and the log-sum-exp over the whole vocabulary.

    What rounding moves is added to the sum (as `raykd.answers.compress` does), so that the tail stays what it is.
    """
    shifted_K = logp_K - logp_K.max()
    rounded_K = np.maximum(shifted_K, _HALF_MIN).astype(np.float16)
    moved = np.exp(rounded_K.astype(np.float64)).sum() - np.exp(shifted_K).sum()
    whole = max(float(np.exp(-logp_K.max())), float(np.exp(shifted_K).sum()))
    return rounded_K, float(np.log(whole + moved))


def _make_scores(logp: dict[int, float], gold: float, k: int, vocab: int) -> TokenScores:
    """Return the scores of a unit, once they can be log-probabilities.

    Raises:
        UnreadableReplyError: They cannot.
    """
    values = np.asarray([*logp.values(), gold], dtype=np.float64)
    total = float(np.exp(np.minimum(values[:-1], 1.0)).sum())
    if np.isnan(values).any() or values.max() > _SUM or total > 1.0 + _SUM:
        shown = ", ".join(f"{value:.4g}" for value in values[:5])
        raise UnreadableReplyError(
            f"numbers that are no log-probabilities ({shown}; their sum is {total:.3g})"
        )
    # A vocabulary may be padded with rows that no tokenizer gives; they belong to the tail.
    best = sorted(((i, v) for i, v in logp.items() if 0 <= i < vocab), key=lambda item: -item[1])[:k]
    return TokenScores({i: v for i, v in best if v > _HALF_MIN}, gold)


def _read_choice(reply: JsonObject) -> Any:
    try:
        return reply["choices"][0]
    except (KeyError, IndexError, TypeError):
        raise UnreadableReplyError("no choices") from None


def _read_number(entry: object) -> float:
    value = entry.get("logprob") if isinstance(entry, dict) else entry
    if not isinstance(value, int | float):
        raise UnreadableReplyError(f"a log-probability that is no number: {value!r}")
    return float(value)


def _list_entries(top: Any) -> Iterable[tuple[str, float]]:
    """Return text and log-probability of each entry: of a mapping, or of a list of mappings."""
    if isinstance(top, dict):
        return top.items()
    return [(str(entry["token"]), float(entry["logprob"])) for entry in top]


def _name_byte(token: str) -> str:
    """Return the character of a token that stands for a byte of ASCII (`<0x0A>`), else the token."""
    is_byte = len(token) == len("<0x0A>") and token.startswith("<0x") and token.endswith(">")
    return chr(int(token[3:5], 16)) if is_byte and int(token[3:5], 16) < ord("\x80") else token


def _is_vague(text: str) -> bool:
    """Return whether a text may stand for any token: nothing, or a part of a character."""
    return not text or "�" in text or text.startswith("bytes:")


def _show_difference(tokens: Sequence[int], texts: Sequence[str], names: TokenNames) -> str:
    own = [names.styles[0][i] for i in tokens]
    at = next(
        (i for i, (a, b) in enumerate(zip(own, texts, strict=False)) if a != b), min(len(own), len(texts))
    )
    return f"{texts[at : at + 4]} where the tokenizer has {own[at : at + 4]}"
