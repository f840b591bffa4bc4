"""Checkpoints on a file system that can only write, read, list and remove whole files, as an object store can."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem

from raykd.checkpoint.find import checkpoint_name, find_checkpoint, list_starts, next_start, prune
from raykd.checkpoint.manifest import CheckpointInfo, find_problem
from raykd.checkpoint.save import load_checkpoint, save_checkpoint
from raykd.checkpoint.storage import StorageFolder
from raykd.errors import TrainingError
from raykd.point import Point


class ObjectStore(AbstractFileSystem):  # type: ignore[misc]
    """Objects by key; has no folders, no rename, no lock, and nothing is changed in place."""

    protocol = "objects"
    objects: ClassVar[dict[str, bytes]] = {}
    room: ClassVar[float] = float("inf")

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        prefix = f"{self._strip_protocol(path).strip('/')}/"
        found: dict[str, dict[str, Any]] = {}
        for key, value in self.objects.items():
            if key.startswith(prefix):
                first, _, rest = key.removeprefix(prefix).partition("/")
                kind = "directory" if rest else "file"
                found[prefix + first] = {"name": prefix + first, "type": kind, "size": len(value)}
        if not found and prefix[:-1] not in self.objects:
            raise FileNotFoundError(path)
        return list(found.values()) if detail else list(found)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        if len(value) > self.room:
            raise OSError("no room")
        self.objects[self._strip_protocol(path).strip("/")] = bytes(value)

    def put_file(
        self, lpath: str, rpath: str, callback: Any = None, mode: str = "overwrite", **options: Any
    ) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            raise NotImplementedError("objects are written whole")
        try:
            return BytesIO(self.objects[self._strip_protocol(path).strip("/")])
        except KeyError:
            raise FileNotFoundError(path) from None

    def rm_file(self, path: str) -> None:
        del self.objects[self._strip_protocol(path).strip("/")]

    def mv(self, *arguments: Any, **options: Any) -> None:
        raise NotImplementedError("no rename")

    rename = move = mv_file = mkdir = makedirs = touch = mv


fsspec.register_implementation("objects", ObjectStore)


class Loop:
    """Saves its rank and a step, as DeepSpeed names its shards."""

    kept: Path | None = Path("before")

    def __init__(self, rank: int, text: str = "") -> None:
        self.rank, self.text = rank, text

    def save(self, directory: Path) -> None:
        (directory / "engine").mkdir(exist_ok=True)
        (directory / "engine" / f"zero_pp_rank_{self.rank}_states.pt").write_text(self.text)
        if self.rank == 0:
            (directory / "state.json").write_text("{}")

    def load(self, directory: Path) -> None:
        names = sorted(p.name for p in (directory / "engine").iterdir())
        assert names == ["zero_pp_rank_0_states.pt", "zero_pp_rank_1_states.pt"], "all ranks' parts are there"
        self.text = (directory / "engine" / f"zero_pp_rank_{self.rank}_states.pt").read_text()


@pytest.fixture(params=["local", "objects"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageFolder]:
    ObjectStore.objects.clear()
    yield StorageFolder(str(tmp_path / "ray") if request.param == "local" else "objects://bucket/runs/ray")
    ObjectStore.room = float("inf")


def write(start: StorageFolder, step: int, *, attempt: int = 1, ranks: int = 2) -> StorageFolder:
    info = CheckpointInfo("student", "abc", 2, step)
    folder = start.child(checkpoint_name(info, attempt))
    for rank in range(ranks):
        save_checkpoint(
            folder, info, Loop(rank, f"{rank} at {step}"), [Point(step, {"loss": 1.0}, 0)], {"more": "x"}
        )
    return folder


def test_what_was_written_is_found_and_loaded_on_any_file_system(storage: StorageFolder) -> None:
    assert find_checkpoint(list_starts(storage, "student"), "student") is None
    start = storage.child(next_start(storage, "student"))
    assert start.name == "student-1"
    write(start, 10)
    newest = write(start, 20)
    unfinished = write(start, 30, ranks=1)
    passed_over: list[str] = []
    found = find_checkpoint(list_starts(storage, "student"), "student", passed_over.append)
    assert found == newest and found.read("more") == b"x"
    assert passed_over == [f"passed over checkpoint {unfinished.url}: it has 1 parts of 2"]
    assert find_problem(newest, world=1) == "it is of 2 workers, wanted 1"
    loop = Loop(1)
    assert load_checkpoint(loop, found) == [Point(20, {"loss": 1.0}, 0)]
    assert loop.text == "1 at 20"
    assert (loop.kept is None) == (storage.local_path is None), "what was fetched is no place to go back to"


def test_a_later_attempt_counts_more_than_a_later_step(storage: StorageFolder) -> None:
    """A trial that took over another one's state goes on from an earlier step than its own last one."""
    write(storage, 30, attempt=1)
    copied = write(storage, 10, attempt=2)
    assert find_checkpoint([storage], "student") == copied
    assert find_checkpoint([storage], "baseline") is None


def test_damage_is_found_by_size_and_by_content(storage: StorageFolder) -> None:
    folder = write(storage, 10)
    name = "loop/engine/zero_pp_rank_1_states.pt"
    for content, why in ((b"1 at 11", "is not as it was written"), (b"1", "has 1 bytes of 7")):
        folder.write(name, content)
        assert why in str(find_problem(folder))
    folder.write("manifest-1.json", b'{"job":')
    assert find_problem(folder) == "manifest-1.json cannot be read"


def test_pruning_leaves_what_is_gone_on_from(storage: StorageFolder) -> None:
    for number in (1, 2, 3):
        write(storage.child(f"student-{number}"), 10 * number)
    kept = find_checkpoint(list_starts(storage, "student"), "student")
    running = write(storage.child("student-4"), 5)
    write(storage.child("student-4"), 6, ranks=1)
    write(storage.child("teachers-ab-1"), 7)
    prune(storage, "student", "student-4", kept)
    left = {name.rpartition("/loop/")[0] for name in storage.sizes() if "/loop/" in name} - {""}
    assert kept is not None
    expected = [kept.url, running.url, f"{storage.url}/teachers-ab-1/checkpoint_00000007-1-student"]
    assert sorted({name.removesuffix("/engine") for name in left}) == sorted(
        url.removeprefix(f"{storage.url}/") for url in expected
    )


def test_a_full_object_store_leaves_the_checkpoint_before() -> None:
    storage = StorageFolder("objects://bucket/full")
    before = write(storage, 10)
    ObjectStore.room = 3
    try:
        with pytest.raises(TrainingError, match=r"cannot be written[\s\S]*no room"):
            write(storage, 20)
    finally:
        ObjectStore.room = float("inf")
    assert find_checkpoint([storage], "student") == before
    assert {name.partition("/")[0] for name in storage.sizes()} == {before.name}
