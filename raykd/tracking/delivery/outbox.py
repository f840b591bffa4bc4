"""Send metrics from the driver to MLflow: a queue, one writer thread, and a file for bad times.

Decision record: training must never wait for a tracking server. `Outbox.put` appends to a list in memory and returns;
one daemon thread sends. What cannot be sent is appended to a spool file and sent again with backoff, oldest first.
MLflow drops a point that equals one it has (same step, time and value), so sending twice is safe and nothing needs to
be acknowledged one by one. Each line of the file carries the run id, so that what a dead run left behind can be sent
later from anywhere.

No mlflow here: `send` is a function.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from raykd.parse import JsonObject
from raykd.parse.json_lines import append_json_rows, read_json_rows, replace_json_rows
from raykd.point import Point
from raykd.redaction import redact

logger = logging.getLogger("raykd.tracking")
SPOOL = "mlflow_spool.jsonl"
"""The file in a run's folder."""
CAPACITY = 20_000
"""Points kept in memory before they go to the spool unsent."""
CHUNK = 200
"""Points that one send takes at most."""
LINGER_S = 0.5
"""Seconds the writer waits for more points before it sends."""
BACKOFF_S = (1.0, 60.0)
"""Seconds between attempts while nothing can be sent: the first and the longest; doubled in between."""
SendPoints = Callable[[Sequence[Point]], None]


def read_spool_lines(path: Path) -> Iterator[tuple[str, Point]]:
    """Yield ``(run id, point)`` of each whole line of a spool."""
    return read_json_rows(path, _parse_row)


def write_spool(path: Path, rows: Sequence[tuple[str, Point]]) -> None:
    """Replace a spool by these rows, at once; no rows removes it."""
    replace_json_rows(path, [_make_row(run_id, point) for run_id, point in rows])


def _make_row(run_id: str, point: Point) -> JsonObject:
    # JSON has no NaN and no infinity: they are kept as strings, which float() reads
    values = {k: v if math.isfinite(v) else str(v) for k, v in point.values.items()}
    return {"run_id": run_id, "step": point.step, "time_ms": point.time_ms, "values": values}


def _parse_row(row: JsonObject) -> tuple[str, Point]:
    values = {str(k): float(v) for k, v in row["values"].items()}
    return str(row["run_id"]), Point(int(row["step"]), values, int(row["time_ms"]))


class Outbox:
    """One run's metrics on their way. Made by `Tracker`; `put` may be called from any thread.

    Args:
        run_id: The MLflow run, for the spool.
        send: Sends points or raises; called by the writer thread alone.
        spool: Where points go that cannot be sent; None keeps the newest `CAPACITY` points in memory.
        backoff_s: Seconds between attempts in an outage: the first and the longest.
        beat: A sign of life to the server every ``beat_s`` seconds, and the first thing that is tried in an outage.
        offline: Nothing is sent at all; everything goes to the spool.

    Attributes:
        dropped: Number of points that are lost.
        why: What was said when something was not taken last.
    """

    def __init__(
        self,
        run_id: str,
        send: SendPoints,
        spool: Path | None,
        backoff_s: tuple[float, float] = BACKOFF_S,
        *,
        beat: Callable[[], None] | None = None,
        beat_s: float = 60.0,
        offline: bool = False,
    ) -> None:
        self.offline, self._beat, self._beat_s = offline, beat, beat_s
        self._beat_at = time.monotonic() + beat_s
        self._run_id, self._send, self._spool, self._backoff_s = run_id, send, spool, backoff_s
        self._queue: list[Point] = []
        self._in_flight: list[Point] = []
        self._spooled = sum(1 for i, _ in read_spool_lines(spool) if i == run_id) if spool else 0
        self._changed = threading.Condition()  # guards all that follows and the three above
        self._hurry = False  # somebody waits in `flush`: no lingering and no pause
        self._attempts = 0
        self._closing = False
        self._wait_s = 0.0  # pause before the next attempt; above 0 while nothing can be sent
        self.dropped = 0
        self.why = ""
        self._thread = threading.Thread(target=self._run, name=f"raykd-tracking-{run_id[:8]}", daemon=True)
        if not offline:
            self._thread.start()

    @property
    def down(self) -> bool:
        """Whether the last attempt to send failed."""
        return self.offline or self._wait_s > 0

    def suspect(self) -> None:
        """Assume an outage, since something else was not taken; the next attempt decides."""
        with self._changed:
            self._wait_s = self._wait_s or self._backoff_s[0]
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Points not known to be sent."""
        return len(self._queue) + len(self._in_flight) + self._spooled

    def put(self, points: Sequence[Point]) -> None:
        """Take points and return at once, without the network.

        In an outage, or if the queue is full, they go to the spool, so that a killed process loses none.
        """
        with self._changed:
            self._queue.extend(points)
            if len(self._queue) > CAPACITY or (self.down and self._spool is not None):
                self._set_aside()
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is sent, without a pause; return False if that fails or takes too long."""
        deadline = time.monotonic() + timeout_s
        if self.offline:
            return not self.waiting
        with self._changed:
            attempts, self._hurry = self._attempts, True
            self._changed.notify_all()
            while (self.waiting or self.down) and (left := deadline - time.monotonic()) > 0:
                # The attempt that was under way may have failed before; the one after it counts.
                if self._attempts > attempts + 1 and self.down:
                    break
                self._changed.wait(left)
            self._hurry = False
            return not self.waiting

    def close(self, timeout_s: float) -> bool:
        """Flush a last time and put what is left into the spool; return whether everything was sent."""
        done = self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            if not done:
                self._set_aside(also=self._in_flight)
        if done and not self.offline:
            self._thread.join(timeout=1.0)
        return done

    def _run(self) -> None:
        while self._wait_for_work():
            try:
                if self._beat is not None and (self.down or time.monotonic() >= self._beat_at):
                    self._beat_at = time.monotonic() + self._beat_s
                    self._beat()
                if self._spooled and self._spool is not None:
                    self._send_spool(self._spool)
                while self._take():
                    self._send(self._in_flight)
                    self._in_flight = []
                self._settle(None)
            except Exception as error:  # whatever the server, the network or the database raised
                self._settle(error)

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to send and the pause is over; return False once closed."""
        with self._changed:
            while not (self._closing or self._queue or self._spooled or self.down):
                if self._beat is None:
                    self._changed.wait()
                elif (left := self._beat_at - time.monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    break
            until = time.monotonic() + (self._wait_s or LINGER_S)
            while not self._closing and not self._hurry and (left := until - time.monotonic()) > 0:
                if not self.down and len(self._queue) >= CHUNK:
                    break
                self._changed.wait(left)
            return not self._closing

    def _take(self) -> bool:
        with self._changed:
            self._in_flight, self._queue = self._queue[:CHUNK], self._queue[CHUNK:]
            return bool(self._in_flight) and not self._closing

    def _send_spool(self, path: Path) -> None:
        rows = list(read_spool_lines(path))
        mine = [point for run_id, point in rows if run_id == self._run_id]
        for start in range(0, len(mine), CHUNK):
            self._send(mine[start : start + CHUNK])
        with self._changed:  # lines that were added while these were sent stay
            rest = [row for row in rows if row[0] != self._run_id] + list(read_spool_lines(path))[len(rows) :]
            write_spool(path, rest)
            self._spooled = sum(1 for run_id, _ in rest if run_id == self._run_id)

    def _settle(self, error: Exception | None) -> None:
        """Set the pause after an attempt, put unsent points aside, and say a change of state once."""
        with self._changed:
            was_down, self._attempts = self.down, self._attempts + 1
            if error is None:
                self._wait_s = 0.0
                if was_down:
                    logger.warning("MLflow takes metrics again; all that waited were sent")
            elif not self._closing:  # `close` puts the rest aside itself
                first, longest = self._backoff_s
                self._wait_s = min(longest, max(first, self._wait_s * 2))
                self.why = describe_error(error)
                self._set_aside(also=self._in_flight)
                if not was_down:
                    place = f"go to {self._spool}" if self._spool else "are kept in memory"
                    message = (
                        "MLflow takes no metrics; training goes on, they %s and are sent again later (%s)"
                    )
                    logger.warning(message, place, self.why)
            self._changed.notify_all()

    def _set_aside(self, also: Sequence[Point] = ()) -> None:
        """Move the queue (after `also`) to the spool, or back to the queue; the caller holds the lock."""
        points = [*also, *self._queue]
        self._queue, self._in_flight = [], [] if also else self._in_flight
        if self._spool is None:
            self.dropped += max(0, len(points) - CAPACITY)
            self._queue = points[-CAPACITY:]
            return
        try:
            append_json_rows(self._spool, [_make_row(self._run_id, point) for point in points])
            self._spooled += len(points)
        except OSError as error:
            self.dropped += len(points)
            logger.warning(
                "%d points are lost: %s cannot be written: %s", len(points), self._spool, redact(error)
            )


def describe_error(error: BaseException, longest: int = 300) -> str:
    """Return what an exception says on one line, without secrets and the pages that database and HTTP errors carry."""
    # SQLAlchemy says how it came to ask before it says what was answered.
    lines = [line for line in str(error).splitlines() if line and not line.startswith("(raised as a result")]
    return redact(lines[0] if lines else type(error).__name__)[:longest]
