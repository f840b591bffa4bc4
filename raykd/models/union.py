"""`UnionTokenizer`: the vocabularies of several monolingual masked language models as one (arXiv:2106.02834).

Decision record: in MergeDistill a text is cut by the tokenizer of its language's teacher and the pieces are
numbered in the union of all vocabularies, so teacher and student see the same tokens at the same places, and
a teacher's answer moves to the student by a table. Pieces of different tokenizers share a number where their
canonical keys are equal (`raykd.models.canonical`); the roles pad, unk, cls, sep and mask are shared whatever
they are spelt. The union is numbered in the members' order and each member's own order, so it is a function
of the members alone: a saved union holds the members and a digest of the numbering.

Which tokens are masked is a function of the text's key and the epoch's seed, not of a generator's state:
teacher and student, in whatever process, hide the same places, and an answer can be stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.errors import DataError, ModelError
from raykd.models.canonical import backend_of, canonical

FILE = "union_tokenizer.json"
FORMAT = 1
ROLES = ("pad", "unk", "cls", "sep", "mask")
_FIELDS = ("input_ids", "attention_mask", "token_type_ids", "offset_mapping", "special_tokens_mask")


class UnionTokenizer:
    """Texts to ids of the union vocabulary, each text by its language's tokenizer.

    Args:
        members: fast tokenizers that have all of `ROLES`.
        languages: for each language the number of its member.
        default: the language of texts for which none is said.

    Attributes:
        maps: for each member ``[V_k]`` int32: its id -> the union's, no union id twice. Numbers that the member
            gives to no token (gaps) are -1.

    Raises:
        ModelError: a member without one of the roles, or of a kind without a vocabulary of strings.
        ValueError: no members, or languages that name others.
    """

    def __init__(
        self, members: Sequence[Any], languages: Mapping[str, int], *, default: str | None = None
    ) -> None:
        if not members or not set(languages.values()) <= set(range(len(members))):
            raise ValueError(f"{len(members)} members, languages {dict(languages)}")
        if default is not None and default not in languages:
            raise ValueError(f"the default language {default!r} is none of {sorted(languages)}")
        self.members, self.languages, self.default = tuple(members), dict(languages), default
        self.maps, self._size = _numbered(self.members)
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
        """The number of the language's tokenizer.

        Raises:
            DataError: no tokenizer is for this language.
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
    ) -> Mapping[str, list[Any]]:
        """Ids (and masks) of B texts or pairs as lists, not padded; one language a text.

        Raises:
            DataError: as `member`.
        """
        spoken = [None] * len(text) if languages is None else list(languages)
        chosen_B = np.asarray([self.member(language) for language in spoken], dtype=np.int64)
        wanted = set(self.model_input_names)
        wanted |= {"offset_mapping"} if return_offsets_mapping else set()
        wanted |= {"special_tokens_mask"} if return_special_tokens_mask else set()
        result: dict[str, list[Any]] = {name: [None] * len(text) for name in _FIELDS if name in wanted}
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
            )
            for name, values in result.items():
                for i, row in zip(rows, encoded[name], strict=True):
                    values[i] = self.maps[k][row].tolist() if name == "input_ids" else row
        return result

    def content(self) -> dict[str, Any]:
        """All that decides which ids a text gets, as JSON."""
        return {
            "union": [_content(member) for member in self.members],
            "languages": self.languages,
            "default": self.default,
        }

    def digest(self) -> str:
        """sha256 of the numbering."""
        digest = hashlib.sha256()
        for ids in self.maps:
            digest.update(ids.astype("<i4").tobytes() + b"|")
        return digest.hexdigest()

    def save_pretrained(self, save_directory: str | Path) -> tuple[str]:
        """Writes `union_tokenizer.json` into the directory (made if need be)."""
        path = Path(save_directory) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        saved = {"format": FORMAT, "digest": self.digest(), **self.content()}
        path.write_text(json.dumps(saved, ensure_ascii=False) + "\n", encoding="utf-8")
        return (str(path),)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> UnionTokenizer:
        """What `save_pretrained` wrote.

        Raises:
            ModelError: the file is missing, broken, of another format, or this version numbers it otherwise.
        """
        path = Path(directory) / FILE
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["format"] != FORMAT:
                raise ValueError(f"format {saved['format']}")
            members = [_loaded(content) for content in saved["union"]]
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


def mask_positions(
    ids_L: Sequence[int] | NDArray[np.int64],
    text_key: str | bytes,
    epoch_seed: int,
    share: float = 0.15,
    *,
    special_ids: Iterable[int] = range(len(ROLES)),
) -> NDArray[np.int64]:
    """Which of the L tokens to hide, in order: ``round(share * n)`` of the n that are no specials, at least one.

    A pure function: the same text key, seed and specials' places give the same positions in every process, and
    with the member's ids the same as with the union's. Empty where there is nothing to hide.

    Args:
        text_key: what names the text: itself, or a hash of it.
        epoch_seed: another one each epoch hides other places.
        share: 0.15 is BERT's (arXiv:1810.04805).
        special_ids: of the vocabulary ``ids_L`` is in; `UnionTokenizer.all_special_ids`.

    Raises:
        ValueError: a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is above 0 and at most 1, got {share}")
    places = np.flatnonzero(~np.isin(np.asarray(ids_L, dtype=np.int64), list(special_ids)))
    if not len(places):
        return places
    key = text_key.encode("utf-8", "surrogatepass") if isinstance(text_key, str) else text_key
    seed = hashlib.sha256(f"mask {epoch_seed} ".encode() + key).digest()[:8]
    order = np.argsort(_scrambled(int.from_bytes(seed, "little"), places), kind="stable")
    return np.sort(places[order[: max(1, round(share * len(places)))]])


def _scrambled(seed: int, places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """splitmix64's numbers of these places: independent of each other and of how many there are."""
    with np.errstate(over="ignore"):
        mixed = np.uint64(seed) + places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        scrambled: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return scrambled


def _numbered(members: Sequence[Any]) -> tuple[tuple[NDArray[np.int32], ...], int]:
    """Each member's map, and the union's size. A member's further tokens of one key get numbers of their own."""
    numbers: dict[tuple[bytes, int], int] = {}
    maps = []
    for member in members:
        own = canonical(member)
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


def _content(member: Any) -> dict[str, Any]:
    """A member's tokenizer as JSON; padding and truncation belong to the call."""
    backend = json.loads(backend_of(member).to_str())
    return {
        "backend": {**backend, "padding": None, "truncation": None},
        "specials": {f"{role}_token": str(getattr(member, f"{role}_token")) for role in ROLES},
        "inputs": list(member.model_input_names),
    }


def _loaded(content: Mapping[str, Any]) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(json.dumps(content["backend"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=content["inputs"], **content["specials"]
    )
