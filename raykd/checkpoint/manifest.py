"""Write the manifests of a checkpoint, and check by them that it is whole.

Decision record: each rank writes a manifest with the sizes and sha256 of its files, the job, the number of ranks, the
step, and the fingerprint of the configuration (for people; `raykd.folders.earlier_start` compares settings to decide
on a resume). A manifest is written last and atomically, so a checkpoint with all its manifests is finished. Only
manifests are forced onto the disk. Files lost in a power cut fail their hash, and the checkpoint before is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pydantic import BaseModel

from raykd.checkpoint.ownership import find_foreign_file
from raykd.checkpoint.storage import StorageFolder

_RANK_IN_NAME = re.compile(r"_pp_rank_(\d+)_")
"""How DeepSpeed names the files of a rank."""
_MANIFEST = re.compile(r"manifest-\d+\.json")


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself.

    Attributes:
        job: Name of the job.
        config: Fingerprint of its configuration.
        world: Number of ranks that wrote it.
        step: Optimizer steps done.
    """

    job: str = ""
    config: str = ""
    world: int = 1
    step: int = 0


class FileEntry(BaseModel):
    """Size in bytes and sha256 (hex) of a file."""

    size: int
    sha256: str


class Manifest(BaseModel):
    """The manifest of one rank.

    Attributes:
        job, config, world, step: As in `CheckpointInfo`.
        parts: Number of manifests of the checkpoint.
        files: The rank's files, by their relative names.
    """

    job: str
    config: str
    world: int
    step: int
    parts: int
    files: dict[str, FileEntry]


def describe_files(folder: StorageFolder, info: CheckpointInfo, rank: int = 0) -> str:
    """Return the manifest of the files that a rank has written.

    Files of several ranks may lie in one folder. A file that DeepSpeed names by a rank belongs to that rank, any other
    to rank 0.

    Args:
        folder: Where the files are.
        info: What the checkpoint says of itself.
        rank: Whose files are listed.
    """
    files = {}
    for name, size in sorted(folder.sizes().items()):
        owner = _RANK_IN_NAME.search(name.rpartition("/")[2])
        if (int(owner[1]) if owner else 0) == rank and not name.startswith("manifest-"):
            files[name] = FileEntry(size=size, sha256=folder.digest(name))
    return Manifest(**asdict(info), parts=info.world, files=files).model_dump_json()


def write_manifest(folder: StorageFolder, manifest: str, rank: int = 0) -> None:
    """Add a rank's manifest. The last one of all ranks finishes the checkpoint."""
    folder.write(f"manifest-{rank}.json", manifest.encode())


def find_problem(folder: StorageFolder, *, world: int | None = None) -> str | None:
    """Return why a checkpoint cannot be used; None if it is whole.

    Args:
        folder: The checkpoint.
        world: Number of ranks that must have written it; None takes any.
    """
    if folder.local_path is not None and (wrong := find_foreign_file(folder.local_path)) is not None:
        return wrong
    found = folder.sizes()
    manifests = sorted(name for name in found if _MANIFEST.fullmatch(name))
    if not manifests:
        return "it has no manifest"
    for name in manifests:
        try:
            manifest = Manifest.model_validate_json(folder.read(name))
        except (OSError, ValueError):
            return f"{name} cannot be read"
        if manifest.parts != len(manifests):
            return f"it has {len(manifests)} parts of {manifest.parts}"
        if world is not None and manifest.world != world:
            return f"it is of {manifest.world} workers, wanted {world}"
        for file, wanted in manifest.files.items():
            if file not in found:
                return f"{file[:80]} is missing"
            if found[file] != wanted.size:
                return f"{file} has {found[file]} bytes of {wanted.size}"
            if folder.digest(file) != wanted.sha256:
                return f"{file} is not as it was written"
    return None


def is_finished(folder: StorageFolder, files: Mapping[str, int]) -> bool:
    """Return whether all manifests of a checkpoint exist, without reading its files.

    Args:
        folder: The checkpoint.
        files: Its files, as `StorageFolder.sizes` returns them.
    """
    manifests = [name for name in files if _MANIFEST.fullmatch(name)]
    try:
        return bool(manifests) and Manifest.model_validate_json(folder.read(manifests[0])).parts == len(
            manifests
        )
    except (OSError, ValueError):
        return False
