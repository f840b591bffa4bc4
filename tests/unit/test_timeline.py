"""Stages are recorded with process and thread, add up to the wall time, and make a trace that viewers open."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path

import pytest

from raykd.timeline import (
    EpochStages,
    Span,
    Timeline,
    compute_shares,
    is_profiled,
    read_trace,
    recording,
    stage,
    step_part,
    write_trace,
)
from raykd.timeline.recording import add_process_start, note_process_start
from raykd.timeline.shares import TRAINING
from tests.worlds import build_loop, run_config


def make_span(name: str, begin_s: float, end_s: float, process: str = "driver", **kept: object) -> Span:
    """A span of a main thread."""
    return Span(name, process, "main", begin_s, end_s - begin_s, **kept)  # type: ignore[arg-type]


def to_seconds(spans: list[Span], **how: bool) -> dict[str, float]:
    """Shares by name."""
    return {share.name: pytest.approx(share.seconds) for share in compute_shares(spans, **how)}


def test_a_stage_is_recorded_with_its_thread_and_while_it_is_open() -> None:
    with recording(Timeline("driver")) as timeline:
        timeline.follow([])
        thread = threading.Thread(target=lambda: stage("beside").__enter__(), name="opener")
        with stage("outer"):
            with stage("inner"):
                thread.start()
                thread.join()
            spans = {span.name: span for span in timeline.snapshot()}
    assert [span.name for span in timeline.spans] == ["inner", "outer"]
    assert {name: span.thread for name, span in spans.items()} == {
        "inner": "main", "outer": "main", "beside": "opener",
    }  # fmt: skip
    assert spans["outer"].begin_s <= spans["inner"].begin_s <= spans["inner"].end_s <= spans["outer"].end_s
    assert abs(spans["outer"].end_s - time.time()) < 5.0
    assert spans["outer"].seconds < timeline.spans[1].seconds


def test_a_stage_that_fails_is_recorded_and_parts_only_of_a_profiled_run() -> None:
    for profile in (False, True):
        with recording(Timeline("worker", profile=profile)) as timeline:
            assert is_profiled() == profile
            with pytest.raises(ValueError, match="bad"), stage("epoch 1"), step_part("forward"):
                raise ValueError("bad")
        assert [(s.name, s.is_part) for s in timeline.take()] == (
            [("forward", True), ("epoch 1", False)] if profile else [("epoch 1", False)]
        )
        assert timeline.take() == []
    with stage("nowhere"), step_part("nowhere"):
        assert not is_profiled()


def test_the_time_before_the_recording_is_added_once() -> None:
    note_process_start()
    timeline = Timeline("driver")
    add_process_start(timeline)
    add_process_start(timeline)
    (span,) = timeline.spans
    assert 0.0 < span.seconds < 3600.0


def test_nested_stages_and_gaps_add_up() -> None:
    spans = [make_span("rows", 1.0, 4.0), make_span("check", 0.0, 1.0), make_span("reading", 2.0, 3.5)]
    spans.append(make_span("end", 6.0, 7.0))
    assert to_seconds(spans) == {"check": 1.0, "rows": 1.5, "reading": 1.5, "other": 2.0, "end": 1.0}


def test_what_the_worker_did_stands_in_for_the_drivers_wait() -> None:
    spans = [
        make_span("Ray", 0.0, 2.0),
        make_span(TRAINING, 2.0, 20.0),
        make_span("report", 20.0, 21.0),
        make_span("imports", 4.0, 6.0, "worker"),
        make_span("epoch 1", 6.0, 12.0, "worker", values={"waited_s": 3.0}),
        make_span("evaluation", 8.0, 10.0, "worker"),
        make_span("epoch 2", 12.0, 16.0, "worker", values={"waited_s": 1.0}),
        make_span("saved", 18.0, 19.0, "worker"),
        make_span("imports", 3.0, 9.0, "worker 1"),  # another rank, beside
        Span("MLflow", "driver", "opener", 0.0, 9.0),  # another thread, beside
        make_span("forward", 6.0, 7.0, "worker", is_part=True),
    ]
    assert to_seconds(spans) == {
        "Ray": 2.0,
        "imports": 2.0,
        "training steps": 4.0,
        "waiting for teachers": 4.0,
        "evaluation": 2.0,
        "saved": 1.0,
        TRAINING: 5.0,
        "report": 1.0,
    }
    by_epoch = to_seconds(spans, by_epoch=True)
    assert by_epoch["epoch 1"] == 1.0
    assert by_epoch["epoch 1, waiting for teachers"] == 3.0
    assert by_epoch["epoch 2"] == 3.0


def test_shares_of_any_spans_add_up_to_the_drivers_time() -> None:
    random.seed(0)
    for _ in range(50):
        spans = [
            make_span(random.choice(["a", "b", TRAINING]), begin, begin + random.uniform(0.0, 5.0))
            for begin in (random.uniform(0.0, 20.0) for _ in range(6))
        ]
        begin_s, end_s = min(s.begin_s for s in spans), max(s.end_s for s in spans)
        spans += [
            make_span("epoch 1", begin, begin + random.uniform(0.0, 4.0), "worker", values={"waited_s": 1.0})
            for begin in (random.uniform(-3.0, 25.0) for _ in range(4))
        ]
        assert sum(share.seconds for share in compute_shares(spans)) == pytest.approx(end_s - begin_s)


def test_a_resumed_run_adds_the_time_of_all_its_starts() -> None:
    timeline = Timeline("driver")
    timeline.spans.append(make_span("check", 100.0, 103.0))
    timeline.follow([make_span("check", 0.0, 2.0)])
    timeline.extend([make_span("epoch 1", 101.0, 102.0, "worker")])
    assert [span.start for span in timeline.spans] == [1, 2, 2]
    assert to_seconds(timeline.spans) == {"check": 5.0}


def test_an_epoch_has_its_steps_and_its_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykd.timeline.epochs.LEAST_S", 0.0)
    with recording(Timeline("worker")) as timeline:
        epochs = EpochStages(2)
        for step in range(3, 6):  # resumed in the middle of an epoch, ended in the middle of another
            epochs.begin_step(step)
            epochs.end_step(step + 1, 0.5, is_last=step == 4)
    assert [(s.name, dict(s.values)) for s in timeline.spans] == [
        ("epoch 2", {"waited_s": 0.5, "steps": 1.0}),
        ("epoch 3", {"waited_s": 0.5, "steps": 1.0}),
        ("epoch 3", {"waited_s": 0.5, "steps": 1.0}),
    ]


def test_tiny_epochs_share_a_stage() -> None:
    with recording(Timeline("worker")) as timeline:
        epochs = EpochStages(1)
        for step in range(20):
            epochs.begin_step(step)
            epochs.end_step(step + 1, 0.0, is_last=step == 19)
    assert [span.name for span in timeline.spans] == ["epochs 1 to 20"]


def test_a_trace_is_what_viewers_open_and_is_read_back(tmp_path: Path) -> None:
    spans = [
        make_span("check", 1e9, 1e9 + 2.0),
        make_span("epoch 1", 1e9 + 2.0, 1e9 + 3.0, "worker", start=2, values={"waited_s": 0.5}),
        Span("forward", "worker", "helper", 1e9 + 2.0, 0.25, is_part=True, start=2),
    ]
    path = write_trace(spans, tmp_path / "timeline.json")
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    assert {event["ph"] for event in events} == {"X", "M"}
    lanes = {}
    for event in events:
        assert all(isinstance(event[key], int) for key in ("pid", "tid"))
        if event["ph"] == "X":
            assert all(isinstance(event[key], int) and event[key] >= 0 for key in ("ts", "dur"))
            lanes[event["name"]] = (event["pid"], event["tid"])
    named = {(e["name"], e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M"}
    assert len(set(lanes.values())) == 3
    assert named["process_name", lanes["check"][0], 0] == "driver"
    assert named["process_name", lanes["forward"][0], 0] == "worker (start 2)"
    assert named["thread_name", *lanes["forward"]] == "helper"
    assert [round(e["dur"] / 1e6, 6) for e in events if e["ph"] == "X"] == [2.0, 1.0, 0.25]
    back = read_trace(path)
    assert sorted(back) == sorted(spans)
    for bad in ("", "[]", '{"traceEvents": [{"ph": "X"}]}'):
        path.write_text(bad, encoding="utf-8")
        assert read_trace(path) == ()
    assert read_trace(tmp_path / "none.json") == ()


@pytest.mark.parametrize("profile", [False, True])
def test_a_training_loop_has_epochs_evaluations_and_parts_of_steps(profile: bool) -> None:
    loop = build_loop(run_config(evaluations=3))  # 12 steps
    with recording(Timeline("worker", profile=profile)) as timeline:
        begun = time.perf_counter()
        loop.run()
        wall_s = time.perf_counter() - begun
    stages = [span for span in timeline.spans if not span.is_part]
    epochs = [span for span in stages if span.name.startswith("epoch")]
    assert sum(span.values["steps"] for span in epochs) == 12
    assert {"evaluation", "checkpoints"} <= {span.name for span in stages}
    assert 0.5 * wall_s < sum(span.seconds for span in stages) <= wall_s
    parts: dict[str, list[Span]] = {}
    for span in timeline.spans:
        if span.is_part:
            parts.setdefault(span.name, []).append(span)
    names = {"wait for answers", "rows and answers", "forward", "objective", "backward", "update"}
    assert {name: len(found) for name, found in parts.items()} == dict.fromkeys(names if profile else (), 12)
    if profile:
        inside = sum(span.seconds for found in parts.values() for span in found)
        assert 0.0 < inside <= sum(span.seconds for span in epochs)
