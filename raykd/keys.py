"""Turn names that people choose (languages, keys, models) into parts of keys and paths, without collisions.

Decision record: a plain name stays as it is, so that `eval/zh/accuracy` can be read and guessed. Any other name is
cleaned and gets eight digits of the hash of the whole name. That keeps `zh(CN)` apart from `zh_CN_`, and a language
called `mean` apart from the mean over languages. A name that already looks like one with a hash gets one too, so that
no name can imitate another.
"""

from __future__ import annotations

import hashlib
import posixpath
import re

LONGEST_KEY = 250
"""Most characters that MLflow takes in the name of a parameter, metric or tag."""
RESERVED_PARTS = frozenset({"mean", "macro"})
"""Parts that stand for the mean over languages in place of a language."""
_MARK = re.compile(r"-[0-9a-f]{8}$")
_UNFIT = re.compile(r"[^\w. :-]")
_LOOSE = re.compile(r"(^|/)[\s]|[\s](/|$)")
"""Matches blanks at either end of a part."""


def append_hash(clean: str, name: str, longest: int = LONGEST_KEY) -> str:
    """Return ``clean``, cut to the longest length, with a hash of ``name`` appended."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{clean[: longest - 9].rstrip('/. ') or '_'}-{digest}"


def make_key_part(name: str) -> str:
    """Return a name as one part of a key, for example the language in ``eval/<language>/accuracy``.

    Returns:
        The name itself if it is plain, else a readable form with a hash: ``zh(CN)`` gives ``zh_CN_-`` and eight
        digits. Never empty, without a slash, and never a reserved part.
    """
    # A longer part would leave no room for the parts before and after it.
    if name not in RESERVED_PARTS and "/" not in name and len(name) <= 100 and make_mlflow_key(name) == name:
        return name
    return append_hash(_clean(name.replace("/", "_")), name, 100)


def make_mlflow_key(key: str) -> str:
    """Return a key in the form that MLflow takes for a parameter, metric or tag. Different keys stay different."""
    if _is_plain(key):
        return key
    parts = [_clean(part) for part in key.split("/") if part.strip(". \t\n")]
    return append_hash("/".join(parts), key)


def _is_plain(key: str) -> bool:
    """Return whether MLflow takes the key unchanged and it does not look like a key with a hash."""
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
    """Return a part without characters that MLflow refuses, and without the dots of a parent folder."""
    return re.sub(r"\.\.+", ".", _UNFIT.sub("_", part)).strip(". ") or "_"
