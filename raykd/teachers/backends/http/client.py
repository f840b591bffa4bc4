"""`HttpClient`: ask an OpenAI-compatible server, with patience and without showing a key.

Decision record:

- The library is requests, which Ray and MLflow need anyway: it reads the proxies and certificates of the environment.
- What may pass is repeated for `retry_s`: refused connections, time-outs, 408, 429, 5xx, and replies that are no JSON.
  Pauses double, with jitter, so that many clients do not come back at once. A `Retry-After` holds up all threads.
- What cannot pass is refused at once, by name: a certificate, a key, an address, a redirect. A redirect is never
  followed, since it could carry texts and the key to another host.
- The key is read from the environment for each request. `~/.netrc` is not read, which could send another one. Whatever
  a server says is shown without secrets.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from typing import Any, NoReturn
from urllib.parse import urlsplit

from raykd.config import HttpTeacher
from raykd.environ import bypass_proxy
from raykd.errors import ModelError, TeacherError
from raykd.parse import JsonObject
from raykd.redaction import redact

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_CONNECT_S = 10.0
"""Longest wait for a connection."""
_SHOWN = 300
"""Characters of a server's message that are shown."""


class RequestRefusedError(TeacherError):
    """The server refuses this request, for example a text that is too long for it; others may pass."""


class _PassingError(Exception):
    """What may be gone when the request is repeated.

    Args:
        what: In words.
        after_s: Seconds that the server wants to be left alone; None says nothing.
        is_busy: Whether the server runs, and has too much to do.
    """

    def __init__(self, what: str, after_s: float | None = None, is_busy: bool = False) -> None:
        super().__init__(what)
        self.after_s, self.is_busy = after_s, is_busy


class HttpClient:
    """Sends requests to one server; may be used by several threads.

    Args:
        teacher: Address, variable of the key, and patience.

    Attributes:
        requests: Requests sent so far, repeated ones included.
        retries: Those that were repeated.
    """

    def __init__(self, teacher: HttpTeacher) -> None:
        self._teacher, self._who = teacher, f"teacher {teacher.name}"
        self.requests = self.retries = 0
        self._lock, self._local = threading.Lock(), threading.local()
        self._not_before = 0.0
        bypass_proxy(teacher.url)

    def get(self, path: str, *, patient: bool = True) -> JsonObject:
        """Return the JSON object at a path.

        Args:
            path: Behind the address, for example `/models`.
            patient: Whether what may pass is waited for; a busy server (429) always is.

        Raises:
            TeacherError: The server does not answer.
            RequestRefusedError: It refuses this request.
            ModelError: Its certificate, the key or the address is wrong.
        """
        return self._ask("GET", path, None, patient)

    def post(self, path: str, body: JsonObject, *, patient: bool = True) -> JsonObject:
        """Return the reply to a body; see `get`."""
        return self._ask("POST", path, body, patient)

    def _ask(self, method: str, path: str, body: JsonObject | None, patient: bool) -> JsonObject:
        begun = time.monotonic()
        for tried in itertools.count():
            time.sleep(max(0.0, self._not_before - time.monotonic()) if patient else 0.0)
            try:
                return self._send(method, path, body)
            except _PassingError as error:
                pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**tried) * random.uniform(0.5, 1.0)
                if error.after_s is not None:
                    pause_s = error.after_s
                now = time.monotonic()
                waits = patient or error.is_busy
                if now + pause_s > begun + (self._teacher.retry_s if waits else 0.0):
                    self._give_up(str(error), tried, waits)
                with self._lock:
                    self.retries += 1
                    if error.after_s is not None:
                        self._not_before = max(self._not_before, now + pause_s)
                time.sleep(pause_s)
        raise AssertionError("endless")

    def _send(self, method: str, path: str, body: JsonObject | None) -> JsonObject:
        import requests

        with self._lock:
            self.requests += 1
        wait_s = self._teacher.timeout_s
        try:
            reply = self._session().request(
                method,
                self._teacher.url + path,
                json=body,
                headers=self._headers(),
                timeout=(min(_CONNECT_S, wait_s), wait_s),
                allow_redirects=False,
            )
        except requests.exceptions.SSLError as error:
            self._refuse("its TLS certificate is not accepted", error, "install its certificate authority")
        except requests.exceptions.Timeout:
            raise _PassingError(f"no reply within {wait_s:g} s") from None
        except requests.exceptions.ConnectionError as error:
            refused = "refused" in str(error)
            raise _PassingError("connection refused" if refused else redact(error)[:_SHOWN]) from None
        except requests.exceptions.RequestException as error:
            raise _PassingError(redact(error)[:_SHOWN]) from None
        return self._read(reply)

    def _read(self, reply: Any) -> JsonObject:
        status = reply.status_code
        if 300 <= status < 400:
            place = urlsplit(reply.headers.get("Location", "")).netloc or "another path"
            self._refuse(
                "the server sends its clients elsewhere, which is not followed",
                f"{status} to {place}",
                f"write the address itself: teachers.{self._teacher.name}.url",
            )
        if status in (401, 403):
            named = self._teacher.api_key_env
            self._refuse(
                "the server does not accept the key" if named else "the server wants a key",
                f"{status} {_read_message(reply)}",
                f"set {named} to a key that may use the model"
                if named
                else f"name the variable that holds it: teachers.{self._teacher.name}.api_key_env",
            )
        if status in (408, 429) or status >= 500:
            raise _PassingError(f"{status} {_read_message(reply)}", _read_pause(reply), status == 429)
        if status >= 400:
            raise RequestRefusedError(
                f"{self._who}: the server refuses a request",
                got=f"{status} {_read_message(reply)}",
                wanted=f"an OpenAI-compatible API at {self._teacher.url} that has the model",
                next_step=f"compare teachers.{self._teacher.name}.url and .model_name with GET "
                f"{self._teacher.url}/models",
            )
        try:
            found = reply.json()
        except ValueError:
            raise _PassingError(f"a reply that is no JSON: {redact(reply.text)[:80]!r}") from None
        if not isinstance(found, dict):
            raise _PassingError(f"a reply that is no JSON object: {redact(reply.text)[:80]!r}")
        return found

    def _session(self) -> Any:
        """Return this thread's session, which keeps its connection."""
        import requests

        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            # An authentication that adds nothing, because without one requests would take that of ~/.netrc.
            self._local.session.auth = lambda request: request
        return self._local.session

    def _headers(self) -> dict[str, str]:
        name = self._teacher.api_key_env
        if name is None:
            return {}
        key = os.environ.get(name, "").strip()
        if not key:
            self._refuse(
                f"the variable {name} is not set",
                "no key in this process",
                f"export {name}=... where the run starts; on a cluster, in the environment of its nodes",
            )
        return {"Authorization": f"Bearer {key}"}

    def _refuse(self, what: str, got: object, next_step: str) -> NoReturn:
        raise ModelError(
            f"{self._who}: {what}",
            got=redact(got)[:_SHOWN],
            wanted=f"a server at {self._teacher.url} that answers",
            next_step=next_step,
        )

    def _give_up(self, last: str, tried: int, patient: bool) -> NoReturn:
        name, times = self._teacher.name, f", asked {tried + 1} times in {self._teacher.retry_s:g} s"
        raise TeacherError(
            f"{self._who}: the server does not answer",
            got=f"{last} ({self._teacher.url}{times if patient else ''})",
            wanted="a server that runs and is not overloaded",
            next_step=f"start it, or correct teachers.{name}.url; of a busy one lower teachers.{name}.concurrency, or "
            "raise .timeout_s and .retry_s; the same command goes on from the answers that are stored",
        )


def _read_message(reply: Any) -> str:
    """Return what a server says of an error, without secrets."""
    try:
        found = reply.json()
        found = found.get("error", found)
        text = found.get("message", found) if isinstance(found, dict) else found
    except (ValueError, AttributeError):
        text = reply.text
    return redact(text).strip()[:_SHOWN] or str(reply.reason)


def _read_pause(reply: Any) -> float | None:
    """Return the seconds of `Retry-After`; None without one, and for a date."""
    try:
        return max(0.0, float(reply.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
