"""The signal store with bodies of any size: never a wrong answer, never a crash, within its bound."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from raykd.errors import TeacherError
from raykd.teachers.store import SignalStore, text_key, text_keys
from raykd.teachers.store.bound import file_bytes, stored_bytes
from raykd.teachers.store.folder import DATA, forget
from raykd.teachers.store.inventory import clear, stats, verify
from raykd.teachers.store.pages import check_pages, read_metas
from raykd.teachers.store.values import KEY_BYTES

ROOT = Path(__file__).parents[2]
PRINT = "b" * 64
BLOB = random.Random(7).randbytes(1 << 21)
SIZES = (0, 1, 37, 400, 1990, 1991, 4072, 4073, 9000, 24_000)
"""1990: the largest that a node keeps; 4072: that fits in one page of its own; and others around."""
MANY = 240


def key(i: int) -> bytes:
    return text_key(str(i), None)


def body(i: int) -> bytes:
    """The right answer of `key(i)`; most are small, that there are leaves enough for a branch."""
    size = SIZES[i // 4 % len(SIZES)] if i % 4 == 0 else i % 300
    return BLOB[i : i + size]


def filled(root: Path) -> SignalStore:
    """A store with a branch, leaves, large values, and free pages whose list is itself large."""
    store = SignalStore(root, PRINT, None)
    store.put_bodies([key(0)], [BLOB[:1_300_000]])
    for begin in range(0, MANY, 40):
        store.put_bodies(
            [key(i) for i in range(begin, begin + 40)], [body(i) for i in range(begin, begin + 40)]
        )
    store.close()
    return store


def run(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """Python code in a process of its own, which knows this module."""
    code = f"import sys\nfrom pathlib import Path\nfrom tests.unit.test_store_bodies import *\n{code}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, **options)  # type: ignore[call-overload,no-any-return]


def test_bodies_of_every_size_are_read_back_as_they_were(tmp_path: Path) -> None:
    sizes = (*SIZES, 65_536, 1_200_001)
    bodies = [BLOB[i : i + size] for i, size in enumerate(sizes)]
    store = SignalStore(tmp_path, PRINT, None)
    store.put_bodies([key(i) for i in range(len(sizes))], bodies)
    store.close()
    forget(store.path)
    del store
    (tmp_path / PRINT[:32] / "sound").unlink()  # all pages are looked at
    again = SignalStore(tmp_path, PRINT, None)
    asked = [*range(len(sizes)), 99, 3]
    assert again.get_bodies([key(i) for i in asked]) == [*bodies, None, bodies[3]]
    assert len(again) == len(sizes) and not list(again.path.glob("damaged-*"))


def test_a_file_that_lmdb_wrote_is_sound_after_every_write_and_a_later_body_takes_the_place_of_another(
    tmp_path: Path,
) -> None:
    """Overwritten, made larger and smaller, twice in one call, with deletions by the bound."""
    rng = random.Random(3)
    store = SignalStore(tmp_path, PRINT, None, limit_gb=0.004)
    truth: dict[bytes, bytes] = {}
    for step in range(120):
        for _ in range(20):
            at, size = rng.randrange(1000), int(2 ** rng.uniform(0, 14))
            truth.pop(key(rng.randrange(150)), None)
            truth[key(rng.randrange(150))] = BLOB[at : at + size]
        store.put_bodies([*truth, next(iter(truth))], [*truth.values(), b"the last one"])
        truth[next(iter(truth))] = b"the last one"
        data = store.path / DATA
        if step % 4 == 0:
            check_pages(data, read_metas(data)[0], KEY_BYTES, None)
    bodies = store.get_bodies(list(truth))
    assert all(found in (None, right) for found, right in zip(bodies, truth.values(), strict=True))
    assert sum(found is not None for found in bodies) > len(truth) // 2 and store.unkept == 0


def test_a_flipped_bit_in_any_kind_of_page_is_never_a_wrong_answer_and_never_a_crash(tmp_path: Path) -> None:
    """Of meta, branch, leaf and overflow pages: in their heads, in their nodes, anywhere."""
    code = """
import logging
logging.disable(logging.WARNING)
root, rng = Path(sys.argv[1]), random.Random(5)
whole = (root / PRINT[:32] / DATA).read_bytes()
kinds = {1: [], 2: [], 4: [], 8: []}
for page in range(len(whole) // 4096):
    head = struct.unpack_from("<QHHHH", whole, page * 4096)
    if head[0] == page and head[2] in kinds:
        kinds[head[2]].append(page)
keys, right = [key(i) for i in range(MANY)], [body(i) for i in range(MANY)]
lost = 0
for trial in range(200):
    data = bytearray(whole)
    kind = (1, 2, 2, 4, 8)[trial % 5]
    page = rng.choice(kinds[kind])
    place = rng.randrange(*((0, 16), (16, 200), (3000, 4096), (0, 4096))[trial // 5 % 4])
    data[page * 4096 + place] ^= 1 << rng.randrange(8)
    folder = root / str(trial)
    (folder / PRINT[:32]).mkdir(parents=True)
    (folder / PRINT[:32] / DATA).write_bytes(data)
    store = SignalStore(folder, PRINT, None)
    bodies = store.get_bodies(keys)
    assert all(b is None or b == r for b, r in zip(bodies, right)), (trial, page, place)
    lost += bodies.count(None)
    store.put_bodies(keys, right)
    assert store.get_bodies(keys) == right and store.unkept == 0, (trial, page, place)
    forget(store.path)
    del store
    shutil.rmtree(folder)
print(*(len(pages) for pages in kinds.values()), lost)
"""
    filled(tmp_path)
    process = run(code, tmp_path)
    out = process.communicate(timeout=100)[0]
    assert process.returncode == 0, out
    *pages, lost = map(int, out.split())
    assert all(pages) and lost > MANY * 20


@pytest.mark.parametrize("field", ["page number", "flags", "count", "where a node leads", "size of a value"])
def test_a_large_value_with_damaged_pages_is_noticed_when_the_file_is_opened(
    tmp_path: Path, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = filled(tmp_path).path
    forget(path)
    data = bytearray((path / DATA).read_bytes())
    large = key(36)  # 24,000 bytes
    assert len(body(36)) == 24_000
    for at in range(4096, len(data)):
        if data.startswith(large, at):  # LMDB keeps old copies of pages that it changed
            page = struct.unpack_from("<Q", data, at + 32)[0] * 4096
            place = {"page number": page, "flags": page + 10, "count": page + 12}.get(field)
            if place is None:
                place = at + 32 + 5 if field == "where a node leads" else at - 8 + 2
            data[place] |= 0x20
    (path / DATA).write_bytes(data)
    (verdict,) = verify(tmp_path)
    assert verdict.problem is not None and "ended the process" not in verdict.problem
    store = SignalStore(tmp_path, PRINT, None)
    assert store.get_bodies([large]) == [None] and "damaged" in caplog.text
    store.put_bodies([large], [body(36)])
    assert store.get_bodies([large]) == [body(36)]


def test_a_flipped_bit_in_a_body_loses_that_body_alone(tmp_path: Path) -> None:
    path = filled(tmp_path).path
    forget(path)
    (found,) = stats(tmp_path)
    assert (found.classes, found.entries) == (None, MANY)
    assert found.bytes_a_row == file_bytes(path) / MANY
    assert [(v.entries, v.damaged_values, v.whole) for v in verify(tmp_path)] == [(MANY, 0, True)]
    data = bytearray((path / DATA).read_bytes())
    at = data.find(body(36)[:16_000])
    data[at + 15_000] ^= 1  # deep in the pages of a large value
    (path / DATA).write_bytes(data)
    assert [(v.damaged_values, v.problem, v.whole) for v in verify(tmp_path)] == [(1, None, False)]
    bodies = SignalStore(tmp_path, PRINT, None).get_bodies([key(i) for i in range(MANY)])
    assert bodies == [None if i == 36 else body(i) for i in range(MANY)]
    assert [s.entries for s in clear(tmp_path, PRINT[:6], force=True)] == [MANY] and stats(tmp_path) == []


def test_a_folder_deleted_or_cut_short_under_a_running_job_is_made_anew(tmp_path: Path) -> None:
    store = filled(tmp_path)
    shutil.rmtree(store.path)
    assert store.get_bodies([key(1)]) == [None]
    store.put_bodies([key(36)], [body(36)])
    with (store.path / DATA).open("r+b") as file:
        file.truncate(12_288)
    assert store.get_bodies([key(36)]) == [None]
    store.put_bodies([key(36)], [body(36)])
    assert store.get_bodies([key(36)]) == [body(36)] and store.unkept == 0


def test_the_bound_holds_for_bodies_of_any_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limit, rng = 8_000_000, random.Random(2)
    store = SignalStore(tmp_path, PRINT, None, limit_gb=limit / 1e9)
    sizes = [int(2 ** rng.uniform(0, 16.5)) for _ in range(4_000)]
    for begin in range(0, len(sizes), 16):
        part = range(begin, begin + 16)
        store.put_bodies([key(i) for i in part], [BLOB[i : i + sizes[i]] for i in part])
        assert file_bytes(store.path) <= limit
    bodies = store.get_bodies([key(i) for i in range(len(sizes))])
    kept = [i for i, found in enumerate(bodies) if found is not None]
    assert all(bodies[i] == BLOB[i : i + sizes[i]] for i in kept)
    assert 0.6 * limit < sum(stored_bytes(sizes[i]) for i in kept) <= limit and store.unkept == 0
    assert min(kept) < len(sizes) // 2 and "store_limit_gb" in caplog.text  # random, not the oldest
    store.put_bodies([key(-1), key(-2)], [BLOB[: limit // 50], b"small"])
    assert store.unkept == 1 and store.get_bodies([key(-1), key(-2)]) == [None, b"small"]


def test_bodies_that_another_holds_give_way_to_a_store_of_logits(tmp_path: Path) -> None:
    large = SignalStore(tmp_path, "1" * 64, None)
    for i in range(0, 100, 10):
        large.put_bodies([key(i + j) for j in range(10)], [BLOB[i + j : i + j + 30_000] for j in range(10)])
    limit = int(1.1 * file_bytes(large.path))
    small = SignalStore(tmp_path, PRINT, 2, limit_gb=limit / 1e9)
    for begin in range(0, 3_000, 50):
        logits_NC = np.full((50, 2), begin, dtype=np.float32)
        small.put([key(i) for i in range(begin, begin + 50)], logits_NC)
    assert sum(s.bytes for s in stats(tmp_path)) <= limit and len(small) == 3_000
    bodies = large.get_bodies([key(i) for i in range(100)])
    assert all(found in (None, BLOB[i : i + 30_000]) for i, found in enumerate(bodies))
    assert 20 < 100 - bodies.count(None) < 100 and {s.classes for s in stats(tmp_path)} == {None, 2}


def test_writers_and_a_reader_at_a_time_harm_nobody(tmp_path: Path) -> None:
    code = """
root, number = Path(sys.argv[1]), int(sys.argv[2])
store = SignalStore(root, PRINT, None)
print("open", flush=True)
sys.stdin.read(1)
for begin in range(0, MANY, 6):
    part = range(begin, begin + 6) if number else range(begin, MANY)
    if number < 3:
        store.put_bodies([key(i + MANY * number) for i in part], [body(i) + bytes([number]) for i in part])
    else:
        found = store.get_bodies([key(i) for i in range(MANY)])
        assert all(b is None or b == body(i) + bytes([0]) for i, b in enumerate(found))
store.close()
"""
    both = [run(code, tmp_path, number, stdin=subprocess.PIPE) for number in range(4)]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "open\n"
    for process in both:
        process.stdin.write("go")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    assert [process.wait(60) for process in both] == [0] * 4
    store = SignalStore(tmp_path, PRINT, None)
    keys = [key(i + MANY * number) for number in range(3) for i in range(MANY)]
    assert store.get_bodies(keys) == [body(i) + bytes([n]) for n in range(3) for i in range(MANY)]
    assert [v.whole for v in verify(tmp_path)] == [True] and not list(store.path.glob("damaged-*"))


@pytest.mark.parametrize("known", [True, False])
def test_a_store_opened_as_the_other_kind_misses_and_does_not_crash(tmp_path: Path, known: bool) -> None:
    filled(tmp_path / "bodies")
    logits = SignalStore(tmp_path / "logits", PRINT, 2)
    logits.put([key(1)], np.asarray([[1.0, 2.0]], dtype=np.float32))
    del logits
    if not known:  # by this process; then the pages are looked at again
        for kind in ("bodies", "logits"):
            forget(tmp_path / kind / PRINT[:32])
            (tmp_path / kind / PRINT[:32] / "sound").unlink(missing_ok=True)
    other = SignalStore(tmp_path / "bodies", PRINT, 2)
    assert not other.get([key(i) for i in range(MANY) if len(body(i)) != 8])[1].any()
    other.put([key(36)], np.asarray([[3.0, 4.0]], dtype=np.float32))
    assert other.get([key(36)])[0].tolist() == [[3.0, 4.0]] and other.unkept == 0
    bodies = SignalStore(tmp_path / "logits", PRINT, None)
    assert bodies.get_bodies([key(1), key(2)]) == [struct.pack("<2f", 1.0, 2.0), None]


def test_calls_of_the_other_kind_are_told_apart(tmp_path: Path) -> None:
    bodies, logits = SignalStore(tmp_path, PRINT, None), SignalStore(tmp_path, "c" * 64, 2)
    with pytest.raises(TeacherError, match="bodies of any size"):
        bodies.get([key(1)])
    with pytest.raises(TeacherError, match="get_bodies"):
        bodies.put([key(1)], np.zeros((1, 2), dtype=np.float32))
    with pytest.raises(TeacherError, match="2 labels"):
        logits.put_bodies([key(1)], [b"12345"])
    logits.put_bodies([key(1)], [struct.pack("<2f", 5.0, 6.0)])
    assert logits.get([key(1)])[0].tolist() == [[5.0, 6.0]]


@dataclass
class Rows:
    """What `text_keys` reads of a batch."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None = None
    words: tuple[tuple[tuple[int, int], ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)


def test_words_are_part_of_a_key_and_a_row_without_them_keeps_its_own() -> None:
    plain = text_key("ab c", None)
    assert plain.hex() == "caedf85153693fc19d511630f1b9b0b8c901a779196f9e772972c01386f4df37"
    keys = [
        plain,
        text_key("ab c", "d"),
        text_key("ab c", None, ((0, 2), (3, 4))),
        text_key("ab c", None, ((0, 4),)),
        text_key("ab c", None, ((0, 1), (1, 2), (3, 4))),
        text_key("ab c", "d", ((0, 4),)),
    ]
    assert len(set(keys)) == len(keys)
    words = (((0, 4),), ())
    assert text_keys(Rows(("ab c", "ab c"), None, words)) == [keys[3], plain]  # type: ignore[arg-type]
    assert text_keys(Rows(("ab c", "ab c"), ("d", "d"), words)) == [keys[5], keys[1]]  # type: ignore[arg-type]
    assert text_keys(Rows(("ab c",), ("d",))) == [keys[1]]  # type: ignore[arg-type]
