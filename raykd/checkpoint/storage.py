"""Read and write folders of checkpoints on local and remote file systems.

Decision record: remote folders are reached by fsspec (`s3://`, `gs://`, `hdfs://`, ...). Only what an object store
offers is used: write a whole file, read, list, remove. Nothing is renamed, locked or changed in place there. On a
local disk files are written in place, so nothing is written twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem


@dataclass(frozen=True)
class StorageFolder:
    """A folder that may not exist yet.

    Attributes:
        url: A path, or the URL of a folder on a file system that fsspec knows.
    """

    url: str

    @property
    def local_path(self) -> Path | None:
        """The folder on a local disk; None where it is remote."""
        return None if "://" in self.url else Path(self.url)

    @cached_property
    def _remote(self) -> tuple[AbstractFileSystem, str]:
        fs, path = url_to_fs(self.url)
        return fs, path.rstrip("/")

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rstrip("/").rpartition("/")[2]

    def child(self, name: str) -> StorageFolder:
        """Return the folder of this name inside."""
        return StorageFolder(f"{self.url.rstrip('/')}/{name}")

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of every file below, by its relative name."""
        if (local := self.local_path) is not None:
            found = {}
            for path in (Path(at) / name for at, _, names in os.walk(local) for name in names):
                with contextlib.suppress(FileNotFoundError):  # another rank may just rename its manifest
                    if stat.S_ISREG((status := path.stat()).st_mode):
                        found[path.relative_to(local).as_posix()] = status.st_size
            return found
        fs, root = self._remote
        fs.invalidate_cache()  # fsspec caches listings, and other ranks write meanwhile
        try:
            files = fs.find(root, detail=True)
        except FileNotFoundError:
            return {}
        return {path[len(root) + 1 :]: int(info["size"]) for path, info in files.items()}

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        if (local := self.local_path) is not None:
            return (local / name).read_bytes()
        fs, root = self._remote
        return bytes(fs.cat_file(f"{root}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """Write a file that exists whole or not at all, even after a power cut."""
        if (local := self.local_path) is None:
            fs, root = self._remote
            fs.pipe_file(f"{root}/{name}", content)
            return
        fresh = (local / name).with_suffix(".tmp")
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, local / name)

    def digest(self, name: str) -> str:
        """Return the sha256 (hex) of a file."""
        if (local := self.local_path) is not None:
            with (local / name).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        fs, root = self._remote
        with fs.open(f"{root}/{name}", "rb") as remote:
            return hashlib.file_digest(remote, "sha256").hexdigest()

    @contextlib.contextmanager
    def stage(self) -> Iterator[Path]:
        """Yield a local folder to write into. On a remote file system its files are sent when the body has ended."""
        if (local := self.local_path) is not None:
            local.mkdir(parents=True, exist_ok=True)
            yield local
            return
        fs, root = self._remote
        with tempfile.TemporaryDirectory(prefix="raykd-checkpoint-") as made:
            yield Path(made)
            for path in sorted(Path(made).rglob("*")):
                if path.is_file():
                    fs.put_file(str(path), f"{root}/{path.relative_to(made).as_posix()}")

    @contextlib.contextmanager
    def fetch(self) -> Iterator[Path]:
        """Yield a local folder with all files. The copy of a remote folder is removed when the body has ended."""
        if (local := self.local_path) is not None:
            yield local
            return
        fs, root = self._remote
        with tempfile.TemporaryDirectory(prefix="raykd-checkpoint-") as made:
            for name in self.sizes():
                target = Path(made) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(f"{root}/{name}", str(target))
            yield Path(made)

    def remove(self) -> None:
        """Remove the folder and everything in it, as far as possible."""
        if (local := self.local_path) is not None:
            shutil.rmtree(local, ignore_errors=True)
            return
        fs, root = self._remote
        for name in self.sizes():
            with contextlib.suppress(OSError):
                fs.rm_file(f"{root}/{name}")
