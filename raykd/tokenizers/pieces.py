"""`PieceTokenizer`: a translation tokenizer on sentencepiece (Marian, M2M-100) with the places of its tokens.

Decision record: transformers has no Rust form of these tokenizers, and a Rust model cannot have one: Marian numbers
the pieces of two sentencepiece models by a third file. So the ids are transformers' own, one call per text, and the
places come from sentencepiece, which says where each piece begins; where the two do not agree a token has no place of
its own, and nothing is aligned wrongly. The object travels to other processes with its files, because the teacher's
folder need not be on the student's node.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

KINDS = ("MarianTokenizer", "M2M100Tokenizer")
"""Tokenizers of transformers that are served this way."""
_PLACES = frozenset(
    {"name_or_path", "source_spm", "target_spm", "vocab", "is_local", "backend", "model_max_length"}
    | {"added_tokens_decoder", "tokenizer_class", "processor_class"}
)
"""Settings of a tokenizer that say where it came from, not what it does."""


class PieceTokenizer:
    """A tokenizer of `KINDS` that also says where the tokens of a target stand.

    Args:
        inner: The tokenizer of transformers, which gives ids, special tokens and decoded texts.
    """

    is_fast = True

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: object) -> None:
        # Languages, for example, are set on the tokenizer that encodes.
        if name == "inner":
            object.__setattr__(self, name, value)
        else:
            setattr(self.inner, name, value)

    def __len__(self) -> int:
        return len(self.inner)

    def __reduce__(self) -> Any:
        return rebuild_tokenizer, (_files_of(self.inner),)

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        *,
        text_target: Any = None,
        return_offsets_mapping: bool = False,
        **settings: Any,
    ) -> Mapping[str, Any]:
        """Encode sources (`text`) or targets (`text_target`), as transformers does.

        Args:
            text: Sources, a list or one.
            text_pair: Not used by translation; handed on.
            text_target: Targets.
            return_offsets_mapping: Add begin and end of each token in its text, (0, 0) of special ones.
            **settings: Handed on to transformers.
        """
        encoded = self.inner(text, text_pair, text_target=text_target, **settings)
        if return_offsets_mapping:
            texts, is_target = (text, False) if text_target is None else (text_target, True)
            if isinstance(texts, str):
                encoded["offset_mapping"] = self._offsets(texts, encoded["input_ids"], is_target)
            else:
                rows = zip(texts, encoded["input_ids"], strict=True)
                encoded["offset_mapping"] = [self._offsets(one, ids, is_target) for one, ids in rows]
        found: Mapping[str, Any] = encoded
        return found

    @cached_property
    def backend_tokenizer(self) -> Any:
        """Vocabulary and marks of words as a Rust tokenizer, for comparing vocabularies; not for encoding."""
        from tokenizers import Tokenizer, models, pre_tokenizers

        vocabulary = self.get_vocab()
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token=str(self.inner.unk_token)))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        signs = [*self.inner.all_special_tokens, *self._languages()]
        backend.add_special_tokens([token for token in signs if token in vocabulary])
        return backend

    def get_vocab(self) -> dict[str, int]:
        """Numbers of the target's pieces."""
        own = getattr(self.inner, "target_encoder", None)
        vocabulary: dict[str, int] = self.inner.get_vocab() if own is None else dict(own)
        return vocabulary | self._languages()

    def _languages(self) -> dict[str, int]:
        """Tokens of languages, which M2M-100 keeps beside its vocabulary."""
        return dict(getattr(self.inner, "lang_token_to_id", {}))

    def content(self) -> dict[str, Any]:
        """All that decides which ids a text gets, as JSON."""
        return describe_slow_tokenizer(self.inner)

    def _offsets(self, text: str, ids: Sequence[int], is_target: bool) -> list[tuple[int, int]]:
        """Places of the tokens of one text; (0, 0) of those that were put around it.

        Tokens that sentencepiece does not give in this order all begin where the last known one ends, and so match
        nothing.
        """
        pieces = self._pieces(text, is_target)
        numbers = self._numbers([piece for piece, _ in pieces], is_target)
        special = set(self.inner.all_special_ids) | set(self._languages().values())
        lead = 0
        while lead < len(ids) and ids[lead] in special and ids[lead] not in numbers[:1]:
            lead += 1
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(numbers, ids[lead:], strict=False))
        spans = [span for _, span in pieces[: sum(1 for _ in alike)]]
        end = spans[-1][1] if spans else 0
        rest = [(0, 0) if one in special else (end, end) for one in ids[lead + len(spans) :]]
        return [(0, 0)] * lead + spans + rest

    def _pieces(self, text: str, is_target: bool) -> list[tuple[str, tuple[int, int]]]:
        """Each piece of a text with its begin and end: special tokens that stand in it, and what is between them."""
        found: list[tuple[str, tuple[int, int]]] = []
        at = 0
        for match in self._signs.finditer(text):
            found += self._between(text, at, match.start(), is_target)
            found.append((match.group(), match.span()))
            at = match.end()
        return found + self._between(text, at, len(text), is_target)

    def _between(self, text: str, begin: int, end: int, is_target: bool) -> list[tuple[str, tuple[int, int]]]:
        """Pieces of a part of a text; a language code that Marian's texts begin with is one."""
        codes, rest = [], text[begin:end]
        if hasattr(self.inner, "remove_language_code"):
            codes, rest = self.inner.remove_language_code(rest)
        first = end - len(rest)
        found = [(code, (begin, first)) for code in codes]
        return found + [
            (piece, (b + first, e + first)) for piece, b, e in _spans(self._model(is_target), rest)
        ]

    @cached_property
    def _signs(self) -> re.Pattern[str]:
        """Special tokens as they may stand in a text, the longest first."""
        signs = sorted(map(str, self.inner.added_tokens_encoder), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, signs)) or r"(?!)")

    def _numbers(self, pieces: list[str], is_target: bool) -> list[int]:
        """Ids of pieces in the vocabulary of one side."""
        own = getattr(self.inner, "target_encoder", None) if is_target else None
        if own is None:
            numbers: list[int] = self.inner.convert_tokens_to_ids(pieces) if pieces else []
            return numbers
        return [own.get(piece, own[str(self.inner.unk_token)]) for piece in pieces]

    def _model(self, is_target: bool) -> Any:
        """The sentencepiece model of one side."""
        if hasattr(self.inner, "spm_target"):
            return self.inner.spm_target if is_target else self.inner.spm_source
        return self.inner.sp_model


def describe_slow_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Identify a tokenizer without a Rust form by its class, its settings and the bytes of its files."""
    settings = {
        key: str(value)
        for key, value in sorted(tokenizer.init_kwargs.items())
        if "file" not in key and key not in _PLACES
    }
    digests = {name: hashlib.sha256(body).hexdigest() for name, body in _files_of(tokenizer, True).items()}
    return {
        "class": type(tokenizer).__name__,
        "settings": settings,
        "files": digests,
        "added": {str(token): i for i, token in sorted(tokenizer.added_tokens_decoder.items())},
        "specials": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "inputs": list(tokenizer.model_input_names),
        "pad": tokenizer.pad_token_id,
    }


def rebuild_tokenizer(files: Mapping[str, bytes]) -> PieceTokenizer:
    """Make a tokenizer from its files' bytes, in another process perhaps."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        for name, body in files.items():
            (Path(folder) / name).write_bytes(body)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
            return PieceTokenizer(AutoTokenizer.from_pretrained(folder, local_files_only=True))


def _files_of(tokenizer: Any, vocabulary_only: bool = False) -> dict[str, bytes]:
    """The files that a tokenizer saves, by name."""
    with tempfile.TemporaryDirectory() as folder:
        (tokenizer.save_vocabulary if vocabulary_only else tokenizer.save_pretrained)(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}


def _spans(model: Any, text: str) -> list[tuple[str, int, int]]:
    """Each piece with its begin and end in characters; sentencepiece counts in bytes."""
    places, at = {0: 0}, 0
    for number, character in enumerate(text, 1):
        at += len(character.encode("utf-8", "surrogatepass"))
        places[at] = number
    try:
        pieces = model.encode(text, return_type="proto").pieces
    except TypeError:  # sentencepiece below 0.2.2
        from sentencepiece import sentencepiece_pb2

        pieces = sentencepiece_pb2.SentencePieceText.FromString(model.encode_as_serialized_proto(text)).pieces
    return [(piece.piece, places.get(piece.begin, 0), places.get(piece.end, 0)) for piece in pieces]
