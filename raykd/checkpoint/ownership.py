"""Check that nobody else can have written a folder before state is restored from it.

Decision record: DeepSpeed unpickles what it loads, and unpickling runs code of whoever wrote the file. So every file
and folder of a checkpoint must belong to the user that runs, must not be writable by everybody (the group may write:
shared projects need it), and must not be a link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_SHOWN = 80
"""Characters of a path that a message shows."""


def find_foreign_file(folder: Path) -> str | None:
    """Return why state must not be restored from this folder; None if it may.

    The folder above counts too, since whoever may write there can replace this one.
    """
    try:
        for path in _walk(folder):
            found = path.lstat()
            name = str(path.relative_to(folder.parent))[-_SHOWN:]
            if stat.S_ISLNK(found.st_mode):
                return f"{name} is a link"
            if found.st_uid != os.geteuid():
                return f"{name} belongs to user {found.st_uid}, not to {os.geteuid()} who runs this"
            # In a folder with the sticky bit, such as /tmp, nobody can replace what somebody else owns.
            shared = path == folder.parent and found.st_mode & stat.S_ISVTX
            if found.st_mode & stat.S_IWOTH and not shared:
                return f"{name} may be written by everybody (chmod -R o-w {folder.parent})"
    except OSError as error:
        return f"it cannot be looked at: {error}"
    return None


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the folder above, the folder, and everything in it. Links are yielded, not followed."""
    yield folder.parent
    yield folder
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(at) / name
