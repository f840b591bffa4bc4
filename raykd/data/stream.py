"""Choose the rows of each optimizer step as a function of (seed, step) alone.

Decision record: the order does not depend on ranks, micro-batches or earlier steps. So a resumed run, a run on another
number of workers and a trial of a sweep see the same rows at the same step, and a checkpoint holds no state of a
sampler. An epoch is as many rows as there are, cut into whole global batches; the rest (less than one batch, other
rows each epoch) is dropped.

A stratum is a language's labelled or unlabelled rows. Where language temperature or labelled share ask for fewer
rows of a stratum than it has, an epoch takes a window of a fixed random ring and the next epoch goes on where it
ended: no row twice in an epoch, and over epochs all rows equally often. Where they ask for more, all rows are
repeated whole times and the ring gives the remainder.

Grouping by length costs little randomness and saves most padding: rows are shuffled, cut into windows of
`WINDOW_BATCHES` batches, sorted inside a window, and the batches shuffled again. The order is numpy's PCG64 for
(seed, epoch), which is the same on every machine; numpy may change it in a new feature release.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from raykd.data.rows import Rows
from raykd.errors import DataError

Index = NDArray[np.int64]

WINDOW_BATCHES = 50
"""Global batches that are sorted by length together."""
SEED_MASK = 2**64 - 1
"""numpy takes no negative seed; the mask maps an int64 to its unsigned twin."""
_RINGS = 1 << 32
"""Where the seeds of rings begin, out of the way of epochs."""


class BatchStream:
    """Global batches of row indices for a whole run, and how they are split over ranks and micro-batches.

    Args:
        rows: B rows, the same on every rank.
        lengths_B: Tokens per row, for the grouping by length.
        global_batch: Rows per optimizer step, over all ranks and micro-batches.
        seed: Seed of the order.
        language_temperature: Languages are drawn in proportion to rows ** (1 / temperature).
        labelled_share: Share of labelled rows, where some rows are labelled and some are not; None leaves the data's.
        length_grouping: Whether batches hold rows of similar length.

    Raises:
        DataError: There are no rows, or fewer than one batch.
    """

    def __init__(
        self,
        rows: Rows,
        lengths_B: NDArray[np.int64],
        *,
        global_batch: int,
        seed: int,
        language_temperature: float = 1.0,
        labelled_share: float | None = None,
        length_grouping: bool = True,
    ) -> None:
        if len(lengths_B) != len(rows):
            raise ValueError(f"{len(lengths_B)} lengths for {len(rows)} rows")
        if len(rows) < global_batch:
            raise DataError(
                "a batch is larger than the training data",
                got=f"train.batch_size {global_batch}, {len(rows)} rows",
                wanted=f"train.batch_size of {len(rows)} at most",
                next_step="lower train.batch_size, or add rows (data.labelled_per_language and "
                "data.select_languages leave rows out)",
            )
        self.global_batch, self.length_grouping = global_batch, length_grouping
        self.steps_per_epoch = len(rows) // global_batch
        self._seed = seed & SEED_MASK
        self._lengths_B = np.asarray(lengths_B, dtype=np.int64)
        strata = _group_strata(rows)
        counts = {key: len(members) for key, members in strata.items()}
        self.quotas = _compute_stratum_quotas(counts, language_temperature, labelled_share)
        """Rows of (language, labelled) in an epoch, before the last incomplete batch is dropped."""
        self._rings = [
            self._generator(_RINGS + at).permutation(members) for at, members in enumerate(strata.values())
        ]
        self._plan: tuple[int, Index] | None = None

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self._seed, *key]))

    def batch(self, step: int) -> Index:
        """Return the row indices of a global step (0-based over the run), shortest first when grouped by length."""
        if step < 0:
            raise ValueError(f"step {step}")
        batch: Index = self._list_batches(step)[step % self.steps_per_epoch]
        return batch

    def _list_batches(self, step: int) -> Index:
        """Return the batches of the epoch that a step is in, ``[steps_per_epoch, global_batch]``."""
        epoch = step // self.steps_per_epoch
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, self._epoch(epoch))
        return self._plan[1]

    def list_pieces(self, step: int, pieces: int) -> list[Index]:
        """Return the rows of each piece of each batch of the epoch that a step is in.

        Args:
            step: Of the run, counted from 0.
            pieces: Ranks times micro-batches.
        """
        parts = np.array_split(self._list_batches(step), pieces, axis=1)
        return [rows for part in parts for rows in part]

    def shard(self, step: int, rank: int, world: int, micro_batches: int) -> list[Index]:
        """Return the ``micro_batches`` pieces of `batch` that this rank runs; sizes differ by one row at most.

        All ranks and micro-batches together are the batch, each row once. Pieces are dealt out in turn, so micro-batch
        m of every rank holds rows of about one length, and no rank waits for another's long rows.

        Raises:
            DataError: There are more pieces than rows.
        """
        pieces = world * micro_batches
        if not 0 <= rank < world or micro_batches < 1:
            raise ValueError(f"rank {rank} of {world}, {micro_batches} micro-batches")
        if self.global_batch < pieces:
            raise DataError(
                "a batch has fewer rows than there are workers and micro-batches to share it",
                got=f"batch of {self.global_batch} rows for {world} workers x {micro_batches} micro-batches",
                wanted=f"train.batch_size of at least {pieces}",
                next_step="raise train.batch_size, or lower workers.num_workers or train.gradient_accumulation",
            )
        return list(np.array_split(self.batch(step), pieces)[rank::world])

    def _epoch(self, epoch: int) -> Index:
        """Return the batches of an epoch, ``[steps_per_epoch, global_batch]``."""
        generator = self._generator(epoch)
        parts = []
        for quota, ring in zip(self.quotas.values(), self._rings, strict=True):
            whole, rest = divmod(quota, len(ring))
            parts += [ring] * whole
            parts.append(ring[(epoch * rest + np.arange(rest)) % len(ring)])
        # The remainder goes before anything is sorted, so that it is random rows and not the longest.
        order = generator.permutation(np.concatenate(parts))[: self.steps_per_epoch * self.global_batch]
        if not self.length_grouping:
            return order.reshape(self.steps_per_epoch, self.global_batch)
        window = WINDOW_BATCHES * self.global_batch
        for begin in range(0, len(order), window):
            part = order[begin : begin + window]
            order[begin : begin + window] = part[np.argsort(self._lengths_B[part], kind="stable")]
        batches: Index = generator.permutation(order.reshape(self.steps_per_epoch, self.global_batch), axis=0)
        return batches


def _group_strata(rows: Rows) -> dict[tuple[str, bool], Index]:
    """Return the indices of each language's labelled and unlabelled rows; empty strata are left out."""
    found: dict[tuple[str, bool], Index] = {}
    for language, labelled in product(rows.list_languages(), (True, False)):
        members = np.flatnonzero(rows.is_in_language(language) & (rows.labelled == labelled))
        if len(members):
            found[language, labelled] = members
    return found


def _compute_stratum_quotas(
    counts: dict[tuple[str, bool], int], temperature: float, labelled_share: float | None
) -> dict[tuple[str, bool], int]:
    """Return the rows that an epoch takes of each stratum; the sum is the number of rows."""
    languages, kinds = sorted({language for language, _ in counts}), (True, False)
    table = np.asarray([[counts.get((code, k), 0) for k in kinds] for code in languages], dtype=np.float64)
    rows_of = table.sum(axis=1)
    tempered = (rows_of / rows_of.max()) ** (1.0 / temperature)
    by_language = tempered / tempered.sum()
    share = table
    both = bool((table.sum(axis=0) > 0).all())
    # Iterative proportional fitting: with both margins asked for, a language without labelled rows keeps its share of
    # languages and the others make up for its labels. The languages' margin is met exactly, being the last.
    for _ in range(200 if labelled_share is not None and both else 1):
        if labelled_share is not None and both:
            share = share / share.sum(axis=0) * np.asarray([labelled_share, 1.0 - labelled_share])
        share = share / share.sum(axis=1, keepdims=True) * by_language[:, None]
    total = sum(counts.values())
    exact = [share[languages.index(code), kinds.index(kind)] * total for code, kind in counts]
    return dict(zip(counts, round_to_total(np.asarray(exact), total).tolist(), strict=True))


def round_to_total(exact_N: NDArray[np.float64], total: int) -> Index:
    """Return whole numbers next to ``exact_N`` that sum to ``total``; the largest remainders are rounded up."""
    # Rounding to 6 digits first keeps 6.9999999 a seven.
    found_N = np.floor(np.round(exact_N, 6)).astype(np.int64)
    by_rest = np.argsort(found_N - exact_N, kind="stable")
    found_N[by_rest[: total - int(found_N.sum())]] += 1
    return found_N
