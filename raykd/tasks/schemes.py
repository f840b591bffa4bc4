"""Read and write tags of entities in the schemes IO, IOB1, BIO (IOB2), BILOU, BIOES, BMES and BMEWO.

Decision record: a teacher's answer is carried over to the run's tags by adding probabilities (logsumexp of raw logits,
exact at temperature 1), never by taking a maximum, and only where the teacher's tags tell more than the run's: B-X of
BIO is B-X and U-X of BILOU. A scheme that tells less (IO for BIO) is refused, since no column could be filled. A type
that the teacher does not know is an unknown column, not a zero, and need not be written down; a type that the run does
not know must be mapped by the user, to another or to null, which drops its tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from raykd.errors import ConfigError, DataError, LabelMismatchError
from raykd.tasks.label_columns import ColumnMap

SchemeName = Literal["IO", "IOB1", "BIO", "BILOU", "BIOES", "BMES", "BMEWO"]
"""IOB1 differs from BIO in what its letters mean, so a list of tags never tells it: B-X begins an entity only where the
word before belongs to another entity of the type. BMES and BMEWO are BIOES with other letters (M for I, W for S)."""
OUTSIDE = "O"
Entity = tuple[int, int, str]
"""First word, the word behind the last, type."""

# What a letter says of a word's place: (begins an entity, ends it); None where the scheme does not tell.
_PLACE: dict[SchemeName, dict[str, tuple[bool | None, bool | None]]] = {
    "IO": {"I": (None, None)},
    "BIO": {"B": (True, None), "I": (False, None)},
    "BILOU": {"B": (True, False), "I": (False, False), "L": (False, True), "U": (True, True)},
    "BIOES": {"B": (True, False), "I": (False, False), "E": (False, True), "S": (True, True)},
    "BMES": {"B": (True, False), "M": (False, False), "E": (False, True), "S": (True, True)},
    "BMEWO": {"B": (True, False), "M": (False, False), "E": (False, True), "W": (True, True)},
    "IOB1": {"B": (True, None), "I": (None, None)},
}
_PARTS: dict[SchemeName, frozenset[str]] = {name: frozenset(letters) for name, letters in _PLACE.items()}
# The letters of an entity: its first word, the words between, its last word, and its only word.
_LETTERS: dict[SchemeName, tuple[str, str, str, str]] = {
    "IO": ("I", "I", "I", "I"),
    "BIO": ("B", "I", "I", "B"),
    "BILOU": ("B", "I", "L", "U"),
    "BIOES": ("B", "I", "E", "S"),
    "BMES": ("B", "M", "E", "S"),
    "BMEWO": ("B", "M", "E", "W"),
}
_ANY = "IO, BIO, BILOU, BIOES, BMES or BMEWO"


@dataclass(frozen=True)
class Scheme:
    """A list of tags and what it means. Made by `parse_scheme`; read by decoding and by the mapping of teachers.

    Attributes:
        name: The scheme.
        tags: The tags in the order of the columns.
        letters: The letter of each tag; "O" for the outside tag.
        types: The type of each tag; "" for the outside tag.
    """

    name: SchemeName
    tags: tuple[str, ...]
    letters: tuple[str, ...]
    types: tuple[str, ...]

    @property
    def outside(self) -> int:
        """The column of the outside tag."""
        return self.letters.index(OUTSIDE)

    def place(self, tag: int) -> tuple[bool | None, bool | None]:
        """Return whether a word with this tag begins, and ends, an entity; None where the scheme does not tell."""
        return _PLACE[self.name][self.letters[tag]]


def parse_scheme(tags: Sequence[str], *, whole: bool = True) -> Scheme:
    """Return the scheme of a list of tags such as O, B-PER, I-PER; never IOB1, which looks like BIO.

    Args:
        tags: In the order of the columns.
        whole: Whether each type needs all tags of BILOU, BIOES or their like; a teacher may lack some.

    Raises:
        ConfigError: There is no O or more than one, a tag of no scheme, a tag twice, or a type that lacks a tag of the
            scheme.
    """
    if len(set(tags)) != len(tags):
        raise ConfigError("a tag is there twice", got=list(tags), wanted="each tag once")
    if OUTSIDE not in tags:
        raise ConfigError(
            "the labels lack the outside tag O", got=list(tags), wanted="O and tags like B-PER, I-PER"
        )
    letters, types = [], []
    for tag in tags:
        letter, dash, kind = tag.partition("-")
        if tag != OUTSIDE and not (letter in set("BILUESMW") and dash and kind):
            raise ConfigError(
                f"{tag!r} is no tag", got=list(tags), wanted="O, or one of B I L U E S M W, a dash and a type"
            )
        letters.append(letter)
        types.append(kind)
    used = frozenset(letters) - {OUTSIDE}
    name = next((name for name, parts in _PARTS.items() if used <= parts), None)
    if name is None or not used:
        raise ConfigError("the tags are of no one scheme", got=list(tags), wanted=_ANY)
    # In BIO a type whose entities are always one word needs no I; everywhere else each letter is needed.
    needed = frozenset("B") if name == "BIO" else _PARTS[name] if whole else frozenset()
    for kind in dict.fromkeys(t for t in types if t):
        missing = sorted(needed - {letter for letter, t in zip(letters, types, strict=True) if t == kind})
        if missing:
            raise ConfigError(
                f"type {kind} lacks {[f'{letter}-{kind}' for letter in missing]}, which {name} needs",
                got=list(tags),
                wanted="every tag of its scheme for each type, used or not",
            )
    return Scheme(name, tuple(tags), tuple(letters), tuple(types))


def read_entities(tags: Sequence[str], scheme: SchemeName) -> list[Entity]:
    """Return the entities of one row of tags.

    Raises:
        DataError: A tag is not of the scheme, or cannot follow the one before it (I-PER after O in BIO).
    """
    found: list[Entity] = []
    begun: tuple[int, str] | None = None
    for i, tag in enumerate([*tags, OUTSIDE]):
        letter, _, kind = tag.partition("-")
        if tag != OUTSIDE and (letter not in _PARTS[scheme] or not kind):
            raise DataError(f"word {i} has a tag that is not of {scheme}", got=tag)
        begins, ends = (None, True) if tag == OUTSIDE else _PLACE[scheme][letter]
        goes_on = begun is not None and tag != OUTSIDE and kind == begun[1] and begins is not True
        if begun is not None and not goes_on:
            if "E" in _PARTS[scheme] or "L" in _PARTS[scheme]:
                raise DataError(f"the entity of word {begun[0]} does not end before word {i}", got=list(tags))
            found.append((begun[0], i, begun[1]))
            begun = None
        if tag == OUTSIDE:
            continue
        if not goes_on:
            if begins is False:
                raise DataError(f"word {i} goes on with an entity that did not begin", got=list(tags))
            begun = (i, kind)
        if ends is True and begun is not None:
            found.append((begun[0], i + 1, kind))
            begun = None
    return found


def write_tags(found: Sequence[Entity], length: int, scheme: SchemeName) -> list[str]:
    """Return one row of tags that says where these entities are.

    IO cannot tell two neighbouring entities of one type apart; all other schemes lose nothing.
    """
    begin, middle, last, single = _LETTERS[scheme]
    tags = [OUTSIDE] * length
    for start, end, kind in found:
        letters = single if end - start == 1 else begin + middle * (end - start - 2) + last
        tags[start:end] = [f"{letter}-{kind}" for letter in letters]
    return tags


def convert_tags(tags: Sequence[str], source: SchemeName, target: SchemeName) -> list[str]:
    """Return one row of gold tags in another scheme (not in IOB1); raises `DataError` as `read_entities` does."""
    return write_tags(read_entities(tags, source), len(tags), target)


def map_tag_columns(
    own: Sequence[str],
    wanted: Sequence[str],
    label_map: Mapping[str, str | None],
    name: str,
    missing: Sequence[str] = (),
) -> ColumnMap:
    """Return the teacher's columns behind each of the run's tags, whatever the order, scheme or set of types.

    Args:
        own: The teacher's tags.
        wanted: The run's tags.
        label_map: The teacher's tags, or its types, to the run's (``{"I-MISC": "O"}``, ``{"PERSON": "PER"}``); None
            drops them.
        name: The teacher, for messages.
        missing: Types or tags of the run that the teacher does not know; they may be left out here.

    Raises:
        LabelMismatchError: The teacher's tags are of no scheme or of one that tells less, share no type with the run,
            or have a type that the run has not, or a name stands in neither list; names both lists.
        ConfigError: The run's tags are of no scheme.
    """
    target = parse_scheme(wanted)
    if strange := sorted(set(label_map) - _list_names(own)):
        why = f"{', '.join(strange)} in label_map is no tag or type of the teacher"
        raise _build_mismatch_error(name, own, own, wanted, why)
    kept = [i for i, tag in enumerate(own) if not _is_dropped(tag, label_map)]
    renames = {key: to for key, to in label_map.items() if to is not None}
    renamed = [rename_tag(own[i], renames) for i in kept]
    if target.name == "IO":  # IO says the same of every word of an entity, whatever the teacher's scheme
        renamed = [tag if tag == OUTSIDE else f"I-{tag.partition('-')[2]}" for tag in renamed]
    try:
        source = parse_scheme(list(dict.fromkeys(renamed)), whole=False)
    except ConfigError as error:
        # Lists of IOB1 often lack a B-X, since only the second of two neighbours of a type has it.
        iob1 = (
            "; if they are IOB1, give the run IO labels (O, I-PER, ...)" if "BIO needs" in error.what else ""
        )
        raise _build_mismatch_error(name, own, renamed, wanted, error.what + iob1) from None
    extra = sorted(set(source.types) - set(target.types))
    if extra:
        raise _build_mismatch_error(
            name,
            own,
            renamed,
            wanted,
            f"the run has no type {', '.join(extra)}; map it, to O or null perhaps",
        )
    columns: list[list[int]] = [[] for _ in wanted]
    for i, tag in zip(kept, renamed, strict=True):
        at = target.outside if tag == OUTSIDE else _find_counterpart(source, source.tags.index(tag), target)
        if at is None:
            why = f"{source.name} tags do not tell which of {target.name} {tag} is"
            raise _build_mismatch_error(name, own, renamed, wanted, why, _suggest_labels(source, target))
        columns[at].append(i)
    found = ColumnMap(tuple(tuple(column) for column in columns))
    known = [wanted[i] for i, column in enumerate(columns) if column]
    if strange := sorted(set(missing) - (_list_names(wanted) - _list_names(known))):
        why = f"{', '.join(strange)} in missing is no tag or type of the run that the teacher lacks"
        raise _build_mismatch_error(name, own, renamed, wanted, why, f"correct teachers.{name}.missing")
    return found


def _list_names(tags: Sequence[str]) -> set[str]:
    """Return the tags and their types: what a map of tags may name."""
    return {*tags, *(tag.partition("-")[2] for tag in tags)} - {""}


def _is_dropped(tag: str, label_map: Mapping[str, str | None]) -> bool:
    """Return whether a map leads the tag, or its type if it does not name the tag, to None."""
    key = tag if tag in label_map else tag.partition("-")[2]
    return key in label_map and label_map[key] is None


def rename_tag(tag: str, label_map: Mapping[str, str]) -> str:
    """Return the tag that a map of tags or types leads to."""
    if tag in label_map:
        return label_map[tag]
    letter, dash, kind = tag.partition("-")
    kind = label_map.get(kind, kind)
    return kind if kind == OUTSIDE else f"{letter}{dash}{kind}"


def _find_counterpart(source: Scheme, tag: int, target: Scheme) -> int | None:
    """Return the only tag of the target that a tag of the source can be; None where it may be one or another."""
    begins, ends = source.place(tag)
    for i, (letter, kind) in enumerate(zip(target.letters, target.types, strict=True)):
        if letter != OUTSIDE and kind == source.types[tag]:
            want_begins, want_ends = target.place(i)
            if want_begins in (None, begins) and want_ends in (None, ends):
                return i
    return None


def _build_mismatch_error(
    name: str,
    own: Sequence[str],
    renamed: Sequence[str],
    wanted: Sequence[str],
    why: str,
    next_step: str = "",
) -> LabelMismatchError:
    return LabelMismatchError(
        f"teacher {name} has tags that cannot be read as the run's: {why}",
        got=f"{list(own)}" + (f", mapped to {list(renamed)}" if list(renamed) != list(own) else ""),
        wanted=f"{list(wanted)} in any order, or the same types in a scheme that tells as much",
        next_step=next_step
        or f"map tags or types: teachers.{name}.label_map: {{its tag or type: the run's, or O; null drops it}}",
    )


def _suggest_labels(source: Scheme, target: Scheme) -> str:
    """Return what to do where a teacher's scheme tells less than the run's."""
    kinds = dict.fromkeys(kind for kind in target.types if kind)
    letters = [letter for letter in dict.fromkeys(source.letters) if letter != OUTSIDE]
    tags = [OUTSIDE, *(f"{letter}-{kind}" for kind in kinds for letter in letters)]
    return (
        f"give the run labels that the teacher can tell: data.labels: [{', '.join(tags)}], and where the files are in "
        f"{target.name} data.scheme: {target.name}; or leave the teacher out"
    )
