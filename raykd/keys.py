"""Names that people choose (languages, keys, models) as parts of keys and paths: two names never become one.

Decision record: a name that can stand as it is stays as it is, so that `eval/zh/accuracy` can be read and guessed. Any
other one is cleaned for the eye and marked with eight digits of the hash of the whole name, which keeps `zh(CN)` apart
from `zh_CN_` and a language called `mean` apart from the mean over languages. A name that looks marked is marked again,
so that none can be written that equals another one's mark.
"""

from __future__ import annotations

import hashlib
import posixpath
import re

LONGEST_KEY = 250
"""Characters MLflow takes in the name of a parameter, metric or tag."""
RESERVED_PARTS = frozenset({"mean", "macro"})
"""What stands for the mean over languages where a language may stand."""
_MARK = re.compile(r"-[0-9a-f]{8}$")
_UNFIT = re.compile(r"[^\w. :-]")
_LOOSE = re.compile(r"(^|/)[\s]|[\s](/|$)")
"""Blanks at either end of a part."""


def append_hash(clean: str, name: str, longest: int = LONGEST_KEY) -> str:
    """Return ``clean``, cut where it is too long, with the mark of ``name`` behind it."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{clean[: longest - 9].rstrip('/. ') or '_'}-{digest}"


def make_key_part(name: str) -> str:
    """Return a name as one part of a key, for example the language in ``eval/<language>/accuracy``.

    Returns:
        The name itself where it is plain, else a readable form with a mark: ``zh(CN)`` gives ``zh_CN_-`` and eight
        digits. Never empty, never with a slash, never what stands for a mean.
    """
    # A part that is longer would leave no room for what stands before and after it.
    if name not in RESERVED_PARTS and "/" not in name and len(name) <= 100 and make_mlflow_key(name) == name:
        return name
    return append_hash(_clean(name.replace("/", "_")), name, 100)


def make_mlflow_key(key: str) -> str:
    """Return a key as MLflow takes it for a parameter, metric or tag; two keys never become one."""
    if _is_plain(key):
        return key
    parts = [_clean(part) for part in key.split("/") if part.strip(". \t\n")]
    return append_hash("/".join(parts), key)


def _is_plain(key: str) -> bool:
    """Return whether MLflow takes the key as it is, and nothing marked looks like it."""
    return (
        0 < len(key) <= LONGEST_KEY
        and not _UNFIT.search(key.replace("/", ""))
        and not _MARK.search(key)
        and not _LOOSE.search(key)
        and posixpath.normpath(key) == key
        and not key.startswith(("/", ".."))
        and key != "."
    )


def _clean(part: str) -> str:
    """Return a part without signs that MLflow refuses, and without dots that lead up."""
    return re.sub(r"\.\.+", ".", _UNFIT.sub("_", part)).strip(". ") or "_"
