"""Digest the model folders that a run starts from, so that a moved folder is the same and a changed one is not.

Decision record: a resume compares what files hold, never where they lie. Rows have a fingerprint of their own
(`Dataset.fingerprint`). Of a model folder, small files (configuration, tokenizer) are hashed whole, large ones by their
size and by blocks spread from end to end: weights that were trained further differ in all of them, and gigabytes
are not read twice. Files of answers are digested as their teacher names them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from raykd.config import FileTeacher, Run
from raykd.errors import ModelError
from raykd.models import Student
from raykd.pretrained.hub import is_commit
from raykd.teachers.backends.files.shards import list_answer_files

_WHOLE = 4 << 20
"""Bytes up to which a file is hashed whole."""
_BLOCK, _BLOCKS = 1 << 16, 64
"""Bytes of a block of a larger file, and the number of gaps between its blocks."""
_IGNORED = (".md", ".log", ".lock")
"""Suffixes of files that no model depends on."""


def list_model_paths(config: Run) -> dict[str, str]:
    """Return the folders and hub names of the models that a run starts from, and files of functions, by key."""
    paths = {f"teachers.{t.name}.path": getattr(t, "path", None) for t in config.active_teachers}
    paths |= {
        f"teachers.{t.name}.function": getattr(t, "function_file", None) for t in config.active_teachers
    }
    paths |= {key: getattr(student, "path", None) for key, student in _list_students(config).items()}
    stage = config.pretraining
    paths |= (
        {f"pretraining.teachers.{t.name}.path": getattr(t, "path", None) for t in stage.teachers}
        if stage
        else {}
    )
    for teacher in config.trained_teachers:
        key = f"teachers.{teacher.name}.training.model.path"
        paths[key] = getattr(teacher.training.model, "path", None)
    return {key: path for key, path in paths.items() if path is not None}


def digest_models(config: Run) -> dict[str, str]:
    """Return digests of the models and answers that a run starts from, by key. Of a hub name it is the commit,
    where it is pinned."""
    given = {f"teachers.{t.name}.path": t for t in config.active_teachers if isinstance(t, FileTeacher)}
    found = {}
    for key, path in list_model_paths(config).items():
        if key in given:
            found[key] = digest_answers(given[key])
        elif Path(path).exists():
            found[key] = digest_folder(Path(path)) if Path(path).is_dir() else digest_file(Path(path))
    sources: dict[str, object] = {f"teachers.{t.name}.path": t for t in config.active_teachers}
    sources |= _list_students(config)
    stage = config.pretraining
    sources |= {f"pretraining.teachers.{t.name}.path": t for t in stage.teachers} if stage else {}
    sources |= {f"teachers.{t.name}.training.model.path": t.training.model for t in config.trained_teachers}
    for key, model in sources.items():
        revision = getattr(model, "revision", None)
        if key not in found and revision is not None and is_commit(revision):
            found[key] = revision
    return found


def _list_students(config: Run) -> dict[str, Student]:
    """Return the student and its peer by the key of the checkpoint that each may start from."""
    peer = next(iter(config.members.values())).peer
    return {"student.path": config.student} | ({} if peer is None else {"peer.student.path": peer.student})


def digest_answers(teacher: FileTeacher) -> str:
    """Return the digest of a teacher's files of answers, or the version that names their content."""
    who = f"teacher {teacher.name}"
    return f"version {teacher.version}" if teacher.version else list_answer_files(teacher.path, who).digest()


def digest_file(path: Path) -> str:
    """Return the sha256 (hex) of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_folder(folder: Path) -> str:
    """Return the sha256 (hex) over names and contents of a model folder's files; of large files some blocks count.

    Raises:
        ModelError: A file cannot be read.
    """
    try:
        found = hashlib.sha256()
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith(".") and path.suffix not in _IGNORED:
                found.update(f"{path.name} {path.stat().st_size}\0".encode())
                for block in _read_blocks(path):
                    found.update(block)
        return found.hexdigest()
    except OSError as error:
        raise ModelError(
            f"the model directory {folder} cannot be read",
            got=str(error),
            wanted="files that you may read",
            next_step="let this user read them, or move what is no part of the model elsewhere",
        ) from None


def _read_blocks(path: Path) -> Iterator[bytes]:
    """Yield a small file's content, or blocks of a large one."""
    with path.open("rb") as file:
        size = path.stat().st_size
        if size <= _WHOLE:
            yield file.read()
            return
        for block in range(_BLOCKS + 1):
            file.seek(block * (size - _BLOCK) // _BLOCKS)
            yield file.read(_BLOCK)
