"""Load and inspect the tokenizer of a directory.

Decision record: raykd prefers a tokenizer's Rust form (`tokenizer.json`). transformers converts a sentencepiece file to
it while loading, which needs the package sentencepiece; a check before anything starts says if that is missing. Marian
and M2M-100 have no Rust form and are served by `raykd.tokenizers.pieces`. Other tokenizers in Python return ids without
the places of tokens, which is enough for tasks whose unit is a whole text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.errors import ModelError
from raykd.head import Head
from raykd.networks.heads import register
from raykd.pretrained import files
from raykd.pretrained.adapters import is_installed, read_adapter_folders
from raykd.pretrained.allowed import check_code
from raykd.pretrained.errors import raise_as_model_error
from raykd.pretrained.hub import resolve_small_files
from raykd.pretrained.jsonfile import read_json
from raykd.text.tokens import name_adapters
from raykd.text.word_tokens import reads_words_alone
from raykd.tokenizers.ngrams import FILE as NGRAMS
from raykd.tokenizers.ngrams import HashedNgrams
from raykd.tokenizers.pieces import KINDS, PieceTokenizer, load_auto_tokenizer
from raykd.tokenizers.union import FILE as UNION
from raykd.tokenizers.union import UnionTokenizer

if TYPE_CHECKING:
    from raykd.text.tokens import Tokenizer

_NO_LIMIT = 10**9
"""transformers writes a larger number for a tokenizer without a limit."""
_PLACED: frozenset[Head] = frozenset(
    {"token_classification", "question_answering", "causal_lm", "seq2seq", "masked_lm"}
)
"""Heads whose tasks need the places of tokens."""


@dataclass(frozen=True)
class TokenizerFacts:
    """Facts about a tokenizer. Made by `inspect_tokenizer`.

    Attributes:
        size: The highest id plus 1; None if ids are not numbers of a vocabulary.
        last: The tokens of the highest ids, by id.
        idle: Ids of special tokens that it neither adds to a text nor pads with.
        special: How many tokens it adds to a text, and to a pair of texts.
        limit: Most tokens that the model reads, by the tokenizer's settings; None if they do not say.
        signs: Special tokens that it would recognise in a text.
        token_types: Whether it returns token types.
    """

    size: int | None
    last: dict[int, str]
    idle: frozenset[int]
    special: tuple[int, int]
    limit: int | None
    signs: tuple[str, ...]
    token_types: bool


def load_tokenizer(
    path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> Tokenizer:
    """Load the tokenizer of a directory, which needs no weights, or of a hub name.

    Args:
        path: A local directory or a hub name.
        revision: Branch, tag or commit of a hub name.
        trust_remote_code: Whether code that comes with it may run.

    Raises:
        ModelError: There is none, it wants to run code of its own, or a package that it needs is not installed.
    """
    folder = resolve_small_files(path, revision=revision, trust_remote_code=trust_remote_code)
    check_code(folder, trust_remote_code=trust_remote_code)
    languages = tuple(read_adapter_folders(folder))
    if (folder / NGRAMS).is_file():
        return HashedNgrams.from_pretrained(folder)
    if (folder / UNION).is_file():
        return UnionTokenizer.from_pretrained(folder)
    folder = files.find_tokenizer_folder(folder)
    if not files.has_tokenizer(folder):
        raise files.missing_tokenizer_error(folder)
    config = folder / files.CONFIG
    if config.is_file() and str(read_json(config).get("model_type")).startswith("raykd_"):
        register()
    check_packages(folder)
    with raise_as_model_error(f"the tokenizer of {folder} cannot be loaded"):
        tokenizer = load_auto_tokenizer(folder, trust_remote_code=trust_remote_code)
    tokenizer = PieceTokenizer(tokenizer) if type(tokenizer).__name__ in KINDS else tokenizer
    return name_adapters(tokenizer, languages) if languages else tokenizer


def check_packages(folder: Path) -> None:
    """Refuse a tokenizer of sentencepiece files alone where sentencepiece is not installed.

    Raises:
        ModelError: With what to install.
    """
    pieces = sorted(path.name for pattern in files.PIECES for path in folder.glob(pattern))
    if not pieces or (folder / "tokenizer.json").is_file():
        return
    missing = [name for name in ("sentencepiece", "google.protobuf") if not is_installed(name)]
    if missing:
        install = 'pip install "raykd[sentencepiece]" (or: pip install sentencepiece protobuf)'
        save = "AutoTokenizer.from_pretrained(path).save_pretrained(path)"
        rust = not any(name.endswith(".spm") for name in pieces)  # Marian has no tokenizer.json
        raise ModelError(
            f"the tokenizer of {folder} is a sentencepiece model, and the package sentencepiece that reads it is not "
            "installed",
            got=", ".join(pieces),
            wanted="the package, or tokenizer.json beside it" if rust else "the package",
            next_step=f"{install}; or save tokenizer.json where it is installed: {save}" if rust else install,
        )


def inspect_tokenizer(tokenizer: Tokenizer) -> TokenizerFacts:
    """Inspect a tokenizer."""
    size, last, idle = None, {}, frozenset[int]()
    vocabulary = _read_vocabulary(tokenizer)
    if vocabulary is not None:
        by_id = {int(i): token for token, i in vocabulary.items()}
        size = max(by_id, default=-1) + 1
        last = dict(sorted(by_id.items())[-1000:])
        idle = frozenset(getattr(tokenizer, "all_special_ids", ())) - _list_used_ids(tokenizer)
    limit = getattr(tokenizer, "model_max_length", None)
    return TokenizerFacts(
        size=size,
        last=last,
        idle=idle,
        special=(_added(tokenizer, False), _added(tokenizer, True)),
        limit=limit if isinstance(limit, int) and 0 < limit < _NO_LIMIT else None,
        signs=()
        if getattr(tokenizer, "split_special_tokens", False)
        else tuple(str(sign) for sign in getattr(tokenizer, "all_special_tokens", ()) if len(sign) > 2),
        token_types="token_type_ids" in getattr(tokenizer, "model_input_names", ()),
    )


def _read_vocabulary(tokenizer: Tokenizer) -> dict[str, int] | None:
    """Return ids by token; None if ids are no numbers of a vocabulary (Canine's are code points)."""
    read: Callable[[], dict[str, int]] | None = getattr(tokenizer, "get_vocab", None)
    return None if read is None or type(tokenizer).__name__ == "CanineTokenizer" else read()


def _list_used_ids(tokenizer: Any) -> frozenset[int]:
    """List ids of special tokens that occur in inputs whatever the text is: around it, as padding, unknown or mask."""
    names = ("pad", "unk", "mask", "bos", "eos", "sep", "cls")
    named = {name: getattr(tokenizer, f"{name}_token_id", None) for name in names}
    around = set(tokenizer(["a"], ["a"])["input_ids"][0]) | set(tokenizer(["a"])["input_ids"][0])
    used = {named[name] for name in ("pad", "unk", "mask")} | (around & set(named.values()))
    return frozenset(i for i in used if i is not None)


def _added(tokenizer: Tokenizer, pair: bool) -> int:
    count = getattr(tokenizer, "num_special_tokens_to_add", None)
    return int(count(pair=pair)) if count is not None else 0


def check_words(tokenizer: Tokenizer, where: str) -> None:
    """Refuse a tokenizer that has special tokens and no words, because the files of its vocabulary are missing.

    Raises:
        ModelError: With the files that it would need.
    """
    vocabulary = _read_vocabulary(tokenizer)
    if vocabulary is not None and not set(vocabulary.values()) - set(
        getattr(tokenizer, "all_special_ids", ())
    ):
        raise ModelError(
            f"the tokenizer of {where} has special tokens and no words: the files of its vocabulary are missing",
            got=f"{len(tokenizer)} tokens",
            wanted="tokenizer.json, vocab.txt, or vocab.json and merges.txt",
            next_step="copy or download the directory again, with the tokenizer's files",
        )


def check_placed(tokenizer: Tokenizer, head: Head, where: str) -> None:
    """Refuse a tokenizer without places of tokens, or without a mask token, if the task needs them.

    Args:
        tokenizer: The model's.
        head: What the model has to serve.
        where: The model's place, for the message.

    Raises:
        ModelError: With what the tokenizer can be used for.
    """
    reads_words = head == "token_classification" and reads_words_alone(tokenizer)
    if head in _PLACED and not (
        getattr(tokenizer, "is_fast", False) or getattr(tokenizer, "by_language", False) or reads_words
    ):
        raise ModelError(
            f"the tokenizer of {where} does not say where its tokens stand in a text, which this task needs",
            got=f"{type(tokenizer).__name__} for {head}",
            wanted="a fast tokenizer (tokenizer.json)",
            next_step="name a model with a fast tokenizer; this one can serve a classification of whole texts",
        )
    if head == "masked_lm" and getattr(tokenizer, "mask_token_id", None) is None:
        raise ModelError(
            f"the tokenizer of {where} has no mask token, and a masked language model is asked at one",
            got=type(tokenizer).__name__,
            wanted="a tokenizer with a mask token",
            next_step="name the checkpoint that was trained as a masked language model",
        )
