"""Select parts of a source: splits of a saved folder with slices as ``train[:50%]``, and files by pattern.

Decision record: slices are read by `datasets` itself, so that a saved folder and a hub set mean the same by them.
Patterns are expanded when data are read, sorted by name, and one that nothing matches is an error: an empty training
set is never what was meant.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.data.files.remote import AnyFile, RemoteFile, is_remote, list_remote_files
from raykd.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


def select_split(loaded: Dataset | dict[str, Dataset], split: str, folder: Path) -> Dataset:
    """Return the rows that ``split`` names in a folder that `save_to_disk` wrote.

    Args:
        loaded: A `datasets.Dataset`, which has no splits to choose from, or a mapping of data sets by split.
        split: ``train``, ``train[:50%]``, ``train[100:200]``, ``train+validation``.
        folder: The folder, for messages.

    Raises:
        DataError: There is no such split, or it cannot be read; names the splits.
    """
    import datasets

    instruction = datasets.ReadInstruction.from_spec(split)
    asked = {part.partition("[")[0].strip() for part in split.split("+")}
    if not isinstance(loaded, dict):
        own = str(loaded.split) if loaded.split is not None else None
        if own is not None and asked not in ({own}, {"train"}):
            raise DataError(
                f"{folder}: there is no split {split!r}", got=split, wanted=f"{own!r}, the one that was saved"
            )
        loaded = dict.fromkeys(asked, loaded)
    if asked - set(loaded):
        raise DataError(
            f"{folder}: there is no split {split!r}",
            got=split,
            wanted=f"one of {sorted(loaded)}",
            next_step="name one as split of the source",
        )
    sizes = {name: len(rows) for name, rows in loaded.items()}
    parts = []
    for part in instruction.to_absolute(sizes):
        begin = part.from_ or 0
        end = sizes[part.splitname] if part.to is None else part.to
        parts.append(loaded[part.splitname].select(range(begin, end)))
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def list_matching_files(names: Sequence[str], base_dir: Path) -> list[AnyFile]:
    """Return the files of a source, in its order; files of a pattern (* ? [] **) are sorted by name.

    Raises:
        DataError: No file matches a pattern, or a pattern names a file a second time.
    """
    found: list[AnyFile] = []
    origin: dict[AnyFile, str] = {}
    for name in names:
        pattern = glob.has_magic(name) and (is_remote(name) or not (base_dir / name).exists())
        for match in _list_matches(name, base_dir, pattern):
            if match in origin and (pattern or glob.has_magic(origin[match])):
                raise DataError(
                    f"{match}: the file is named twice",
                    got=f"{origin[match]} and {name}",
                    wanted="each file once",
                    next_step="make the patterns of paths narrower",
                )
            origin[match] = name
            found.append(match)
    return found


def _list_matches(name: str, base_dir: Path, pattern: bool) -> Sequence[AnyFile]:
    if not is_remote(name):
        return _expand_pattern(base_dir / name) if pattern else [base_dir / name]
    files = list_remote_files(name) if pattern else [RemoteFile(name)]
    if not files:
        raise DataError(f"{name}: no file matches the pattern", got="no match", wanted="one file at least")
    return files


def _expand_pattern(path: Path) -> list[Path]:
    """Return the files that match; folders that exist as written are no part of the pattern."""
    folder, parts = path.parent, [path.name]
    while not folder.exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    names = sorted(glob.glob("/".join(parts), root_dir=folder, recursive=True))
    files = [folder / name for name in names if (folder / name).is_file()]
    if not files:
        inside = sorted(p.name for p in folder.iterdir())[:5] if folder.is_dir() else []
        raise DataError(
            f"{path}: no file matches the pattern",
            got=f"no match; {folder} holds {inside}",
            wanted="one file at least",
            next_step="correct the pattern in paths (relative paths are relative to the run file)",
        )
    return files
