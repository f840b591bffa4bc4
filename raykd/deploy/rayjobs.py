"""Ray's Jobs API: sending a job, following its log to the end, listing, stopping.

Decision record: Ray's client lets RAY_ADDRESS win over the address that it is given; here what was said wins. A log
that is cut off (a head that is busy, a port-forward that drops) is taken up again where it stopped, because the job
goes on without it. The job's exit code is the command's: a script that runs `raykd submit` sees what `raykd train`
would have told it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from raykd.deploy.submission import Submission
from raykd.environ import bypass_proxy, find_proxy
from raykd.errors import ClusterError, ConfigError
from raykd.redaction import redact

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

STOPPED = 130
"""Exit code for a job that was stopped, as of a command that was interrupted."""
LOST = 5
"""Exit code for a job that failed and has none: its driver never ran, or its node is gone."""
ATTEMPTS = 30
"""How often a job is sent, or a log taken up again in a row, a pause apart, before it is left alone."""
_NOT_YET = "No available agent"
"""What a head answers whose agent, which starts jobs, is not up yet: nothing was started."""
PAUSE_S = 2.0
_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


@dataclass(frozen=True)
class JobLine:
    """A job for people.

    Attributes:
        id: The submission id.
        status: As Ray names it.
        started: UTC, or "-".
        entrypoint: The command, without secrets.
    """

    id: str
    status: str
    started: str
    entrypoint: str


@dataclass
class Jobs:
    """The Jobs API of one cluster.

    Attributes:
        client: Ray's own.
        address: Of the dashboard.
        pause_s: Seconds before a job is sent again, or a log is taken up again.
    """

    client: JobSubmissionClient
    address: str
    pause_s: float = PAUSE_S

    @classmethod
    def connect(cls, address: str | None) -> Jobs:
        """Connect to the address, or to that of the environment.

        Raises:
            ConfigError: No address is named.
            ClusterError: Nobody answers there, or not to us.
        """
        named = address or next((os.environ[name] for name in _ADDRESSES if os.environ.get(name)), None)
        if not named:
            raise ConfigError(
                "no cluster is named",
                got="neither --address nor RAY_ADDRESS",
                wanted="the address of a cluster's dashboard, for example --address http://127.0.0.1:8265",
                next_step="kubectl port-forward service/NAME-head-svc 8265 brings a cluster's dashboard here; "
                "--address auto finds a Ray that runs here",
            )
        from ray.job_submission import JobSubmissionClient

        for chatter in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray"):
            logging.getLogger(chatter).setLevel(logging.WARNING)
        bypass_proxy(named)
        with _without(*_ADDRESSES), _clear_errors(named):
            return cls(JobSubmissionClient(named), named)

    def send(self, submission: Submission) -> None:
        """Upload the folder and start the job; a head that is only just up is given time.

        Raises:
            ClusterError: The cluster takes no job.
        """
        for left in reversed(range(ATTEMPTS)):
            try:
                with _clear_errors(self.address):
                    self.client.submit_job(
                        entrypoint=shlex.join(submission.entrypoint),
                        submission_id=submission.id,
                        runtime_env={"working_dir": str(submission.package.folder), **submission.runtime_env},
                    )
                return
            except ClusterError as error:
                if left == 0 or _NOT_YET not in str(error):
                    raise
            time.sleep(self.pause_s)

    def follow(self, job: str, write: Callable[[str], None]) -> int:
        """Write the job's log until it ends and return its exit code.

        Raises:
            ClusterError: There is no such job, or the cluster no longer answers; the job may well go on.
        """
        shown, attempts = 0, 0
        while True:
            before = shown
            with contextlib.suppress(RuntimeError, OSError, _network_errors()):
                for text in self._tail(job, skip=shown):
                    shown += len(text)
                    write(text)
            attempts = 0 if shown > before else attempts + 1
            try:
                info = self._info(job)
            except ClusterError:
                if attempts >= ATTEMPTS:
                    raise
                info = None
            if info is not None and info.status.is_terminal():
                return self._ended(job, info, shown, write)
            time.sleep(self.pause_s if attempts else min(0.2, self.pause_s))

    def _ended(self, job: str, info: JobDetails, shown: int, write: Callable[[str], None]) -> int:
        with _clear_errors(self.address):
            write(self.client.get_job_logs(job)[shown:])
        if info.status != "SUCCEEDED":
            write(f"job {job}: {info.status.value.lower()}: {redact(info.message or 'no message').strip()}\n")
        return exit_code(str(info.status.value), info.driver_exit_code)

    def _tail(self, job: str, skip: int) -> Iterator[str]:
        """Yield new pieces of the log; the first ``skip`` characters were shown before."""
        loop = asyncio.new_event_loop()
        pieces = self.client.tail_job_logs(job)
        try:
            while True:
                try:
                    text = loop.run_until_complete(anext(pieces))
                except StopAsyncIteration:
                    return
                if skip < len(text):
                    yield text[skip:]
                skip = max(0, skip - len(text))
        finally:
            with contextlib.suppress(Exception):
                loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def log(self, job: str) -> str:
        """Return all that the job has written."""
        with _clear_errors(self.address, job):
            return str(self.client.get_job_logs(job))

    def stop(self, job: str) -> bool:
        """Ask the job to end; return False if it had ended."""
        with _clear_errors(self.address, job):
            return bool(self.client.stop_job(job))

    def list(self) -> list[JobLine]:
        """Return the jobs that were submitted, the newest last."""
        with _clear_errors(self.address):
            found = [job for job in self.client.list_jobs() if job.submission_id]
        return [
            JobLine(job.submission_id or "", job.status.value, _time(job.start_time), redact(job.entrypoint))
            for job in sorted(found, key=lambda job: job.start_time or 0)
        ]

    def _info(self, job: str) -> JobDetails:
        with _clear_errors(self.address, job):
            return self.client.get_job_info(job)


def exit_code(status: str, driver: int | None) -> int:
    """Return the command's exit code: the driver's own, where it has one."""
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        return STOPPED
    return driver if driver is not None and 0 < driver < 256 else LOST


def _time(milliseconds: int | None) -> str:
    if not milliseconds:
        return "-"
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def _network_errors() -> type[Exception]:
    import aiohttp

    return aiohttp.ClientError


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    """Hide environment variables while the body runs."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def _reason(error: BaseException) -> str:
    """Return what the network said, which Ray's message leaves out."""
    deepest = error
    while (deeper := deepest.__cause__ or deepest.__context__) is not None:
        deepest = deeper
    return f"({redact(deepest)[:200]})" if deepest is not error and str(deepest) else ""


@contextlib.contextmanager
def _clear_errors(address: str, job: str | None = None) -> Iterator[None]:
    """Raise Ray's and the network's errors as ours."""
    import requests
    from ray.exceptions import AuthenticationError

    where = redact(address)
    try:
        yield
    except AuthenticationError as error:
        refused = "Authentication failed" in str(error)
        mode = os.environ.get("RAY_AUTH_MODE") or "not set"
        raise ClusterError(
            f"the cluster {where} asks for a token" + (", and ours is another" if refused else ""),
            got=f"{'403' if refused else '401'}; RAY_AUTH_MODE is {mode}",
            wanted="RAY_AUTH_MODE=token and the cluster's token",
            next_step="put the token into a file that only you can read (chmod 600) and set RAY_AUTH_MODE=token "
            "RAY_AUTH_TOKEN_PATH=FILE; on Kubernetes: kubectl get secret CLUSTER -o "
            "jsonpath='{.data.auth_token}' | base64 -d",
        ) from None
    except (ConnectionError, requests.RequestException, ValueError) as error:
        proxy = find_proxy(address)
        through = (
            f" (asked through the proxy {redact(proxy)}; NO_PROXY names hosts that are not)" if proxy else ""
        )
        first = (redact(str(error)).strip() or type(error).__name__).splitlines()[0]
        raise ClusterError(
            f"no Ray dashboard answers at {where}",
            got=f"{first[:300]} {_reason(error)}{through}".rstrip(),
            wanted="the address of a running cluster's dashboard, http://HOST:8265",
            next_step="check that the cluster runs and, if it is reached by kubectl port-forward, that this still runs",
        ) from None
    except RuntimeError as error:
        if job is not None and ("404" in str(error) or "does not exist" in str(error)):
            raise ClusterError(
                f"there is no job {job} at {where}", got=job, wanted="an id that `raykd jobs` lists"
            ) from None
        raise ClusterError(
            f"the cluster {where} refused",
            got=redact(str(error)).strip()[:1000],
            next_step="see its dashboard",
        ) from None
