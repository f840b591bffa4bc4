"""Reads a whole store and says what is damaged: ``python -m raykd.teachers.store.scan FOLDER CLASSES``.

Decision record: a program of its own, for a damaged file may end it. CLASSES is 0 where values are of any size, or
nobody knows. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from raykd.teachers.store.folder import DATA
from raykd.teachers.store.pages import Damaged, check_pages, read_metas
from raykd.teachers.store.values import KEY_BYTES, decode, value_bytes


def scan(path: Path, classes: int | None) -> dict[str, Any]:
    """Entries, damaged values among them, and what is wrong with the file as a whole."""
    import lmdb

    found: dict[str, Any] = {"entries": 0, "damaged": 0, "problem": None}
    try:
        entries = read_metas(path / DATA)[0].main.entries
        with lmdb.open(str(path), max_readers=1024, readonly=True, create=False) as env, env.begin() as read:
            meta = next((m for m in read_metas(path / DATA) if m.txnid == read.id()), None)
            if meta is None:
                raise Damaged("no meta page belongs to the current transaction (or the store is written to)")
            check_pages(path / DATA, meta, KEY_BYTES, value_bytes(classes))
            found["entries"] = entries
            for key, value in read.cursor():
                found["damaged"] += decode(key, value, value_bytes(classes)) is None
    except (Damaged, OSError, lmdb.Error) as error:
        found["problem"] = str(error)
    return found


if __name__ == "__main__":
    print(json.dumps(scan(Path(sys.argv[1]), int(sys.argv[2]) or None)))
