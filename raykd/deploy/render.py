"""`raykd cluster render`: a run or a sweep as one self-contained file for Kubernetes.

Decision record: the run stands in a ConfigMap as its user wrote it, overrides and base included, so the file needs no
upload, and applying it again means the same run. A RayJob's cluster has a fixed size: what a run needs is known, and
`raykd train` refuses a cluster that cannot hold it. A cluster that stays (for `raykd submit`) begins with what this run
needs and grows. The files under cluster/kuberay are what this module writes for the files beside them. What is laid
over the run (places of outputs, node types) changes no result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from raykd import __version__
from raykd.config import Run, TeacherConfig, overlay
from raykd.deploy.kuberay import RAY_VERSION
from raykd.deploy.manifests import check_manifests, write_manifests
from raykd.deploy.nodes import PLACE, NodeType, node_types, with_memory
from raykd.deploy.request import Asked
from raykd.errors import ConfigError

RUNS, STORE, CONFIG = "/raykd/runs", "/raykd/store", "/raykd/config"
"""Where the containers have the volume of runs, the node's own disk for answers, and the run."""
PART = {"app.kubernetes.io/part-of": "raykd"}
USER = 1000
CLUSTER = "raykd"
"""Name of a cluster that stays."""
GROWS = 4
"""A cluster that stays grows to so many times what one run needs."""
LARGEST = 900_000
"""Bytes of a run; a ConfigMap takes a megabyte."""


@dataclass(frozen=True)
class Wishes:
    """What the user says beside the run. staying: a RayCluster, not a RayJob."""

    image: str = f"raykd:{__version__}"
    mlflow: str | None = None
    trials_at_once: int | None = None
    teacher_gib: int | None = None
    student_gib: int | None = None
    staying: bool = False


def render(asked: Asked, wishes: Wishes) -> str:
    """The file.

    Raises:
        ConfigError: the run reads what the cluster cannot see, or asks for what no new cluster has.
    """
    _check(asked)
    at_once = _at_once(asked, wishes)
    gib = {"teacher": wishes.teacher_gib, "student": wishes.student_gib}
    nodes = [with_memory(node, gib[node.name]) for node in node_types(asked.run, at_once)]
    name = CLUSTER if wishes.staying else _dns(asked.name)
    said = [
        f"# {node.name}: {node.nodes} node(s) of {node.cpus} CPU"
        + (f", {node.gpus} GPU" if node.gpus else "")
        + f", {node.gib} GiB: {node.why}"
        for node in nodes
    ]
    if wishes.staying:
        tree = _object("RayCluster", name, _cluster(nodes, wishes, asked, None))
        said.insert(
            0,
            f"# A cluster that stays, for raykd submit; it begins with what {asked.file.name} needs and grows.",
        )
        trees = [tree]
    else:
        config = f"{name}-run"
        trees = [_config_map(config, asked, wishes), _job(name, nodes, wishes, asked, config)]
        said.insert(
            0, f"# Made by raykd cluster render from {asked.file.name}; kubectl apply -f takes it as it is."
        )
        said.append(
            f"# Runs are kept on the volume raykd-runs, at {RUNS}; applied again, the job goes on from there."
        )
    text = "\n".join(said) + "\n" + write_manifests(trees)
    check_manifests(list(yaml.safe_load_all(text)), f"what was rendered for {asked.file}")
    return text


def _check(asked: Asked) -> None:
    if asked.run.serving.pool is not None:
        raise ConfigError(
            "a new cluster has no named pool of teachers",
            got=f"serving.pool: {asked.run.serving.pool}",
            wanted="serving.pool: null",
            next_step="raykd submit sends the run to the cluster that has the pool",
        )
    here = [
        path for path in asked.files[1:] if not asked.written_from_the_root(path) and path.suffix != ".yaml"
    ]
    if here:
        raise ConfigError(
            "the run reads files of this machine, which the cluster cannot see",
            got=", ".join(map(str, here[:5])),
            wanted=f"data embedded, on the hub, or on the volume of runs, with paths from the root ({RUNS}/...)",
            next_step="copy them to the volume and write their paths from the root; or raykd submit, which uploads",
        )


def _at_once(asked: Asked, wishes: Wishes) -> int:
    if asked.sweep is None:
        return 1
    return wishes.trials_at_once or asked.sweep.config.max_concurrent_trials or min(4, asked.sweep.trials)


def _dns(name: str) -> str:
    """A name as Kubernetes takes it, short enough for a RayJob."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "run"


def _config_map(name: str, asked: Asked, wishes: Wishes) -> dict[str, Any]:
    if asked.sweep is None:
        file, tree = "run.yaml", _laid_over(asked.tree, asked.run, wishes)
    else:
        base = _laid_over(overlay(asked.base_tree, asked.tree.get("set", {})), asked.run, wishes)
        file, tree = "space.yaml", {**asked.tree, "base": base, "set": {}}
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)
    if len(text.encode()) > LARGEST:
        raise ConfigError(
            "the run is too large for a ConfigMap",
            got=f"{len(text.encode())} bytes",
            wanted=f"{LARGEST}",
            next_step="raykd submit uploads files of any number",
        )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": PART},
        "data": {file: text},
    }


def _laid_over(tree: Mapping[str, Any], run: Run, wishes: Wishes) -> dict[str, Any]:
    """Where things lie on the cluster, and on which nodes; what the run says itself about nodes stays."""
    change: dict[str, Any] = {"output": RUNS, "ray": {"address": "auto", "num_cpus": None}}
    if run.serving.store is not None:
        change["serving"] = {"store": STORE}
    if wishes.mlflow is not None:
        change["tracking"] = {"uri": wishes.mlflow}
    if isinstance(tree.get("train", {}).get("deepspeed"), str):
        change["train"] = {
            "deepspeed": run.train.deepspeed
        }  # the content of the file, which is on this machine
    if not run.workers.resources:
        change["workers"] = {"resources": {"student": PLACE}}
    if run.teachers:
        change["teachers"] = [
            overlay(said, _place(teacher))
            for said, teacher in zip(tree["teachers"], run.teachers, strict=True)
        ]
    return dict(overlay(tree, change))


def _place(teacher: TeacherConfig) -> dict[str, Any]:
    """Node types for a teacher that names none."""
    place: dict[str, Any] = {} if teacher.actor.resources else {"actor": {"resources": {"teacher": PLACE}}}
    if teacher.training is not None and not teacher.training.workers.resources:
        place["training"] = {"workers": {"resources": {"student": PLACE}}}
    return place


def _job(name: str, nodes: list[NodeType], wishes: Wishes, asked: Asked, config: str) -> dict[str, Any]:
    file = "run.yaml" if asked.sweep is None else "space.yaml"
    going_on = "--resume" if asked.sweep is None else "--continue"
    submitter = _container("ray-job-submitter", wishes.image, 1, 1)
    return _object(
        "RayJob",
        name,
        {
            "entrypoint": f"raykd {asked.kind} {CONFIG}/{file} {going_on}",
            "submissionMode": "K8sJobMode",
            "submitterConfig": {"backoffLimit": 0},
            "submitterPodTemplate": {
                "metadata": {"labels": PART},
                "spec": {"restartPolicy": "Never", "securityContext": _user(), "containers": [submitter]},
            },
            "backoffLimit": 2,
            "preRunningDeadlineSeconds": 1800,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 300,
            "rayClusterSpec": _cluster(nodes, wishes, asked, config),
        },
    )


def _cluster(nodes: list[NodeType], wishes: Wishes, asked: Asked, config: str | None) -> dict[str, Any]:
    store = asked.run.serving.store_limit_gb
    spec: dict[str, Any] = {"rayVersion": RAY_VERSION, "authOptions": {"mode": "token"}}
    if wishes.staying:
        spec |= {
            "enableInTreeAutoscaling": True,
            "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": 300, "upscalingMode": "Default"},
        }
    spec["headGroupSpec"] = {
        "serviceType": "ClusterIP",
        "rayStartParams": {"num-cpus": "0"},
        "template": _template("head", wishes.image, 2, 0, 8, store, config),
    }
    spec["workerGroupSpecs"] = [
        {
            "groupName": node.name,
            "replicas": node.nodes,
            "minReplicas": node.nodes,
            "maxReplicas": node.nodes * (GROWS if wishes.staying else 1),
            "rayStartParams": {"num-cpus": str(node.cpus), "resources": _json(node.resources)},
            "template": _template(node.name, wishes.image, node.cpus, node.gpus, node.gib, store, None),
        }
        for node in nodes
    ]
    return spec


def _json(resources: dict[str, float]) -> str:
    inside = ", ".join(f'"{name}": {amount:g}' for name, amount in resources.items())
    return f"'{{{inside}}}'"


def _template(
    role: str, image: str, cpus: int, gpus: int, gib: int, store_gb: float, config: str | None
) -> dict[str, Any]:
    container = _container(f"ray-{'head' if role == 'head' else 'worker'}", image, cpus, gib)
    if gpus:
        container["resources"]["limits"]["nvidia.com/gpu"] = gpus
    container["volumeMounts"] = [
        {"name": "runs", "mountPath": RUNS},
        {"name": "store", "mountPath": STORE},
        {"name": "shm", "mountPath": "/dev/shm"},
        *([{"name": "config", "mountPath": CONFIG, "readOnly": True}] if config else []),
    ]
    volumes = [
        {"name": "runs", "persistentVolumeClaim": {"claimName": "raykd-runs"}},
        {"name": "store", "emptyDir": {"sizeLimit": f"{int(store_gb * 1.25) + 1}Gi"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{max(1, gib * 3 // 10)}Gi"}},
        *([{"name": "config", "configMap": {"name": config}}] if config else []),
    ]
    return {
        "metadata": {"labels": {**PART, "raykd/node": role}},
        "spec": {"securityContext": _user(), "containers": [container], "volumes": volumes},
    }


def _container(name: str, image: str, cpus: int, gib: int) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "env": [{"name": "RAY_AUTH_MODE", "value": "token"}],
        "resources": {
            "requests": {"cpu": cpus, "memory": f"{gib}Gi"},
            "limits": {"cpu": cpus, "memory": f"{gib}Gi"},
        },
    }


def _user() -> dict[str, Any]:
    return {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": {"name": name, "labels": PART}, "spec": spec}
