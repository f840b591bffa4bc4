"""One submission: the command that runs on the cluster, what goes along with it, and what must not.

Decision record: the entrypoint can be run again. `raykd train --resume` and `raykd sweep --continue` start what is not
there and go on with what is, so a job that is sent a second time, or tried again on a new cluster, does the missing
work only. The submission id is new each time, because Ray refuses one that it has seen. `output` must be a path from
the root: a job runs in a folder that Ray removes. Entrypoint, environment and ids are shown by the Jobs API to
whoever reaches it, so what looks like a secret is refused, not hidden.
"""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raykd.deploy.package import Package, package
from raykd.deploy.request import JobRequest
from raykd.errors import ConfigError
from raykd.redaction import redact, redact_value


@dataclass(frozen=True)
class Submission:
    """What is sent. entrypoint: words of the command. environment: variables that all may read."""

    id: str
    entrypoint: tuple[str, ...]
    package: Package
    environment: dict[str, str]
    notes: tuple[str, ...]

    @property
    def runtime_env(self) -> dict[str, Any]:
        """As Ray takes it, without the folder."""
        found: dict[str, Any] = {"excludes": list(self.package.excludes)}
        return found | ({"env_vars": self.environment} if self.environment else {})

    def command(self, address: str | None, *, follow: bool) -> str:
        """The `ray job submit` that sends the same."""
        words = ["ray", "job", "submit", *(["--address", address] if address else [])]
        words += ["--submission-id", self.id, "--working-dir", str(self.package.folder)]
        words += ["--runtime-env-json", json.dumps(self.runtime_env)]
        words += [] if follow else ["--no-wait"]
        return shlex.join([*words, "--", *self.entrypoint])


def submission(
    asked: JobRequest,
    *,
    working_dir: Path | None = None,
    output: str | None = None,
    environment: Sequence[str] = (),
) -> Submission:
    """Decides what is sent.

    Args:
        working_dir: folder that is uploaded; None is that of the run file.
        output: folder of all runs on the cluster; None takes the run's own.
        environment: NAME=VALUE for the job.
    Raises:
        ConfigError: nothing sensible can be sent.
    """
    folder = (working_dir or asked.file.resolve().parent).resolve()
    where = output or asked.run.output
    if not where.startswith("/"):
        raise ConfigError(
            "the run's output would be lost: a job runs in a folder that Ray removes",
            got=f"output: {where}",
            wanted="a path from the root, on storage that every node of the cluster sees",
            next_step="--output /raykd/runs (where the files under cluster/ mount the volume of runs), "
            "or write output in the run",
        )
    notes = _files_that_stay(asked, folder)
    store = asked.run.serving.store
    if asked.run.active_teachers and store is not None and not store.startswith("/"):
        notes.append(
            f"answers would be kept under {where}, which all nodes share; serving.store=/raykd/store keeps them on "
            "each node's own disk, which is faster"
        )
    key = "output" if asked.kind == "train" else "set.output"
    ray = "ray.address" if asked.kind == "train" else "set.ray.address"
    words = ["raykd", asked.kind, str(asked.file.resolve().relative_to(folder)), *asked.overrides]
    words += [f"{key}={where}"] if output else []
    words += [f"{ray}=auto", "--resume" if asked.kind == "train" else "--continue"]
    _refuse_secrets(words)
    return Submission(
        id=submission_id(asked.name),
        entrypoint=tuple(words),
        package=package(folder, (Path(asked.run.output).resolve(),)),
        environment=_checked(environment),
        notes=tuple(notes),
    )


def submission_id(name: str) -> str:
    """A fresh one that contains the run's name."""
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _files_that_stay(asked: JobRequest, folder: Path) -> list[str]:
    """What the run reads from outside the uploaded folder, for people.

    Raises:
        ConfigError: it was written relative to the run file, so it can only be on this machine.
    """
    outside = [path for path in asked.files if not path.is_relative_to(folder)]
    lost = [path for path in outside if not asked.written_from_the_root(path)]
    if lost:
        above = Path(*_common([folder, *lost]))
        raise ConfigError(
            f"the {'run' if asked.kind == 'train' else 'sweep'} reads files outside the folder that is uploaded",
            got=", ".join(str(path) for path in lost[:5])
            + (f" and {len(lost) - 5} more" if len(lost) > 5 else ""),
            wanted=f"all in {folder}",
            next_step=f"--working-dir {above}, or put them on storage that the cluster sees and write their paths from "
            "the root",
        )
    return [
        f"not uploaded, as it is written from the root: {path} (every node must see it)" for path in outside
    ]


def _common(paths: Sequence[Path]) -> list[str]:
    parts = zip(*(path.parts for path in paths), strict=False)
    same: list[str] = []
    for level in parts:
        if len(set(level)) > 1:
            break
        same.append(level[0])
    return same


def _checked(environment: Sequence[str]) -> dict[str, str]:
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
    """The whole command is looked at word by word, each as a key and its value where it is one."""
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
