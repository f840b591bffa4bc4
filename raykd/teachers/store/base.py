"""`Store`: the interface of a library that keeps one teacher's answers.

Decision record: all policy (what damage, a full disk or a deleted folder mean for a run, the bound on all stores
together, who uses a folder) is above this interface and the same for every library. Another library is one file: a
class with these methods, and one line in `raykd.teachers.store.folder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class StoreDamagedError(Exception):
    """The file does not hold what the library wrote."""


class StoreBusyError(Exception):
    """Other processes write for longer than the library waits."""


class StoreUnwritableError(Exception):
    """The disk is full, read-only, or fails."""


@dataclass(frozen=True)
class StoreCheck:
    """Result of reading a whole store.

    Attributes:
        entries: Answers in it.
        damaged: Answers whose checksum does not fit.
        problem: What is wrong with the file as a whole; None where nothing is.
    """

    entries: int
    damaged: int
    problem: str | None


class Store(Protocol):
    """One teacher's answers in one folder, open in this process.

    Every method but `close` may raise `StoreDamagedError`, `StoreBusyError` or `StoreUnwritableError`, and no other
    error. Methods may be called from several threads.
    """

    def is_current(self) -> bool:
        """Return whether the folder still holds the file that is open, with nothing cut off."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the body of each key; None where there is none or its checksum does not fit."""

    def contains(self, keys: Sequence[bytes]) -> list[bool]:
        """Return whether there is a body for each key, which may turn out to be damaged; reads no body."""

    def put(self, bodies: Mapping[bytes, bytes]) -> None:
        """Keep these bodies by key, all of them or, where it fails, none."""

    def count(self) -> int:
        """Return the number of answers."""

    def used_bytes(self) -> int:
        """Return the bytes of the file that hold something; the rest is used again before it grows."""

    def evict(self, share: float) -> int:
        """Delete this share of the answers, chosen at random; returns how many went."""

    def shrink(self) -> None:
        """Give freed bytes back to the disk."""

    def check(self) -> StoreCheck:
        """Read everything and say what is damaged."""

    def close(self) -> None:
        """Flush and close; never raises."""
