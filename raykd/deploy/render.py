"""`raykd cluster render`: a run or a sweep as one self-contained file for Kubernetes.

Decision record: the run stands in a ConfigMap as its user wrote it, overrides and base included, so the file needs no
upload, and applying it again means the same run. A RayJob's cluster has a fixed size: what a run needs is known, and
`raykd train` refuses a cluster that cannot hold it. A cluster that stays (for `raykd submit`) begins with what this run
needs and grows. The files under cluster/kuberay are what this module writes for the files beside them. What is laid
over the run (places of outputs, node types) changes no result.
"""

from __future__ import annotations

import math
import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from raykd import __version__
from raykd.config import Run, TeacherConfig, TrainedTeacher, overlay
from raykd.deploy.manifests import read_manifests
from raykd.deploy.nodes import PLACE, plan_nodes, with_memory
from raykd.deploy.request import JobRequest
from raykd.errors import ConfigError
from raykd.parse import JsonObject

if TYPE_CHECKING:
    from jinja2 import Template

RUNS, STORE, CONFIG = "/raykd/runs", "/raykd/store", "/raykd/config"
"""Where the containers have the volume of runs, the node's own disk for answers, and the run."""
LARGEST = 900_000
"""Bytes of a run; a ConfigMap takes a megabyte."""


@dataclass(frozen=True)
class RenderOptions:
    """What the user says beside the run.

    Attributes:
        image: Of all containers.
        mlflow: Address of an MLflow server; None leaves what the run says.
        trials_at_once: Trials that the student nodes hold; None takes the sweep's own number.
        teacher_gib: Memory of a teacher node in GiB; None takes the estimate.
        student_gib: Likewise of a student node.
        staying: A RayCluster, not a RayJob.
    """

    image: str = f"raykd:{__version__}"
    mlflow: str | None = None
    trials_at_once: int | None = None
    teacher_gib: int | None = None
    student_gib: int | None = None
    staying: bool = False


def render_manifests(request: JobRequest, options: RenderOptions) -> str:
    """Return the file.

    Raises:
        ConfigError: The run reads what the cluster cannot see, or asks for what no new cluster has.
    """
    _check(request)
    gib = {"teacher": options.teacher_gib, "student": options.student_gib}
    nodes = plan_nodes(request.run, _trials_at_once(request, options))
    text: str = _template("raycluster" if options.staying else "rayjob").render(
        source=request.file.name,
        name=_dns(request.name),
        nodes=[with_memory(node, gib[node.name]) for node in nodes],
        image=options.image,
        store_gib=int(request.run.serving.store_limit_gb * 1.25) + 1,
        command=request.kind,
        run_file="run.yaml" if request.sweep is None else "space.yaml",
        run_text="" if options.staying else _run_text(request, options),
        runs=RUNS,
        store=STORE,
        config_folder=CONFIG,
    )
    read_manifests(text, f"what was rendered for {request.file}")
    return text


def _template(name: str) -> Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raykd.deploy"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["at"] = lambda block, width: textwrap.indent(block.strip("\n"), " " * width)
    environment.filters["scalar"] = _scalar
    return environment.get_template(f"{name}.yaml.j2")


def _scalar(value: str) -> str:
    """Return a text as YAML on one line, quoted where YAML would read it as something else."""
    written: str = yaml.safe_dump(value, allow_unicode=True, width=math.inf)
    return written.removesuffix("...\n").rstrip("\n")


def _check(request: JobRequest) -> None:
    if request.experiment is not None:
        raise ConfigError(
            "files are rendered for a run or a sweep",
            got=f"the experiment {request.name}",
            wanted="a run file or a search space",
            next_step="render a cluster from its base with --staying, then raykd submit sends the experiment to it",
        )
    if request.run.serving.pool is not None:
        raise ConfigError(
            "a new cluster has no named pool of teachers",
            got=f"serving.pool: {request.run.serving.pool}",
            wanted="serving.pool: null",
            next_step="raykd submit sends the run to the cluster that has the pool",
        )
    here = [
        path for path in request.files[1:] if not request.is_absolute_in_file(path) and path.suffix != ".yaml"
    ]
    if here:
        raise ConfigError(
            "the run reads files of this machine, which the cluster cannot see",
            got=", ".join(map(str, here[:5])),
            wanted=f"data embedded, on the hub, or on the volume of runs, with paths from the root ({RUNS}/...)",
            next_step="copy them to the volume and write their paths from the root; or raykd submit, which uploads",
        )


def _trials_at_once(request: JobRequest, options: RenderOptions) -> int:
    if request.sweep is None:
        return 1
    return (
        options.trials_at_once or request.sweep.config.max_concurrent_trials or min(4, request.sweep.trials)
    )


def _dns(name: str) -> str:
    """Return a name as Kubernetes takes it, short enough for a RayJob."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "run"


def _run_text(request: JobRequest, options: RenderOptions) -> str:
    """Return the run or the sweep as the ConfigMap holds it."""
    if request.sweep is None:
        tree = _lay_over(request.tree, request.run, options)
    else:
        base = overlay(request.base_tree, request.tree.get("set", {}))
        tree = {**request.tree, "base": _lay_over(base, request.run, options), "set": {}}
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)
    if len(text.encode()) > LARGEST:
        raise ConfigError(
            "the run is too large for a ConfigMap",
            got=f"{len(text.encode())} bytes",
            wanted=f"{LARGEST}",
            next_step="raykd submit uploads files of any number",
        )
    return text


def _lay_over(tree: JsonObject, run: Run, options: RenderOptions) -> JsonObject:
    """Set where things lie on the cluster, and on which nodes; what the run says itself about nodes stays."""
    change: JsonObject = {"output": RUNS, "ray": {"address": "auto", "num_cpus": None}}
    if run.serving.store is not None:
        change["serving"] = {"store": STORE}
    if options.mlflow is not None:
        change["tracking"] = {"uri": options.mlflow}
    if isinstance(tree.get("train", {}).get("deepspeed"), str):
        # The content of the file, which is on this machine alone.
        change["train"] = {"deepspeed": run.train.deepspeed}
    if not run.workers.resources:
        change["workers"] = {"resources": {"student": PLACE}}
    if run.teachers:
        change["teachers"] = [
            overlay(tree, _place(teacher))
            for tree, teacher in zip(tree["teachers"], run.teachers, strict=True)
        ]
    return dict(overlay(tree, change))


def _place(teacher: TeacherConfig) -> JsonObject:
    """Return node types for a teacher that names none."""
    place: JsonObject = {} if teacher.actor.resources else {"actor": {"resources": {"teacher": PLACE}}}
    if isinstance(teacher, TrainedTeacher) and not teacher.training.workers.resources:
        place["training"] = {"workers": {"resources": {"student": PLACE}}}
    return place
