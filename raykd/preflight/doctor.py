"""`raykd doctor`: whether this machine, and a cluster, can run raykd, read as by a stranger.

Decision record: every finding is ok, a doubt with what to do, or an error with the next step; nothing is repaired.
Without an address no Ray is started and no network is asked but MLflow's, so it answers in seconds. With one, a file
is written into the output folder here and read by a task on every node, because a shared file system that one node
does not see is the commonest fault of a cluster and shows itself hours later otherwise. The dashboard is asked as a
stranger would, without a token: what it then answers is what everybody gets (CVE-2023-48022).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

from raykd.config import TrackingConfig
from raykd.errors import RaykdError, ResourceError
from raykd.preflight.disk import format_bytes
from raykd.preflight.plan import Item
from raykd.preflight.sizes import read_free_bytes
from raykd.tracking import (
    describe_environment,
    find_database_path,
    probe_mlflow,
    redact,
    resolve_tracking_uri,
)

LITTLE_DISK, LITTLE_SHM = 5_000_000_000, 1_000_000_000
"""Free bytes below which a doubt is said: checkpoints and Ray's spilling; Ray's object store."""


def diagnose(output: Path, address: str | None) -> list[Item]:
    """All findings.

    Args:
        output: the folder of runs. address: of a Ray cluster; None looks at this machine alone.
    """
    looks: list[Callable[[], Item]] = [
        check_python, check_versions, check_processor, check_accelerators, check_threads, check_compilers,
        check_shared_memory, lambda: check_free_space("output", output),
        lambda: check_free_space("Ray's files", Path(os.environ.get("RAY_TMPDIR", "/tmp"))),
        lambda: check_writable(output), lambda: check_records(output), check_hub, check_token_file,
    ]  # fmt: skip
    found = []
    for look in looks:
        try:
            found.append(look())
        except RaykdError as error:
            found.append(Item(getattr(look, "__name__", "look").strip("<>"), "", error=error))
    if address is None:
        found.append(
            Item("cluster", "none was named; --address auto (or host:port) looks at one and at its nodes")
        )
        return found
    from raykd.preflight.cluster_doctor import inspect_cluster

    return [*found, *inspect_cluster(output, address)]


def check_python() -> Item:
    """The interpreter."""
    return Item("python", f"{platform.python_version()} at {sys.executable}")


def check_versions() -> Item:
    """Installed versions against those that raykd asks for."""
    wrong, names = [], []
    for line in importlib.metadata.requires("raykd") or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        names.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version}, wanted {requirement.specifier}")
    if wrong:
        raise ResourceError(
            "packages are not those that raykd was made for",
            got="; ".join(wrong),
            wanted="the versions of pyproject.toml",
            next_step="pip install -c constraints.txt -e . in a clone (make setup)",
        )
    chosen = ("ray", "torch", "transformers", "deepspeed", "mlflow")
    return Item("packages", ", ".join(n for n in names if n.split()[0].partition("[")[0] in chosen))


def check_processor() -> Item:
    """The CPU, and whether it computes bfloat16 by itself."""
    facts = describe_environment()
    flags = facts.get("cpu_flags", "")
    native = "bf16" in flags
    told = (
        "native bfloat16" if native else "no native bfloat16: teachers and students compute in float32 here"
    )
    return Item("processor", f"{facts.get('cpu')}, {facts['cores']} cores, {facts['memory']}; {told}")


def check_accelerators() -> Item:
    """GPUs that torch sees."""
    import torch

    if not torch.cuda.is_available():
        return Item("accelerators", "none: all runs on the CPU")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    bf16 = "with bfloat16" if torch.cuda.is_bf16_supported() else "without bfloat16"
    return Item(
        "accelerators", f"{', '.join(names)} ({bf16}); set num_gpus of workers and teachers to use them"
    )


def check_threads() -> Item:
    """What the environment says of threads, against the cores."""
    cores = int(describe_environment()["cores"])
    said = os.environ.get("OMP_NUM_THREADS")
    if said is None or not said.isdecimal():
        return Item("threads", f"raykd sets them by num_cpus; {cores} cores")
    doubt = int(said) > cores
    return Item(
        "threads", f"OMP_NUM_THREADS={said} for {cores} cores" + (": unset it" if doubt else ""), doubt
    )


def check_compilers() -> Item:
    """Compiler and ninja, which raykd does without."""
    there = [name for name in ("g++", "ninja", "nvcc") if shutil.which(name)]
    return Item(
        "compilers",
        f"{', '.join(there) or 'none'}; none is needed, raykd switches off what DeepSpeed compiles",
    )


def check_shared_memory() -> Item:
    """The size of /dev/shm, where Ray keeps objects."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Item(
            "shared memory", "there is no /dev/shm: Ray puts objects on the disk, which is slow", doubt=True
        )
    size = shutil.disk_usage(folder).total
    little = size < LITTLE_SHM
    more = (
        ": give the container more (docker run --shm-size=2g; an emptyDir of medium Memory)" if little else ""
    )
    return Item("shared memory", f"/dev/shm has {format_bytes(size)}{more}", little)


def check_free_space(what: str, folder: Path) -> Item:
    """Free space where a folder lies, or will."""
    free = read_free_bytes(folder.resolve())
    if free is None:
        return Item(f"disk of {what}", f"{folder} does not tell what is free", doubt=True)
    little = free < LITTLE_DISK
    more = "; checkpoints may not fit, raykd plan RUN.yaml tells what a run needs" if little else ""
    return Item(f"disk of {what}", f"{format_bytes(free)} free at {folder}{more}", little)


def check_writable(output: Path) -> Item:
    """Whether runs can be written; a folder that is not there is not made."""
    near = output.resolve()
    while not near.exists() and near != near.parent:
        near = near.parent
    if not near.is_dir() or not os.access(near, os.W_OK):
        raise ResourceError(
            f"runs cannot be written to {output}",
            got=f"{near} is no folder that this user may write",
            wanted="a writable folder",
            next_step="--output (of a run: the key output) names another",
        )
    return Item("output", f"{output.resolve()} can be written")


def check_records(output: Path) -> Item:
    """MLflow: a probe run is made and deleted; a database that is not there yet is not made."""
    uri = resolve_tracking_uri(TrackingConfig(), output.resolve())
    database = find_database_path(uri)
    if database is not None and not database.exists():
        return Item("MLflow", f"{uri} is made by the first run")
    probe_mlflow(uri)
    return Item("MLflow", f"{redact(uri)} took a probe run, which was deleted again")


def check_hub() -> Item:
    """Whether models and data may come from the hub."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    told = (
        "HF_HUB_OFFLINE is set: only what is in its cache"
        if offline
        else "asked when a run names a hub model"
    )
    return Item("hub", f"{told}; cache {home}{'' if home.is_dir() else ' (empty)'}")


def check_token_file() -> Item:
    """Whether others can read the token that opens Ray's clusters; Ray makes the file readable for all."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if not path.exists():
        return Item("Ray's token", f"no {path}")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Item(
            "Ray's token", f"{path} has mode {mode:04o}, so others may read it: chmod 600 {path}", doubt=True
        )
    return Item("Ray's token", f"{path} has mode {mode:04o}")


def write_probe_file(output: Path) -> Path:
    """A fresh file in the output folder that says its own name."""
    output.mkdir(parents=True, exist_ok=True)
    path = output.resolve() / f".doctor-{uuid.uuid4().hex[:12]}"
    path.write_text(path.name, encoding="utf-8")
    return path


def list_states(items: list[Item]) -> Iterator[str]:
    """ok, warn or wrong, an item each."""
    for item in items:
        yield "wrong" if item.error is not None else "warn" if item.doubt else "ok"
