"""What MLflow did not take is sent later, whole and once; runs whose process was killed do not stay RUNNING."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykd.errors import TrackingError
from raykd.keys import make_mlflow_key
from raykd.point import Point
from raykd.tracking import SyncResult, Tracker, find_waiting_folders, replace_files, send_waiting
from raykd.tracking.client import send_points
from raykd.tracking.delivery.heartbeat import HEARTBEAT, STALE_S, end_stale
from raykd.tracking.delivery.operations import LATER
from raykd.tracking.delivery.outbox import SPOOL, Outbox, read_spool_lines

DEAD = "http://127.0.0.1:9"
"""A port that nobody listens on."""
CANARY = "s3cr3tCANARY"


@pytest.fixture
def client(mlflow_uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=mlflow_uri)


def points(first, count):
    return [Point(step, {"train/loss": 1.0 / step}, 1_000_000 + step) for step in range(first, first + count)]


def steps(client, run_id, name="train/loss"):
    return [m.step for m in client.get_metric_history(run_id, name)]


def record_without_mlflow(folder):
    """A run and a child of it that no server ever heard of."""
    page = folder / "report.html"
    folder.mkdir(parents=True)
    page.write_text("<p>a page</p>", encoding="utf-8")
    run = Tracker.start(
        DEAD, "later", "offline", params={"train.steps": 7, "hub.token": CANARY}, tags={"raykd.role": "run"},
        directory=folder, required=False,
    )  # fmt: skip
    child = Tracker.start(
        DEAD, "later", "baseline", params={}, tags={}, parent_run_id=run.run_id, directory=folder / "child",
        required=False,
    )  # fmt: skip
    run.log_points(points(1, 250))
    child.log_points(points(1, 2))
    run.log_text("hello", "notes/hello.txt")
    run.log_file(page)
    run.log_table([{"a": 1}], "table.json")
    child.finish("FAILED")
    run.finish()
    return run, child


def test_without_a_server_a_run_that_need_not_be_recorded_goes_on_and_is_made_later(
    tmp_path, mlflow_uri, client, caplog
):
    with caplog.at_level(logging.WARNING, "raykd.tracking"):
        run, child = record_without_mlflow(tmp_path / "runs" / "r")
    assert run.run_id.startswith("local-") and child.run_id != run.run_id
    assert len([r for r in caplog.records if "goes on without it" in r.getMessage()]) == 2  # one a run
    assert f"raykd mlflow sync {tmp_path / 'runs' / 'r'}" in caplog.text
    folder = tmp_path / "moved"
    shutil.move(tmp_path / "runs" / "r", folder)
    assert CANARY not in "".join(p.read_text(encoding="utf-8") for p in folder.rglob("*.jsonl"))
    copy = shutil.copytree(folder, tmp_path / "copy")

    assert find_waiting_folders(folder) == [folder, folder / "child"]
    sent = [send_waiting(mlflow_uri, part) for part in find_waiting_folders(folder)]
    assert sent[0].points == 250 and sent[1].points == 2
    assert find_waiting_folders(folder) == []
    experiment = client.get_experiment_by_name("later")
    by_name = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    made, below = by_name["offline"], by_name["baseline"]
    assert (made.info.status, below.info.status) == ("FINISHED", "FAILED")
    assert made.data.params == {"train.steps": "7", "hub.token": "***"}
    assert made.data.tags["raykd.role"] == "run"
    assert below.data.tags["mlflow.parentRunId"] == made.info.run_id
    assert steps(client, made.info.run_id) == list(range(1, 251))
    found = {f.path for at in (None, "notes") for f in client.list_artifacts(made.info.run_id, at)}
    assert {"report.html", "notes/hello.txt", "table.json"} <= found

    # Cut off before it could strike anything out, and done again: nothing twice.
    for part in find_waiting_folders(copy):
        send_waiting(mlflow_uri, part)
    again = {r.info.run_id for r in client.search_runs([experiment.experiment_id])}
    assert again == {made.info.run_id, below.info.run_id}
    assert steps(client, made.info.run_id) == list(range(1, 251))


def test_a_resumed_run_that_was_never_recorded_becomes_the_run_that_goes_on(tmp_path, mlflow_uri, client):
    first = Tracker.start(DEAD, "later", "again", params={}, tags={}, directory=tmp_path, required=False)
    first.log_points(points(1, 3))
    first.finish("KILLED")
    with pytest.raises(TrackingError):
        Tracker.start(DEAD, "later", "again", params={}, tags={}, run_id=first.run_id, directory=tmp_path)
    with Tracker.start(
        mlflow_uri, "later", "again", params={"a": 1}, tags={}, run_id=first.run_id, directory=tmp_path
    ) as second:
        second.log_points(points(3, 3))
    assert not second.run_id.startswith("local-")
    assert steps(client, second.run_id) == [1, 2, 3, 4, 5] or sorted(steps(client, second.run_id)) == [
        1,
        2,
        3,
        4,
        5,
    ]
    assert client.get_run(second.run_id).info.status == "FINISHED"
    assert not (tmp_path / SPOOL).exists() and not (tmp_path / LATER).exists()


def test_what_was_refused_to_the_end_waits_and_how_the_run_ended_is_recorded_now(
    tmp_path, mlflow_uri, client, monkeypatch, caplog
):
    tracker = Tracker.start(mlflow_uri, "later", "refused", params={}, tags={}, directory=tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(tracker._client, "log_text", lambda *a: (_ for _ in ()).throw(OSError("no space")))
        tracker.log_text("x", "late.txt")
        with caplog.at_level(logging.WARNING, "raykd.tracking"):
            tracker.finish()
    assert "late.txt" in caplog.text and "raykd mlflow sync" in caplog.text
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert [json.loads(line)["kind"] for line in (tmp_path / LATER).read_text().splitlines()] == ["text"]
    with (tmp_path / LATER).open("a", encoding="utf-8") as file:
        file.write('{"run_id": "torn by a cra')
    assert send_waiting(mlflow_uri, tmp_path) == SyncResult(0, 1)
    assert [a.path for a in client.list_artifacts(tracker.run_id)] == ["late.txt"]


def test_in_an_outage_points_are_on_disk_at_once_so_that_a_killed_process_loses_none(tmp_path):
    def send_nothing(batch):
        raise OSError("away")

    outbox = Outbox("r", send_nothing, tmp_path / SPOOL, backoff_s=(30.0, 30.0))
    outbox.put(points(1, 1))
    until = time.monotonic() + 5
    while not outbox.down and time.monotonic() < until:
        time.sleep(0.01)
    outbox.put(points(2, 5))
    assert [p.step for _, p in read_spool_lines(tmp_path / SPOOL)] == [1, 2, 3, 4, 5, 6]


KILLED = """
import sys, time
from raykd.tracking import Tracker
print(Tracker.start(sys.argv[1], "stale", "killed", params={}, tags={}).run_id, flush=True)
time.sleep(600)
"""


def test_a_run_whose_process_was_killed_is_marked_by_a_later_start(mlflow_uri, client):
    process = subprocess.Popen([sys.executable, "-c", KILLED, mlflow_uri], stdout=subprocess.PIPE, text=True)
    killed = process.stdout.readline().strip()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    experiment_id = client.get_run(killed).info.experiment_id
    other = client.create_run(experiment_id, run_name="somebody else's").info.run_id
    assert end_stale(client, experiment_id) == []  # it may be alive
    assert client.get_run(killed).info.status == "RUNNING"

    client.set_tag(killed, HEARTBEAT, str(int(time.time() - STALE_S - 5)))
    with Tracker.start(mlflow_uri, "stale", "later", params={}, tags={}) as later:
        assert client.get_run(killed).info.status == "KILLED"
        assert "no sign of life" in client.get_run(killed).data.tags["raykd.ended"]
        assert {client.get_run(i).info.status for i in (other, later.run_id)} == {"RUNNING"}
        assert abs(int(client.get_run(later.run_id).data.tags[HEARTBEAT]) - time.time()) < 60
    with Tracker.start(mlflow_uri, "stale", "killed", params={}, tags={}, run_id=killed):
        assert client.get_run(killed).info.status == "RUNNING"
    assert client.get_run(killed).info.status == "FINISHED"


def test_a_run_that_lives_says_so():
    beats = []
    outbox = Outbox("r", lambda batch: None, None, beat=lambda: beats.append(1), beat_s=0.02)
    until = time.monotonic() + 5
    while len(beats) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(beats) >= 3 and outbox.close(1.0)


class Counting:
    """A client that counts its calls."""

    def __init__(self):
        self.sizes = []

    def log_batch(self, run_id, metrics=(), tags=(), synchronous=None):
        self.sizes.append(len(metrics))


def test_points_cost_one_call_a_thousand_metrics():
    counting = Counting()
    send_points(counting, "r", [Point(s, {f"m{i}": 1.0 for i in range(10)}, s) for s in range(250)])
    assert counting.sizes == [1000, 1000, 500]


@given(st.text(max_size=400), st.text(max_size=400))
def test_any_name_becomes_one_that_mlflow_takes_and_no_other_name_becomes(key, other):
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

    clean = make_mlflow_key(key)
    for check in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        check(clean)
    assert (make_mlflow_key(other) == clean) is (other == key)


def test_files_of_an_ended_run_are_replaced_and_its_end_stays(client, mlflow_uri, tmp_path):
    page = tmp_path / "ensemble.html"
    page.write_text("<p>old</p>", encoding="utf-8")
    run = Tracker.start(mlflow_uri, "afterwards", "done", params={}, tags={}, directory=tmp_path)
    run.log_file(page)
    run.log_file(page, "a task")
    run.finish("FINISHED")
    before = client.get_run(run.run_id).info
    page.write_text("<p>new</p>", encoding="utf-8")
    assert replace_files(mlflow_uri, run.run_id, tmp_path, {page: "a task"}) is None
    after = client.get_run(run.run_id).info
    assert (after.status, after.end_time) == ("FINISHED", before.end_time)
    held = {
        place: client.download_artifacts(run.run_id, place)
        for place in ("ensemble.html", "a task/ensemble.html")
    }
    texts = {place: open(file, encoding="utf-8").read() for place, file in held.items()}  # noqa: SIM115
    assert texts == {"ensemble.html": "<p>old</p>", "a task/ensemble.html": "<p>new</p>"}
    assert not (tmp_path / LATER).exists()
    client.delete_run(run.run_id)
    assert replace_files(mlflow_uri, run.run_id, tmp_path, {page: None}) == (
        f"MLflow was not told: its run {run.run_id} is deleted"
    )


def test_files_that_mlflow_does_not_take_wait_once_for_a_sync(client, mlflow_uri, tmp_path):
    page = tmp_path / "ensemble.html"
    page.write_text("<p>old</p>", encoding="utf-8")
    run = Tracker.start(mlflow_uri, "afterwards", "away", params={}, tags={}, directory=tmp_path)
    run.log_file(page)
    run.finish("FINISHED")
    for text in ("<p>newer</p>", "<p>newest</p>"):
        page.write_text(text, encoding="utf-8")
        said = replace_files(DEAD, run.run_id, tmp_path, {page: None})
        assert said is not None and f"raykd mlflow sync {tmp_path} sends them" in said
    assert len((tmp_path / LATER).read_text(encoding="utf-8").splitlines()) == 1
    send_waiting(mlflow_uri, tmp_path)
    with open(client.download_artifacts(run.run_id, "ensemble.html"), encoding="utf-8") as file:
        assert file.read() == "<p>newest</p>"
    assert client.get_run(run.run_id).info.status == "FINISHED" and not (tmp_path / LATER).exists()
    nowhere = f"sqlite:///{tmp_path}/none/mlflow.db"
    assert "there is no database" in (replace_files(nowhere, run.run_id, tmp_path, {page: None}) or "")
    assert not (tmp_path / "none").exists(), "none is made for it"
