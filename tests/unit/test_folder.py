"""The run folder's state, its log, its curves and its checkpoints, without Ray."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from raykd.checkpoint.curves import Curves
from raykd.checkpoint.find import checkpoint_name, find_checkpoint, list_starts, next_start, prune
from raykd.checkpoint.manifest import CheckpointInfo, describe_files, find_problem, write_manifest
from raykd.checkpoint.save import STOP_AT
from raykd.checkpoint.storage import StorageFolder
from raykd.cluster.mailbox import Event, Mailbox, sending_logs
from raykd.config import RunConfig
from raykd.config.loading import dump_run
from raykd.driver.progress import JobProgress
from raykd.errors import ConfigError
from raykd.folders.folder import (
    RunFolder,
    check_run_folder,
    open_run_folder,
    read_finished_run,
    read_status,
)
from raykd.folders.lock import lock_folder
from raykd.folders.log_file import log_to_file
from raykd.point import Point
from raykd.scoring.notes import collect_notes
from tests.worlds import run_config


def reopened(
    config: RunConfig, rows: str = "rows", *, resume: bool = False, overwrite: bool = False
) -> RunFolder:
    earlier = check_run_folder(config, resume=resume, overwrite=overwrite)
    files = {"run.yaml": dump_run(config)}
    return open_run_folder(config, {"data": rows}, files, earlier=earlier, base=config, overwrite=overwrite)


def opened(tmp_path: Path, **flags: bool) -> tuple[RunConfig, RunFolder]:
    config = run_config().model_copy(update={"output": str(tmp_path)})
    return config, reopened(config, **flags)


def test_a_run_that_never_started_leaves_no_folder_and_a_started_one_stays(tmp_path: Path) -> None:
    _, folder = opened(tmp_path)
    folder.give_up("failed")
    assert not folder.path.exists()
    _, folder = opened(tmp_path)
    folder.write_state(mlflow_run_id="abc")
    folder.give_up("failed")
    assert json.loads((folder.path / "run.json").read_text("utf-8"))["status"] == "failed"
    _, again = opened(tmp_path, resume=True)
    assert again.state["mlflow_run_id"] == "abc" and not replace(again, state={}).fresh
    again.give_up("failed")
    assert again.path.exists()


def test_a_run_goes_on_over_the_rows_it_began_with(tmp_path: Path) -> None:
    config, _ = opened(tmp_path)
    with pytest.raises(ConfigError, match="the data have changed"):
        reopened(config, "other rows", resume=True)
    assert reopened(config, "other rows", overwrite=True).state["rows"] == {"data": "other rows"}


def test_looking_changes_nothing(tmp_path: Path) -> None:
    config, folder = opened(tmp_path)
    before = (folder.path / "run.json").read_bytes()
    check_run_folder(config, resume=False, overwrite=True)
    assert (folder.path / "run.json").read_bytes() == before


def test_a_finished_run_is_known_by_its_configuration(tmp_path: Path) -> None:
    config, folder = opened(tmp_path)
    assert read_finished_run(config) is None
    (folder.path / "results.md").write_text("| a |", encoding="utf-8")
    (folder.path / "student").mkdir()
    (folder.path / "student" / "config.json").write_text("{}", encoding="utf-8")
    folder.write_state(status="finished", lines=["report x"])
    found = read_finished_run(config)
    assert found is not None and found.text == "| a |" and found.lines == ("report x",)
    assert read_finished_run(config.model_copy(update={"seed": 9})) is None


def test_zero_checkpoints_belong_to_their_number_of_workers(tmp_path: Path) -> None:
    def run(workers: int, stage: int, resume: bool) -> None:
        config = run_config(zero_stage=stage)
        sized = config.workers.model_copy(update={"num_workers": workers})
        config = config.model_copy(update={"output": str(tmp_path), "name": f"z{stage}", "workers": sized})
        reopened(config, resume=resume)

    run(2, 3, False)
    with pytest.raises(ConfigError, match=r"ZeRO 3[\s\S]*num_workers 1"):
        run(1, 3, True)
    run(2, 3, True)
    for stage in (0, 1, 2):  # those are converted
        run(2, stage, False)
        run(1, stage, True)


def test_the_log_takes_warnings_hides_secrets_and_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    level = root.level
    with log_to_file(tmp_path / "log.txt"), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        logging.getLogger("any").info("to http://bob:CANARY@host")
        warnings.warn("a library's chatter", UserWarning, stacklevel=1)
    logging.getLogger("any").warning("after")
    text = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "CANARY" not in text and "http://***@host" in text and "chatter" in text and "after" not in text
    assert root.handlers == before and root.level == level


def test_a_point_that_comes_again_counts_once_also_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    curves = Curves(path)
    assert curves.add("student", Point(1, {"loss": 0.5, "odd": float("nan")})) is not None
    assert curves.add("student", Point(2, {"loss": 0.4})) is not None
    assert curves.add("baseline", Point(1, {"loss": 0.5})) is not None
    with path.open("a", encoding="utf-8") as file:
        file.write('{"job": "student", "st')
    again = Curves(path)
    assert [p.step for p in again.by_job["student"]] == [1, 2]
    assert again.by_job["student"][0].time_ms == curves.by_job["student"][0].time_ms
    assert again.add("student", Point(2, {"loss": 0.1})) is None
    fresh = again.add("student", Point(2, {"loss": 0.1, "accuracy": 0.9}))
    assert fresh is not None and fresh.values == {"accuracy": 0.9}


CONFIG = CheckpointInfo("student", "abc", 2)


def newest(
    storage: Path, job: str, told: Callable[[str], None] = lambda why: None, *, world: int | None = None
) -> Path | None:
    """The checkpoint that a run goes on from."""
    found = find_checkpoint(list_starts(StorageFolder(str(storage)), "student"), job, told, world=world)
    return None if found is None else found.local_path


def checkpoint(storage: Path, start: str, step: int, mark: CheckpointInfo = CONFIG, attempt: int = 1) -> Path:
    """As two ranks write it: shards named by a rank, the rest by rank 0."""
    mark = replace(mark, step=step)
    folder = storage / start / checkpoint_name(mark, attempt)
    (folder / "loop").mkdir(parents=True)
    (folder / "loop" / "engine").write_bytes(b"x" * 50)
    for rank in range(mark.world):
        (folder / "loop" / f"zero_pp_rank_{rank}_optim.pt").write_bytes(bytes([rank]) * 100)
    for rank in range(mark.world):
        place = StorageFolder(str(folder))
        write_manifest(place, describe_files(place, mark, rank), rank)
    return folder


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        ("cut", "engine has 20 bytes of 50"),
        ("flip", "engine is not as it was written"),
        ("zeroed", "engine is not as it was written"),
        ("missing", "zero_pp_rank_1_optim.pt is missing"),
        ("part", "1 parts of 2"),
        ("manifest", "no manifest"),
        ("torn manifest", "manifest-0.json cannot be read"),
        ("world", "of 3 workers, wanted 2"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_passed_over_and_the_one_before_is_used(
    harm: str, why: str, tmp_path: Path
) -> None:
    good = checkpoint(tmp_path, "student-2", 10)
    made = replace(CONFIG, world=3) if harm == "world" else CONFIG
    newer = checkpoint(tmp_path, "student-1", 20, made)
    checkpoint(tmp_path, "student-2", 30, replace(CONFIG, job="baseline"))
    assert find_problem(StorageFolder(str(newer))) is None and (
        newest(tmp_path, CONFIG.job, world=2) == newer
    ) == (made == CONFIG)
    engine = newer / "loop" / "engine"
    if harm in ("cut", "flip", "zeroed"):
        engine.write_bytes(
            {"cut": b"x" * 20, "flip": b"x" * 49 + b"y", "zeroed": b"x" * 25 + bytes(25)}[harm]
        )
    if harm == "missing":
        (newer / "loop" / "zero_pp_rank_1_optim.pt").unlink()
    if harm == "part":
        (newer / "manifest-1.json").unlink()
    if harm == "manifest":
        for path in newer.glob("manifest-*"):
            path.unlink()
    if harm == "torn manifest":
        (newer / "manifest-0.json").write_text("", encoding="utf-8")
    said: list[str] = []
    assert newest(tmp_path, CONFIG.job, said.append, world=2) == good
    assert len(said) == 1 and str(newer) in said[0] and why in said[0]
    assert newest(tmp_path, "dent") is None


def test_each_start_is_a_run_of_its_own_whatever_ray_left_in_those_before(tmp_path: Path) -> None:
    """Ray Train reads its list of checkpoints from the folder of its run: a folder that was never there has none."""
    assert (
        newest(tmp_path, CONFIG.job) is None
        and next_start(StorageFolder(str(tmp_path)), "student") == "student-1"
    )
    kept = checkpoint(tmp_path, "student-1", 10)
    lists = ["", '{"checkpoint_results": [{"che', '{"checkpoint_results": [{"checkpoint_dir_name": "gone"}]}',
             '{"ray_version": "1.0"}']  # fmt: skip
    for text in lists:
        (kept.parent / "checkpoint_manager_snapshot.json").write_text(text, encoding="utf-8")
        start = next_start(StorageFolder(str(tmp_path)), "student")
        assert newest(tmp_path, CONFIG.job) == kept
        assert start == "student-2" and not (tmp_path / start).exists()


def test_what_no_attempt_needs_goes(tmp_path: Path) -> None:
    checkpoint(tmp_path, "student-1", 5)
    kept = checkpoint(tmp_path, "student-2", 10)
    half = checkpoint(tmp_path, "student-2", 15)
    (half / "manifest-1.json").unlink()
    running, torn = checkpoint(tmp_path, "student-3", 20), checkpoint(tmp_path, "student-3", 25)
    (torn / "manifest-0.json").unlink()
    (running / "loop" / "engine").write_bytes(b"y")  # Ray Train counts it, so it stays until the next start
    (tmp_path / "student-copy").mkdir()
    prune(StorageFolder(str(tmp_path)), "student", "student-3", StorageFolder(str(kept)))
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.glob("*/checkpoint_*"))
    assert left == [str(kept.relative_to(tmp_path)), str(running.relative_to(tmp_path))]
    assert not (tmp_path / "student-1").exists() and (tmp_path / "student-copy").exists()


KILLED = """
import sys
from pathlib import Path
from raykd.checkpoint.manifest import CheckpointInfo
from raykd.checkpoint.save import save_checkpoint
from raykd.checkpoint.storage import StorageFolder

class Loop:
    rank, world = 0, 1
    def save(self, folder):
        (folder / "engine").write_bytes(b"x" * int(sys.argv[3]))

info = CheckpointInfo("student", "abc", 1, int(sys.argv[2]))
save_checkpoint(StorageFolder(sys.argv[1]), info, Loop(), [])
"""


def written_by_a_process(
    folder: Path, step: int, size: int, limit: int | None = None, **environment: str
) -> Any:
    def fewer() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    return subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(step), str(size)],
        env={**os.environ, **environment}, preexec_fn=fewer, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_crash_and_a_full_disk_while_saving_leave_the_checkpoint_before(tmp_path: Path) -> None:
    mark = CheckpointInfo("student", "abc", 1)
    folders = [tmp_path / "student-1" / checkpoint_name(replace(mark, step=step), 1) for step in (10, 20, 30)]
    assert written_by_a_process(folders[0], 10, 5000).returncode == 0
    killed = written_by_a_process(folders[1], 20, 5000, **{STOP_AT: "20"})
    assert killed.returncode == -signal.SIGKILL
    assert (folders[1] / "loop" / "engine").stat().st_size == 5000, "it was in the midst of it"
    full = written_by_a_process(folders[2], 30, 5000, limit=4096)
    assert full.returncode == 1 and not folders[2].exists()
    said = full.stderr
    assert f"TrainingError: the checkpoint {folders[2]} cannot be written" in said
    assert re.search(r"File too large \([\d,]+ bytes are free in ", said) and "--resume" in said
    told: list[str] = []
    assert newest(tmp_path, mark.job, told.append) == folders[0] and len(told) == 1
    prune(StorageFolder(str(tmp_path)), "student", "student-2", StorageFolder(str(folders[0])))
    assert list((tmp_path / "student-1").iterdir()) == [folders[0]]


HOLDING = """
import sys, time
from pathlib import Path
from raykd.folders.lock import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_has_one_driver_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDING, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with (
        pytest.raises(ConfigError, match=f"another raykd works in .*[\\s\\S]*process {holder.pid} on "),
        lock_folder(folder),
    ):
        pass
    holder.kill()
    holder.communicate()
    with lock_folder(folder), lock_folder(tmp_path / "other"):
        assert (tmp_path / ".run.lock").exists()
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on "), lock_folder(folder):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def has_none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", has_none)
    with lock_folder(tmp_path / "run"), lock_folder(tmp_path / "run"):
        assert "has no locks" in caplog.text and "No locks available" in caplog.text


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("text", encoding="utf-8")
    (tmp_path / ".run.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"), lock_folder(tmp_path / "run"):
        pass
    assert (tmp_path / "victim").read_text(encoding="utf-8") == "text"


def test_what_a_worker_notes_is_shown_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = io.StringIO()
    progress = JobProgress(Console(file=text, width=60), {}, Curves(tmp_path / "c"), lambda *_: None)
    progress._take(
        Event("note", "student", text=f"passed over checkpoint {tmp_path}/[20]: it has no manifest")
    )
    line = f"student: passed over checkpoint {tmp_path}/[20]: it has no manifest"
    assert text.getvalue() == f"  {line}\n" and line in caplog.text


def test_what_a_worker_logs_is_in_the_log_and_not_on_the_terminal(tmp_path: Path) -> None:
    """The process of a worker has no log file; what it says is where a person looks, under the job's name."""
    mailbox, text, logger = Mailbox(), io.StringIO(), logging.getLogger("raykd.student")
    with sending_logs(mailbox, "student"):
        logger.info("class weights: %s", {"a": 1.0})
        logger.debug("details")
        logging.getLogger("transformers").info("of another library")
    logger.info("after it")
    (event,) = mailbox.drain()
    progress = JobProgress(Console(file=text, width=60), {}, Curves(tmp_path / "c"), lambda *_: None)
    with log_to_file(tmp_path / "log.txt"):
        progress._take(event)
    written = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert written.endswith("INFO raykd.student: student: class weights: {'a': 1.0}\n")
    assert written.count("\n") == 1 and not text.getvalue()


def test_left_out_steps_are_noted() -> None:
    config = run_config()
    none, some, back = (
        [Point(12, {"train/loss": 0.1, **more})]
        for more in ({}, {"train/skipped_steps": 2.0}, {"train/skipped_steps": 4.0, "train/rollbacks": 1.0})
    )
    empty: Any = SimpleNamespace(remarks=tuple, test=(), held_out="test", judged=())
    said = [
        [n for n in collect_notes(config, empty, curve, []) if "left out" in n]
        for curve in (none, some, back)
    ]
    assert said[0] == [] and said[1][0].startswith("2 training steps were left out")
    assert "4 training steps" in said[2][0] and "went back to a checkpoint once" in said[2][0]


def test_a_run_whose_process_is_gone_is_not_running(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    state = {"status": "running"}
    assert read_status(folder, state) == "killed"
    with lock_folder(folder):
        assert read_status(folder, state) == "killed"  # this process asks, which is no run of it
        (tmp_path / ".run.lock").write_text(json.dumps({"pid": os.getpid() + 1, "host": "h", "since": "s"}))
        assert read_status(folder, state) == "running"
    assert read_status(folder, {"status": "interrupted"}) == "interrupted"
