"""One submission: the command that runs on the cluster, what goes along with it, and what must not.

Decision record: the entrypoint can be run again. `raykd train --resume` and `raykd sweep --resume` start what is not
there and go on with what is, so a job that is sent a second time, or tried again on a new cluster, does the missing
work only. The submission id is new each time, because Ray refuses one that it has seen. `output` must be a path from
the root: a job runs in a folder that Ray removes. Entrypoint, environment and ids are shown by the Jobs API to
whoever reaches it, so what looks like a secret is refused, not hidden.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from raykd.deploy.package import Package, list_package
from raykd.deploy.request import JobRequest
from raykd.errors import ConfigError
from raykd.parse import JsonObject
from raykd.redaction import redact, redact_value


@dataclass(frozen=True)
class Submission:
    """What is sent.

    Attributes:
        id: The submission id, new each time.
        entrypoint: Words of the command.
        package: The folder that is uploaded.
        environment: Variables for the job, which all may read.
        notes: What the user should know beside it, for people.
    """

    id: str
    entrypoint: tuple[str, ...]
    package: Package
    environment: dict[str, str]
    notes: tuple[str, ...]

    @property
    def runtime_env(self) -> JsonObject:
        """The runtime environment as Ray takes it, without the folder."""
        found: JsonObject = {"excludes": list(self.package.excludes)}
        return found | ({"env_vars": self.environment} if self.environment else {})

    def command(self, address: str | None, *, follow: bool) -> str:
        """Return the `ray job submit` that sends the same."""
        words = ["ray", "job", "submit", *(["--address", address] if address else [])]
        words += ["--submission-id", self.id, "--working-dir", str(self.package.folder)]
        words += ["--runtime-env-json", json.dumps(self.runtime_env)]
        words += [] if follow else ["--no-wait"]
        return shlex.join([*words, "--", *self.entrypoint])


WHAT = {"train": "run", "sweep": "sweep", "compare": "experiment"}
"""What a command does, by its name."""


def prepare_submission(
    request: JobRequest,
    *,
    working_dir: Path | None = None,
    output: str | None = None,
    environment: Sequence[str] = (),
) -> Submission:
    """Decide what is sent.

    Args:
        request: The run or the sweep.
        working_dir: Folder that is uploaded; None is that of the run file.
        output: Folder of all runs on the cluster; None takes the run's own.
        environment: NAME=VALUE for the job.

    Raises:
        ConfigError: Nothing sensible can be sent.
    """
    folder = (working_dir or request.file.resolve().parent).resolve()
    where = output or request.run.output
    if not where.startswith("/"):
        raise ConfigError(
            "the run's output would be lost: a job runs in a folder that Ray removes",
            got=f"output: {where}",
            wanted="a path from the root, on storage that every node of the cluster sees",
            next_step="--output /raykd/runs (where the files under cluster/ mount the volume of runs), "
            "or write output in the run",
        )
    notes = _describe_files_that_stay(request, folder)
    store = request.run.serving.store
    if request.run.active_teachers and store is not None and not store.startswith("/"):
        notes.append(
            f"answers would be kept under {where}, which all nodes share; serving.store=/raykd/store keeps them on "
            "each node's own disk, which is faster"
        )
    key = "output" if request.kind == "train" else "set.output"
    ray = "ray.address" if request.kind == "train" else "set.ray.address"
    words = ["raykd", request.kind, str(request.file.resolve().relative_to(folder)), *request.overrides]
    words += [f"{key}={where}"] if output else []
    words += [f"{ray}=auto", "--resume"]
    _refuse_secrets(words)
    return Submission(
        id=new_submission_id(request.name),
        entrypoint=tuple(words),
        package=list_package(folder, (Path(request.run.output).resolve(),)),
        environment=_parse_environment(environment),
        notes=tuple(notes),
    )


def new_submission_id(name: str) -> str:
    """Return an id that was never used and contains the run's name."""
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _describe_files_that_stay(request: JobRequest, folder: Path) -> list[str]:
    """Describe what the run reads from outside the uploaded folder, for people.

    Raises:
        ConfigError: It was written relative to the run file, so it can only be on this machine.
    """
    outside = [path for path in request.files if not path.is_relative_to(folder)]
    lost = [path for path in outside if not request.is_absolute_in_file(path)]
    if lost:
        above = os.path.commonpath([folder, *lost])
        raise ConfigError(
            f"the {WHAT[request.kind]} reads files outside the folder that is uploaded",
            got=", ".join(str(path) for path in lost[:5])
            + (f" and {len(lost) - 5} more" if len(lost) > 5 else ""),
            wanted=f"all in {folder}",
            next_step=f"--working-dir {above}, or put them on storage that the cluster sees and write their paths from "
            "the root",
        )
    return [
        f"not uploaded, as it is written from the root: {path} (every node must see it)" for path in outside
    ]


def _parse_environment(environment: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for assignment in environment:
        name, equals, value = assignment.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(
                "cannot read --env",
                got=redact(assignment),
                wanted="NAME=VALUE, a variable of the job's environment",
            )
        if redact_value(name, value) != value:
            raise ConfigError(
                f"--env {name} holds a secret, and the Jobs API shows a job's environment to whoever asks",
                got=f"{name}={redact_value(name, value)}",
                wanted="no secret in what is submitted",
                next_step="give it to the cluster's own processes: env with valueFrom.secretKeyRef in the pods, or a "
                "file that only they can read",
            )
        found[name] = value
    return found


def _refuse_secrets(words: Sequence[str]) -> None:
    """Refuse a command with a secret: each word is looked at, and as a key and its value where it is one."""
    for word in words:
        key, equals, value = word.partition("=")
        hidden = f"{key}={redact_value(key, value)}" if equals else redact(word)
        if redact(word) != word or hidden != word:
            raise ConfigError(
                "an override holds a secret, and the Jobs API shows a job's command to whoever asks",
                got=redact(hidden),
                wanted="no secret in what is submitted",
                next_step="give it to the cluster's own processes as an environment variable from a Secret",
            )
