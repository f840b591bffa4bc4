"""Write the manifests of a checkpoint, and check by them that it is whole.

Decision record: each rank writes a manifest with the sizes and sha256 of its files, the job, the number of ranks, the
step, and the fingerprint of the configuration (for people; `raykd.folders.earlier_start` compares settings to decide
on a resume). A manifest is written last and atomically, so a checkpoint with all its manifests is finished. Only
manifests are forced onto the disk. Files lost in a power cut fail their hash, and the checkpoint before is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

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
            files[name] = {"size": size, "sha256": folder.digest(name)}
    return json.dumps({**asdict(info), "parts": info.world, "files": files})


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
    for manifest in manifests:
        try:
            tree = json.loads(folder.read(manifest))
            parts, files = int(tree["parts"]), dict(tree["files"])
            job, config, ranks, step = (tree[name] for name in asdict(CheckpointInfo()))
            info = CheckpointInfo(str(job), str(config), int(ranks), int(step))
            wanted = {name: (int(f["size"]), str(f["sha256"])) for name, f in files.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
            return f"{manifest} cannot be read"
        if parts != len(manifests):
            return f"it has {len(manifests)} parts of {parts}"
        if world is not None and info.world != world:
            return f"it is of {info.world} workers, wanted {world}"
        for name, (size, digest) in wanted.items():
            if name not in found:
                return f"{name[:80]} is missing"
            if found[name] != size:
                return f"{name} has {found[name]} bytes of {size}"
            if folder.digest(name) != digest:
                return f"{name} is not as it was written"
    return None


def is_finished(folder: StorageFolder, files: Mapping[str, int]) -> bool:
    """Return whether all manifests of a checkpoint exist, without reading its files.

    Args:
        folder: The checkpoint.
        files: Its files, as `StorageFolder.sizes` returns them.
    """
    manifests = [name for name in files if _MANIFEST.fullmatch(name)]
    try:
        return bool(manifests) and json.loads(folder.read(manifests[0]))["parts"] == len(manifests)
    except (OSError, ValueError, KeyError, TypeError):
        return False
