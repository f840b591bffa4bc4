"""What happens when the tracking server is away: nothing that training notices."""

import json
import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from raykd.errors import TrackingError
from raykd.point import Point
from raykd.tracking import SyncResult, Tracker, send_waiting
from raykd.tracking import timeouts as tracking_timeouts
from raykd.tracking.delivery import outbox as tracking_outbox
from raykd.tracking.delivery.outbox import Outbox, read_spool_lines, write_spool

CANARY = "s3cr3tCANARY"
RUN = {"info": {"run_id": "f" * 32, "experiment_id": "1", "status": "RUNNING"}, "data": {}}


class Server(ThreadingHTTPServer):
    """The few calls of MLflow's REST API that a tracker makes; `mode` is answer, hang or refuse."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode, self.metrics, self.ends, self.calls = "answer", [], [], []
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({"experiment": {"experiment_id": "1", "name": "e", "lifecycle_stage": "active"}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        call = self.path.rsplit("/", 2)[-2:]
        if self.server.mode == "answer":
            self.server.metrics += body.get("metrics", [])
            if call[-1] == "update":
                self.server.ends.append(body["status"])
        self.reply({"run": RUN, "run_info": RUN["info"]} if call[0] == "runs" else {})

    def reply(self, tree):
        self.server.calls.append(self.path)
        if self.server.mode == "hang":
            time.sleep(30)
            return
        text = json.dumps(tree).encode() if self.server.mode == "answer" else b"token=" + CANARY.encode()
        self.send_response(200 if self.server.mode == "answer" else 400)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(tracking_outbox, "LINGER_S", 0.02)
    monkeypatch.setattr(
        tracking_timeouts,
        "_WHILE_OPEN",
        {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"},
    )
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def open_run(server, directory):
    return Tracker.start(server.uri, "e", "r", params={"a": 1}, tags={}, directory=directory)


def points(first, count):
    return [Point(s, {"train/loss": 1.0 / s}, 1000 + s) for s in range(first, first + count)]


def steps(metrics):
    return sorted({m["step"] for m in metrics})


def test_a_dead_port_fails_at_once_with_a_next_step():
    begin = time.monotonic()
    with pytest.raises(TrackingError, match="mlflow server") as caught:
        Tracker.start("http://127.0.0.1:9", "e", "r", params={"token": CANARY}, tags={})
    assert time.monotonic() - begin < 6
    assert CANARY not in str(caught.value)
    assert caught.value.exit_code == 5


def test_a_server_that_never_answers_fails_the_start_in_time(monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        with pytest.raises(TrackingError, match="an answer within 5 s"):
            Tracker.start(f"http://127.0.0.1:{silent.getsockname()[1]}", "e", "r", params={}, tags={})
        assert time.monotonic() - begin < 6


def test_a_uri_with_a_password_does_not_reach_mlflow():
    with pytest.raises(TrackingError) as caught:
        Tracker.start(f"http://user:{CANARY}@127.0.0.1:9", "e", "r", params={}, tags={})
    assert CANARY not in str(caught.value)


def test_a_server_that_hangs_does_not_hold_up_training(server, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    tracker = open_run(server, tmp_path)
    tracker.log_points(points(1, 3))
    assert tracker.flush(5)
    server.mode = "hang"
    begin = time.monotonic()
    for first in range(4, 304):
        tracker.log_points(points(first, 1))
    assert time.monotonic() - begin < 0.2
    assert not tracker.flush(6)
    tracker.set_tags({"seen": "late"})  # a known outage is not waited for again
    tracker.log_text("x", "x.txt")
    assert time.monotonic() - begin < 8
    assert next(p.step for _, p in read_spool_lines(tmp_path / "mlflow_spool.jsonl")) == 4
    server.mode = "answer"
    assert tracker.flush(10)
    assert steps(server.metrics) == list(range(1, 304))
    assert not (tmp_path / "mlflow_spool.jsonl").exists()
    ours = [r.getMessage() for r in caplog.records if r.name == "raykd.tracking"]
    assert len([m for m in ours if "takes no metrics" in m]) == 1
    assert len([m for m in ours if "takes metrics again" in m]) == 1
    tracker.finish()
    assert server.ends == ["FINISHED"]


def test_a_run_that_ends_during_an_outage_leaves_a_spool_that_can_be_sent_later(server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    tracker = open_run(server, tmp_path)
    server.mode = "refuse"
    tracker.log_points([*points(1, 5), Point(6, {"train/loss": float("nan"), "ok": 1.0}, 7)])
    begin = time.monotonic()
    tracker.finish("FAILED", timeout_s=3)
    assert time.monotonic() - begin < 6
    spool = tmp_path / "mlflow_spool.jsonl"
    assert "6 points are in" in caplog.text
    assert str(spool) in caplog.text
    assert CANARY not in caplog.text
    with pytest.raises(TrackingError):
        send_waiting(server.uri, tmp_path)
    with spool.open("a") as file:
        file.write('{"run_id": "torn by a cra')
    server.mode = "answer"
    assert send_waiting(server.uri, tmp_path) == SyncResult(6, 1)
    assert server.ends == ["FAILED"]
    assert steps(server.metrics) == [1, 2, 3, 4, 5, 6]
    assert not spool.exists()


def test_a_resumed_run_sends_what_the_last_one_left(server, tmp_path):
    spool = tmp_path / "mlflow_spool.jsonl"
    other = ("0" * 32, Point(99, {"x": 1.0}, 1))
    write_spool(spool, [*(("f" * 32, p) for p in points(1, 4)), other])
    tracker = open_run(server, tmp_path)
    tracker.log_points(points(5, 1))
    assert tracker.flush(5)
    tracker.finish()
    assert steps(server.metrics) == [1, 2, 3, 4, 5]
    assert list(read_spool_lines(spool)) == [other]


def test_a_full_queue_goes_to_the_spool_while_a_send_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking_outbox, "CAPACITY", 50)
    monkeypatch.setattr(tracking_outbox, "LINGER_S", 0.01)
    hang, sent = threading.Event(), []

    def send(batch):
        hang.wait(10)
        sent.extend(batch)

    outbox = Outbox("r", send, tmp_path / "spool.jsonl")
    for point in points(1, 500):
        outbox.put([point])
    assert len(outbox._queue) <= 50
    assert outbox.waiting == 500
    hang.set()
    assert outbox.close(10)
    assert sorted({p.step for p in sent}) == list(range(1, 501))
    assert outbox.dropped == 0


def test_without_a_folder_the_newest_points_are_kept(monkeypatch):
    monkeypatch.setattr(tracking_outbox, "CAPACITY", 50)
    monkeypatch.setattr(tracking_outbox, "LINGER_S", 0.01)
    works, sent = threading.Event(), []

    def send(batch):
        if not works.is_set():
            raise OSError("away")
        sent.extend(batch)

    outbox = Outbox("r", send, None, backoff_s=(0.05, 0.1))
    outbox.put(points(1, 80))
    time.sleep(0.2)
    works.set()
    assert outbox.close(5)
    assert [p.step for p in sent] == list(range(31, 81))
    assert outbox.dropped == 30
