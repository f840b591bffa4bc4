"""Read a file of plain text: one text a line, under the key `text`.

Decision record: what a person calls train.txt is often a table, JSON lines or tagged words (CoNLL) under another
ending. As texts these would teach a student tabs and tags without a word, so a file that looks like one of them is
refused with its kind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from raykd.data.files.blocks import Block, group_rows
from raykd.data.files.opening import read_lines
from raykd.data.files.remote import AnyFile
from raykd.data.files.textfiles import Record, shorten_text
from raykd.errors import DataError

TEXT_KEY = "text"
WRITE_WORDS = 'write a row a sentence: {"tokens": [...], "tags": [...]} in a .jsonl file'
"""What to do with tagged words that stand one a line."""
_LOOKED_AT = 20
_TAG = re.compile(r"(O|[BIESLUMW]-\S+)$")


def read_plain_lines(path: AnyFile) -> Iterator[Block]:
    """Yield the lines as rows; blank lines are skipped.

    Raises:
        DataError: The first lines look like a table, JSON or tagged words; as `read_lines`.
    """
    lines = ((number, line.strip("\r\n")) for number, line in read_lines(path) if line.strip())
    head = list(islice(lines, _LOOKED_AT))
    _refuse_other_kind(path, [line for _, line in head])
    rows = ((number, [line]) for number, line in chain(head, lines))
    yield from group_rows(
        rows,
        [TEXT_KEY],
        lambda number, row: Record(f"{path}:{number}", number, {TEXT_KEY: row[0]}, flat=True),
    )


def _refuse_other_kind(path: AnyFile, filled: Sequence[str]) -> None:
    """Raise a DataError if the first lines that are not blank are no plain text."""
    found = None
    if filled and all(_is_json_object(line) for line in filled):
        found = ("JSON lines", "give it the ending .jsonl")
    elif len(filled) > 1 and filled[0].count("\t") and len({line.count("\t") for line in filled}) == 1:
        found = (
            "a table with tabs",
            "give it the ending .tsv, with the names of its columns in the first line",
        )
    elif len(filled) > 1 and all(_TAG.match(line.split()[-1]) and len(line.split()) > 1 for line in filled):
        found = (
            "tagged words (CoNLL)",
            WRITE_WORDS,
        )
    if found is not None:
        raise DataError(
            f"{path}: the ending says plain text, the lines say {found[0]}",
            got=shorten_text(filled[0]),
            wanted="one text a line",
            next_step=found[1],
        )


def _is_json_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
