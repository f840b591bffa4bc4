"""`raykd doctor`: find out whether this machine, and a cluster, can run raykd.

Decision record: every finding is ok, a doubt with advice, or an error with the next step. Nothing is repaired. Without
an address no Ray is started and only MLflow's network is used, so the answer comes in seconds. With an address, a file
is written into the output folder here and read by a task on every node, because a node that does not see the shared
file system is the commonest fault of a cluster, and otherwise shows hours later. The dashboard is asked without a
token, as a stranger would ask it: its answer is what everybody gets (CVE-2023-48022).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import stat
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

from packaging.requirements import Requirement

from raykd.config import TrackingConfig
from raykd.errors import RaykdError, ResourceError
from raykd.preflight.disk import format_bytes
from raykd.preflight.finding import Finding
from raykd.preflight.sizes import find_existing, read_free_bytes
from raykd.tracking import (
    describe_environment,
    find_database_path,
    probe_mlflow,
    redact,
    resolve_tracking_uri,
)

LITTLE_DISK, LITTLE_SHM = 5_000_000_000, 1_000_000_000
"""Free bytes that should be there: on the disk for checkpoints and Ray's spilling, and for Ray's object store."""


def diagnose(output: Path, address: str | None) -> list[Finding]:
    """Collect all findings.

    Args:
        output: The folder of runs.
        address: Of a Ray cluster; None looks at this machine alone.
    """
    temporary = Path(os.environ.get("RAY_TMPDIR", "/tmp"))
    looks: dict[str, Callable[[], Finding]] = {
        "python": check_python,
        "packages": check_versions,
        "processor": check_processor,
        "accelerators": check_accelerators,
        "threads": check_threads,
        "compilers": check_compilers,
        "shared memory": check_shared_memory,
        "disk of output": lambda: check_free_space("output", output),
        "disk of Ray's files": lambda: check_free_space("Ray's files", temporary),
        "output": lambda: check_writable(output),
        "MLflow": lambda: check_records(output),
        "hub": check_hub,
        "Ray's token": check_token_file,
    }
    found = []
    for what, look in looks.items():
        try:
            found.append(look())
        except RaykdError as error:
            found.append(Finding(what, error=error))
    if address is None:
        found.append(
            Finding("cluster", "none was named; --address auto (or host:port) looks at one and at its nodes")
        )
        return found
    from raykd.preflight.cluster_doctor import inspect_cluster

    return [*found, *inspect_cluster(output, address)]


def check_python() -> Finding:
    """Describe the interpreter."""
    return Finding("python", f"{platform.python_version()} at {sys.executable}")


def check_versions() -> Finding:
    """Compare the installed versions with those that raykd asks for.

    Raises:
        ResourceError: A package is missing or has another version.
    """
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
    return Finding("packages", ", ".join(n for n in names if n.split()[0].partition("[")[0] in chosen))


def check_processor() -> Finding:
    """Describe the CPU, and whether it computes bfloat16 natively."""
    facts = describe_environment()
    flags = facts.get("cpu_flags", "")
    native = "bf16" in flags
    told = (
        "native bfloat16" if native else "no native bfloat16: teachers and students compute in float32 here"
    )
    return Finding("processor", f"{facts.get('cpu')}, {facts['cores']} cores, {facts['memory']}; {told}")


def check_accelerators() -> Finding:
    """List the GPUs that torch sees."""
    import torch

    if not torch.cuda.is_available():
        return Finding("accelerators", "none: all runs on the CPU")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    bf16 = "with bfloat16" if torch.cuda.is_bf16_supported() else "without bfloat16"
    return Finding(
        "accelerators", f"{', '.join(names)} ({bf16}); set num_gpus of workers and teachers to use them"
    )


def check_threads() -> Finding:
    """Compare the threads that the environment sets with the cores."""
    cores = int(describe_environment()["cores"])
    said = os.environ.get("OMP_NUM_THREADS")
    if said is None or not said.isdecimal():
        return Finding("threads", f"raykd sets them by num_cpus; {cores} cores")
    doubt = int(said) > cores
    return Finding(
        "threads", f"OMP_NUM_THREADS={said} for {cores} cores" + (": unset it" if doubt else ""), doubt
    )


def check_compilers() -> Finding:
    """List compilers; raykd needs none."""
    there = [name for name in ("g++", "ninja", "nvcc") if shutil.which(name)]
    return Finding(
        "compilers",
        f"{', '.join(there) or 'none'}; none is needed, raykd switches off what DeepSpeed compiles",
    )


def check_shared_memory() -> Finding:
    """Check the size of /dev/shm, where Ray keeps objects."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding(
            "shared memory", "there is no /dev/shm: Ray puts objects on the disk, which is slow", doubt=True
        )
    size = shutil.disk_usage(folder).total
    little = size < LITTLE_SHM
    more = (
        ": give the container more (docker run --shm-size=2g; an emptyDir of medium Memory)" if little else ""
    )
    return Finding("shared memory", f"/dev/shm has {format_bytes(size)}{more}", little)


def check_free_space(what: str, folder: Path) -> Finding:
    """Check the free space on the disk of a folder, which need not exist yet."""
    free = read_free_bytes(folder.resolve())
    if free is None:
        return Finding(f"disk of {what}", f"{folder} does not tell what is free", doubt=True)
    little = free < LITTLE_DISK
    more = "; checkpoints may not fit, raykd plan RUN.yaml tells what a run needs" if little else ""
    return Finding(f"disk of {what}", f"{format_bytes(free)} free at {folder}{more}", little)


def check_writable(output: Path) -> Finding:
    """Check that runs can be written. A folder that does not exist is not made.

    Raises:
        ResourceError: Names the folder that cannot be written to.
    """
    near = find_existing(output.resolve())
    if not near.is_dir() or not os.access(near, os.W_OK):
        raise ResourceError(
            f"runs cannot be written to {output}",
            got=f"{near} is not a folder that this user may write to",
            wanted="a writable folder",
            next_step="--output (of a run: the key output) names another",
        )
    return Finding("output", f"{output.resolve()} can be written")


def check_records(output: Path) -> Finding:
    """Record a probe run in MLflow and delete it. A database that does not exist is not made."""
    uri = resolve_tracking_uri(TrackingConfig(), output.resolve())
    database = find_database_path(uri)
    if database is not None and not database.exists():
        return Finding("MLflow", f"{uri} is made by the first run")
    probe_mlflow(uri)
    return Finding("MLflow", f"{redact(uri)} took a probe run, which was deleted again")


def check_hub() -> Finding:
    """Describe whether models and data may come from the hub."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    told = (
        "HF_HUB_OFFLINE is set: only what is in its cache"
        if offline
        else "asked when a run names a hub model"
    )
    return Finding("hub", f"{told}; cache {home}{'' if home.is_dir() else ' (empty)'}")


def check_token_file() -> Finding:
    """Check that only this user can read the token of Ray's clusters, because Ray makes its file readable for all."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if not path.exists():
        return Finding("Ray's token", f"no {path}")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding(
            "Ray's token", f"{path} has mode {mode:04o}, so others may read it: chmod 600 {path}", doubt=True
        )
    return Finding("Ray's token", f"{path} has mode {mode:04o}")


def write_probe_file(output: Path) -> Path:
    """Write a new file into the output folder that contains its own name."""
    output.mkdir(parents=True, exist_ok=True)
    path = output.resolve() / f".doctor-{uuid.uuid4().hex[:12]}"
    path.write_text(path.name, encoding="utf-8")
    return path
