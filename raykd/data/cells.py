"""Parse single cells: texts, lists of words, and accepted answers.

Decision record: only values with one reading are converted: a list in CSV is JSON or words between blanks. Everything
else is a bad row, and the message shows the value. A text without a visible sign (blanks, marks of zero width,
controls) counts as empty, because no tokenizer leaves anything of it.
"""

from __future__ import annotations

import difflib
import json
import math
import unicodedata

from raykd.data.files.textfiles import shorten_text, show_cell
from raykd.tasks.markers import Span, find_spans


class BadRowError(Exception):
    """One row is bad; the message becomes a line of the message about the file."""


def parse_text(value: object, column: str) -> str:
    """Return a text that is not empty."""
    found = parse_any_text(value, column)
    if is_blank_text(found):
        raise BadRowError(f"column {column!r}: got an empty text {shorten_text(ascii(found))}, wanted words")
    return found


_INVISIBLE = frozenset(("Zs", "Zl", "Zp", "Cc", "Cf", "Cs"))
"""Unicode's categories of separators, controls and signs of format."""
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Signs that are drawn as nothing though Unicode calls them letters, marks or symbols (fillers, the empty braille)."""


def is_blank_text(found: str) -> bool:
    """Return whether a text holds nothing that can be seen."""
    return all(
        unicodedata.category(sign) in _INVISIBLE
        or sign in _UNSEEN
        or "\ufe00" <= sign <= "\ufe0f"
        or "\U000e0100" <= sign <= "\U000e01ef"
        for sign in found
    )


def parse_any_text(value: object, column: str) -> str:
    """Return a text, which may be empty."""
    if not isinstance(value, str):
        raise BadRowError(f"column {column!r}: got {show_cell(value)}, wanted a text")
    _check_unicode(value, column)
    return value


def _check_unicode(value: str, column: str) -> None:
    if "\0" in value:
        raise BadRowError(
            f"column {column!r}: got a NUL (U+0000) at character {value.index(chr(0))}, wanted a text without"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRowError(
            f"column {column!r}: got half a surrogate pair at character {error.start}, wanted Unicode text"
        ) from None


def parse_tokens(value: object, column: str, flat: bool) -> list[str]:
    """Return words, at least one.

    Args:
        value: The cell.
        column: Its column, for messages.
        flat: Whether the source has strings only, so that a list stands as JSON or as words between blanks.
    """
    found: list[str] = []
    tokens = parse_list(value, column, flat)
    if not tokens:
        raise BadRowError(f"column {column!r}: got no tokens, wanted one at least")
    for at, token in enumerate(tokens, start=1):
        if not isinstance(token, str) or not token.strip():
            raise BadRowError(f"column {column!r}: token {at} of {len(tokens)} is {token!r}, wanted a word")
        _check_unicode(token, column)
        found.append(token)
    return found


def parse_list(value: object, column: str, flat: bool) -> list[object]:
    """Return a list; see `parse_tokens`."""
    if flat and isinstance(value, str):
        if not value.lstrip().startswith("["):
            return [*value.split()]
        value = _parse_json(value, column, list)
    if not isinstance(value, list):
        raise BadRowError(f"column {column!r}: got {show_cell(value)}, wanted a list")
    return value


def parse_number(value: object, column: str) -> float:
    """Return a finite number; a text is read as one."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise BadRowError(f"column {column!r}: got {show_cell(value)}, wanted a number, as 3.5")
    return found


def parse_texts(value: object, column: str, flat: bool) -> tuple[str, ...]:
    """Return the texts of a list, none of them empty; see `parse_tokens`, but a list of strings stands as JSON."""
    if flat and isinstance(value, str):
        value = _parse_json(value, column, list)
    if not isinstance(value, list):
        raise BadRowError(f"column {column!r}: got {show_cell(value)}, wanted a list of texts")
    found = []
    for at, text in enumerate(value, start=1):
        try:
            found.append(parse_text(text, column))
        except BadRowError as error:
            raise BadRowError(f"{error} (text {at} of {len(value)})") from None
    return tuple(found)


def parse_relevances(value: object, column: str, count: int, flat: bool) -> tuple[float, ...]:
    """Return a number of 0 or more for each of so many candidates."""
    found = tuple(parse_number(each, column) for each in parse_list(value, column, flat))
    if len(found) != count:
        raise BadRowError(f"column {column!r}: got {len(found)} numbers for {count} candidates")
    if min(found) < 0.0:
        raise BadRowError(f"column {column!r}: got {min(found):g}, wanted relevances of 0 or more")
    return found


def parse_place(value: object, column: str, count: int) -> int:
    """Return the place of one of so many candidates, counted from 0."""
    found = parse_number(value, column)
    if found not in range(count):
        raise BadRowError(f"column {column!r}: got {show_cell(value)}, wanted a place from 0 to {count - 1}")
    return int(found)


def parse_answers(value: object, column: str, flat: bool) -> list[tuple[str, int]]:
    """Return accepted answers as (text, offset), from a table of two lists or a list of tables.

    A question without an answer has none; one empty text is read as no answer too.
    """
    if flat and isinstance(value, str):
        value = _parse_json(value, column, (dict, list))
    wanted = "wanted {text: [...], answer_start: [...]}, with empty lists where there is no answer"
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list):
            raise BadRowError(f"column {column!r}: got {show_cell(value)}, {wanted}")
        if len(texts) != len(starts):
            raise BadRowError(f"column {column!r}: got {len(texts)} texts and {len(starts)} offsets")
        pairs = list(zip(texts, starts, strict=True))
    elif isinstance(value, list) and all(isinstance(part, dict) for part in value):
        pairs = [(part.get("text"), part.get("answer_start")) for part in value]
    else:
        raise BadRowError(f"column {column!r}: got {show_cell(value)}, {wanted}")
    if [text for text, _ in pairs] == [""]:
        return []
    for answer, start in pairs:
        if not isinstance(answer, str) or not answer.strip():
            raise BadRowError(f"column {column!r}: got the answer {answer!r}, wanted a text")
        if not isinstance(start, int) or isinstance(start, bool):
            raise BadRowError(f"column {column!r}: got the offset {start!r}, wanted a number of characters")
    return pairs


def parse_spans(value: object, column: str, text: str, flat: bool) -> list[Span]:
    """Return where an entity may stand in a text: one place, or all where only its own text is known.

    Args:
        value: The entity's text, ``[begin, end]`` in characters, or ``{text, begin, end}`` (``start``, too).
        column: Its column, for messages.
        text: The text around it.
        flat: Whether the source has strings only, so that places stand as JSON.
    """
    if flat and isinstance(value, str) and value[:1] in "[{" and value not in text:
        value = _parse_json(value, column, (dict, list))
    known = None
    if isinstance(value, dict):
        known, begin = value.get("text"), value.get("begin", value.get("start"))
        value = known if begin is None else [begin, value.get("end", begin + len(str(known or "")))]
    if isinstance(value, list):
        if len(value) != 2 or not all(type(edge) is int for edge in value):
            raise BadRowError(f"column {column!r}: got {show_cell(value)}, wanted [begin, end] in characters")
        begin, end = value
        there = text[max(0, begin) : max(0, end)]
        if not 0 <= begin < end <= len(text) or not there.strip() or known not in (None, there):
            wanted = "a part of the text" if known is None else repr(known)
            raise BadRowError(f"column {column!r}: at {value} stands {there!r}, wanted {wanted}")
        return [(begin, end)]
    entity = parse_text(value, column)
    found = find_spans(text, entity)
    if not found:
        raise BadRowError(f"column {column!r}: {shorten_text(entity, 40)!r} is not in {shorten_text(text)!r}")
    return found


def _parse_json(value: str, column: str, kind: type | tuple[type, ...]) -> object:
    """Return a JSON value of a kind."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, kind):
        raise BadRowError(
            f"column {column!r}: got {shorten_text(value)}, wanted it as JSON, as json.dumps writes it"
        )
    return found


def suggest_spelling(value: object, allowed: tuple[str, ...]) -> str:
    """Return a suggestion, for a message, where only case, blanks or a letter differ; "" otherwise."""
    meant = find_spelling(value, allowed)
    return "" if meant is None else f" (did you mean {meant!r}?)"


def find_spelling(value: object, allowed: tuple[str, ...]) -> str | None:
    """Return the allowed name that differs from a value in case, blanks or a letter only; None without one."""
    if not isinstance(value, str):
        return None
    folded = {name.casefold(): name for name in allowed}
    plain = "".join(sign for sign in value if unicodedata.category(sign) != "Cf").strip().casefold()
    exact = folded.get(plain) or folded.get(plain.replace("_", "-").split("-")[0])
    close = (
        [exact] if exact else [folded[n] for n in difflib.get_close_matches(plain, folded, n=1, cutoff=0.8)]
    )
    return close[0] if close else None
