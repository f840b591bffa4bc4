"""Read any data file as numbered lines of text; its bytes say how it is packed, encoded and cut into lines.

Decision record: what a file is called and what it holds often differ (a browser unpacks a .gz and keeps the name, Excel
saves UTF-16), so packing and encoding are read from the first bytes and never guessed beyond them: UTF-8, or UTF-16 and
UTF-32 by their byte order mark. Anything else is refused with the command that converts it. A line ends with LF, CR LF
or CR alone. Only one block and one line are held at a time, whatever the file unpacks to.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from raykd.data.files.remote import AnyFile
from raykd.errors import DataError

PACKED = (".gz", ".bz2", ".xz", ".zst")
"""Endings of packed files; they follow the ending that says what a file holds."""
LONGEST_LINE = 1 << 26
"""Bytes; a file without line ends is held whole, so this bounds the memory that it can take."""
_BLOCK = 1 << 20
_OTHERS = {
    b"PAR1": ("a Parquet file", "give it the ending .parquet"),
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "unzip it, or export the sheet as CSV"),
    b"%PDF": ("a PDF", "name a file of rows"),
    b"version https://git-lfs": ("a pointer of Git LFS", "git lfs pull gets the file that it stands for"),
}
"""How files begin that hold no lines of rows: what they are, and what to do."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""UTF-32 comes first, because its mark begins as the mark of UTF-16 does."""
_UNPACKING = (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)
_CHINESE = re.compile(rb"(?:[\xa1-\xf7][\xa1-\xfe])+")


@dataclass(frozen=True)
class LineBlock:
    """Whole lines of a file.

    Attributes:
        path: The file.
        first: Number of the first line.
        offset: Bytes before it.
        data: The lines with their ends, in UTF-8 unless the file is broken.
    """

    path: AnyFile
    first: int
    offset: int
    data: bytes

    def count(self) -> int:
        """Return how many lines these are; LF, CR LF and CR end a line."""
        ends = self.data.count(b"\n")
        if b"\r" in self.data:
            ends += self.data.count(b"\r") - self.data.count(b"\r\n")
        return ends + (not self.data.endswith((b"\n", b"\r")))

    def split(self) -> Iterator[tuple[int, str]]:
        """Yield numbered lines with their ends, without a byte order mark at the beginning of the file.

        Raises:
            DataError: Bytes that are no UTF-8, with file and line.
        """
        offset = self.offset
        for number, raw in enumerate(self.data.splitlines(keepends=True), start=self.first):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _build_encoding_error(self.path, number, offset, raw, error.start) from None
            offset += len(raw)
            yield number, line.lstrip("\ufeff") if number == 1 else line


def read_lines(path: AnyFile) -> Iterator[tuple[int, str]]:
    """Yield numbered lines with their ends, without a byte order mark at the beginning of the file.

    Raises:
        DataError: Bytes that are no text in UTF-8, or in UTF-16 or UTF-32 with a mark; a packed file that is cut off; a
            line that is too long; with file and line.
    """
    for block in read_line_blocks(path):
        yield from block.split()


def read_line_blocks(path: AnyFile) -> Iterator[LineBlock]:
    """Yield the lines of a file in blocks of about a megabyte; see `read_lines`."""
    rest: list[bytes] = []
    number, offset = 1, 0
    for block in _read_as_utf8(path):
        rest.append(block)
        if b"\n" in block or b"\r" in block:
            data = b"".join(rest)
            # A CR at the end may be one half of a CR LF.
            cut = max(data.rfind(b"\n"), data.rfind(b"\r", 0, len(data) - 1)) + 1
            rest = [data[cut:]]
            if cut:
                found = LineBlock(path, number, offset, data[:cut])
                yield found
                number, offset = number + found.count(), offset + cut
        if sum(map(len, rest)) > LONGEST_LINE:
            raise DataError(
                f"{path}:{number}: the line is too long",
                got=f"more than {LONGEST_LINE:,} bytes without a line end",
                wanted="one row a line",
                next_step="is it a file of rows? One JSON list has to be written one object a line",
            )
    if last := b"".join(rest):
        yield LineBlock(path, number, offset, last)


@contextmanager
def open_packed(path: AnyFile) -> Iterator[IO[bytes]]:
    """Open a file's bytes, unpacked if they begin as gzip, bzip2, xz or zstd does. Opened once, so it may be a pipe."""
    with path.open("rb") as handle:
        begin = handle.peek(32)
        for mark, (what, advice) in _OTHERS.items():
            if begin.startswith(mark):
                raise DataError(
                    f"{path}: holds {what}, which its ending does not say",
                    got=f"{mark!r} at its beginning",
                    wanted="lines of text",
                    next_step=advice,
                )
        opener = next((unpack for mark, unpack in _UNPACK.items() if begin.startswith(mark)), None)
        if opener is None:
            yield handle
            return
        with opener(handle) as unpacked:
            yield unpacked


def _open_zstd(handle: IO[bytes]) -> object:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(handle, "r"), "zstd")


_UNPACK: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
    b"\x28\xb5\x2f\xfd": _open_zstd,
}


def _read_blocks(path: AnyFile) -> Iterator[bytes]:
    try:
        with open_packed(path) as handle:
            while block := handle.read(_BLOCK):
                yield block
    except DataError:
        raise
    except _UNPACKING as error:
        lost = isinstance(error, OSError) and error.errno is not None
        raise DataError(
            f"{path}: cannot be read" if lost else f"{path}: cannot be unpacked",
            got=f"{type(error).__name__}: {str(error)[:200]}",
            wanted="a file that is there and may be read" if lost else "a complete file",
            next_step="check the path" if lost else "was it cut off while it was written or copied?",
        ) from None


def _read_as_utf8(path: AnyFile) -> Iterator[bytes]:
    """Yield the blocks, re-encoded where a byte order mark says UTF-16 or UTF-32."""
    blocks = _read_blocks(path)
    first = next(blocks, b"")
    name = next((name for mark, name in _MARKS if first.startswith(mark)), None)
    if name is None:
        _refuse_unmarked(path, first[:4096])
        yield first
        yield from blocks
        return
    decoder = codecs.getincrementaldecoder(name)()
    try:
        yield decoder.decode(first).encode("utf-8")
        for block in blocks:
            yield decoder.decode(block).encode("utf-8")
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise DataError(
            f"{path}: its byte order mark says {name.upper()}, but not all of it is",
            got=str(error)[:200],
            wanted=f"{name.upper()} throughout, or UTF-8",
            next_step="was it cut off, or put together from files of different encodings?",
        ) from None


def _refuse_unmarked(path: AnyFile, begin: bytes) -> None:
    """Refuse what can only be UTF-16 without a mark: every other byte of it is zero."""
    zeros = [begin[at::2].count(0) for at in (0, 1)]
    if max(zeros) * 4 < len(begin) or min(zeros) * 8 > max(zeros) or len(begin) < 8:
        return
    name = "utf-16le" if zeros[1] > zeros[0] else "utf-16be"
    raise DataError(
        f"{path}: it is UTF-16 without a byte order mark",
        got=f"{sum(zeros)} zero bytes among the first {len(begin)}",
        wanted="a UTF-8 file",
        next_step=_format_iconv_command(path, name),
    )


def _build_encoding_error(path: AnyFile, number: int, offset: int, raw: bytes, at: int) -> DataError:
    return DataError(
        f"{path}:{number}: not UTF-8, at byte {offset + at} of the file",
        got=f"byte 0x{raw[at]:02x} in {raw.decode('latin-1').strip()[:80]}",
        wanted="a UTF-8 file",
        next_step=f"re-encode it, for example: {_format_iconv_command(path, _guess_encoding(raw))}",
    )


def _guess_encoding(raw: bytes) -> str:
    """Return the most likely encoding of bytes that are not UTF-8."""
    if b"\0" in raw:
        return "utf-16le" if raw[1::2].count(0) >= raw[::2].count(0) else "utf-16be"
    high = sum(byte > 0x7F for byte in raw)
    if high >= 4 and sum(map(len, _CHINESE.findall(raw))) == high:
        return "gb18030"
    return "cp1252" if any(0x80 <= byte < 0xA0 for byte in raw) else "latin1"


def _format_iconv_command(path: AnyFile, name: str) -> str:
    return f"iconv -f {name} -t utf-8 {path.name} > new{path.suffix}"
