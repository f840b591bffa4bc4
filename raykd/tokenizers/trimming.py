"""Trim a pretrained tokenizer to the pieces that a run's texts need (vocabulary trimming).

The embedding table is most of a small multilingual model (arXiv:2010.05609, arXiv:2305.15020). A student that reads one
kind of text needs few of its rows.

Decision record:

- What is kept follows from the texts alone, so every worker may trim by itself: special and other added tokens, the
  pieces that the tokenizer cuts the texts into, the single characters of these, ASCII, all 256 bytes where unknown
  characters are written as bytes, and what a kept byte-pair piece is merged from.
- A text whose pieces are all kept is cut as before. WordPiece takes the longest piece that matches, Unigram the best
  path, and byte pairs are merged in the order of their ranks. Choices that were not taken can be left out of each.
  Any other text falls back to shorter pieces, and a character that was not kept to the unknown token.
- `tokenizer.json` is edited and loaded again by transformers, so a run uses what a saved student will load. Pieces keep
  their order and are numbered without gaps.
"""

from __future__ import annotations

import json
import string
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from raykd.errors import ModelError
from raykd.tokenizers.bytepair import BYTES
from raykd.tokenizers.canonical import detect_marking
from raykd.tokenizers.pieces import load_auto_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from raykd.text.tokens import Tokenizer

MODELS = ("WordPiece", "Unigram", "BPE")
"""Kinds of vocabulary that can be trimmed."""
_FILE = "tokenizer.json"
_AT_ONCE = 1000
"""Texts that are cut in one call."""
_ASCII = [c for c in string.printable if not c.isspace()]

Spec = dict[str, Any]
"""The content of a `tokenizer.json`, or of its ``model``."""


def check_trimmable(tokenizer: Tokenizer, where: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer that can be trimmed.

    Args:
        tokenizer: A checkpoint's.
        where: The checkpoint's place, for the message.

    Raises:
        ModelError: Its vocabulary is of another kind, or its class comes with the model.
    """
    found = type(tokenizer).__name__
    if type(tokenizer).__module__.startswith("transformers_modules"):
        found += ", a class that comes with the model"
    elif getattr(tokenizer, "is_fast", False):
        model: Spec = _read_spec(cast("PreTrainedTokenizerFast", tokenizer))["model"]
        found = str(model["type"])
        if found == "BPE" and model.get("continuing_subword_prefix"):
            found += f" that marks continued words with {model['continuing_subword_prefix']}"
        elif found == "Unigram" and len({piece for piece, _ in model["vocab"]}) < len(model["vocab"]):
            found += " with a piece that is there twice"
    if found not in MODELS:
        raise ModelError(
            f"the vocabulary of {where} cannot be trimmed",
            got=found,
            wanted=f"a fast tokenizer (tokenizer.json) of the kind {', '.join(MODELS[:-1])} or {MODELS[-1]}",
            next_step="leave student.vocabulary out, or name another checkpoint",
        )
    return cast("PreTrainedTokenizerFast", tokenizer)


def trim_tokenizer(
    tokenizer: PreTrainedTokenizerFast,
    texts: Iterable[str],
    vocab_size: int | None = None,
    named: Collection[int] = (),
) -> PreTrainedTokenizerFast:
    """Trim a tokenizer to the pieces of some texts. The same texts give the same tokenizer.

    Args:
        tokenizer: One that `check_trimmable` returned; not changed.
        texts: The texts; read once.
        vocab_size: Most pieces: the most frequent ones are kept, and characters take at most half of it. None keeps all
            that occur.
        named: Ids that the model's configuration names (the end of a text, for example); kept.

    Returns:
        A tokenizer of the same class.

    Raises:
        ModelError: Special tokens and bytes alone are more than `vocab_size`.
    """
    spec = _read_spec(tokenizer)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    by_id = {i: piece for piece, i in vocabulary.items()}
    found = Counter({by_id[i]: n for i, n in _count_ids(tokenizer, texts).items() if i in by_id})

    def rank(counts: Mapping[str, int]) -> list[str]:
        return sorted(
            counts.keys() & vocabulary.keys(), key=lambda piece: (-counts[piece], vocabulary[piece])
        )

    fixed = {by_id[i] for i in {*_list_special_ids(spec), *named} if i in by_id}
    kept = fixed | (_list_fallback_pieces(spec) & vocabulary.keys())
    if vocab_size is not None and len(kept) > vocab_size:
        raise ModelError(
            "a trimmed vocabulary has no room for the tokens that it must keep",
            got=f"student.vocab_size {vocab_size}; {len(kept)} special tokens and bytes",
            wanted=f"more than {len(kept)}",
            next_step="raise student.vocab_size, or leave it out",
        )
    characters = [c for c in rank(_count_characters(tokenizer, spec["model"], found)) if c not in kept]
    kept.update(characters if vocab_size is None else characters[: max(0, vocab_size // 2 - len(kept))])
    find_parts = _make_part_finder(spec["model"])
    for piece in rank(found):
        more = ({piece, *find_parts(piece)} & vocabulary.keys()) - kept
        if vocab_size is None or len(kept) + len(more) <= vocab_size:
            kept |= more
    return _rebuild(tokenizer, spec, sorted(kept, key=vocabulary.__getitem__))


def list_kept_ids(trimmed: Tokenizer, whole: Tokenizer) -> list[int | None]:
    """Return each token's id in the whole tokenizer; None for a token that was added to the trimmed one."""
    ids: dict[str, int] = cast("PreTrainedTokenizerFast", whole).get_vocab()
    own: dict[str, int] = cast("PreTrainedTokenizerFast", trimmed).get_vocab()
    return [ids.get(token) for token in sorted(own, key=own.__getitem__)]


def compute_unknown_share(
    tokenizer: Tokenizer, sequences: Iterable[Sequence[int] | NDArray[np.int64]]
) -> float:
    """Compute the share of tokens that are the unknown token; 0 for a tokenizer that has none."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    arrays = [np.asarray(ids, dtype=np.int64) for ids in sequences]
    count = 0 if unknown is None else sum(int((ids == unknown).sum()) for ids in arrays)
    return count / max(1, sum(map(len, arrays)))


def _read_spec(tokenizer: PreTrainedTokenizerFast) -> Spec:
    spec: Spec = json.loads(tokenizer.backend_tokenizer.to_str())
    return spec


def _count_ids(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Counter[int]:
    """Count the tokens of texts, without special tokens and without a limit of length."""
    counts: Counter[int] = Counter()
    waiting = iter(texts)
    while batch := list(islice(waiting, _AT_ONCE)):
        ids = tokenizer(batch, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        counts.update(chain.from_iterable(cast("list[list[int]]", ids)))
    return counts


def _list_special_ids(spec: Spec) -> set[int]:
    """List the ids of added tokens, and those that a text's beginning, end and padding get."""
    ids = {int(token["id"]) for token in spec["added_tokens"]}
    _change_ids(spec, lambda i: ids.add(i) or i)  # type: ignore[func-returns-value]
    return ids


def _list_fallback_pieces(spec: Spec) -> set[str]:
    """List the pieces that stand for anything else: the unknown token, and bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    model: Spec = spec["model"]
    pieces = {model["unk_token"]} if model.get("unk_token") else set()
    if model.get("byte_fallback"):
        pieces.update(BYTES)
    if model["type"] == "Unigram":
        # Unknown characters score a fixed amount below the lowest piece, so that piece decides between paths.
        pieces.add(min(model["vocab"], key=lambda entry: entry[1])[0])
        if model["unk_id"] is not None:
            pieces.add(model["vocab"][model["unk_id"]][0])
    if model["type"] == "BPE" and '"ByteLevel"' in json.dumps([spec["pre_tokenizer"], spec["normalizer"]]):
        alphabet = ByteLevel.alphabet()
        pieces.update(alphabet, (c + (model.get("end_of_word_suffix") or "") for c in alphabet))
    return pieces


def _count_characters(
    tokenizer: PreTrainedTokenizerFast, model: Spec, found: Mapping[str, int]
) -> Counter[str]:
    """Count the pieces of one character that the pieces could be spelt with; ASCII counts once more."""
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    counts: Counter[str] = Counter(_ASCII)
    for piece, count in found.items():
        for character in piece.removeprefix(prefix).removesuffix(suffix):
            counts[character] += count
    if model["type"] == "WordPiece" and prefix:
        marking = detect_marking(tokenizer)
        inside = {prefix + c: n for c, n in counts.items() if not marking.stands_alone(c)}
        return counts + Counter(inside)
    return counts + Counter({c + suffix: n for c, n in counts.items()}) if suffix else counts


def _make_part_finder(model: Spec) -> Callable[[str], list[str]]:
    """Return a function that lists the pieces from which a byte-pair piece is merged; of other pieces none."""
    if model["type"] != "BPE":
        return lambda piece: []
    ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
    suffix = model.get("end_of_word_suffix") or ""

    def find_parts(piece: str) -> list[str]:
        text = piece.removesuffix(suffix) if suffix else piece
        symbols = [*text[:-1], text[-1:] + piece[len(text) :]]
        parts = list(symbols)
        while len(symbols) > 1:
            rank, at = min((ranks.get(pair, len(ranks)), at) for at, pair in enumerate(pairwise(symbols)))
            if rank == len(ranks):  # it is looked up whole, or never reached
                return []
            symbols[at : at + 2] = ["".join(symbols[at : at + 2])]
            parts.append(symbols[at])
        return parts

    return find_parts


def _rebuild(tokenizer: PreTrainedTokenizerFast, spec: Spec, kept: list[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer with these pieces, numbered in this order."""
    old, new = tokenizer.get_vocab(), {piece: i for i, piece in enumerate(kept)}
    numbers = {old[piece]: i for piece, i in new.items()}
    _trim_model(spec["model"], new)
    for token in spec["added_tokens"]:
        token["id"] = numbers[token["id"]]
    _change_ids(spec, numbers.__getitem__)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        (Path(folder) / _FILE).write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
        trimmed: PreTrainedTokenizerFast = load_auto_tokenizer(Path(folder))
    trimmed.name_or_path = tokenizer.name_or_path
    if trimmed.get_vocab() != new:
        raise ModelError(
            f"the class {type(tokenizer).__name__} numbers a trimmed vocabulary in a way of its own",
            got=f"{len(trimmed)} tokens",
            wanted=f"{len(new)}, in the order of the checkpoint",
            next_step="leave student.vocabulary out, or name another checkpoint",
        )
    return trimmed


def _trim_model(model: Spec, new: Mapping[str, int]) -> None:
    """Leave only these pieces in a model, with these numbers."""
    if model["type"] == "Unigram":
        unknown = None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
        model["vocab"] = [entry for entry in model["vocab"] if entry[0] in new]
        model["unk_id"] = None if unknown is None else new[unknown]
        return
    model["vocab"] = {piece: new[piece] for piece in model["vocab"] if piece in new}
    if model["type"] == "BPE":
        merges = ((left, right) for left, right in model["merges"] if left in new and right in new)
        model["merges"] = [[left, right] for left, right in merges if left + right in new]


def _change_ids(spec: Spec, change: Callable[[int], int]) -> None:
    """Change the ids that stand in the post-processor and in the padding."""
    if spec.get("padding"):
        spec["padding"]["pad_id"] = change(int(spec["padding"]["pad_id"]))
    waiting: list[Spec] = [spec["post_processor"]] if spec.get("post_processor") else []
    while waiting:
        part = waiting.pop()
        waiting += part.get("processors") or []
        for name in ("sep", "cls"):
            if name in part:
                part[name] = [part[name][0], change(int(part[name][1]))]
        for token in (part.get("special_tokens") or {}).values():
            token["ids"] = [change(int(i)) for i in token["ids"]]
