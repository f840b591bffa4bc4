"""Whether an LMDB file is whole: its meta pages, and every page that a reader or writer would follow.

Decision record: LMDB believes its pages. A flipped bit in a node's header, a file that is shorter than its meta
page says, or pages that a power cut left unwritten end the process that reads them (SIGSEGV, SIGBUS, abort), and
no exception can be caught. All keys of a store are of one size, values of one size or of any; of a value that does
not fit in a node the node says where its pages begin, and its size says how many they are, so a sound page has one
shape, and numpy compares a gigabyte of pages in seconds. The content of values is not read here, their checksums
cover it. Writers put a key once in a transaction at most, else LMDB may leave a value more pages than it needs; of
the list of free pages that is so. The walk starts at the root of one read transaction: pages of a snapshot are
never written again, so other processes may write meanwhile. Format: LMDB 0.9, as in its ``mdb.c``
(https://git.openldap.org/openldap/openldap, libraries/liblmdb); 64 bit, little-endian.
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


def largest_node(page_bytes: int) -> int:
    """Bytes of the largest node (head, key, value) that keeps its value: LMDB wants two nodes in a page."""
    return (((page_bytes - _PAGE_HEADER) // 2) & -2) - 2


def overflow_pages(value_bytes: Any, page_bytes: int) -> Any:
    """Pages of a value (or an array of them) that a node does not keep: one head, then the value through them all."""
    return (_PAGE_HEADER - 1 + value_bytes) // page_bytes + 1


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


def check_pages(path: Path, meta: Meta, key_bytes: int, value_bytes: int | None) -> None:
    """Walks both trees of a snapshot, for which a read transaction must be open.

    Args:
        value_bytes: size of every value; None where they are of any size.
    Raises:
        Damaged: the first page that is not sound.
    """
    if meta.main.root == meta.free.root == _NO_PAGE:
        return
    # Free pages at the end need not be in the file, so only pages that are followed must be.
    there = min(meta.last_page + 1, path.stat().st_size // meta.page_bytes)
    pages = np.memmap(path, np.uint8, "r")[: there * meta.page_bytes].reshape(-1, meta.page_bytes)
    seen = np.zeros(meta.last_page + 1, dtype=bool)
    leaves, bounds = _walk(pages, seen, meta.main, key_bytes)
    entries, overflow, last = 0, 0, np.uint64(0)
    for at in range(0, len(leaves), _CHUNK_PAGES):
        part = slice(at, at + _CHUNK_PAGES)
        count, large, last = _check_leaves(
            pages, seen, leaves[part], bounds[part], last, key_bytes, value_bytes
        )
        entries += count
        overflow += large
    if (entries, overflow) != (meta.main.entries, meta.main.overflow):
        raise Damaged(
            f"{entries} entries where {meta.main.entries} were counted, or other pages of large ones"
        )
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
    last: np.uint64, key_bytes: int, value_bytes: int | None,
) -> tuple[int, int, np.uint64]:  # fmt: skip
    """Entries of these pages, pages of their large values, their largest key; ``last`` is that of the pages before."""
    rows, counts, upper = _headers(pages, numbers, _LEAF)
    there, places, words = _nodes(rows, counts)
    sizes = words[0] | (words[1] << 16)
    big = there & (_NODE_HEADER + key_bytes + sizes > largest_node(rows.shape[1]))
    other = (words[2] != np.where(big, _BIG_DATA, 0)) | (words[3] != key_bytes)
    if value_bytes is not None:
        other |= sizes != value_bytes
    if bool((there & other).any()):
        raise Damaged("an entry has another shape than the others")
    held = (np.where(big, 8, sizes) + 1) & -2
    _packed(there, places, _NODE_HEADER + key_bytes + held, upper, rows.shape[1])
    prefixes = _prefixes(rows, places, there)
    ends = prefixes[np.arange(len(rows)), counts - 1]
    before = np.concatenate([[last], ends[:-1]])
    flat = np.concatenate([[last], prefixes[there]])
    if bool((flat[1:] < flat[:-1]).any() | (bounds > prefixes[:, 0]).any() | (bounds < before).any()):
        raise Damaged("keys are out of order")
    at = np.nonzero(big)[0][:, None], places[big][:, None] + _NODE_HEADER + key_bytes + np.arange(8)
    first = np.ascontiguousarray(rows[at]).view("<u8")[:, 0]
    large = _check_overflow(pages, seen, first, overflow_pages(sizes[big], rows.shape[1]))
    return int(counts.sum()), large, ends[-1]


def _check_overflow(
    pages: NDArray[np.uint8], seen: NDArray[np.bool_], first: NDArray[Any], counts: NDArray[np.int64]
) -> int:
    """Runs of pages that hold one large value each: where they begin and how many they are; returns their sum."""
    if not len(first):
        return 0
    end = len(pages)
    if (
        int(first.max()) >= end
        or int(counts.sum()) > end
        or bool((first.astype(np.int64) + counts > end).any())
    ):
        raise Damaged("a page number leads out of the file")
    order = np.argsort(first)  # the order of the disk
    begins, counts = first[order].astype(np.int64), counts[order]
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    _visit(seen, np.repeat(begins, counts) + within, end)
    heads = pages[begins, :_PAGE_HEADER]
    sound = (heads[:, :8].view("<u8")[:, 0] == begins) & (heads[:, 10:12].view("<u2")[:, 0] == _OVERFLOW)
    if not bool((sound & (heads[:, 12:16].view("<u4")[:, 0] == counts)).all()):
        raise Damaged("an overflow page has a damaged head")
    return len(within)


def _check_free(pages: NDArray[np.uint8], seen: NDArray[np.bool_], tree: Tree) -> None:
    """The list of free pages, from which writers take: a used page on it would be written over."""
    lists = []
    entries, overflow = 0, 0
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
                body, count = _large_list(pages, seen, body[:8].copy().view("<u8"), size)
                overflow += count
            lists.append(_free_pages(body[:size].copy().view("<u8")))
    if (entries, overflow) != (tree.entries, tree.overflow):
        raise Damaged("the list of free pages is not complete")
    if lists:
        _visit(seen, np.concatenate(lists), len(seen))


def _large_list(
    pages: NDArray[np.uint8], seen: NDArray[np.bool_], first: NDArray[Any], size: int
) -> tuple[NDArray[np.uint8], int]:
    """What a part of the free list holds that has pages of its own, and how many; LMDB may reserve some too many."""
    begin, page_bytes = int(first[0]), pages.shape[1]
    if begin >= len(pages):
        raise Damaged("a page number leads out of the file")
    count = int(pages[begin, 12:_PAGE_HEADER].copy().view("<u4")[0])
    if count < int(overflow_pages(size, page_bytes)):
        raise Damaged("an overflow page has a damaged head")
    _check_overflow(pages, seen, first, np.asarray([count]))
    return pages[begin : begin + count].reshape(-1)[_PAGE_HEADER:], count


def _free_pages(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The page numbers of one part of the list: their count, then they; LMDB may reserve room and leave it empty."""
    count = int(ids[0])
    if count >= len(ids) or bool((np.diff(ids[1 : count + 1].astype(np.int64)) >= 0).any()):
        raise Damaged("the list of free pages is damaged")
    return ids[1 : count + 1]
