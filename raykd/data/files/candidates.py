"""Bring rows of a ranking to one form, a query with its candidates, and draw candidates where there are too many.

Decision record: collections come as one row a query (`query`, `candidates`, `relevances`), as one row a query and
candidate (`query`, `candidate`, `relevance`), or as triples (`query`, `positive`, `negative`). The first row of a file
says which. Rows of the other two are put together by query (its id where there is one, else its text) and language over
the whole file, because triples are mostly shuffled; so such a file is held in memory while it is read, as one is from
whose other queries candidates are drawn. A candidate that stands twice for a query counts once, with its highest
relevance.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from raykd.data.cells import BadRowError, parse_list, parse_texts
from raykd.data.files.blocks import ROWS, Block
from raykd.data.files.textfiles import Record
from raykd.data.labels import is_missing
from raykd.data.rows import Rows

MOST_CANDIDATES = 1000
"""Candidates of a query, at most: each is a sequence of a forward pass."""


def is_one_row_per_query(there: Iterable[str], names: Mapping[str, str]) -> bool:
    """Return whether rows with these columns hold all candidates of their query, or do not say what they hold."""
    columns = set(there)
    return names["candidates"] in columns or not {names["candidate"], names["positive"]} & columns


def group_candidates(blocks: Iterator[Block], names: Mapping[str, str], least: int | None) -> Iterator[Block]:
    """Yield the rows of a source as one row per query.

    Args:
        blocks: Its rows.
        names: The column of each key of `data.columns`.
        least: Candidates that each query shall have, drawn from those of other queries; None draws none.
    """
    first = next((block for block in blocks if any(True for _ in block.records())), None)
    if first is None:
        return
    is_grouped = is_one_row_per_query(next(iter(first.records())).values, names)
    if is_grouped and least is None:
        yield first
        yield from blocks
        return
    found = [record for block in chain([first], blocks) for record in block.records()]
    if not is_grouped:
        found = _group(found, names)
    if least is not None:
        found = _draw(found, names, least)
    for begin in range(0, len(found), ROWS):
        some = found[begin : begin + ROWS]
        yield Block(lambda some=some: some)  # type: ignore[misc]


def _group(records: Iterable[Record], names: Mapping[str, str]) -> list[Record]:
    groups: dict[object, _Query] = {}
    for record in records:
        query = record.values.get(names["query_id"], record.values.get(names["query"]))
        # A bad row stands alone: it is reported where rows are checked.
        is_good = isinstance(query, str | int) and query != ""
        key = (str(query), repr(record.values.get(names["language"]))) if is_good else record.place
        groups.setdefault(key, _Query(record)).add(record, names)
    return [query.build(names) for query in groups.values()]


def _draw(records: list[Record], names: Mapping[str, str], least: int) -> list[Record]:
    """Return the rows with at least so many candidates; those that a query lacks are drawn by its own content."""
    pools: dict[str, dict[str, None]] = {}
    rows = []
    for record in records:
        try:
            own = parse_texts(record.values.get(names["candidates"]), names["candidates"], record.flat)
        except BadRowError:
            own = ()  # reported where rows are checked
        pool = pools.setdefault(repr(record.values.get(names["language"])), {})
        pool.update(dict.fromkeys(own))
        rows.append((record, own, pool))
    lists = {id(pool): tuple(pool) for pool in pools.values()}
    return [_extend(record, own, lists[id(pool)], names, least) for record, own, pool in rows]


def _extend(
    record: Record, own: tuple[str, ...], pool: tuple[str, ...], names: Mapping[str, str], least: int
) -> Record:
    more = min(least, len(pool)) - len(own)
    if not own or more <= 0:
        return record
    order = _seed(str(record.values.get(names["query"])), own).permutation(len(pool))[: more + len(own)]
    drawn = [pool[at] for at in order.tolist() if pool[at] not in own][:more]
    found: dict[str, object] = {names["candidates"]: [*own, *drawn]}
    told = record.values.get(names["relevances"])
    try:
        relevances = parse_list(told, names["relevances"], record.flat)
    except BadRowError:
        return replace(record, values={**record.values, **found}, flat=False)
    found[names["relevances"]] = [*relevances, *(0.0 for _ in drawn)]
    return replace(record, values={**record.values, **found}, flat=False)


@dataclass
class _Query:
    """The rows of a query. first: the first of them; candidates: each with its relevance, as they stand."""

    first: Record
    candidates: dict[str, tuple[object, object]] = field(default_factory=dict)

    def add(self, record: Record, names: Mapping[str, str]) -> None:
        """Add the candidates of a row."""
        values = record.values
        if names["candidate"] in values:
            self._put(values[names["candidate"]], values.get(names["relevance"]))
            return
        negatives = re.compile(re.escape(names["negative"]) + r"(_\d+)?\Z")
        told = [(1.0, names["positive"]), *((0.0, name) for name in values if negatives.match(name))]
        for relevance, name in told:
            value = values.get(name)
            for text in value if isinstance(value, list) else [value]:
                self._put(text, relevance)

    def _put(self, text: object, relevance: object) -> None:
        _, known = self.candidates.get(repr(text), (text, None))
        if is_missing(known) or (not is_missing(relevance) and _as_number(relevance) > _as_number(known)):
            self.candidates[repr(text)] = text, relevance

    def build(self, names: Mapping[str, str]) -> Record:
        """Return the row of the query."""
        found = {names["candidates"]: [text for text, _ in self.candidates.values()]}
        relevances = [relevance for _, relevance in self.candidates.values()]
        if not all(map(is_missing, relevances)):
            found[names["relevances"]] = relevances
        return replace(self.first, values={**self.first.values, **found}, flat=False)


def _as_number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("inf")  # stays, and is reported where rows are checked


def limit_candidates(rows: Rows, most: int) -> tuple[Rows, int]:
    """Return the rows with at most so many candidates each, and how many rows lost some.

    Relevant ones are kept before others, but one of the others is, so that there is something to tell apart.
    """
    if max(map(len, rows.candidates or ()), default=0) <= most:
        return rows, 0
    texts, gains, cut = [], [], 0
    given = rows.values or ((),) * len(rows)
    for query, own, values in zip(rows.texts, rows.candidates or (), given, strict=True):
        at = _choose(query, own, values, most) if len(own) > most else list(range(len(own)))
        cut += len(at) < len(own)
        texts.append(tuple(own[i] for i in at))
        gains.append(tuple(values[i] for i in at) if values else ())
    return replace(rows, candidates=tuple(texts), values=tuple(gains)), cut


def _choose(query: str, own: tuple[str, ...], values: tuple[float, ...], most: int) -> list[int]:
    gains = np.asarray(values or (0.0,) * len(own))
    relevant = [i for i in np.argsort(-gains, kind="stable").tolist() if gains[i] > 0.0]
    others = _seed(query, own).permutation(np.flatnonzero(gains == 0.0)).tolist()
    kept = relevant[: most - bool(others)]
    return sorted(kept + others[: most - len(kept)])


def _seed(query: str, own: tuple[str, ...]) -> np.random.Generator:
    """Return a generator that the content of a query seeds, whatever the other rows are."""
    return np.random.default_rng(zlib.crc32("\0".join((query, *own)).encode("utf-8", "surrogatepass")))
