"""Ctrl-C, SIGTERM and a terminal that is gone: what lasts is written at once, and the process ends in time.

Decision record: `ray job stop` sends SIGKILL three seconds after SIGTERM, and what a signal handler raises may be lost:
in a weak reference's callback or a `__del__`, in an `except BaseException` of a library, in a C call that never looks.
So a thread of its own hears of signals (`signal.set_wakeup_fd`). It writes state and MLflow's status at once, looks
whether the exception is still alive and sends it again if not, and where the process is the command line's it ends it
in any case `UNWIND_S` after the signal. The main thread's own unwinding is welcome and not relied upon. Python would
print the traceback of one that was lost in a callback, as if the command had a fault, so that is kept silent.

Imports nothing heavy: the command line listens before it imports anything else.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

log = logging.getLogger("raykd.runs")
Action = Callable[[], object]
INTERRUPTED = 130
"""Exit code, as of a shell."""
UNWIND_S = 1.3
"""How long the main thread has to unwind after a signal; then the process is ended for it."""
WRITTEN_S = 2.2
"""How long what is written at once may take, after the signal: an MLflow server may be slow."""
SECOND_S = 0.5
"""How long a second signal leaves for what the first one has begun to write."""
LAST_S, SAY_S = 0.9, 0.3
"""Longest waits for what is done just before the process ends, all at once, and for what is said then."""
AGAIN_S = 0.3
"""How long an exception that nobody holds any more counts as on its way."""


class Interrupted(KeyboardInterrupt):
    """What a signal raises in the main thread. As long as it is on its way somebody holds it."""


@dataclass
class _Scope:
    """What a command does when it is told to end: on threads of their own, and just before the process ends."""

    at_once: list[Action]
    at_last: list[Action] = field(default_factory=list)


class _Listener:
    """Hears of signals on a thread of its own.

    Args:
        say: Writes what is written before this process is ended; None where it is not ours to end (a notebook's).
    """

    def __init__(self, say: Action | None) -> None:
        self.say, self.can_unwind = say, say is None
        self.scopes: list[_Scope] = []
        self.told, self.told_at, self._own = 0, 0.0, 0
        self.handled = False
        self._heard = threading.Event()
        self._begun: list[threading.Thread] = []
        self._raised: weakref.ref[Interrupted] | None = None
        self._ending = threading.Lock()
        self._before: dict[int, Any] = {number: signal.getsignal(number) for number in _ending_signals()}
        self._mine, self._kernels = socket.socketpair()
        self._kernels.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._kernels.fileno(), warn_on_full_buffer=False)
        self._unraisable_before, sys.unraisablehook = sys.unraisablehook, self._take_unraisable
        self.take()
        threading.Thread(target=self._hear, name="raykd-signals", daemon=True).start()

    def take(self) -> None:
        """Take the signals; again where a library has taken them for itself."""
        for number in self._before:
            signal.signal(number, self._handle)

    def close(self) -> None:
        """Give the signals back."""
        signal.set_wakeup_fd(self._wakeup_before)
        sys.unraisablehook = self._unraisable_before
        self._kernels.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def begin(self, action: Action) -> None:
        """Do it on a thread of its own."""
        self._begun.append(threading.Thread(target=_run_guarded, args=(action,), daemon=True))
        self._begun[-1].start()

    def wait(self) -> None:
        """Wait for what was begun, within the time that there is."""
        if self.handled:  # the main thread may be quicker than the one that hears
            self._heard.wait(UNWIND_S)
        _join(self._begun, self.told_at + UNWIND_S)

    def end(self, written_s: float = WRITTEN_S) -> NoReturn:
        """End this process; whoever comes second waits for the first.

        Args:
            written_s: Until when, after the signal, what is being written at once is waited for.
        """
        if self._ending.acquire(blocking=False):
            actions = [action for scope in self.scopes for action in scope.at_last]
            _run_all_within(LAST_S, [*actions, *_at_last])
            _join(self._begun, self.told_at + written_s)
            if self.say is not None:
                _run_all_within(SAY_S, [self.say])
            os._exit(INTERRUPTED)
        time.sleep(LAST_S + SAY_S)
        os._exit(INTERRUPTED)

    def _handle(self, number: int, frame: object) -> None:
        self.handled = True
        if self._ending.locked():
            return
        if not self.can_unwind:
            self.end()
        if self._raised is not None and self._raised() is not None:
            return  # one is on its way; what a second signal means is for the thread that hears it
        raise self._exception()  # no local name: its own traceback would keep it alive

    def _take_unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Say nothing of an `Interrupted` that was raised where nothing may be: it is sent again."""
        if not isinstance(unraisable.exc_value, Interrupted):
            self._unraisable_before(unraisable)

    def _exception(self) -> Interrupted:
        error = Interrupted()
        self._raised = weakref.ref(error)
        return error

    def _hear(self) -> None:
        lost_since: float | None = None
        while True:
            self._mine.settimeout(0.1 if self.told else None)
            try:
                numbers = self._mine.recv(64)
            except TimeoutError:
                numbers = None
            if numbers == b"":
                return
            for number in numbers or b"":
                if number in self._before:
                    self._hear_of_one()
            if not self.told:
                continue
            now = time.monotonic()
            if self.say is not None and now >= self.told_at + UNWIND_S:
                _run_all_within(0.1, [_log_main_thread])
                self.end()
            lost = self._raised is not None and self._raised() is None and not self._ending.locked()
            lost_since = (lost_since or now) if lost else None
            if lost_since is not None and now - lost_since >= AGAIN_S:
                lost_since, self._own = None, self._own + 1
                with contextlib.suppress(ProcessLookupError):
                    signal.pthread_kill(_main_thread_id(), signal.SIGINT)

    def _hear_of_one(self) -> None:
        if self._own:
            self._own -= 1
            return
        self.told += 1
        if self.told == 1:
            self.told_at = time.monotonic()
            for scope in self.scopes:
                for action in scope.at_once:
                    self.begin(action)
            self._heard.set()
        else:
            self.end(time.monotonic() - self.told_at + SECOND_S)


_listener: _Listener | None = None
_at_last: list[Action] = []


def listen_for_signals(say: Action) -> None:
    """End this process with 130 in time after a signal, whatever its main thread does: it is the command line's.

    Until `allow_unwinding` is called it ends at once, since nothing has begun that would have to be put in order.

    Args:
        say: Writes what the user is told, once.
    """
    global _listener
    _listener = _Listener(say)
    atexit.register(_ignore_signals)  # the first that is registered is the last that is called


def allow_unwinding(allowed: bool = True) -> None:
    """Let a signal raise `Interrupted` in the main thread from here on; or, not allowed, no longer."""
    if _listener is not None:
        _listener.can_unwind = allowed


def owns_process() -> bool:
    """Return whether this process is the command line's and ends with its command; a notebook's goes on."""
    return _listener is not None and _listener.say is not None


def is_ending() -> bool:
    """Return whether a signal has told this process to end, and it is ours to end."""
    return _listener is not None and owns_process() and _listener.handled


def end_if_told() -> None:
    """End the process with 130 if a signal said so and it is ours to end; else return."""
    if is_ending() and _listener is not None:
        _listener.end()


def run_before_exit(action: Action) -> None:
    """Add to what is done just before an interrupted process is ended, whatever its main thread does then."""
    _at_last.append(action)


@contextlib.contextmanager
def interruptible(*at_once: Action, at_last: Sequence[Action] = ()) -> Iterator[None]:
    """Let SIGTERM end the body like Ctrl-C does, so that its state is written; a second one ends the process at once.

    Args:
        at_once: Done first, on a thread each: who sent the signal may send SIGKILL three seconds later, and by then
            what lasts (state, MLflow) must be written; actors and placement groups end with this process anyway.
        at_last: Done where the process is ended before this body was left.
    """
    global _listener
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    outer = _listener
    if _listener is None:
        _listener = _Listener(None)
    scope = _Scope(list(at_once), list(at_last))
    _listener.scopes.append(scope)
    try:
        yield
    finally:
        _listener.wait()
        _listener.scopes.remove(scope)
        if outer is None:
            _listener.close()
        _listener = outer


def run_at_interrupt(action: Action) -> None:
    """Add to what is done first when this process is told to end; do it at once if it was told."""
    if _listener is None or not _listener.scopes:
        return
    _listener.scopes[-1].at_once.append(action)
    if _listener.told:
        _listener.begin(action)


def retake_signals() -> None:
    """Take the signals again: Ray takes SIGTERM for itself when it connects."""
    if _listener is not None and threading.current_thread() is threading.main_thread():
        _listener.take()


def _forget_in_fork() -> None:
    """Let a forked child have its signals for itself: through the socket that both have, the parent would hear them."""
    global _listener
    if _listener is None:
        return
    _listener = None
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
        for number in _ending_signals():
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


os.register_at_fork(after_in_child=_forget_in_fork)


def _ending_signals() -> list[int]:
    """Return the signals that end a run; a SIGHUP that is ignored (nohup) stays ignored."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]


def _ignore_signals() -> None:
    """Let signals pass while the interpreter is taken down: all is written, and Python's own handlers go first.

    A signal would otherwise end a command that has succeeded with the code of one that was killed.
    """
    for number in _ending_signals():
        signal.signal(number, signal.SIG_IGN)


def _main_thread_id() -> int:
    return threading.main_thread().ident or 0


def _log_main_thread() -> None:
    """Log why the main thread did not end by itself."""
    frame = sys._current_frames().get(_main_thread_id())
    where = "".join(traceback.format_stack(frame)[-8:]) if frame is not None else "gone"
    log.info("interrupted; the main thread was still busy after %.1f s:\n%s", UNWIND_S, where)


def _run_all_within(seconds: float, actions: Sequence[Action]) -> None:
    threads = [threading.Thread(target=_run_guarded, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    _join(threads, time.monotonic() + seconds)


def _join(threads: Sequence[threading.Thread], until: float) -> None:
    for thread in list(threads):
        thread.join(timeout=max(0.0, until - time.monotonic()))


def _run_guarded(action: Action) -> None:
    try:
        action()
    except Exception:
        log.exception("the last words of an interrupted run were not all written")
