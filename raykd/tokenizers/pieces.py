"""`PieceTokenizer`: a translation tokenizer on sentencepiece (Marian, M2M-100) with the places of its tokens.

Decision record: these tokenizers have no Rust form, and cannot have one: Marian numbers the pieces of two sentencepiece
models by a third file. So the ids come from transformers, and the places from sentencepiece, which says where each
piece begins. Where the two disagree a token has no place, so nothing is aligned wrongly. A pickled tokenizer contains
its files, because the teacher's folder need not exist on the student's node.
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
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer as RustTokenizer
    from transformers import PreTrainedTokenizer

KINDS = ("MarianTokenizer", "M2M100Tokenizer")
"""Classes of transformers that are wrapped."""
_PLACES = frozenset(
    {"name_or_path", "source_spm", "target_spm", "vocab", "is_local", "backend", "model_max_length"}
    | {"added_tokens_decoder", "tokenizer_class", "processor_class"}
)
"""Settings that say where a tokenizer came from, not what it does."""


class PieceTokenizer:
    """A tokenizer of `KINDS` that also returns the places of tokens.

    Args:
        inner: The tokenizer of transformers, which provides everything else.
    """

    is_fast = True

    def __init__(self, inner: PreTrainedTokenizer) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: object) -> None:
        # Source and target language, for example, belong to the tokenizer that encodes.
        if name == "inner":
            object.__setattr__(self, name, value)
        else:
            setattr(self.inner, name, value)

    def __len__(self) -> int:
        return len(self.inner)

    def __reduce__(self) -> tuple[object, ...]:
        return rebuild_tokenizer, (_files_of(self.inner),)

    def __call__(
        self,
        text: str | list[str] | None = None,
        text_pair: str | list[str] | None = None,
        *,
        text_target: str | list[str] | None = None,
        return_offsets_mapping: bool = False,
        **settings: Any,
    ) -> Mapping[str, Any]:
        """Encode sources (`text`) or targets (`text_target`), as transformers does.

        Args:
            text: One source, or a list.
            text_pair: Passed on; translation does not use it.
            text_target: One target, or a list.
            return_offsets_mapping: Whether to add begin and end of each token in its text; (0, 0) for special tokens.
            **settings: Passed on to transformers.
        """
        encoded: dict[str, Any] = self.inner(text, text_pair, text_target=text_target, **settings)
        if return_offsets_mapping:
            texts, is_target = (text, False) if text_target is None else (text_target, True)
            if isinstance(texts, str):
                encoded["offset_mapping"] = self._locate(texts, encoded["input_ids"], is_target)
            else:
                rows = zip(texts or (), encoded["input_ids"], strict=True)
                encoded["offset_mapping"] = [self._locate(one, ids, is_target) for one, ids in rows]
        return encoded

    @cached_property
    def backend_tokenizer(self) -> RustTokenizer:
        """A Rust tokenizer with the same vocabulary and marks of words. It serves to compare, not to encode."""
        from tokenizers import Tokenizer, models, pre_tokenizers

        vocabulary = self.get_vocab()
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token=str(self.inner.unk_token)))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        signs = [*self.inner.all_special_tokens, *self._languages()]
        backend.add_special_tokens([token for token in signs if token in vocabulary])
        return backend

    def get_vocab(self) -> dict[str, int]:
        """Return the ids of the target's pieces."""
        own = getattr(self.inner, "target_encoder", None)
        vocabulary: dict[str, int] = self.inner.get_vocab() if own is None else dict(own)
        return vocabulary | self._languages()

    def _languages(self) -> dict[str, int]:
        """Return the ids of language tokens, which M2M-100 keeps beside its vocabulary."""
        return dict(getattr(self.inner, "lang_token_to_id", {}))

    def content(self) -> dict[str, object]:
        """Return everything that decides which ids a text gets, as JSON."""
        return describe_slow_tokenizer(self.inner)

    def _locate(self, text: str, ids: Sequence[int], is_target: bool) -> list[tuple[int, int]]:
        """Return begin and end of each token of a text; (0, 0) for tokens that were put around it.

        From the first token on that is not sentencepiece's next piece, all get the empty place where the last known
        one ends, and so match nothing.
        """
        pieces = self._pieces(text, is_target)
        numbers = self._numbers([piece for piece, _ in pieces], is_target)
        special = set(self.inner.all_special_ids) | set(self._languages().values())
        # Skip what was put before the text, but not a special token that the text itself begins with.
        lead = 0
        while lead < len(ids) and ids[lead] in special and ids[lead] not in numbers[:1]:
            lead += 1
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(numbers, ids[lead:], strict=False))
        spans = [span for _, span in pieces[: sum(1 for _ in alike)]]
        end = spans[-1][1] if spans else 0
        rest = [(0, 0) if one in special else (end, end) for one in ids[lead + len(spans) :]]
        return [(0, 0)] * lead + spans + rest

    def _pieces(self, text: str, is_target: bool) -> list[tuple[str, tuple[int, int]]]:
        """Return each piece of a text with its begin and end; special tokens in the text are pieces."""
        found: list[tuple[str, tuple[int, int]]] = []
        at = 0
        for match in self._special_pattern.finditer(text):
            found += self._between(text, at, match.start(), is_target)
            found.append((match.group(), match.span()))
            at = match.end()
        return found + self._between(text, at, len(text), is_target)

    def _between(self, text: str, begin: int, end: int, is_target: bool) -> list[tuple[str, tuple[int, int]]]:
        """Return the pieces of a part of a text. Marian's texts may begin with a language code, which is one."""
        codes, rest = [], text[begin:end]
        if hasattr(self.inner, "remove_language_code"):
            codes, rest = self.inner.remove_language_code(rest)
        first = end - len(rest)
        found = [(code, (begin, first)) for code in codes]
        return found + [
            (piece, (b + first, e + first)) for piece, b, e in _spans(self._model(is_target), rest)
        ]

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        """Matches special tokens in a text, the longest first."""
        tokens = sorted(map(str, self.inner.added_tokens_encoder), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, tokens)) or r"(?!)")  # (?!) matches nothing

    def _numbers(self, pieces: list[str], is_target: bool) -> list[int]:
        """Return the ids of pieces in the vocabulary of one side."""
        own: dict[str, int] | None = getattr(self.inner, "target_encoder", None) if is_target else None
        if own is None:
            return cast("list[int]", self.inner.convert_tokens_to_ids(pieces)) if pieces else []
        return [own.get(piece, own[str(self.inner.unk_token)]) for piece in pieces]

    def _model(self, is_target: bool) -> SentencePieceProcessor:
        """Return the sentencepiece model of one side; M2M-100 has one for both."""
        name = "sp_model" if hasattr(self.inner, "sp_model") else "spm_target" if is_target else "spm_source"
        model: SentencePieceProcessor = getattr(self.inner, name)
        return model


def describe_slow_tokenizer(tokenizer: Any) -> dict[str, object]:
    """Describe a tokenizer without a Rust form by its class, its settings and the hashes of its files, as JSON."""
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
    """Make a tokenizer from the bytes of its files, perhaps in another process."""
    with tempfile.TemporaryDirectory() as folder:
        for name, body in files.items():
            (Path(folder) / name).write_bytes(body)
        return PieceTokenizer(load_auto_tokenizer(Path(folder)))


def load_auto_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer with transformers, without its advice to install sacremoses for Marian."""
    from transformers import AutoTokenizer

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        return AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=trust_remote_code, local_files_only=True
        )


def _files_of(tokenizer: PreTrainedTokenizer, vocabulary_only: bool = False) -> dict[str, bytes]:
    """Return the bytes of the files that a tokenizer saves, by name."""
    with tempfile.TemporaryDirectory() as folder:
        (tokenizer.save_vocabulary if vocabulary_only else tokenizer.save_pretrained)(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}


def _spans(model: SentencePieceProcessor, text: str) -> list[tuple[str, int, int]]:
    """Return each piece with its begin and end in characters."""
    # Sentencepiece counts in bytes.
    places, at = {0: 0}, 0
    for number, character in enumerate(text, 1):
        at += len(character.encode("utf-8", "surrogatepass"))
        places[at] = number
    pieces = model.encode(text, return_type="proto").pieces
    return [(piece.piece, places.get(piece.begin, 0), places.get(piece.end, 0)) for piece in pieces]
