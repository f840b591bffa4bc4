"""Tokens of many rows: made in chunks, mapped from files, shared by processes, made once."""

from __future__ import annotations

import errno
import io
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from rich.console import Console

from raykd.cache import list_cached_folders, remove_old_folders
from raykd.checkpoint.curves import Curves
from raykd.cluster.mailbox import Event
from raykd.data.rows import Rows
from raykd.driver.progress import JobProgress
from raykd.errors import ResourceError
from raykd.point import Point
from raykd.preflight import sizes as run_sizes
from raykd.student.tokens import cache, files
from raykd.student.tokens.cache import TokenJob, load_tokens
from raykd.student.tokens.files import TokenWriter, map_tokens
from raykd.tasks import Classification, EncodedRows
from raykd.teachers.pools import stored_pool
from raykd.teachers.store import make_text_keys
from raykd.text.padding import RIGHT
from raykd.text.ragged import Ragged
from tests.unit.test_models_heads import COMBINATIONS, made
from tests.unit.test_text_shapes import TASKS, batch_of

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "IN_MEMORY", 5)
    monkeypatch.setattr(cache, "CHUNK", 3)
    yield


def list_arrays(rows: EncodedRows) -> dict[str, Any]:
    return dict(files._list_arrays(rows))


def to_numpy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: to_numpy(part) for name, part in value.items()}
    return value.numpy() if isinstance(value, torch.Tensor) else value


def rows_of(count: int, seed: int = 0) -> Rows:
    drawn = np.random.default_rng(seed)
    texts = tuple(" ".join(drawn.choice(WORDS, drawn.integers(1, 30))) for _ in range(count))
    labels_B = drawn.integers(0, 2, count).astype(np.int64)
    return Rows(tuple(map(str, range(count))), texts, ("en",) * count, labels_B)


def job_of(count: int = 20, seed: int = 0, threads: int = 2, **task: Any) -> TokenJob:
    tokenizer = made("bert", "classification").tokenizer
    return TokenJob(
        Classification(**{"max_length": 16, **task}), tokenizer, rows_of(count, seed), {}, threads
    )


class Counted(Classification):
    """A task that counts the rows that it encodes, and may take its time."""

    calls: ClassVar[list[int]] = []
    pause_s: float = 0.0

    def encode(self, tokenizer: Any, batch: Any) -> EncodedRows:
        self.calls.append(len(batch))
        time.sleep(self.pause_s)
        return super().encode(tokenizer, batch)


def counted(job: TokenJob, **settings: Any) -> tuple[TokenJob, list[int]]:
    Counted.calls.clear()
    return replace(job, task=Counted(max_length=16, **settings)), Counted.calls


@pytest.mark.parametrize(("name", "head"), [pair for pair in COMBINATIONS if pair[1] in TASKS])
def test_mapped_chunks_are_what_all_rows_are_at_once(name: str, head: str, tmp_path: Path) -> None:
    task, tokenizer, batch = TASKS[head], made(name, head).tokenizer, batch_of(head)
    whole = task.encode(tokenizer, batch)
    with TokenWriter(tmp_path) as writer:
        for chunk in ([0], [1, 2], [3]):
            writer.append(task.encode(tokenizer, batch.take(chunk)))
        writer.finish()
    found = map_tokens(tmp_path)
    assert found is not None and found.pad_values == whole.pad_values
    assert found.coverage == whole.coverage and len(found) == 4
    wanted, got = list_arrays(whole), list_arrays(found)
    assert got.keys() == wanted.keys()
    for array, other in wanted.items():
        np.testing.assert_array_equal(got[array], other, err_msg=array)
        is_tokens = array.startswith("tokens.") and not array.endswith("1")
        assert is_tokens or got[array].dtype == other.dtype, array
        assert type(got[array]) is np.ndarray
    np.testing.assert_equal(
        *(to_numpy(vars(task.collate(rows, [2, 0, 3], RIGHT))) for rows in (found, whole))
    )


def test_tokens_are_widened_where_a_later_chunk_needs_it(tmp_path: Path) -> None:
    parts = [[[1, 127]], [[2], [128, -100]], [[3]], [[40_000], [2**31]], [[5]]]
    with TokenWriter(tmp_path) as writer:
        sizes = []
        for part in parts:
            count = len(part)
            ids = {"input_ids": [np.asarray(row) for row in part]}
            empty = np.zeros(count, np.int64)
            writer.append(EncodedRows(ids, {"input_ids": 0}, empty, empty, np.arange(count + 1)))
            sizes.append(writer._columns["tokens.input_ids"].dtype.itemsize)
        writer.finish()
    found = map_tokens(tmp_path)
    assert found is not None and sizes == [1, 2, 2, 8, 8]
    assert [row.tolist() for row in found.fields["input_ids"]] == [row for part in parts for row in part]


def test_chunks_of_other_arrays_are_refused(tmp_path: Path) -> None:
    rows = job_of(4).encode(0, 4)
    with TokenWriter(tmp_path) as writer:
        writer.append(replace(rows, extra={"vocabulary": np.asarray(7)}))
        writer.append(replace(rows, extra={"vocabulary": np.asarray(7)}))
        with pytest.raises(ValueError, match="vocabulary differs between chunks: 7, then 8"):
            writer.append(replace(rows, extra={"vocabulary": np.asarray(8)}))
        with pytest.raises(ValueError, match="chunks of rows differ"):
            writer.append(rows)


def test_a_file_that_is_cut_off_counts_as_absent(tmp_path: Path) -> None:
    job, calls = counted(job_of())
    load_tokens(job)
    (kept,) = list_cached_folders("tokens")
    file = kept.path / "labels_N"
    os.truncate(file, file.stat().st_size - 8)
    assert map_tokens(kept.path) is None
    again = load_tokens(job)
    assert sum(calls) == 40 and again.labels_N.tolist() == job.rows.labels_B.tolist()
    (kept.path / files.FILE).write_text("{")
    assert map_tokens(kept.path) is None


def test_many_rows_are_tokenised_once_and_few_each_time() -> None:
    told: list[tuple[int, int]] = []
    job, calls = counted(job_of())
    first = load_tokens(job, lambda done, rows: told.append((done, rows)))
    assert told == [(done, 20) for done in (3, 6, 9, 12, 15, 18, 20)] and sum(calls) == 20
    second = load_tokens(job)
    assert sum(calls) == 20 and not second.labels_N.flags.owndata
    whole = list_arrays(job.encode(0, 20))
    for rows in (first, second):
        for name, array in list_arrays(rows).items():
            np.testing.assert_array_equal(array, whole[name])
    few, counts = counted(job_of(5))
    load_tokens(few), load_tokens(few)
    assert counts == [5, 5] and len(list_cached_folders("tokens")) == 1


def test_what_tokens_follow_from_is_their_name() -> None:
    job = job_of()
    other = made("distilbert", "classification").tokenizer
    jobs = [
        job, job_of(seed=1), job_of(max_length=15), replace(job, codes={"en": "en_XX"}),
        replace(job, tokenizer=other), replace(job, rows=job.rows.select(range(19))),
    ]  # fmt: skip
    assert len({each.key() for each in jobs}) == len(jobs)
    assert job.key() == job_of(threads=1).key()


def test_who_comes_second_waits_and_maps() -> None:
    job, calls = counted(job_of(), pause_s=0.02)
    found: list[EncodedRows] = []
    both = [threading.Thread(target=lambda: found.append(load_tokens(job))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sum(calls) == 20 and len(list_cached_folders("tokens")) == 1
    assert found[0].labels_N.tolist() == found[1].labels_N.tolist()


def test_what_a_killed_process_left_is_written_anew() -> None:
    job = job_of()
    root = Path(os.environ["RAYKD_CACHE"]) / "tokens"
    (root / f".{job.key()}").mkdir(parents=True)
    (root / f".{job.key()}" / "labels_N").write_bytes(b"half")
    assert load_tokens(job).labels_N.tolist() == job.rows.labels_B.tolist()
    assert [path.name for path in root.iterdir()] == [job.key()]


def test_the_tokens_not_used_for_longest_go_first() -> None:
    jobs = [job_of(seed=seed) for seed in range(3)]
    mapped = [load_tokens(job) for job in jobs]
    for age, job in zip((30, 10, 20), jobs, strict=True):
        used = Path(os.environ["RAYKD_CACHE"]) / "tokens" / job.key() / "used"
        os.utime(used, (time.time() - age,) * 2)
    kept = list_cached_folders("tokens")
    assert [each.path.name for each in kept] == [jobs[i].key() for i in (1, 2, 0)]
    most = kept[0].bytes + kept[1].bytes
    assert [each.path.name for each in remove_old_folders("tokens", most)] == [jobs[0].key()]
    assert remove_old_folders("tokens", 0, keep=jobs[1].key())[0].path.name == jobs[2].key()
    assert [each.path.name for each in list_cached_folders("tokens")] == [jobs[1].key()]
    # Removed while they are mapped: the pages stay.
    assert mapped[0].labels_N.tolist() == jobs[0].rows.labels_B.tolist()


def test_without_a_cache_many_rows_are_mapped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYKD_CACHE", "/proc/none")
    job, calls = counted(job_of())
    assert load_tokens(job).labels_N.tolist() == job.rows.labels_B.tolist()
    assert sum(calls) == 20 and list_cached_folders("tokens") == []


def test_a_full_disk_is_said_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(writer: TokenWriter) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(TokenWriter, "finish", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        load_tokens(job_of())
    assert list((Path(os.environ["RAYKD_CACHE"]) / "tokens").iterdir()) == []


def test_ragged_items_are_those_of_a_list() -> None:
    lists = [[3, 1], [], [5]]
    for rows in (Ragged.of(lists), Ragged.of([np.asarray(row, dtype=np.int64) for row in lists])):
        assert [row.tolist() for row in rows] == lists and rows.counts_S.tolist() == [2, 0, 1]
        assert rows[-1].tolist() == [5] and [row.tolist() for row in rows[1:]] == lists[1:]
        assert Ragged.of(rows) is rows
        with pytest.raises(IndexError):
            rows[3]
    assert len(Ragged.of([])) == 0


class Holding:
    """A teacher whose store holds the answers to these keys; counts what it is asked for."""

    def __init__(self, keys: set[bytes]) -> None:
        self.name, self.spec, self.keys, self.asked = "t", SimpleNamespace(languages=None), keys, 0
        self.backend = SimpleNamespace(check_ready=lambda: None)

    def open(self) -> None:
        """Do nothing."""

    def holds(self, keys: list[bytes]) -> bool:
        self.asked += len(keys)
        return self.keys.issuperset(keys)


def test_answers_are_looked_for_up_to_the_first_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_pool, "_AT_ONCE", 10)
    rows = job_of(100).rows
    keys = make_text_keys(rows.take(range(100)))
    for there, most, wanted, asked in (
        (range(100), 1000, True, 100),
        (range(15), 1000, False, 20),
        ((), 1000, False, 10),
        (range(0, 100, 4), 25, True, 25),  # of very many rows evenly spaced ones
    ):
        monkeypatch.setattr(stored_pool, "MOST_CHECKED", most)
        teacher: Any = Holding({keys[i] for i in there})
        assert stored_pool._hold_all([teacher], [stored_pool.NeededAnswers(rows)]) is wanted
        assert teacher.asked == asked


def test_check_counts_the_tokens_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(2000, max_length=48)
    assert run_sizes.estimate_token_bytes(48, job.rows) == 0  # they are tokenised at each start
    monkeypatch.setattr(run_sizes, "IN_MEMORY", 1000)
    monkeypatch.setattr(cache, "CHUNK", 1000)
    load_tokens(job)
    (folder,) = list_cached_folders("tokens")
    assert run_sizes.estimate_token_bytes(48, job.rows) == pytest.approx(folder.bytes, rel=0.5)


def test_rows_that_were_read_twice_are_asked_about_once() -> None:
    first, again, other = (stored_pool.NeededAnswers(job_of(n).rows) for n in (12, 12, 11))
    assert first.rows is not again.rows and first.is_same(again) and not first.is_same(other)
    assert not first.is_same(replace(again, teachers=("zh",)))


def test_a_bar_shows_how_many_rows_are_tokenised(tmp_path: Path) -> None:
    text = io.StringIO()
    progress = JobProgress(Console(file=text, width=60), {}, Curves(tmp_path / "c"), lambda *_: None)
    progress.expect("student", 400)
    progress._take(Event("tokens", "student", Point(250_000, {}), 1_000_000))
    (bar,) = progress._bars.tasks
    assert (bar.percentage, bar.fields["steps"]) == (25.0, "25%")
    assert bar.fields["note"] == "250,000 of 1,000,000 rows are tokenised"
    progress.show_reading("student", 3, 4, "texts are read for the vocabulary")
    assert (bar.percentage, bar.fields["note"]) == (75.0, "3 of 4 texts are read for the vocabulary")
    progress._take(Event("started", "student", Point(0, {}), 400))
    assert (bar.total, bar.completed, bar.fields["note"]) == (400, 0, "training")
