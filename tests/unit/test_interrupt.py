"""What a process does when it is told to end; a real process, real signals, no Ray."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
from pathlib import Path
from raykd.runs.interrupt import at_interrupt, interruptible

folder = Path(sys.argv[1])

def unwinding():
    if sys.argv[2] == "slow":
        time.sleep(60)

try:
    with interruptible(lambda: (folder / "state").write_text("interrupted")):
        at_interrupt(lambda: 1 / 0)  # what goes wrong there stops nothing
        at_interrupt(lambda: (folder / "mlflow").write_text("KILLED"))
        try:
            print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            unwinding()
            raise
except KeyboardInterrupt:
    print("unwound")
    raise SystemExit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("speed", ["quick", "slow"])
def test_last_words_are_first_and_a_second_signal_ends_at_once(
    number: signal.Signals, speed: str, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), speed], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        until = time.monotonic() + 20.0
        while not {"state", "mlflow"} <= {p.name for p in tmp_path.iterdir() if p.stat().st_size}:
            assert time.monotonic() < until
            time.sleep(0.01)
        if speed == "slow":  # it is busy for a minute
            assert process.poll() is None
            process.send_signal(number)
        assert process.wait(timeout=20.0) == 130
        assert process.stdout.read() == ("unwound\n" if speed == "quick" else "")
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / "state").read_text() == "interrupted" and (tmp_path / "mlflow").read_text() == "KILLED"
