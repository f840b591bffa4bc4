"""What a process does when it is told to end; a real process, real signals, no Ray."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
from pathlib import Path
from raykd.cluster.interrupts import run_at_interrupt, interruptible

folder = Path(sys.argv[1])

def unwinding():
    if sys.argv[2] == "slow":
        time.sleep(60)

try:
    with interruptible(lambda: (folder / "state").write_text("interrupted")):
        run_at_interrupt(lambda: 1 / 0)  # what goes wrong there stops nothing
        run_at_interrupt(lambda: (folder / "mlflow").write_text("KILLED"))
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


@pytest.fixture(autouse=True)
def hangup_is_heard() -> Iterator[None]:
    """Under nohup, processes inherit that SIGHUP is ignored, and raykd then ignores it too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


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


SWALLOWING = """
import contextlib, sys, time, weakref
from pathlib import Path
from raykd.cluster.interrupts import end_if_told, interruptible, allow_unwinding, listen_for_signals

folder = Path(sys.argv[1])

def in_a_callback():
    class Thing: pass
    def gone(reference):
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline: pass
    while True:  # nearly all of its time is spent where an exception is printed and forgotten
        thing = Thing()
        reference = weakref.ref(thing, gone)
        del thing

def in_a_bare_except():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def suppressed():
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(60)

def in_a_c_call():
    import ctypes
    mutex = ctypes.create_string_buffer(128)  # zeros are an open mutex
    lock = ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex), lock(mutex)  # the second one waits for ever, and no signal interrupts it

def kept():
    held = []
    while True:
        try:
            time.sleep(60)
        except BaseException as error:
            held.append(error)

def unwinding_for_long():
    try:
        time.sleep(60)
    finally:
        time.sleep(60)

def in_a_blocked_queue():
    import queue
    while True:
        with contextlib.suppress(BaseException):
            queue.Queue().get()

if sys.argv[3] == "owned":
    listen_for_signals(lambda: print("interrupted", file=sys.stderr, flush=True))
    allow_unwinding()
try:
    with interruptible(lambda: (folder / "state").write_text("interrupted"),
                       at_last=[lambda: (folder / "last").write_text("ended")]):
        print("ready", flush=True)
        globals()[sys.argv[2]]()
except KeyboardInterrupt:
    print("unwound", flush=True)
    end_if_told()
    raise SystemExit(130)
"""
SWALLOWED = ("in_a_callback", "in_a_bare_except", "suppressed", "in_a_c_call", "kept", "unwinding_for_long",
             "in_a_blocked_queue")  # fmt: skip


def _started(program: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("how", SWALLOWED)
def test_whoever_swallows_the_exception_the_process_ends_in_time(how: str, tmp_path: Path) -> None:
    process = _started(SWALLOWING, str(tmp_path), how, "owned")
    try:
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30.0)
        took = time.monotonic() - begun
    finally:
        process.kill()
    assert process.returncode == 130 and took < 8.0, (took, err)
    assert err == "interrupted\n", "Python says nothing of one that was lost in a callback"
    assert (tmp_path / "state").read_text() == "interrupted"
    assert out == "unwound\n" or (tmp_path / "last").read_text() == "ended"


def test_an_exception_that_was_swallowed_once_is_sent_again_in_a_process_that_is_not_ours(
    tmp_path: Path,
) -> None:
    program = SWALLOWING.replace(
        "def in_a_bare_except():\n    while True:", "def in_a_bare_except():\n    if True:"
    ).replace(
        "        except BaseException:\n            pass\n",
        "        except BaseException:\n            pass\n        time.sleep(60)\n",
    )
    process = _started(program, str(tmp_path), "in_a_bare_except", "foreign")
    try:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30.0)
    finally:
        process.kill()
    assert process.returncode == 130 and out == "unwound\n"
    assert (tmp_path / "state").read_text() == "interrupted"
    assert not (tmp_path / "last").exists()  # it was left in order


def test_a_hangup_that_is_ignored_stays_ignored_and_another_is_heard(tmp_path: Path) -> None:
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + SWALLOWING
    process = _started(ignoring, str(tmp_path), "unwinding_for_long", "owned")
    try:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None and not (tmp_path / "state").exists()
    finally:
        process.kill()
        process.communicate()
    process = _started(SWALLOWING, str(tmp_path), "suppressed", "owned")
    try:
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=30.0) == 130
    finally:
        process.kill()
        process.communicate()


FORKING = """
import os, signal, sys, time
from raykd.cluster.interrupts import allow_unwinding, listen_for_signals
listen_for_signals(lambda: print("interrupted", file=sys.stderr, flush=True))
allow_unwinding()
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
time.sleep(0.3)
os.kill(child, signal.SIGTERM)
_, status = os.waitpid(child, 0)
time.sleep(2.0)
print("ready", os.WTERMSIG(status), flush=True)
"""


def test_what_is_sent_to_a_fork_is_not_heard_here() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ready {int(signal.SIGTERM)}\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_command_line_is_imported(number: signal.Signals) -> None:
    late = "import sys; sys.argv[0] = 'raykd'; import raykd.cluster.interrupts as i; own = i.listen_for_signals\n"
    late += "def told(say):\n    own(say)\n    print('ready', flush=True)\n    import time; time.sleep(60)\n"
    process = _started(late + "i.listen_for_signals = told\nimport raykd.cli")
    try:
        process.send_signal(number)
        out, err = process.communicate(timeout=30.0)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


LATE = """
import ctypes, sys
from raykd.cluster.interrupts import allow_unwinding, listen_for_signals
listen_for_signals(lambda: None)
allow_unwinding()
libc = ctypes.CDLL(None)
libc.on_exit(ctypes.cast(libc.sleep, ctypes.c_void_p), None)  # sleeps as long as the exit code, after Python's end
print("ready", flush=True)
sys.exit(3)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_process_is_taken_down_leaves_the_commands_own_code(
    number: signal.Signals,
) -> None:
    process = _started(LATE)
    try:
        time.sleep(1.5)  # Python has given its signal handlers back
        process.send_signal(number)
        assert process.wait(timeout=30.0) == 3
    finally:
        process.kill()
        process.communicate()
