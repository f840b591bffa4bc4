"""Whether a folder is ours to restore state from.

Decision record: DeepSpeed unpickles what it loads, and unpickling runs code of whoever wrote the file, so a checkpoint
is loaded only where nobody but this user can have written it: every file and folder of it belongs to the user that
runs, nobody else may write it (the group may: shared projects are made so), and no link leads out of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_SHOWN = 80


def find_foreign_file(folder: Path) -> str | None:
    """Return why state must not be restored from this folder; None if it is ours.

    The folder that holds it counts too, since who may write there can put another in its place.
    """
    try:
        for path in _walk(folder):
            found = path.lstat()
            name = str(path.relative_to(folder.parent))[-_SHOWN:]
            if stat.S_ISLNK(found.st_mode):
                return f"{name} is a link"
            if found.st_uid != os.geteuid():
                return f"{name} belongs to user {found.st_uid}, not to {os.geteuid()} who runs this"
            # In a folder like /tmp (with the sticky bit) nobody can replace what another one owns.
            shared = path == folder.parent and found.st_mode & stat.S_ISVTX
            if found.st_mode & stat.S_IWOTH and not shared:
                return f"{name} may be written by everybody (chmod -R o-w {folder.parent})"
    except OSError as error:
        return f"it cannot be looked at: {error}"
    return None


def _walk(folder: Path) -> Iterator[Path]:
    """The folder's own folder, itself, and all in it; links are told and not followed."""
    yield folder.parent
    yield folder
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(at) / name
