"""Whether an LMDB file is whole: its meta pages, and every page that a reader or writer would follow.

Decision record: LMDB believes its pages. A flipped bit in a node's header, a file that is shorter than its meta
page says, or pages that a power cut left unwritten end the process that reads them (SIGSEGV, SIGBUS, abort), and
no exception can be caught. All keys of a store are of one size and so are all values, so a sound page has exactly
one shape, and numpy compares a gigabyte of pages in seconds. The walk starts at the root of one read transaction:
pages of a snapshot are never written again, so other processes may write meanwhile. Format: LMDB 0.9, as in its
``mdb.c`` (https://git.openldap.org/openldap/openldap, libraries/liblmdb); 64 bit, little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC, VERSION = 0xBEEFC0DE, 1
_META = struct.Struct("<QHHHH IIQQ IHHQQQQQ IHHQQQQQ QQ")
_BRANCH, _LEAF, _OVERFLOW, _META_FLAG = 1, 2, 4, 8
_PAGE_HEADER, _NODE_HEADER = 16, 8
_BIG_DATA = 1
_INTEGER_KEY = 8
_NO_PAGE = 2**64 - 1
_DEEPEST = 32
_CHUNK_PAGES = 4096


class Damaged(Exception):  # noqa: N818  (an outcome, caught where it matters)
    """A page that is not what LMDB wrote."""


@dataclass(frozen=True)
class Tree:
    """One of the two B-trees of a file. root is `_NO_PAGE` where it is empty."""

    flags: int
    depth: int
    branches: int
    leaves: int
    overflow: int
    entries: int
    root: int


@dataclass(frozen=True)
class Meta:
    """One of the two meta pages; the one with the larger txnid is current."""

    page_bytes: int
    free: Tree
    main: Tree
    last_page: int
    txnid: int

    @property
    def bytes_used(self) -> int:
        """Bytes of pages that hold something; the rest is used again before the file grows."""
        return (2 + sum(t.branches + t.leaves + t.overflow for t in (self.free, self.main))) * self.page_bytes


def read_metas(path: Path) -> list[Meta]:
    """Both meta pages, the current one first.

    Raises:
        Damaged: one of them is not a meta page of a store. OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_META.size)
        if len(head) < _META.size:
            raise Damaged("the file has no meta page")
        first = _meta(head, 0)
        file.seek(first.page_bytes)
        second = _meta(file.read(_META.size), 1)
    if first.page_bytes != second.page_bytes:
        raise Damaged("the meta pages disagree")
    return sorted((first, second), key=lambda meta: -meta.txnid)


def _meta(data: bytes, number: int) -> Meta:
    if len(data) < _META.size:
        raise Damaged("a meta page is cut short")
    pgno, _, flags, _, _, magic, version, address, _, *rest = _META.unpack(data)
    page_bytes, pad = rest[0], rest[8]
    free, main = Tree(*rest[1:2], *rest[2:8]), Tree(*rest[9:10], *rest[10:16])
    last_page, txnid = rest[16:]
    sound = (
        (pgno, flags, magic, version, address, pad) == (number, _META_FLAG, MAGIC, VERSION, 0, 0)
        and 512 <= page_bytes <= 65536
        and page_bytes & (page_bytes - 1) == 0
        and (free.flags, main.flags) == (_INTEGER_KEY, 0)
        and max(free.depth, main.depth) < _DEEPEST
        and 1 <= last_page < 2**44
        and all((t.root == _NO_PAGE) == (t.entries == 0) == (t.depth == 0) for t in (free, main))
    )
    if not sound:
        raise Damaged(f"meta page {number} is damaged")
    return Meta(page_bytes, free, main, last_page, txnid)


def check_pages(path: Path, meta: Meta, key_bytes: int, value_bytes: int) -> None:
    """Walks both trees of a snapshot, for which a read transaction must be open.

    Raises:
        Damaged: the first page that is not sound.
    """
    if meta.main.root == meta.free.root == _NO_PAGE:
        return
    # Free pages at the end need not be in the file, so only pages that are followed must be.
    there = min(meta.last_page + 1, path.stat().st_size // meta.page_bytes)
    pages = np.memmap(path, np.uint8, "r")[: there * meta.page_bytes].reshape(-1, meta.page_bytes)
    seen = np.zeros(meta.last_page + 1, dtype=bool)
    node = _NODE_HEADER + key_bytes + value_bytes
    # LMDB's own rule: at least two nodes fit in a page, else the value goes to pages of its own.
    big = node > (((meta.page_bytes - _PAGE_HEADER) // 2) & -2) - 2
    leaves, bounds = _walk(pages, seen, meta.main, key_bytes)
    entries, last = 0, np.uint64(0)
    for at in range(0, len(leaves), _CHUNK_PAGES):
        part = slice(at, at + _CHUNK_PAGES)
        count, last = _check_leaves(
            pages, seen, leaves[part], bounds[part], last, key_bytes, value_bytes, big
        )
        entries += count
    if entries != meta.main.entries:
        raise Damaged(f"{entries} entries where {meta.main.entries} were counted")
    _check_free(pages, seen, meta.free)


def _visit(seen: NDArray[np.bool_], numbers: NDArray[Any], end: int) -> NDArray[np.int64]:
    """Marks pages, all before ``end``; each may be reached once."""
    if len(numbers) and (int(numbers.max()) >= end or int(numbers.min()) < 2):
        raise Damaged("a page number leads out of the file")
    places: NDArray[np.int64] = numbers.astype(np.int64)
    if seen[places].any() or len(np.unique(places)) != len(places):
        raise Damaged("two ways lead to one page")
    seen[places] = True
    return places


def _walk(
    pages: NDArray[np.uint8], seen: NDArray[np.bool_], tree: Tree, key_bytes: int
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Numbers of the leaf pages of a tree in order, and the smallest key (its first 8 bytes) that each may hold."""
    bounds = np.zeros(1, dtype=np.uint64)
    if tree.root == _NO_PAGE:
        return np.empty(0, dtype=np.int64), bounds[:0]
    level = _visit(seen, np.asarray([tree.root], dtype=np.uint64), len(pages))
    branches = 0
    for _ in range(tree.depth - 1):
        branches += len(level)
        parts = [slice(i, i + _CHUNK_PAGES) for i in range(0, len(level), _CHUNK_PAGES)]
        found = [_children(pages, level[part], bounds[part], key_bytes) for part in parts]
        level = _visit(seen, np.concatenate([numbers for numbers, _ in found]), len(pages))
        bounds = np.concatenate([below for _, below in found])
    if (branches, len(level)) != (tree.branches, tree.leaves):
        raise Damaged("a tree has other pages than were counted")
    return level, bounds


def _headers(pages: NDArray[np.uint8], numbers: NDArray[np.int64], kind: int) -> tuple[Any, Any, Any]:
    """The pages as rows, the count of their nodes and where the nodes begin."""
    rows = pages[numbers]
    words = rows[:, :_PAGE_HEADER].view("<u2").astype(np.int64)
    lower, upper = words[:, 6], words[:, 7]
    sound = (rows[:, :8].view("<u8")[:, 0] == numbers.astype(np.uint64)) & (words[:, 5] == kind)
    sound &= (lower >= _PAGE_HEADER + 2) & (lower % 2 == 0) & (lower <= upper) & (upper <= rows.shape[1])
    if not sound.all():
        raise Damaged(f"page {numbers[~sound][0]} has a damaged head")
    return rows, (lower - _PAGE_HEADER) // 2, upper


def _nodes(rows: Any, counts: Any) -> tuple[Any, Any, Any]:
    """Of each page (rows) and node: whether it is there, its place, its four 16 bit words."""
    size, most = rows.shape[1], int(counts.max())
    there = np.arange(most)[None, :] < counts[:, None]
    places = rows[:, _PAGE_HEADER : _PAGE_HEADER + 2 * most].copy().view("<u2").astype(np.int64)
    places = np.where(there, places, size)
    if bool((there & ((places > size - _NODE_HEADER) | (places % 2 == 1))).any()):
        raise Damaged("a node lies outside its page")
    words = rows.view("<u2")
    at = np.minimum(places // 2, size // 2 - 4)
    index = np.arange(len(rows))[:, None]
    return there, places, np.stack([words[index, at + i] for i in range(4)]).astype(np.int64)


def _packed(there: Any, places: Any, sizes: Any, upper: Any, page_bytes: int) -> None:
    """Nodes of a page lie one after the other up to its end."""
    order = np.argsort(places, axis=1)
    begins = np.take_along_axis(places, order, axis=1)
    lengths = np.take_along_axis(np.where(there, sizes, 0), order, axis=1)
    ends = upper[:, None] + np.cumsum(lengths, axis=1)
    wanted = np.concatenate([upper[:, None], ends[:, :-1]], axis=1)
    present = np.take_along_axis(there, order, axis=1)
    if bool((present & (begins != wanted)).any()) or bool((ends[:, -1] != page_bytes).any()):
        raise Damaged("nodes overlap")


def _prefixes(rows: Any, places: Any, there: Any) -> NDArray[np.uint64]:
    """The first 8 bytes of each node's key as a number that sorts as LMDB does; 0 where there is no node."""
    words = rows.view(">u2")
    at = np.where(there, (places + _NODE_HEADER) // 2, 0)
    index = np.arange(len(rows))[:, None]
    found = np.zeros(places.shape, dtype=np.uint64)
    for i in range(4):
        found = (found << np.uint64(16)) | words[index, at + i]
    return np.where(there, found, np.uint64(0))


def _children(
    pages: NDArray[np.uint8], numbers: NDArray[np.int64], bounds: NDArray[np.uint64], key_bytes: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Pages below branch pages, and the smallest key of each: that of its node, of the first the page's own."""
    rows, counts, upper = _headers(pages, numbers, _BRANCH)
    if int(counts.min()) < 2:
        raise Damaged("a branch page has one way")
    there, places, words = _nodes(rows, counts)
    keys = words[3]
    keyless = (keys == 0) & (np.arange(keys.shape[1]) == 0)[None, :]  # the first way needs no key
    if bool((there & (keys != key_bytes) & ~keyless).any()):
        raise Damaged("a key has another size")
    _packed(there, places, _NODE_HEADER + keys, upper, rows.shape[1])
    below = _prefixes(rows, places, there & ~keyless)
    below[:, 0] = bounds
    children = words[0] | (words[1] << 16) | (words[2] << 32)
    return children[there].astype(np.uint64), below[there].astype(np.uint64)


def _check_leaves(
    pages: NDArray[np.uint8], seen: NDArray[np.bool_], numbers: NDArray[np.int64], bounds: NDArray[np.uint64],
    last: np.uint64, key_bytes: int, value_bytes: int, big: bool,
) -> tuple[int, np.uint64]:  # fmt: skip
    """Entries of these pages, and their largest key; ``last`` is that of the pages before."""
    rows, counts, upper = _headers(pages, numbers, _LEAF)
    there, places, words = _nodes(rows, counts)
    wanted = (value_bytes & 0xFFFF, value_bytes >> 16, _BIG_DATA if big else 0, key_bytes)
    for word, value in zip(words, wanted, strict=True):
        if bool((there & (word != value)).any()):
            raise Damaged("an entry has another shape than the others")
    size = _NODE_HEADER + key_bytes + (8 if big else value_bytes)
    _packed(there, places, np.full_like(places, size), upper, rows.shape[1])
    prefixes = _prefixes(rows, places, there)
    ends = prefixes[np.arange(len(rows)), counts - 1]
    before = np.concatenate([[last], ends[:-1]])
    flat = np.concatenate([[last], prefixes[there]])
    if bool((flat[1:] < flat[:-1]).any() | (bounds > prefixes[:, 0]).any() | (bounds < before).any()):
        raise Damaged("keys are out of order")
    if big:
        at = np.nonzero(there)[0][:, None], places[there][:, None] + _NODE_HEADER + key_bytes + np.arange(8)
        first = np.ascontiguousarray(rows[at]).view("<u8")[:, 0]
        _check_overflow(pages, seen, first, value_bytes)
    return int(counts.sum()), ends[-1]


def _check_overflow(
    pages: NDArray[np.uint8], seen: NDArray[np.bool_], first: NDArray[Any], size: int
) -> None:
    """Runs of pages that hold one large value each."""
    count = (_PAGE_HEADER - 1 + size) // pages.shape[1] + 1
    if len(first) and int(first.max()) + count > len(pages):
        raise Damaged("a page number leads out of the file")
    _visit(
        seen, (first.astype(np.uint64)[:, None] + np.arange(count, dtype=np.uint64)).reshape(-1), len(pages)
    )
    heads = pages[first.astype(np.int64)]
    sound = (heads[:, :8].view("<u8")[:, 0] == first) & (heads[:, 10:12].view("<u2")[:, 0] == _OVERFLOW)
    if not bool((sound & (heads[:, 12:16].copy().view("<u4")[:, 0] == count)).all()):
        raise Damaged("an overflow page has a damaged head")


def _check_free(pages: NDArray[np.uint8], seen: NDArray[np.bool_], tree: Tree) -> None:
    """The list of free pages, from which writers take: a used page on it would be written over."""
    lists = []
    entries = 0
    for number in _walk(pages, seen, tree, 8)[0].tolist():
        rows, counts, upper = _headers(pages, np.asarray([number]), _LEAF)
        there, places, words = _nodes(rows, counts)
        sizes = words[0] | (words[1] << 16)
        big = words[2] == _BIG_DATA
        if bool(((words[3] != 8) | (sizes % 8 != 0) | (sizes < 8) | (words[2] > _BIG_DATA)).any()):
            raise Damaged("the list of free pages is damaged")
        _packed(there, places, _NODE_HEADER + 8 + np.where(big, 8, sizes), upper, rows.shape[1])
        entries += int(counts[0])
        for place, size, is_big in zip(places[0].tolist(), sizes[0].tolist(), big[0].tolist(), strict=True):
            body = rows[0, place + _NODE_HEADER + 8 :]
            if is_big:
                first = body[:8].copy().view("<u8")
                _check_overflow(pages, seen, first, size)
                flat = pages[int(first[0]) :].reshape(-1)
                body = flat[_PAGE_HEADER:]
            ids = body[:size].copy().view("<u8")
            if int(ids[0]) != len(ids) - 1 or bool((np.diff(ids[1:].astype(np.int64)) >= 0).any()):
                raise Damaged("the list of free pages is damaged")
            lists.append(ids[1:])
    if entries != tree.entries:
        raise Damaged("the list of free pages is not complete")
    if lists:
        _visit(seen, np.concatenate(lists), len(seen))
