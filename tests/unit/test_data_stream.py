"""The order of rows: partitions, quotas, resumption, padding."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.data.rows import Rows
from raykd.data.stream import BatchStream
from raykd.distill.signals import UNLABELLED
from raykd.errors import DataError


def make_rows(**counts: tuple[int, int]) -> Rows:
    """Rows of languages with (labelled, unlabelled) counts."""
    languages: list[str] = []
    labels: list[int] = []
    for language, (labelled, unlabelled) in counts.items():
        languages += [language] * (labelled + unlabelled)
        labels += [0] * labelled + [UNLABELLED] * unlabelled
    n = len(languages)
    texts = tuple(f"text {i}" for i in range(n))
    return Rows(tuple(map(str, range(n))), texts, tuple(languages), np.asarray(labels, dtype=np.int64))


def lengths_of(rows: Rows) -> np.ndarray:
    return np.random.default_rng(5).integers(3, 60, len(rows))


def epoch_of(stream: BatchStream, epoch: int) -> np.ndarray:
    begin = epoch * stream.steps_per_epoch
    return np.concatenate([stream.batch(begin + i) for i in range(stream.steps_per_epoch)])


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(8, 40),
    world=st.integers(1, 4),
    micro=st.integers(1, 2),
    step=st.integers(0, 40),
    grouping=st.booleans(),
)
def test_shards_partition_the_batch(batch: int, world: int, micro: int, step: int, grouping: bool) -> None:
    rows = make_rows(en=(60, 10), zh=(20, 30))
    stream = BatchStream(rows, lengths_of(rows), global_batch=batch, seed=3, length_grouping=grouping)
    pieces = [piece for rank in range(world) for piece in stream.shard(step, rank, world, micro)]
    assert sorted(np.concatenate(pieces)) == sorted(stream.batch(step))
    sizes = [len(piece) for piece in pieces]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1


def test_one_rank_of_four_micro_batches_is_two_ranks_of_two() -> None:
    rows = make_rows(en=(100, 0))
    stream = BatchStream(rows, lengths_of(rows), global_batch=18, seed=0)
    alone = {tuple(p) for p in stream.shard(2, 0, 1, 4)}
    together = {tuple(p) for rank in (0, 1) for p in stream.shard(2, rank, 2, 2)}
    assert alone == together and len(alone) == 4


def test_order_is_a_function_of_seed_and_step() -> None:
    rows = make_rows(en=(70, 30), fr=(40, 0))
    lengths = lengths_of(rows)
    first = BatchStream(rows, lengths, global_batch=16, seed=7, labelled_share=0.5, language_temperature=3.0)
    again = BatchStream(rows, lengths, global_batch=16, seed=7, labelled_share=0.5, language_temperature=3.0)
    other = BatchStream(rows, lengths, global_batch=16, seed=8)
    forward = [first.batch(i).tolist() for i in range(25)]
    backward = [again.batch(i).tolist() for i in reversed(range(25))][::-1]
    assert forward == backward
    assert forward[: first.steps_per_epoch] != forward[first.steps_per_epoch : 2 * first.steps_per_epoch]
    assert forward[0] != other.batch(0).tolist()


@pytest.mark.parametrize("grouping", [True, False])
def test_every_row_once_an_epoch(grouping: bool) -> None:
    rows = make_rows(en=(61, 12), zh=(30, 0))  # 103 rows: 12 batches of 8, 7 rows dropped
    stream = BatchStream(rows, lengths_of(rows), global_batch=8, seed=1, length_grouping=grouping)
    assert stream.steps_per_epoch == 12
    dropped = []
    for epoch in range(3):
        seen = epoch_of(stream, epoch)
        assert len(set(seen.tolist())) == len(seen) == 96
        dropped.append(frozenset(range(103)) - set(seen.tolist()))
    assert len(set(dropped)) == 3
    whole = BatchStream(rows.select(range(96)), lengths_of(rows)[:96], global_batch=8, seed=1)
    assert sorted(epoch_of(whole, 0)) == list(range(96))


def test_high_language_temperature_gives_equal_languages() -> None:
    rows = make_rows(en=(500, 0), fr=(70, 0), zh=(30, 0))
    stream = BatchStream(rows, lengths_of(rows), global_batch=16, seed=0, language_temperature=1e9)
    counts = Counter(rows.languages[i] for i in epoch_of(stream, 0))
    assert all(abs(counts[language] - 200) <= 16 for language in ("en", "fr", "zh"))
    # fr: 70 rows for 200 places: each two or three times.
    quota = BatchStream(rows, lengths_of(rows), global_batch=600, seed=0, language_temperature=1e9)
    times = Counter(epoch_of(quota, 4).tolist())
    assert {times[i] for i in range(500, 570)} == {2, 3}
    # en: 200 of 500 rows, none twice in an epoch, and 5 epochs show each row twice.
    over = Counter(i for epoch in range(5) for i in epoch_of(quota, epoch).tolist() if i < 500)
    assert set(over.values()) == {2} and len(over) == 500
    assert all(times[i] <= 1 for i in range(500))


def test_temperature_two_follows_the_square_root() -> None:
    rows = make_rows(en=(400, 0), fr=(100, 0))
    stream = BatchStream(rows, lengths_of(rows), global_batch=10, seed=0, language_temperature=2.0)
    assert stream.quotas == {("en", True): 333, ("fr", True): 167}  # 500 x 20/30 and 500 x 10/30


def test_labelled_share_and_languages_hold_together() -> None:
    rows = make_rows(de=(0, 500), en=(100, 900), fr=(300, 200))
    stream = BatchStream(rows, lengths_of(rows), global_batch=20, seed=0, labelled_share=0.3)
    labelled = sum(count for (_, kind), count in stream.quotas.items() if kind)
    assert labelled == pytest.approx(600, abs=2)
    for language, total in (("de", 500), ("en", 1000), ("fr", 500)):
        asked = sum(count for (code, _), count in stream.quotas.items() if code == language)
        assert asked == pytest.approx(total, abs=2)
    alone = BatchStream(
        make_rows(en=(50, 0)), np.ones(50, dtype=np.int64), global_batch=5, seed=0, labelled_share=0.3
    )
    assert alone.quotas == {("en", True): 50}


def padding_efficiency(batches: list[np.ndarray]) -> float:
    """Real tokens by computed tokens, in (0, 1].

    Args:
        batches: tokens of each row, one array a (micro-)batch that is padded to its own longest row.
    """
    real = sum(int(lengths.sum()) for lengths in batches)
    computed = sum(int(lengths.max()) * len(lengths) for lengths in batches)
    return real / computed


def test_padding_efficiency_is_real_by_computed() -> None:
    assert padding_efficiency([np.asarray([1, 3]), np.asarray([4, 4])]) == 12 / 14


def test_grouping_by_length_saves_padding() -> None:
    sigma = 0.8
    raw = np.random.default_rng(0).lognormal(np.log(24) - sigma**2 / 2, sigma, 4000)
    lengths = np.clip(raw, 2, 64).astype(np.int64)
    rows = make_rows(en=(4000, 0))

    def efficiency(grouping: bool, micro: int) -> float:
        stream = BatchStream(rows, lengths, global_batch=32, seed=0, length_grouping=grouping)
        steps = range(stream.steps_per_epoch)
        return padding_efficiency([lengths[p] for i in steps for p in stream.shard(i, 0, 1, micro)])

    assert efficiency(True, 1) >= 0.85
    assert efficiency(True, 4) >= efficiency(True, 1)
    assert efficiency(False, 1) <= 0.5


def test_grouping_shuffles_batches() -> None:
    rows = make_rows(en=(3200, 0))
    lengths = lengths_of(rows)
    stream = BatchStream(rows, lengths, global_batch=16, seed=0)
    means = [lengths[stream.batch(i)].mean() for i in range(stream.steps_per_epoch)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.2


def test_batch_larger_than_the_data() -> None:
    with pytest.raises(
        DataError, match=r"batch is larger.*\n.*got: +train.batch_size 65, 64 rows\n.*wanted:.*64"
    ) as caught:
        BatchStream(make_rows(en=(64, 0)), np.ones(64, dtype=np.int64), global_batch=65, seed=0)
    assert "lower train.batch_size" in str(caught.value)


def test_more_pieces_than_rows() -> None:
    stream = BatchStream(make_rows(en=(64, 0)), np.ones(64, dtype=np.int64), global_batch=4, seed=0)
    with pytest.raises(DataError, match=r"batch of 4 rows for 3 workers x 2 micro-batches[\s\S]*at least 6"):
        stream.shard(0, 0, 3, 2)
