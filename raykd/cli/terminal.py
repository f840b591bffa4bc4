"""The terminal as it is: its encoding, a pipe that somebody closes, texts that came in other bytes.

Decision record: what the terminal cannot show is written in its means: signs of typography as the nearest ASCII,
others escaped. A pipe that is closed ends the showing and not
the work: a run that was piped into `head` trains on.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import IO, Any, TextIO

from rich.console import Console

PLAIN = {
    "−": "-", "–": "-", "—": "-", "…": "...", "✓": "+", "•": "*", "±": "+-", "×": "x", "→": "->", "≤": "<=",
    "≥": ">=", "τ": "tau", "“": '"', "”": '"', "’": "'", "━": "-", "─": "-", "╸": "-", "╺": "-", "│": "|",
}  # fmt: skip
"""Signs that raykd itself shows, in ASCII."""
HANDLER = "raykd.plain"


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """Writes what an encoding lacks as ASCII or escaped; for `codecs.register_error`."""
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
    """Lets standard output and error show every text, in the terminal's means."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with contextlib.suppress(ValueError, OSError):
                reconfigure(errors=HANDLER)


class Terminal(Console):
    """A console that goes on without showing anything when nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        """Called by rich; its own way ends the process."""
        self.quiet = True
        redirect_to_null(self.file)


def redirect_to_null(stream: IO[str]) -> None:
    """Sends a stream to nowhere, so that nothing is said of its closed pipe at the end either."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def format_json(row: Any) -> str:
    """A row as JSON that the terminal can show, escaped where it cannot."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(row)
    return text


def recover_text(text: str) -> str:
    """A text of the command line that came in bytes of another encoding, read as the terminal's."""
    return decode_bytes(os.fsencode(text)) if _has_surrogates(text) else text


def decode_bytes(data: bytes) -> str:
    """Bytes as text: UTF-8, else the terminal's own encoding, else UTF-8 with a mark for what is none."""
    said = (getattr(sys.stdin, "encoding", None) or "utf-8").lower()
    for encoding in ("utf-8", said):
        with contextlib.suppress(UnicodeDecodeError, LookupError):
            return data.decode(encoding)
    return data.decode("utf-8", "replace")


def decode_lines(stream: TextIO) -> Iterator[str]:
    """Lines of standard input as text, whatever their bytes are."""
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
