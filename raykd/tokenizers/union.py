"""`UnionTokenizer`: the vocabularies of several monolingual masked language models as one (arXiv:2106.02834).

Decision record: in MergeDistill each text is cut by the tokenizer of its language's teacher, and the pieces are
numbered in the union of all vocabularies. Teacher and student then see the same tokens at the same places, and a table
carries a teacher's answer over to the student. Pieces of different tokenizers share a number if their canonical keys
are equal (`raykd.tokenizers.canonical`). The roles pad, unk, cls, sep and mask are shared however they are spelt.

Numbers follow the order of the members and then each member's own, so they depend on the members alone. A saved union
holds the members and a digest of the numbering. `raykd.distill.masking` chooses the tokens that are masked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raykd.distill.masking import ROLES
from raykd.errors import DataError, ModelError
from raykd.tokenizers.canonical import find_backend, list_canonical_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FILE = "union_tokenizer.json"
FORMAT = 1
_FIELDS = ("input_ids", "attention_mask", "token_type_ids", "offset_mapping", "special_tokens_mask")


class UnionTokenizer:
    """Encodes each text with its language's tokenizer, as ids of the union vocabulary.

    Args:
        members: Fast tokenizers that have all of `ROLES`.
        languages: The number of the member for each language.
        default: The language of texts without one; None refuses them.

    Attributes:
        maps: For each member int32 ``[V_k]``, from its ids to the union's, no union id twice. Gaps in the member's
            numbering are -1.
        by_language: Tells tasks that this tokenizer takes the language of each text.

    Raises:
        ModelError: A member lacks one of the roles, or has no vocabulary of strings.
        ValueError: There are no members, or a language names another one.
    """

    by_language: ClassVar[bool] = True

    def __init__(
        self,
        members: Sequence[PreTrainedTokenizerFast],
        languages: Mapping[str, int],
        *,
        default: str | None = None,
    ) -> None:
        if not members or not set(languages.values()) <= set(range(len(members))):
            raise ValueError(f"{len(members)} members, languages {dict(languages)}")
        if default is not None and default not in languages:
            raise ValueError(f"the default language {default!r} is none of {sorted(languages)}")
        self.members, self.languages, self.default = tuple(members), dict(languages), default
        self.maps, self._size = _number_tokens(self.members)
        names = [set(member.model_input_names) for member in self.members]
        common = set.intersection(*names) | {"input_ids", "attention_mask"}
        self.model_input_names = [name for name in _FIELDS[:3] if name in common]
        self.pad_token_id, self.unk_token_id, self.cls_token_id, self.sep_token_id, self.mask_token_id = (
            range(5)
        )
        self.all_special_ids = list(range(len(ROLES)))

    def __len__(self) -> int:
        return self._size

    def member(self, language: str | None) -> int:
        """Return the number of a language's tokenizer.

        Raises:
            DataError: No tokenizer is for this language.
        """
        found = self.languages.get(language if language is not None else self.default or "")
        if found is None:
            raise DataError(
                "a text's language has no tokenizer in the union",
                got=language if language is not None else "no language",
                wanted=", ".join(sorted(self.languages)),
                next_step="give each row its language, or name a default language",
            )
        return found

    def __call__(
        self,
        text: Sequence[str],
        text_pair: Sequence[str] | None = None,
        *,
        languages: Sequence[str | None] | None = None,
        truncation: bool = True,
        max_length: int | None = None,
        return_offsets_mapping: bool = False,
        return_special_tokens_mask: bool = False,
        verbose: bool = True,
    ) -> Mapping[str, list[Any]]:
        """Encode B texts or pairs.

        Args:
            text: The texts, or the first texts of pairs.
            text_pair: The second texts.
            languages: Of each text; None, for one or for all, is the default language.
            truncation: Whether to cut texts at `max_length`.
            max_length: In tokens.
            return_offsets_mapping: Whether to return begin and end of each token in its text.
            return_special_tokens_mask: Whether to return which tokens are special.
            verbose: Whether to warn of texts that are longer than a member's model can read.

        Returns:
            Ids, masks and what else was asked for, as lists that are not padded.

        Raises:
            DataError: As `member`.
        """
        spoken = [None] * len(text) if languages is None else list(languages)
        chosen_B = np.asarray([self.member(language) for language in spoken], dtype=np.int64)
        wanted = set(self.model_input_names)
        wanted |= {"offset_mapping"} if return_offsets_mapping else set()
        wanted |= {"special_tokens_mask"} if return_special_tokens_mask else set()
        result: dict[str, list[object]] = {name: [None] * len(text) for name in _FIELDS if name in wanted}
        for k in np.unique(chosen_B):
            rows = np.flatnonzero(chosen_B == k).tolist()
            encoded = self.members[k](
                [text[i] for i in rows],
                None if text_pair is None else [text_pair[i] for i in rows],
                truncation=truncation and max_length is not None,
                max_length=max_length,
                return_offsets_mapping=return_offsets_mapping,
                return_special_tokens_mask=return_special_tokens_mask,
                return_attention_mask=True,
                verbose=verbose,
            )
            for name, values in result.items():
                for i, row in zip(rows, encoded[name], strict=True):
                    values[i] = self.maps[k][row].tolist() if name == "input_ids" else row
        return result

    def decode(
        self, ids: Sequence[int], language: str | None = None, *, skip_special_tokens: bool = False
    ) -> str:
        """Decode ids with the tokenizer of a language.

        Raises:
            DataError: As `member`; or an id belongs to no token of this language.
        """
        k = self.member(language)
        own = {int(i): at for at, i in enumerate(self.maps[k].tolist()) if i >= 0}
        missing = [i for i in ids if int(i) not in own]
        if missing:
            raise DataError(
                "ids that a language's tokenizer does not have",
                got=f"{missing[:5]}, language {language or self.default}",
                wanted=f"some of the {len(own)} ids of this language's tokenizer",
            )
        tokens = [own[int(i)] for i in ids]
        return str(self.members[k].decode(tokens, skip_special_tokens=skip_special_tokens))

    def content(self) -> dict[str, object]:
        """Return everything that decides which ids a text gets, as JSON."""
        return {
            "union": [_content(member) for member in self.members],
            "languages": self.languages,
            "default": self.default,
        }

    def digest(self) -> str:
        """Return the sha256 of the numbering."""
        digest = hashlib.sha256()
        for ids in self.maps:
            digest.update(ids.astype("<i4").tobytes() + b"|")
        return digest.hexdigest()

    def save_pretrained(self, save_directory: str | Path) -> tuple[str]:
        """Write `union_tokenizer.json` into the directory, which is made if need be."""
        path = Path(save_directory) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        saved = {"format": FORMAT, "digest": self.digest(), **self.content()}
        path.write_text(json.dumps(saved, ensure_ascii=False) + "\n", encoding="utf-8")
        return (str(path),)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> UnionTokenizer:
        """Read what `save_pretrained` wrote.

        Raises:
            ModelError: The file is missing, broken or of another format, or this version numbers tokens differently.
        """
        path = Path(directory) / FILE
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["format"] != FORMAT:
                raise ValueError(f"format {saved['format']}")
            members = [_load_member(content) for content in saved["union"]]
            union = cls(members, saved["languages"], default=saved["default"])
            if union.digest() != saved["digest"]:
                raise ValueError("the members' tokens are numbered otherwise than when it was saved")
        except ModelError:
            raise
        except Exception as error:  # tokenizers raises plain exceptions for a broken member
            raise ModelError(
                f"the tokenizer {path} cannot be read", got=error, wanted=f"a {FILE} of format {FORMAT}"
            ) from None
        return union


def _number_tokens(
    members: Sequence[PreTrainedTokenizerFast],
) -> tuple[tuple[NDArray[np.int32], ...], int]:
    """Return each member's map, and the union's size."""
    # By key and by how many tokens of that key the member had before, so that no two of its tokens share a number.
    numbers: dict[tuple[bytes, int], int] = {}
    maps = []
    for member in members:
        own = list_canonical_tokens(member)
        ids = np.full(own.size, -1, dtype=np.int32)
        for number, role in enumerate(ROLES):
            i = getattr(member, f"{role}_token_id", None)
            if i is None or ids[i] >= 0:
                raise ModelError(
                    f"a member of a union vocabulary needs a {role} token of its own",
                    got=f"{type(member).__name__} with {getattr(member, 'special_tokens_map', {})}",
                    wanted=", ".join(ROLES),
                    next_step="use the tokenizers of masked language models",
                )
            ids[i] = number
        seen: dict[bytes, int] = {}
        for i, key in zip(own.ids, own.keys, strict=True):
            if ids[i] < 0:
                nth = seen[key] = seen.get(key, -1) + 1
                ids[i] = numbers.setdefault((key, nth), len(ROLES) + len(numbers))
        maps.append(ids)
    return tuple(maps), len(ROLES) + len(numbers)


def _content(member: PreTrainedTokenizerFast) -> dict[str, object]:
    """Return a member's tokenizer as JSON; padding and truncation belong to the call."""
    backend = json.loads(find_backend(member).to_str())
    return {
        "backend": {**backend, "padding": None, "truncation": None},
        "specials": {f"{role}_token": str(getattr(member, f"{role}_token")) for role in ROLES},
        "inputs": list(member.model_input_names),
    }


def _load_member(content: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """Make a member of what `_content` returned."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(json.dumps(content["backend"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=content["inputs"], **content["specials"]
    )
