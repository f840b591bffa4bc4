"""Open files on any file system of fsspec (s3://, gs://, hf://, https://) as the readers open a path.

Decision record: a remote file is read as a stream, from its beginning to its end, and nothing of it is kept but the
rows, so it may be larger than the disk. It is the same file as long as its size and what the file system says of its
version (an ETag, a time) are; where that is nothing, the rows are read each time.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from raykd.errors import DataError

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

_VERSIONS = ("etag", "ETag", "mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True)
class RemoteFile:
    """A file by its URL; what it has of `Path` means the same."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """Last part of its path."""
        return PurePosixPath(self.url.partition("?")[0]).name

    @property
    def suffix(self) -> str:
        """Ending of its name."""
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """Its name without the ending."""
        return PurePosixPath(self.name).stem

    def open(self, mode: str = "rb") -> Any:
        """Open its bytes.

        Raises:
            DataError: It is not there or cannot be read.
        """
        try:
            fs, place = _find_place(self.url)
            return io.BufferedReader(fs.open(place, mode))
        except DataError:
            raise
        except Exception as error:  # each file system has errors of its own
            raise _build_error(self.url, error) from None

    def describe(self) -> tuple[object, ...] | None:
        """Return what is another for another content; None where the file system does not say."""
        try:
            fs, place = _find_place(self.url)
            found = fs.info(place)
        except DataError:
            raise
        except Exception as error:
            raise _build_error(self.url, error) from None
        version = next((str(found[key]) for key in _VERSIONS if found.get(key)), None)
        return None if version is None else (self.url, found.get("size"), version)


AnyFile = Path | RemoteFile
"""A file on this machine, or elsewhere."""


def is_remote(name: str) -> bool:
    """Return whether a name is a URL and no path."""
    return "://" in name


def list_remote_files(pattern: str) -> list[RemoteFile]:
    """Return the files that match a URL with * ? [] or **, sorted by name.

    Raises:
        DataError: The file system cannot be asked.
    """
    try:
        fs, place = _find_place(pattern)
        return [RemoteFile(fs.unstrip_protocol(str(found))) for found in sorted(fs.glob(place))]
    except DataError:
        raise
    except Exception as error:
        raise _build_error(pattern, error) from None


def _find_place(url: str) -> tuple[AbstractFileSystem, str]:
    from fsspec.core import url_to_fs

    try:
        fs, place = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{url}: the file system is not known here",
            got=str(error)[:200],
            wanted="a URL of a file system that fsspec knows and whose package is installed (s3fs for s3://)",
            next_step="install its package, or download the file and name its path",
        ) from None
    return fs, str(place)


def _build_error(url: str, error: Exception) -> DataError:
    return DataError(
        f"{url}: cannot be read",
        got=f"{type(error).__name__}: {str(error)[:200]}",
        wanted="a file that is there and may be read from this machine",
        next_step="check the URL, the network and the credentials of its file system",
    )
