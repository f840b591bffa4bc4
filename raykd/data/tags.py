"""Parse the tags of a row and check that each may follow the tag before it.

Decision record: an I-X that no B-X or I-X precedes is a bad row unless the config says what it means, because there
are two readings (IOB1 begins entities with I-; a wrong tag elsewhere) and they give different entities. Tags of
another scheme than IOB2 are checked but never changed. Which tag may follow which is decided by
`raykd.tasks.scores.entities`, for decoding too. Tags of a scheme that the config names (`data.scheme`) are read as
entities and written again in the scheme of the run's labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from raykd.config import DataConfig
from raykd.data.cells import BadRowError
from raykd.data.files.textfiles import show_cell
from raykd.data.labels import NoLabelError, find_label_index
from raykd.errors import DataError
from raykd.tasks.schemes import SchemeName, convert_tags, parse_scheme, rename_tag
from raykd.tasks.scores.entities import list_transitions


@cache
def _list_forbidden(
    labels: tuple[str, ...],
) -> tuple[frozenset[tuple[int, int]], frozenset[int], frozenset[int]]:
    """Return pairs of tags that may not follow each other, tags that may not begin a row, tags that may not end it."""
    allowed_CC, begins_C, ends_C = list_transitions(parse_scheme(labels))
    count = range(len(labels))
    barred = frozenset((i, j) for i in count for j in count if not allowed_CC[i, j])
    return (
        barred,
        frozenset(i for i in count if not begins_C[i]),
        frozenset(i for i in count if not ends_C[i]),
    )


def parse_tags(
    tags: Sequence[object], words: int, config: DataConfig, column: str
) -> tuple[tuple[int, ...], int]:
    """Return the label index of each word, and how many loose I- were read as B- (`on_loose_inside: begin`).

    Tags go through the data's label map, which names tags or types, and from the scheme of the files to that of the
    labels.

    Raises:
        BadRowError: There is not one tag per word, a tag is unknown, or a tag cannot stand where it stands.
    """
    if len(tags) != words:
        raise BadRowError(f"column {column!r}: got {len(tags)} tags for {words} tokens, wanted one each")
    labels, begin = config.labels, config.on_loose_inside == "begin"
    places = {label: index for index, label in enumerate(labels)}
    renames = {key: target for key, target in config.label_map.items() if target is not None}
    scheme = "IOB1" if begin and config.scheme == "BIO" else config.scheme
    if scheme != "auto" and scheme != _detect_scheme(labels):
        tags, renames = _convert_to_scheme(tags, renames, column, scheme, _detect_scheme(labels)), {}
    barred, never_first, never_last = _list_forbidden(labels)
    found: list[int] = []
    mended = 0
    for at, tag in enumerate(tags, 1):
        name = rename_tag(tag, renames) if renames and isinstance(tag, str) else tag
        place = places.get(name) if isinstance(name, str) else None
        if place is None:
            place = _find_tag_index(tag, config, f"column {column!r}, tag {at} of {words}")
        if (found[-1], place) in barred if found else place in never_first:
            fresh = _find_begin_tag(labels[place], labels) if begin else None
            if fresh is None:
                raise BadRowError(_describe_loose_tag(column, at, words, found, place, labels, begin))
            place, mended = fresh, mended + 1
        found.append(place)
    if found[-1] in never_last:
        raise BadRowError(
            f"column {column!r}: the last tag is {labels[found[-1]]!r}: its entity does not end"
        )
    return tuple(found), mended


def _find_tag_index(tag: object, config: DataConfig, what: str) -> int:
    """Return the label index of a tag that is a number or has another spelling; a missing tag makes a bad row."""
    try:
        return find_label_index(tag, config, what)
    except NoLabelError as error:
        raise BadRowError(str(error)) from None


@cache
def _detect_scheme(labels: tuple[str, ...]) -> SchemeName:
    return parse_scheme(labels).name


def _convert_to_scheme(
    tags: Sequence[object], renames: Mapping[str, str], column: str, source: SchemeName, target: SchemeName
) -> list[str]:
    """Return the tags, renamed, in another scheme."""
    names = [rename_tag(tag, renames) for tag in tags if isinstance(tag, str)]
    if len(names) < len(tags):
        raise BadRowError(f"column {column!r}: got {show_cell(tags)}, wanted tags of {source}")
    try:
        return convert_tags(names, source, target)
    except DataError as error:
        raise BadRowError(f"column {column!r}: {error.what} (data.scheme: {source})") from None


def _find_begin_tag(tag: str, labels: tuple[str, ...]) -> int | None:
    """Return the index of B-X for the I-X of IOB2; None for any other tag or scheme."""
    letter, _, kind = tag.partition("-")
    if letter != "I" or parse_scheme(labels).name != "BIO":
        return None
    return labels.index(f"B-{kind}")


def _describe_loose_tag(
    column: str, at: int, words: int, found: list[int], place: int, labels: tuple[str, ...], begin: bool
) -> str:
    before = f"after {labels[found[-1]]!r}" if found else "first"
    advice = "" if begin else " (data.on_loose_inside: begin reads a loose I- as B-, as IOB1 does)"
    return (
        f"column {column!r}: tag {at} of {words} is {labels[place]!r} {before}: it cannot stand there{advice}"
    )
