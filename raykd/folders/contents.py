"""Say what lies in the model folders that a run begins with, so that a moved one is the same and a changed one is not.

Decision record: a resume compares what files hold, never where they lie. Rows have a fingerprint of their own
(`Dataset.fingerprint`). Of a model folder all small files count whole (configuration, tokenizer) and of large ones
the size, both ends and blocks spread between: weights that were trained further differ in all of them, and gigabytes
are not read twice.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from raykd.config import Run
from raykd.errors import ModelError

_WHOLE = 4 << 20
_BLOCK, _BLOCKS = 1 << 16, 64
_IGNORED = (".md", ".log", ".lock")


def list_model_paths(config: Run) -> dict[str, str]:
    """Folders and names of the models that a run begins with, by key."""
    paths = {f"teachers.{t.name}.path": getattr(t, "path", None) for t in config.active_teachers}
    paths["student.path"] = getattr(config.student, "path", None)
    for teacher in config.trained_teachers:
        key = f"teachers.{teacher.name}.training.model.path"
        paths[key] = getattr(teacher.training.model, "path", None)
    return {key: path for key, path in paths.items() if path is not None}


def digest_models(config: Run) -> dict[str, str]:
    """Digests of the local model folders that a run begins with, by key; names of the hub are left out."""
    return {
        key: digest_folder(Path(path))
        for key, path in list_model_paths(config).items()
        if Path(path).is_dir()
    }


def digest_folder(folder: Path) -> str:
    """sha256 (hex) over the names and contents of a model folder's files; of large files blocks of them.

    Raises:
        ModelError: A file cannot be read.
    """
    try:
        return _digest_files(folder)
    except OSError as error:
        raise ModelError(
            f"the model directory {folder} cannot be read",
            got=str(error),
            wanted="files that you may read",
            next_step="let this user read them, or move what is no part of the model elsewhere",
        ) from None


def _digest_files(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith(".") or path.suffix in _IGNORED:
            continue
        size = path.stat().st_size
        found.update(f"{path.name} {size}\0".encode())
        with path.open("rb") as file:
            if size <= _WHOLE:
                found.update(file.read())
                continue
            for block in range(_BLOCKS + 1):
                file.seek(block * (size - _BLOCK) // _BLOCKS)
                found.update(file.read(_BLOCK))
    return found.hexdigest()
