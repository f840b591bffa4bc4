"""Read names, shapes and places of stored weights from the headers of safetensors files; loads no weights.

A safetensors file consists of eight bytes with the length of the header, a JSON header, and the tensors' bytes. So the
header alone says what a checkpoint holds, and whether its file was cut short.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from raykd.errors import ModelError
from raykd.pretrained.jsonfile import POINTER, pointer_file_error

_LARGEST_HEADER = 100 * 2**20
_CHUNK = 16 * 2**20


class _Entry(TypedDict):
    """What a header says about one tensor; the offsets count from the header's end."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file.

    Attributes:
        path: The file.
        dtype: As the header writes it, for example ``F32``.
        shape: Its shape.
        begin: Its first byte, counted from the beginning of the file.
        size: Its number of bytes.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    size: int

    def chunks(self) -> Iterator[bytes]:
        """Yield the tensor's bytes, a chunk at a time."""
        with self.path.open("rb") as file:
            file.seek(self.begin)
            left = self.size
            while left > 0 and (chunk := file.read(min(left, _CHUNK))):
                yield chunk
                left -= len(chunk)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read the tensors that one safetensors file holds, by name.

    Raises:
        ModelError: The file is not a safetensors file, or is cut short.
    """
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER.encode():
                raise pointer_file_error(path)
            file.seek(0)
            (size,) = struct.unpack("<Q", file.read(8))
            if size > _LARGEST_HEADER:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(file.read(size))
        found = {
            name: _tensor(path, 8 + size, entry) for name, entry in header.items() if name != "__metadata__"
        }
    except (struct.error, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ModelError(
            f"{path} is not a safetensors file",
            got=str(error)[:200],
            next_step="copy or download it again",
        ) from None
    for name, tensor in found.items():
        if tensor.begin + tensor.size > length:
            missing = tensor.begin + tensor.size - length
            raise ModelError(
                f"{path} is cut short",
                got=f"{missing} bytes of {name} are not there",
                next_step="copy or download it again",
            )
    return found


def read_headers(paths: list[Path]) -> dict[str, StoredTensor]:
    """Read the tensors of several files, for example the shards of one checkpoint.

    Raises:
        ModelError: As `read_header`.
    """
    return {name: tensor for path in paths for name, tensor in read_header(path).items()}


def count_numbers(tensors: dict[str, StoredTensor]) -> int:
    """Count the floating-point numbers of stored tensors; whole numbers (buffers) are left out."""
    return sum(math.prod(t.shape) for t in tensors.values() if t.dtype.startswith(("F", "BF")))


def _tensor(path: Path, start: int, entry: _Entry) -> StoredTensor:
    first, last = (int(place) for place in entry["data_offsets"])
    if not 0 <= first <= last:
        raise ValueError(f"bytes {first} to {last}")
    shape = tuple(int(width) for width in entry["shape"])
    return StoredTensor(path, str(entry["dtype"]), shape, start + first, last - first)
