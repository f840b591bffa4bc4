"""Adapt to the terminal: its encoding, a closed pipe, and texts in another encoding.

Decision record: characters that the terminal cannot show are replaced, typographic ones by the nearest ASCII and others
by escapes. A closed pipe ends the output and not the work: a run piped into `head` goes on training.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import IO, TextIO

from rich.console import Console

PLAIN = {
    "−": "-", "–": "-", "—": "-", "…": "...", "✓": "+", "•": "*", "±": "+-", "×": "x", "→": "->", "≤": "<=",
    "≥": ">=", "τ": "tau", "“": '"', "”": '"', "’": "'", "━": "-", "─": "-", "╸": "-", "╺": "-", "│": "|",
}  # fmt: skip
"""ASCII for the characters that raykd itself shows."""
HANDLER = "raykd.plain"


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace characters that an encoding lacks; for `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    bad = error.object[error.start : error.end]
    shown = "".join(
        PLAIN.get(sign)
        or ("*" if "⠀" <= sign <= "⣿" else sign.encode("ascii", "backslashreplace").decode("ascii"))
        for sign in bad
    )
    return shown, error.end


codecs.register_error(HANDLER, _plain)


def escape_unencodable() -> None:
    """Let standard output and error show every text, with replacements where the encoding lacks a character."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with contextlib.suppress(ValueError, OSError):
                reconfigure(errors=HANDLER)


class Terminal(Console):
    """A console that becomes silent when its reader has closed the pipe."""

    def on_broken_pipe(self) -> None:
        """Become silent. rich calls this; its default ends the process."""
        self.quiet = True
        redirect_to_null(self.file)


def redirect_to_null(stream: IO[str]) -> None:
    """Redirect a stream to /dev/null, so that Python does not complain about its closed pipe at exit."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def format_json(row: object) -> str:
    """Return a row as JSON, escaped where the terminal cannot show it; what JSON has no form for (a date) as text."""
    text = json.dumps(row, ensure_ascii=False, default=str)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(row, default=str)
    return text


def recover_text(text: str) -> str:
    """Return an argument of the command line as text, also if it came in another encoding than Python's."""
    return decode_bytes(os.fsencode(text)) if _has_surrogates(text) else text


def decode_bytes(data: bytes) -> str:
    """Decode bytes as UTF-8, else in the terminal's encoding, else as UTF-8 with replacement characters."""
    terminal = (getattr(sys.stdin, "encoding", None) or "utf-8").lower()
    for encoding in ("utf-8", terminal):
        with contextlib.suppress(UnicodeDecodeError, LookupError):
            return data.decode(encoding)
    return data.decode("utf-8", "replace")


def decode_lines(stream: TextIO) -> Iterator[str]:
    """Yield the lines of standard input as text, in whatever encoding they come."""
    raw = getattr(stream, "buffer", None)
    if raw is None:
        yield from (_without_surrogates(line) for line in stream)
        return
    data = raw.read().removeprefix(codecs.BOM_UTF8)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode("utf-8", "replace")
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    yield from (decode_bytes(line) for line in (lines if lines[-1] else lines[:-1]))


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= sign <= "\udfff" for sign in text)


def _without_surrogates(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if _has_surrogates(text) else text
