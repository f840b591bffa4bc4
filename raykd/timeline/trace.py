"""Write spans in the format of Chrome's traces, which chrome://tracing and ui.perfetto.dev open, and read them back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.timeline.recording import Span

if TYPE_CHECKING:
    from raykd.parse import JsonObject

FILE = "timeline.json"
"""In a run's folder."""


def make_trace(spans: Iterable[Span]) -> JsonObject:
    """Return spans as a trace: complete events in microseconds, and the names of processes and threads."""
    listed = sorted(spans, key=lambda span: (span.begin_s, -span.seconds))
    names = list(dict.fromkeys((span.process, span.start) for span in listed))
    pids = {name: at for at, name in enumerate(names, 1)}
    tids = {key: at for at, key in enumerate(dict.fromkeys(_find_lane(span) for span in listed), 1)}
    events: list[JsonObject] = []
    for (process, start), pid in pids.items():
        label = process if start == 1 else f"{process} (start {start})"
        events.append(_make_name("process_name", pid, 0, label))
    for (process, start, thread), tid in tids.items():
        events.append(_make_name("thread_name", pids[process, start], tid, thread))
    for span in listed:
        events.append({
            "name": span.name,
            "cat": "part" if span.is_part else "stage",
            "ph": "X",
            "ts": round(1e6 * span.begin_s),
            "dur": max(0, round(1e6 * span.seconds)),
            "pid": pids[span.process, span.start],
            "tid": tids[_find_lane(span)],
            "args": {"process": span.process, "thread": span.thread, "start": span.start, **span.values},
        })  # fmt: skip
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _find_lane(span: Span) -> tuple[str, int, str]:
    return span.process, span.start, span.thread


def _make_name(kind: str, pid: int, tid: int, label: str) -> JsonObject:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": label}}


def write_trace(spans: Iterable[Span], path: Path) -> Path:
    """Write spans to a file, which is replaced as a whole; return its path."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(make_trace(spans), ensure_ascii=False), encoding="utf-8")
    fresh.replace(path)
    return path


def read_trace(path: Path) -> Sequence[Span]:
    """Return the spans of a file; none where there is no file that can be read."""
    try:
        # Not `parse_json`, whose bound is for what people write: a profile of many steps has megabytes.
        tree = json.loads(path.read_text(encoding="utf-8"))
        return [_read_event(event) for event in tree["traceEvents"] if event["ph"] == "X"]
    except (OSError, KeyError, TypeError, ValueError):
        return ()


def _read_event(event: JsonObject) -> Span:
    values = dict(event["args"])
    process, thread, start = values.pop("process"), values.pop("thread"), values.pop("start")
    begin_s, seconds = 1e-6 * event["ts"], 1e-6 * event["dur"]
    return Span(event["name"], process, thread, begin_s, seconds, event["cat"] == "part", start, values)
