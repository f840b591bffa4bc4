"""What a submission uploads: a folder, what is left out of it, how large it is.

Decision record: Ray packs the job's folder without compression, keeps it in the head's memory and refuses it, after
the packing, above the largest message of gRPC (512 MiB unless RAY_max_grpc_message_size says else), naming no file. So
the files are listed and added up first, and the largest are named. What is left out is told to Ray as `excludes`, so
both see the same files; .gitignore and .rayignore files count as Ray counts them. Files that usually hold secrets are
left out: whoever may use the cluster can read what was uploaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from raykd.compat.ray_private import exclude_patterns, read_ignore_files, read_upload_limit
from raykd.errors import ConfigError
from raykd.preflight.disk import format_bytes

_SILENT = logging.Logger("silent")
"""Ray says which ignore files it has found; the list of files says more."""
SHOWN = 10
"""Largest files that are named."""
CACHES = (".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".import_linter_cache", ".ipynb_checkpoints",
          ".cache", "node_modules", "*.egg-info")  # fmt: skip
SECRETS = (
    ".env",
    ".netrc",
    "*.pem",
    "*.key",
    "id_rsa*",
    "id_ed25519*",
    "auth_token",
    ".ssh",
    ".aws",
    ".kube",
)
RAYS_OWN = (".git", ".venv", "venv", "__pycache__")
"""What Ray leaves out by itself, unless RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES says else; said again to be sure."""


@dataclass(frozen=True)
class Package:
    """What is uploaded.

    Attributes:
        folder: The folder, absolute.
        files: Relative path to bytes, the largest first.
        excludes: Patterns of what stays, as of .gitignore.
    """

    folder: Path
    files: dict[str, int]
    excludes: tuple[str, ...]

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(self.files.values())

    def describe(self) -> list[str]:
        """Return lines for people: how much is uploaded, and the largest files."""
        files = f"{len(self.files):,} file{'s' * (len(self.files) != 1)}"
        lines = [f"uploads {files}, {format_bytes(self.size)}, from {self.folder}"]
        largest = list(self.files.items())[:SHOWN]
        if len(self.files) > len(largest):
            lines[0] += f"; the {SHOWN} largest:"
        return lines + [f"  {format_bytes(size):>9}  {name}" for name, size in largest]


def list_package(folder: Path, leave_out: tuple[Path, ...] = ()) -> Package:
    """List what of a folder would be uploaded.

    Args:
        folder: The folder.
        leave_out: Folders that are left out too, such as those of finished runs.

    Raises:
        ConfigError: There is no such folder, or it is too large.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder {folder} to upload", got=str(folder), wanted="--working-dir FOLDER"
        )
    folder = folder.resolve()
    inside = [
        f"/{path.relative_to(folder)}" for path in leave_out if path != folder and path.is_relative_to(folder)
    ]
    excludes = (*RAYS_OWN, *CACHES, *SECRETS, "/runs", "/mlruns", "*.db", *inside)
    sizes = sorted(_files(folder, excludes), key=lambda found: (-found[1], found[0]))
    found = Package(folder, dict(sizes), tuple(dict.fromkeys(excludes)))
    limit = read_upload_limit()
    if found.size >= limit:
        raise ConfigError(
            f"{folder} is too large to upload: the head would refuse it",
            got="\n".join(found.describe()),
            wanted=f"less than {format_bytes(limit)}",
            next_step="name a smaller folder with --working-dir, list what is not needed in a .rayignore file "
            "there, or put the data on storage that the cluster sees and write its path in the run from the root",
        )
    return found


def _files(folder: Path, excludes: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Yield every file with its size, as Ray's own packing finds them."""

    def walk(at: Path, ignoring: list[Callable[[Path], bool]]) -> Iterator[tuple[str, int]]:
        ignoring = [*ignoring, *read_ignore_files(at, _SILENT)]
        for path in sorted(at.iterdir()):
            if any(ignored(path) for ignored in ignoring):
                continue
            if path.is_dir():
                yield from walk(path, ignoring)
            elif path.is_file():
                yield str(path.relative_to(folder)), path.stat().st_size

    yield from walk(folder, [exclude_patterns(folder, list(excludes))])
