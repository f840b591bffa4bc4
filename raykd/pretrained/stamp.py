"""Stamp a model's folder: equal as long as no byte in it changes, at a cost of milliseconds.

Decision record: everything up to `HASHED` bytes (JSON, tokenizers, code) counts by its content, and of a safetensors
file the header does, which are all that an inspection reads. Gigabytes of weights are not read: beside the header they
count by size, modification time, change time and inode. The change time cannot be set by programs, so a byte that was
changed with its modification time put back shows as well. Only a file system that keeps neither time can hide a changed
weight, and answers are stored under the hash of all bytes in any case (`raykd.models.identity`).
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache
from pathlib import Path

from raykd.pretrained import files
from raykd.pretrained.adapters import find_adapters

HASHED = 64 * 2**20
"""Bytes up to which a file counts by its content."""
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "sentencepiece", "protobuf", "peft")
"""Packages on which reading a model depends."""


def stamp_model(folder: Path) -> str:
    """Return a hash of a model's files, of their places and, for an adapter, of its base's.

    Raises:
        ModelError: The adapter cannot be merged.
    """
    modules = sorted(
        path for path in folder.glob("[0-9]_*") if path.is_dir()
    )  # of a model of sentence vectors
    folders = [folder, *modules, files.find_config_folder(folder), files.find_tokenizer_folder(folder)]
    folders += [place for adapter in find_adapters(folder) for place in (adapter.folder, adapter.base)]
    parts = [part for each in dict.fromkeys(folders) for part in (str(each.resolve()), *_stamp_files(each))]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _stamp_files(folder: Path) -> list[str]:
    stamps = []
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        state = path.stat()
        identity = (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev)
        if path.suffix != ".safetensors" and state.st_size <= HASHED:
            stamps.append(f"{path.name} {_hash_start(path, state.st_size, identity)}")
        else:
            header = _hash_start(path, None, identity)
            stamps.append(f"{path.name} {header} {identity}")
    return stamps


@lru_cache(maxsize=1024)
def _hash_start(path: Path, size: int | None, identity: tuple[int, ...]) -> str:
    """Return the hash of a file's first bytes, read once for each of its states; "" if it cannot be read.

    Args:
        path: The file.
        size: How many bytes; None reads the header of a safetensors file.
        identity: The file's state.
    """
    try:
        with path.open("rb") as file:
            if size is None:
                first = file.read(8)
                size = min(HASHED, struct.unpack("<Q", first)[0]) if len(first) == 8 else 0
            return hashlib.sha256(file.read(size)).hexdigest()
    except OSError:
        return ""
