"""The signal store: never a wrong answer, never a crash, whatever happens to its files."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from raykd.errors import TeacherError
from raykd.teachers.store import SignalStore, text_key
from raykd.teachers.store.folder import DATA, forget
from raykd.teachers.store.inventory import clear, stats, verify
from raykd.teachers.store.values import decode, encode, value_bytes

ROOT = Path(__file__).parents[2]
PRINT = "f" * 64
C = 2


def keys_of(count: int, begin: int = 0) -> list[bytes]:
    return [text_key(str(i), None) for i in range(begin, begin + count)]


def answers(count: int, begin: int = 0) -> NDArray[np.float32]:
    """The right answer of each key of `keys_of`."""
    return np.stack([np.arange(begin, begin + count), -np.arange(begin, begin + count)], axis=1).astype(
        np.float32
    )


def filled(root: Path, count: int = 500, fingerprint: str = PRINT, **options: object) -> SignalStore:
    store = SignalStore(root, fingerprint, C, **options)  # type: ignore[arg-type]
    for begin in range(0, count, 100):
        store.put(keys_of(min(100, count - begin), begin), answers(min(100, count - begin), begin))
    store.close()
    return store


def run(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """Python code in a process of its own, which knows this module."""
    command = [
        sys.executable,
        "-c",
        f"import sys\nfrom pathlib import Path\nfrom tests.unit.test_store import *\n{code}",
    ]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        **options,  # type: ignore[call-overload]
    )


@given(st.binary(min_size=32, max_size=32), st.lists(st.floats(width=32), min_size=1, max_size=40), st.data())
def test_a_value_is_read_back_bit_for_bit_and_any_damage_is_a_miss(
    key: bytes, logits: list[float], data: st.DataObject
) -> None:
    logits_C = np.asarray(logits, dtype=np.float32)
    wanted = value_bytes(len(logits))
    value = encode(key, logits_C.tobytes())
    assert decode(key, memoryview(value), wanted) == decode(key, value, None) == logits_C.tobytes()
    assert decode(key, value, value_bytes(len(logits) + 1)) is None
    at, bit = data.draw(st.integers(0, 8 * len(value) - 1)), data.draw(st.integers(0, 255))
    flipped = bytearray(value)
    flipped[at // 8] ^= 1 << (at % 8)
    other = bytes([key[0] ^ (bit or 1)]) + key[1:]
    for size in (wanted, None):
        assert decode(key, bytes(flipped), size) is None
        assert decode(other, value, size) is None
        assert decode(key, value[:-1], size) is None


def test_found_and_missing_are_told_apart_in_the_order_asked(tmp_path: Path) -> None:
    store = filled(tmp_path, 10)
    logits_NC, found_N = store.get([*keys_of(2, 8), *keys_of(2, 10), *keys_of(1, 0)])
    assert found_N.tolist() == [True, True, False, False, True]
    np.testing.assert_array_equal(logits_NC, [[8, -8], [9, -9], [0, 0], [0, 0], [0, 0]])
    assert len(store) == 10


def test_a_flipped_bit_anywhere_is_never_a_wrong_answer_and_never_a_crash(tmp_path: Path) -> None:
    """120 bits all over the file, meta pages and node headers included; each time reads all and writes more."""
    code = """
root, seed = Path(sys.argv[1]), int(sys.argv[2])
import logging, random, shutil
logging.disable(logging.WARNING)
whole = (root / PRINT[:32] / DATA).read_bytes()
rng = random.Random(seed)
lost = 0
for trial in range(120):
    data = bytearray(whole)
    at = rng.randrange(64 * 8) + 4096 * 8 * (trial % 2) if trial < 40 else rng.randrange(len(data) * 8)
    data[at // 8] ^= 1 << (at % 8)
    folder = root / str(trial)
    (folder / PRINT[:32]).mkdir(parents=True)
    (folder / PRINT[:32] / DATA).write_bytes(data)
    store = SignalStore(folder, PRINT, C)
    for round in range(2):
        logits, found = store.get(keys_of(600))
        assert (logits[found] == answers(600)[found]).all(), at
        lost += int((~found).sum())
        store.put(keys_of(600), answers(600))
    assert store.get(keys_of(600))[1].all() and store.unkept == 0, at
    forget(store.path)
    del store
    shutil.rmtree(folder)
print("lost", lost)
"""
    filled(tmp_path, 500)
    process = run(code, tmp_path, 1)
    out = process.communicate(timeout=200)[0]
    assert process.returncode == 0 and int(out.split()[-1]) > 120 * 100


def test_a_file_cut_short_is_set_aside_and_a_fresh_one_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for size in (0, 1, 100, 4096, 8192, 12288, 20000):
        root = tmp_path / str(size)
        path = filled(root).path
        forget(path)
        os.truncate(path / DATA, size)
        again = SignalStore(root, PRINT, C)
        found_N = again.get(keys_of(500))[1]
        assert not found_N.any() and (size == 0) != (again.path / "damaged-1").is_dir()
        again.put(keys_of(3), answers(3))
        np.testing.assert_array_equal(again.get(keys_of(3))[0], answers(3))
    assert "damaged" in caplog.text and "moved to" in caplog.text


def test_a_file_cut_short_under_a_running_job_is_noticed(tmp_path: Path) -> None:
    store = filled(tmp_path)
    os.truncate(store.path / DATA, 8192)
    assert not store.get(keys_of(500))[1].any()
    store.put(keys_of(5), answers(5))
    assert store.get(keys_of(5))[1].all() and store.unkept == 0


def test_a_file_that_is_no_store_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / PRINT[:32]).mkdir()
    (tmp_path / PRINT[:32] / DATA).write_bytes(b"something else" * 2000)
    store = filled(tmp_path, 10)
    assert store.get(keys_of(10))[1].all()
    assert (store.path / "damaged-1" / DATA).read_bytes().startswith(b"something")


def test_a_folder_deleted_under_a_running_job_is_made_anew(tmp_path: Path) -> None:
    import shutil

    store = filled(tmp_path)
    shutil.rmtree(store.path)
    store.put(keys_of(5), answers(5))
    assert store.get(keys_of(6))[1].tolist() == [True] * 5 + [False]
    assert len(SignalStore(tmp_path, PRINT, C)) == 5


@pytest.mark.parametrize("how", ["file size", "map"])
def test_a_full_disk_is_one_warning_and_answers_are_still_given(tmp_path: Path, how: str) -> None:
    code = """
root, how = Path(sys.argv[1]), sys.argv[2]
import logging
logging.basicConfig(stream=sys.stdout, format="WARNED %(message)s")
store = SignalStore(root, PRINT, C)
if how == "file size":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
else:
    store._opened.env.set_mapsize(1_000_000)
for begin in range(0, 40000, 100):
    store.put(keys_of(100, begin), answers(100, begin))
kept = store.get(keys_of(40000))
assert (kept[0][kept[1]] == answers(40000)[kept[1]]).all() and kept[1].sum() > 2000
print("kept", int(kept[1].sum()), "unkept", store.unkept)
"""
    process = run(code, tmp_path, how)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 0, out
    assert out.count("WARNED") == 1 and "next:" in out and "store_limit_gb" in out
    kept, unkept = int(out.split()[-3]), int(out.split()[-1])
    assert kept + unkept == 40000
    assert SignalStore(tmp_path, PRINT, C).get(keys_of(kept))[1].all()


def test_four_writers_one_of_them_killed_harm_nobody(tmp_path: Path) -> None:
    code = """
root, number = Path(sys.argv[1]), int(sys.argv[2])
store = SignalStore(root, PRINT, C)
print("open", flush=True)
sys.stdin.read(1)
for begin in range(number * 6000, (number + 1) * 6000, 50):
    store.put(keys_of(50, begin), answers(50, begin))
store.close()
"""
    writers = [run(code, tmp_path, number, stdin=subprocess.PIPE) for number in range(4)]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "open\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go")
        writer.stdin.flush()
    data = tmp_path / PRINT[:32] / DATA
    while data.stat().st_size < 200_000:
        time.sleep(0.001)
    writers[0].send_signal(signal.SIGKILL)
    assert [writer.wait(60) for writer in writers] == [-signal.SIGKILL, 0, 0, 0]
    store = SignalStore(tmp_path, PRINT, C)
    logits_NC, found_N = store.get(keys_of(24000))
    np.testing.assert_array_equal(logits_NC[found_N], answers(24000)[found_N])
    assert found_N[6000:].all() and found_N[:6000].sum() % 50 == 0
    assert not list(store.path.glob("damaged-*"))
    store.put(keys_of(6000), answers(6000))
    assert store.get(keys_of(24000))[1].all()


def test_the_bound_holds_while_one_store_fills(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limit = 24_000_000
    store = SignalStore(tmp_path, PRINT, C, limit_gb=limit / 1e9, teacher="zh")
    for begin in range(0, 450_000, 100):
        store.put(keys_of(100, begin), answers(100, begin))
        assert (store.path / DATA).stat().st_size <= limit
    logits_NC, found_N = store.get(keys_of(450_000))
    np.testing.assert_array_equal(logits_NC[found_N], answers(450_000)[found_N])
    assert 100_000 < found_N.sum() < 400_000 and store.unkept == 0
    assert found_N[:225_000].sum() > 1000  # random, not the oldest
    said = [r for r in caplog.records if "store_limit_gb" in r.getMessage()]
    assert len(said) == 1 and "teacher zh" in said[0].getMessage()


def test_older_teachers_that_nobody_uses_go_first_and_the_one_in_use_stays(tmp_path: Path) -> None:
    old, newer, held = ("1" * 64, "2" * 64, "3" * 64)
    for fingerprint, when in ((newer, 2000), (old, 1000)):
        path = filled(tmp_path, 20_000, fingerprint).path
        forget(path)
        os.utime(path / "in-use", (when, when))
    filled(tmp_path, 2_000, held)
    size = (tmp_path / newer[:32] / DATA).stat().st_size
    store = SignalStore(tmp_path, PRINT, C, limit_gb=2.4 * size / 1e9)
    for begin in range(0, 20_000, 200):
        store.put(keys_of(200, begin), answers(200, begin))
    assert {s.fingerprint[0]: s.entries for s in stats(tmp_path)} == {"2": 20_000, "3": 2_000, "f": 20_000}


def test_a_store_that_others_hold_gives_way_to_a_smaller_one(tmp_path: Path) -> None:
    large = filled(tmp_path, 80_000, "1" * 64)
    size = (large.path / DATA).stat().st_size
    small = SignalStore(tmp_path, PRINT, C, limit_gb=1.3 * size / 1e9)
    for begin in range(0, 54_000, 100):
        small.put(keys_of(100, begin), answers(100, begin))
    assert sum(s.bytes for s in stats(tmp_path)) <= 1.3 * size
    logits_NC, found_N = large.get(keys_of(80_000))
    np.testing.assert_array_equal(logits_NC[found_N], answers(80_000)[found_N])
    assert 13_000 < found_N.sum() < 80_000 and len(small) > 13_000
    large.put(keys_of(1, 33_333), answers(1, 33_333))
    assert large.get(keys_of(1, 33_333))[1].all()


def test_a_reader_makes_nothing_and_sees_what_another_keeps(tmp_path: Path) -> None:
    reader = SignalStore(tmp_path / "none", PRINT, C, read_only=True)
    assert not reader.get(keys_of(1))[1].any() and not (tmp_path / "none").exists()
    filled(tmp_path / "none", 3)
    reader._again_at = 0.0  # it looks again after a pause
    assert reader.get(keys_of(3))[1].all()


def test_stats_say_what_is_there(tmp_path: Path) -> None:
    filled(tmp_path, 300, teacher="zh")
    SignalStore(tmp_path, PRINT, C, teacher="en")
    (found,) = stats(tmp_path)
    assert (found.teachers, found.entries, found.classes) == (("zh", "en"), 300, C)
    assert found.bytes >= (tmp_path / PRINT[:32] / DATA).stat().st_size
    assert found.bytes_a_row == found.bytes / 300 and time.time() - found.last_used < 60
    assert stats(tmp_path / "nothing") == []


def test_verify_finds_a_flip_in_a_value_and_in_the_structure(tmp_path: Path) -> None:
    path = filled(tmp_path).path
    forget(path)
    assert [(v.entries, v.damaged_values, v.whole) for v in verify(tmp_path)] == [(500, 0, True)]
    data = bytearray((path / DATA).read_bytes())
    value = encode(keys_of(1, 77)[0], answers(1, 77)[0].tobytes())
    places = [
        at for at in range(len(data)) if data.startswith(value, at)
    ]  # LMDB copies pages that it changes
    for at in places:
        data[at + 10] ^= 4
    (path / DATA).write_bytes(data)
    assert [(v.damaged_values, v.problem, v.whole) for v in verify(tmp_path)] == [(1, None, False)]
    for at in places:
        data[at - 36] ^= 4  # the flags of the node: LMDB would follow them out of the page
    (path / DATA).write_bytes(data)
    (verdict,) = verify(tmp_path)
    assert verdict.problem is not None and "shape" in verdict.problem


def test_clear_refuses_a_store_in_use_unless_forced(tmp_path: Path) -> None:
    code = "store = SignalStore(Path(sys.argv[1]), PRINT, C); print('open', flush=True); sys.stdin.read()\nstore.put(keys_of(3), answers(3)); print(store.get(keys_of(9))[1].sum())"
    filled(tmp_path)
    forget(filled(tmp_path, 5, "1" * 64).path)
    forget(tmp_path / PRINT[:32])
    process = run(code, tmp_path, stdin=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == "open\n"
    with pytest.raises(TeacherError, match="open"):
        clear(tmp_path)
    with pytest.raises(TeacherError, match="no store"):
        clear(tmp_path, "abc")
    assert [s.entries for s in clear(tmp_path, "1111")] == [5]
    assert [s.entries for s in clear(tmp_path, PRINT[:8], force=True)] == [500]
    assert process.communicate("", timeout=30)[0] == "3\n" and process.returncode == 0
    assert [s.entries for s in stats(tmp_path)] == [3]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text(), st.none() | st.text()), unique=True, min_size=1, max_size=20))
def test_keys_of_different_texts_and_pairs_differ(parts: list[tuple[str, str | None]]) -> None:
    assert len({text_key(*part) for part in parts}) == len(parts)


def test_a_root_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    logging.getLogger("raykd.teachers")
    (tmp_path / "file").write_text("x")
    with pytest.raises(TeacherError, match="signal store") as error:
        SignalStore(tmp_path / "file", PRINT, C)
    assert "serving.store" in str(error.value)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
