"""The signal store: never a wrong answer, never a crash, whatever happens to its files, within its bound."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.errors import TeacherError
from raykd.teachers.store import SignalStore, folder, make_text_key
from raykd.teachers.store.base import StoreUnwritableError
from raykd.teachers.store.bound import sum_file_sizes
from raykd.teachers.store.inventory import list_stores, remove_stores, verify_stores
from raykd.teachers.store.sqlite import DATA, estimate_stored_bytes, refuse_network_file_system
from raykd.teachers.store.values import decode_value, encode_value

ROOT = Path(__file__).parents[2]
PRINT = "f" * 64
BLOB = random.Random(7).randbytes(1 << 21)
SIZES = (0, 1, 37, 400, 4034, 4035, 4036, 8126, 8127, 9000, 24_000)
"""4035: the largest that a page keeps whole; others around it and around pages of its own."""
MANY = 240


def keys_of(count: int, begin: int = 0) -> list[bytes]:
    return [make_text_key(str(i), None) for i in range(begin, begin + count)]


def answers(count: int, begin: int = 0) -> list[bytes]:
    """The right answer of each key of `keys_of`: as long as a classifier's of two labels."""
    return [i.to_bytes(8, "little") + b"x" * 14 for i in range(begin, begin + count)]


def bodies(count: int) -> list[bytes]:
    """Right answers of every size; most are small, that there are leaves enough for a branch."""
    sizes = [SIZES[i // 4 % len(SIZES)] if i % 4 == 0 else i % 300 for i in range(count)]
    return [BLOB[i : i + size] for i, size in enumerate(sizes)]


def filled(root: Path, count: int = 500, fingerprint: str = PRINT, teacher: str = "") -> SignalStore:
    store = SignalStore(root, fingerprint, teacher=teacher)
    for begin in range(0, count, 100):
        part = min(100, count - begin)
        store.put(keys_of(part, begin), answers(part, begin))
    store.close()
    return store


def right(found: list[bytes | None], begin: int = 0) -> int:
    """How many answers there are; none may be wrong."""
    assert all(b in (None, a) for b, a in zip(found, answers(len(found), begin), strict=True))
    return sum(body is not None for body in found)


def run(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """Python code in a process of its own, which knows this module."""
    code = f"import sys\nfrom pathlib import Path\nfrom tests.unit.test_store import *\n{code}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, **options)  # type: ignore[call-overload,no-any-return]


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200), st.data())
def test_a_value_is_read_back_bit_for_bit_and_any_damage_is_a_miss(
    key: bytes, body: bytes, data: st.DataObject
) -> None:
    value = encode_value(key, body)
    assert decode_value(key, value) == body and len(value) == len(body) + 12
    at, bit = data.draw(st.integers(0, 8 * len(value) - 1)), data.draw(st.integers(0, 127))
    flipped = bytearray(value)
    flipped[at // 8] ^= 1 << (at % 8)
    other = bytearray(key)
    other[bit // 8] ^= 1 << (bit % 8)
    assert decode_value(key, bytes(flipped)) is None and decode_value(bytes(other), value) is None
    assert decode_value(key, value[:-1]) is None and decode_value(key, value + b"\0") is None
    assert decode_value(key, None) is None and decode_value(key, 7) is None


def test_bodies_of_every_size_are_read_back_in_the_order_asked(tmp_path: Path) -> None:
    store, sizes = SignalStore(tmp_path, PRINT), (*SIZES, 65_536, 1_200_001)
    kept = [BLOB[i : i + size] for i, size in enumerate(sizes)]
    store.put(keys_of(len(sizes)), kept)
    store.close()
    again = SignalStore(tmp_path, PRINT)
    asked = keys_of(len(sizes))
    assert again.get([*asked, *keys_of(1, 99), asked[3]]) == [*kept, None, kept[3]]
    assert len(again) == len(sizes) and not list(again.path.glob("damaged-*"))
    assert again.get(keys_of(1500)) == [*kept, *[None] * (1500 - len(kept))]


def test_a_later_body_takes_the_place_of_another(tmp_path: Path) -> None:
    """Overwritten, made larger and smaller, twice in one call, with deletions by the bound."""
    rng, store = random.Random(3), SignalStore(tmp_path, PRINT, limit_gb=0.004)
    truth: dict[bytes, bytes] = {}
    keys = keys_of(150)
    for _ in range(60):
        for _ in range(20):
            at, size = rng.randrange(1000), int(2 ** rng.uniform(0, 14))
            truth.pop(rng.choice(keys), None)
            truth[rng.choice(keys)] = BLOB[at : at + size]
        store.put([*truth, next(iter(truth))], [*truth.values(), b"the last one"])
        truth[next(iter(truth))] = b"the last one"
    found = store.get(list(truth))
    assert all(got in (None, own) for got, own in zip(found, truth.values(), strict=True))
    assert sum(got is not None for got in found) > len(truth) // 2 and store.unkept == 0
    assert [v.is_whole for v in verify_stores(tmp_path)] == [True]


def test_an_answer_of_ten_classes_takes_at_most_130_bytes_of_disk(tmp_path: Path) -> None:
    from tests.fakes import encode_logits

    store, body = SignalStore(tmp_path, PRINT), encode_logits([[0.0] * 10])[0]
    for begin in range(0, 20_000, 64):
        store.put(keys_of(64, begin), [body] * 64)
    store.close()
    assert (store.path / DATA).stat().st_size / 20_032 <= 130 and estimate_stored_bytes(len(body)) <= 130


@pytest.mark.parametrize("where", ["anywhere", "first page", "heads of pages"])
def test_a_flipped_bit_is_never_a_wrong_answer_and_never_a_crash(tmp_path: Path, where: str) -> None:
    """Branch, leaf, overflow, map and header pages; each time reads all, writes all, and reads again."""
    code = """
root, where = Path(sys.argv[1]), sys.argv[2]
import logging
logging.disable(logging.WARNING)
whole = (root / PRINT[:32] / DATA).read_bytes()
rng, keys, own = random.Random(5), keys_of(MANY), bodies(MANY)
lost = 0
for trial in range(60):
    data = bytearray(whole)
    at = {"anywhere": rng.randrange(len(data)), "first page": rng.randrange(4096) if trial % 2 else rng.randrange(110),
          "heads of pages": rng.randrange(len(data) // 4096) * 4096 + rng.randrange(64)}[where]
    data[at] ^= 1 << rng.randrange(8)
    there = root / str(trial)
    (there / PRINT[:32]).mkdir(parents=True)
    (there / PRINT[:32] / DATA).write_bytes(data)
    store = SignalStore(there, PRINT)
    for _ in range(2):
        found = store.get(keys)
        assert all(b is None or b == o for b, o in zip(found, own)), (trial, at)
        lost += found.count(None)
        store.put(keys, own)
    assert store.get(keys) == own and store.unkept == 0, (trial, at)
    store.close()
    shutil.rmtree(there)
print("lost", lost)
"""
    store = SignalStore(tmp_path, PRINT)
    store.put(keys_of(1, 999), [BLOB[:1_300_000]])
    store.put(keys_of(MANY), bodies(MANY))
    store.close()
    process = run(code, tmp_path, where)
    out = process.communicate(timeout=200)[0]
    assert process.returncode == 0, out
    assert int(out.split()[-1]) > 0


def test_a_flipped_bit_in_a_body_loses_that_body_alone(tmp_path: Path) -> None:
    store = SignalStore(tmp_path, PRINT)
    store.put(keys_of(MANY), bodies(MANY))
    store.close()
    (found,) = list_stores(tmp_path)
    assert found.entries == MANY and found.bytes_a_row == sum_file_sizes(store.path) / MANY
    assert [(v.found.entries, v.found.damaged, v.is_whole) for v in verify_stores(tmp_path)] == [
        (MANY, 0, True)
    ]
    data, own = bytearray((store.path / DATA).read_bytes()), bodies(MANY)
    large = next(i for i, body in enumerate(own) if len(body) == 24_000)
    data[data.find(own[large][20_000:23_000]) + 15] ^= 1  # deep in the pages of a large value
    (store.path / DATA).write_bytes(data)
    assert [(v.found.damaged, v.found.problem) for v in verify_stores(tmp_path)] == [(1, None)]
    assert store.get(keys_of(MANY)) == [None if i == large else own[i] for i in range(MANY)]
    store.put(keys_of(1, large), [own[large]])
    assert store.get(keys_of(MANY)) == own


def test_verify_names_damage_in_the_structure(tmp_path: Path) -> None:
    path = filled(tmp_path).path
    data = bytearray((path / DATA).read_bytes())
    data[3 * 4096] = 0x55  # the kind of a page
    (path / DATA).write_bytes(data)
    (verdict,) = verify_stores(tmp_path)
    assert not verdict.is_whole and verdict.found.problem is not None


def test_a_file_cut_short_is_never_a_wrong_answer_and_is_filled_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for size in (0, 1, 100, 4096, 8192, 12288, 20000):
        root = tmp_path / str(size)
        path = filled(root).path
        os.truncate(path / DATA, size)
        again = SignalStore(root, PRINT)
        assert right(again.get(keys_of(500))) < 500
        again.put(keys_of(500), answers(500))
        assert right(again.get(keys_of(500))) == 500 and again.unkept == 0
        assert (size <= 1) != (again.path / "damaged-1").is_dir()
    assert "damaged" in caplog.text and "moved to" in caplog.text


@pytest.mark.parametrize("what", ["database", "log", "log gone", "folder gone"])
def test_files_cut_or_deleted_under_a_running_job_are_noticed(tmp_path: Path, what: str) -> None:
    store, other = filled(tmp_path), SignalStore(tmp_path, PRINT)
    store.put(keys_of(300, 500), answers(300, 500))
    log = store.path / f"{DATA}-wal"
    if what == "folder gone":
        shutil.rmtree(store.path)
    elif what == "log gone":
        log.unlink()
    else:
        os.truncate(store.path / DATA if what == "database" else log, 8192)
    for one in (store, other):
        right(one.get(keys_of(800)))
        one.put(keys_of(800), answers(800))
        assert right(one.get(keys_of(800))) == 800 and one.unkept == 0
    other.close()
    store.close()
    assert right(SignalStore(tmp_path, PRINT).get(keys_of(800))) == 800


def test_a_file_that_is_no_store_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / PRINT[:32]).mkdir()
    (tmp_path / PRINT[:32] / DATA).write_bytes(b"something else" * 2000)
    store = filled(tmp_path, 10)
    assert right(store.get(keys_of(10))) == 10
    assert (store.path / "damaged-1" / DATA).read_bytes().startswith(b"something")


def test_a_database_of_another_version_is_set_aside(tmp_path: Path) -> None:
    path = filled(tmp_path, 10).path
    database = sqlite3.connect(path / DATA)
    database.execute("PRAGMA user_version = 9")
    database.close()
    store = SignalStore(tmp_path, PRINT)
    assert store.get(keys_of(1)) == [None] and (path / "damaged-1" / DATA).exists()


@pytest.mark.parametrize("how", ["file size", "pages"])
def test_a_full_disk_is_one_warning_and_answers_are_still_given(tmp_path: Path, how: str) -> None:
    code = """
root, how = Path(sys.argv[1]), sys.argv[2]
import logging
logging.basicConfig(stream=sys.stdout, format="WARNED %(message)s")
store = SignalStore(root, PRINT)
if how == "file size":
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
else:
    store._opened.store._database.execute("PRAGMA max_page_count = 200")
for begin in range(0, 40000, 100):
    store.put(keys_of(100, begin), answers(100, begin))
kept = right(store.get(keys_of(40000)))
assert kept > 1000
print("kept", kept, "unkept", store.unkept)
"""
    process = run(code, tmp_path, how)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 0, out
    assert out.count("WARNED") == 1 and "next:" in out and "store_limit_gb" in out
    kept, unkept = int(out.split()[-3]), int(out.split()[-1])
    assert kept + unkept == 40000
    assert right(SignalStore(tmp_path, PRINT).get(keys_of(kept))) == kept


def test_four_writers_one_of_them_killed_harm_nobody(tmp_path: Path) -> None:
    code = """
root, number = Path(sys.argv[1]), int(sys.argv[2])
store = SignalStore(root, PRINT)
print("open", flush=True)
sys.stdin.read(1)
for begin in range(number * 2000, (number + 1) * 2000, 50):
    store.put(keys_of(50, begin), answers(50, begin))
    right(store.get(keys_of(50, 50 * number)), 50 * number)
assert store.unkept == 0
store.close()
"""
    writers = [run(code, tmp_path, number, stdin=subprocess.PIPE) for number in range(4)]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "open\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go")
        writer.stdin.flush()
    reader = SignalStore(tmp_path, PRINT, read_only=True)
    while len(reader) < 700:
        time.sleep(0.001)
    writers[0].send_signal(signal.SIGKILL)
    assert [writer.wait(60) for writer in writers] == [-signal.SIGKILL, 0, 0, 0]
    store = SignalStore(tmp_path, PRINT)
    found = store.get(keys_of(8000))
    assert right(found) < 8000 and right(found[2000:], 2000) == 6000 and right(found[:2000]) % 50 == 0
    assert not list(store.path.glob("damaged-*"))
    store.put(keys_of(2000), answers(2000))
    assert right(store.get(keys_of(8000))) == 8000
    assert [v.is_whole for v in verify_stores(tmp_path)] == [True]


def test_the_bound_holds_while_one_store_fills(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limit = 6_000_000
    store = SignalStore(tmp_path, PRINT, limit_gb=limit / 1e9, teacher="zh")
    for begin in range(0, 120_000, 100):
        store.put(keys_of(100, begin), answers(100, begin))
        if begin % 2000 == 0:
            assert (store.path / DATA).stat().st_size <= limit
    found = store.get(keys_of(120_000))
    assert 30_000 < right(found) < 118_000 and store.unkept == 0
    assert right(found[:60_000]) > 1000  # random, not the oldest
    said = [r for r in caplog.records if "store_limit_gb" in r.getMessage()]
    assert len(said) == 1 and "teacher zh" in said[0].getMessage()


def test_the_bound_holds_for_bodies_of_any_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limit, rng = 16_000_000, random.Random(2)
    store = SignalStore(tmp_path, PRINT, limit_gb=limit / 1e9)
    sizes = [int(2 ** rng.uniform(0, 16.5)) for _ in range(4_992)]
    for begin in range(0, len(sizes), 16):
        store.put(
            keys_of(16, begin), [BLOB[i : i + size] for i, size in enumerate(sizes[begin : begin + 16])]
        )
        assert (store.path / DATA).stat().st_size <= limit
    found = store.get(keys_of(len(sizes)))
    kept = [i for i, body in enumerate(found) if body is not None]
    assert all(found[i] == BLOB[i % 16 : i % 16 + sizes[i]] for i in kept)
    assert 0.5 * limit < sum(estimate_stored_bytes(sizes[i]) for i in kept) <= limit and store.unkept == 0
    assert min(kept) < len(sizes) // 2 and "store_limit_gb" in caplog.text  # random, not the oldest
    store.put(keys_of(2, -5), [BLOB[: limit // 50], b"small"])
    assert store.unkept == 1 and store.get(keys_of(2, -5)) == [None, b"small"]


def test_older_teachers_that_nobody_uses_go_first_and_the_one_in_use_stays(tmp_path: Path) -> None:
    old, newer, held = ("1" * 64, "2" * 64, "3" * 64)
    for fingerprint, when in ((newer, 2000), (old, 1000)):
        path = filled(tmp_path, 30_000, fingerprint).path
        os.utime(path / "in-use", (when, when))
    in_use = filled(tmp_path, 2_000, held)
    assert len(in_use) == 2_000  # opens it again
    size = (tmp_path / newer[:32] / DATA).stat().st_size
    store = SignalStore(tmp_path, PRINT, limit_gb=2.9 * size / 1e9)
    for begin in range(0, 30_000, 200):
        store.put(keys_of(200, begin), answers(200, begin))
    assert {s.fingerprint[0]: s.entries for s in list_stores(tmp_path)} == {
        "2": 30_000,
        "3": 2_000,
        "f": 30_000,
    }


def test_a_store_that_others_hold_gives_way_to_a_smaller_one(tmp_path: Path) -> None:
    large = filled(tmp_path, 40_000, "1" * 64)
    size = (large.path / DATA).stat().st_size
    assert right(large.get(keys_of(40_000))) == 40_000
    limit = int(1.6 * size)
    small = SignalStore(tmp_path, PRINT, limit_gb=limit / 1e9)
    for begin in range(0, 24_000, 100):
        small.put(keys_of(100, begin), answers(100, begin))
    assert sum((s.path / DATA).stat().st_size for s in list_stores(tmp_path)) <= limit
    assert 4_000 < right(large.get(keys_of(40_000))) < 40_000 and len(small) > 20_000
    large.put(keys_of(1, 3_333), answers(1, 3_333))
    assert right(large.get(keys_of(1, 3_333)), 3_333) == 1


def test_a_reader_makes_nothing_and_sees_what_another_keeps(tmp_path: Path) -> None:
    reader = SignalStore(tmp_path / "none", PRINT, read_only=True)
    assert reader.get(keys_of(1)) == [None] and not (tmp_path / "none").exists()
    writer = filled(tmp_path / "none", 3)
    reader._again_at = 0.0  # it looks again after a pause
    assert right(reader.get(keys_of(3))) == 3
    writer.put(keys_of(1, 3), answers(1, 3))
    assert right(reader.get(keys_of(4))) == 4
    reader.put(keys_of(1, 4), answers(1, 4))
    assert reader.unkept == 1 and writer.get(keys_of(1, 4)) == [None]


def test_on_a_read_only_mount_answers_are_read_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from raykd.teachers.store import signalstore

    path = filled(tmp_path).path
    (path / "in-use").unlink()
    before = sorted(p.name for p in path.iterdir())
    for module in (folder, signalstore):
        monkeypatch.setattr(module, "is_read_only", lambda path: True)
    store = SignalStore(tmp_path, PRINT)
    assert right(store.get(keys_of(600))) == 500 and len(store) == 500
    store.put(keys_of(2), answers(2))
    assert store.unkept == 2 and sorted(p.name for p in path.iterdir()) == before
    assert "read-only file system" in caplog.text
    assert SignalStore(tmp_path / "nothing", PRINT).get(keys_of(1)) == [None]


def test_a_network_file_system_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    (tmp_path / "far away").mkdir()
    place = str(tmp_path / "far away").replace(" ", "\\040")
    mounts.write_text(
        f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / {place} rw,noatime shared:7 - nfs4 server:/x rw\n",
        encoding="utf-8",
    )
    refuse_network_file_system(tmp_path, mounts)
    with pytest.raises(StoreUnwritableError, match=r"network file system \(nfs4 at .*far away\)"):
        refuse_network_file_system(tmp_path / "far away", mounts)

    def refuse(folder: Path) -> None:
        raise StoreUnwritableError(f"{folder} is on a network file system (nfs4)")

    monkeypatch.setattr("raykd.teachers.store.sqlite.refuse_network_file_system", refuse)
    with pytest.raises(TeacherError, match="signal store") as error:
        SignalStore(tmp_path / "store", PRINT)
    assert "nfs4" in str(error.value) and "serving.store" in str(error.value)


def test_stats_say_what_is_there(tmp_path: Path) -> None:
    filled(tmp_path, 300, teacher="zh")
    SignalStore(tmp_path, PRINT, teacher="en")
    (found,) = list_stores(tmp_path)
    assert (found.teachers, found.entries, found.older) == (("zh", "en"), 300, False)
    assert found.bytes >= (tmp_path / PRINT[:32] / DATA).stat().st_size
    assert found.bytes_a_row == found.bytes / 300 and time.time() - found.last_used < 60
    assert list_stores(tmp_path / "nothing") == []


def test_a_store_of_an_older_raykd_is_named_and_can_be_removed(tmp_path: Path) -> None:
    old = tmp_path / ("a" * 32)
    old.mkdir()
    (old / "data.mdb").write_bytes(bytes(8192))
    (old / "in-use").touch()
    (found,) = list_stores(tmp_path)
    assert found.older and found.entries is None
    (verdict,) = verify_stores(tmp_path)
    assert verdict.found.problem is not None and "older raykd" in verdict.found.problem
    assert SignalStore(tmp_path, "a" * 64).get(keys_of(1)) == [None]
    remove_stores(tmp_path, "aaaa", force=True)
    assert not old.exists()


def test_clear_refuses_a_store_in_use_unless_forced(tmp_path: Path) -> None:
    code = """
store = SignalStore(Path(sys.argv[1]), PRINT)
print("open", flush=True)
sys.stdin.read()
store.put(keys_of(3), answers(3))
print(right(store.get(keys_of(9))))
"""
    filled(tmp_path)
    filled(tmp_path, 5, "1" * 64)
    process = run(code, tmp_path, stdin=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == "open\n"
    with pytest.raises(TeacherError, match="open"):
        remove_stores(tmp_path)
    with pytest.raises(TeacherError, match="no store"):
        remove_stores(tmp_path, "abc")
    assert [s.entries for s in remove_stores(tmp_path, "1111")] == [5]
    assert [s.entries for s in remove_stores(tmp_path, PRINT[:8], force=True)] == [500]
    assert process.communicate("", timeout=30)[0] == "3\n" and process.returncode == 0
    assert [s.entries for s in list_stores(tmp_path)] == [3]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text(), st.none() | st.text()), unique=True, min_size=1, max_size=20))
def test_keys_of_different_texts_and_pairs_differ(parts: list[tuple[str, str | None]]) -> None:
    assert len({make_text_key(*part) for part in parts}) == len(parts)


def test_a_root_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TeacherError, match="signal store") as error:
        SignalStore(tmp_path / "file", PRINT)
    assert "serving.store" in str(error.value)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
