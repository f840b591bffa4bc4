"""The files under cluster/ and those that `raykd cluster render` prints: right as they are, and refused with a mistake."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

from raykd.cli.app import app
from raykd.config.loading import load_run
from raykd.deploy.manifests import KINDS, find_missing_volumes, read_manifests, schema_problems
from raykd.deploy.render import RenderOptions, render_manifests
from raykd.deploy.request import read_request
from raykd.errors import ConfigError
from raykd.tuning.config import load_sweep

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERAY = sorted((CLUSTER / "kuberay").glob("*.yaml"))
MLFLOW = "http://raykd-mlflow:5000"
JOB = yaml.safe_load_all((CLUSTER / "kuberay" / "rayjob-train.yaml").read_text())
JOB = next(tree for tree in JOB if tree["kind"] == "RayJob")


def changed(path: str, value: Any, of: dict[str, Any] = JOB) -> dict[str, Any]:
    """The object with another value at a path; None takes the key away."""
    tree: dict[str, Any] = json.loads(json.dumps(of))
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    node: Any = tree
    for part in way:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return tree


HEAD = "spec.rayClusterSpec.headGroupSpec"
WORKER = "spec.rayClusterSpec.workerGroupSpecs.0"


KUBERNETES = "1.32"
"""The oldest version whose schemas the files are checked against."""


def check_published(tree: dict[str, Any]) -> None:
    """Check an object of Kubernetes' own against its published schema, and its pod against raykd's rules.

    Raises:
        kubernetes_validate.ValidationError: The published schema refuses it; an unknown key too.
        AssertionError: A rule of raykd's does.
    """
    kubernetes_validate.validate(tree, KUBERNETES, strict=True)
    spec = tree["spec"]
    if tree["kind"] == "Service":
        assert spec.get("type", "ClusterIP") == "ClusterIP", "a service is reached inside the cluster only"
    if tree["kind"] == "Deployment":
        pod = spec["template"]["spec"]
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
        assert not schema_problems(pod, "$defs/pod"), schema_problems(pod, "$defs/pod")
        assert not list(find_missing_volumes(pod)), list(find_missing_volumes(pod))


def pods_of(node: Any) -> list[dict[str, Any]]:
    """Every pod template below a node."""
    if isinstance(node, list):
        return [pod for inner in node for pod in pods_of(inner)]
    if not isinstance(node, dict):
        return []
    return [node] if "containers" in node.get("spec", {}) else pods_of(list(node.values()))


@pytest.mark.parametrize("file", KUBERAY, ids=lambda file: file.name)
def test_kubernetes_files_are_right(file: Path) -> None:
    for tree in yaml.safe_load_all(file.read_text()):
        assert tree["metadata"]["labels"]["app.kubernetes.io/part-of"] == "raykd"
        if tree["kind"] not in KINDS:
            check_published(tree)
            continue
        read_manifests(yaml.safe_dump(tree), file.name)
        for pod in pods_of(tree):
            template = {"apiVersion": "v1", "kind": "PodTemplate", "template": pod}
            kubernetes_validate.validate(template, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("Deployment", "spec.replica", 1, "'replica' was unexpected"),
        ("Deployment", "spec.replicas", "one", "'one' is not of type"),
        ("Deployment", "spec.template.spec.containers.0.volumeMounts.0.mount", "/x", "'mount' was unexpected"),
        ("Deployment", "spec.template.spec.containers.0.volumeMounts.0.name", "stroe", "no volume of the pod"),
        ("Deployment", "spec.template.spec.containers.0.env.3", {"name": "X_PASSWORD", "value": "x"}, "is a secret"),
        ("Deployment", "spec.template.metadata.labels.app", "other", ""),
        ("Deployment", "spec.template.spec.volumes.0.emptyDir", {}, "must be of one kind"),
        ("Service", "spec.type", "LoadBalancer", "inside the cluster only"),
        ("Service", "spec.ports.0.ports", 1, "'ports' was unexpected"),
        ("PersistentVolumeClaim", "spec.accessMode", ["ReadWriteOnce"], "'accessMode' was unexpected"),
    ],
)  # fmt: skip
def test_mistakes_in_kubernetes_own_objects_are_refused(kind: str, path: str, value: Any, said: str) -> None:
    trees = list(yaml.safe_load_all((CLUSTER / "kuberay" / "mlflow.yaml").read_text()))
    tree = next(tree for tree in trees if tree["kind"] == kind)
    with pytest.raises((kubernetes_validate.ValidationError, AssertionError)) as refused:
        check_published(changed(path, value, tree))
    assert said in str(getattr(refused.value, "message", refused.value))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.entryPoint", "raykd train run.yaml --resume", "spec.entryPoint: there is no such key"),
        (f"{WORKER}.replicas", "one", "workerGroupSpecs.0.replicas"),
        ("spec.submissionMode", "Foo", "'K8sJobMode'"),
        ("spec.rayClusterSpec.authOptions", None, "spec.rayClusterSpec.authOptions: the key is missing"),
        ("spec.rayClusterSpec.authOptions.mode", "disabled", "'token' was expected"),
        ("spec.submitterConfig.backoffLimit", 3, "spec.submitterConfig.backoffLimit"),
        ("spec.preRunningDeadlineSeconds", None, "preRunningDeadlineSeconds: the key is missing"),
        ("spec.shutdownAfterJobFinishes", False, "shutdownAfterJobFinishes"),
        ("spec.entrypoint", "raykd train run.yaml", "--resume"),
        ("spec.entrypoint", "python train.py", "raykd train"),
        ("spec.runtimeEnvYAML", "env_vars: {HF_TOKEN: hf_0123456789abcdef}", "env_vars.HF_TOKEN is a secret"),
        (f"{HEAD}.serviceType", "LoadBalancer", "serviceType"),
        (f"{HEAD}.rayStartParams.num-cpus", "4", "takes the cluster down with it"),
        (f"{HEAD}.template.spec.securityContext.runAsNonRoot", False, "runAsNonRoot: true"),
        (f"{HEAD}.template.spec.securityContext.runAsUser", 0, "runAsUser"),
        (f"{HEAD}.template.spec.containers.0.env.0.value", "disabled", "RAY_AUTH_MODE=token"),
        (f"{WORKER}.template.spec.containers.0.securityContext", None, "allowPrivilegeEscalation"),
        (f"{WORKER}.template.spec.containers.0.image", "raykd:0.0.9", "need one image"),
        (f"{WORKER}.template.spec.containers.0.volumeMounts.0.mountPath", "/elsewhere", "same volume of runs"),
        (f"{WORKER}.template.spec.containers.0.volumeMounts.1.name", "stroe", "no volume of the pod"),
        (f"{WORKER}.template.spec.containers.0.resources.limits.memory", "4 GB", "an amount is"),
        (f"{WORKER}.minReplicas", 7, "minReplicas <= replicas <= maxReplicas"),
        (f"{WORKER}.rayStartParams.resources", '{"teacher": 1}', "JSON in single quotes"),
        ("metadata.name", "a-name-of-a-rayjob-that-is-longer-than-kuberay-takes", "47 characters"),
        ("apiVersion", "ray.io/v1alpha1", "ray.io/v1"),
        ("kind", "RayJobb", "RayJobb"),
        (f"{HEAD}.template.spec.containers.0.env.0", {"name": "HF_TOKEN", "value": "x"}, "HF_TOKEN is a secret"),
        (f"{HEAD}.template.spec.containers.0.env.0", {"name": "A"}, "A needs either value or valueFrom"),
        (f"{HEAD}.template.spec.containers.0.image", "", "0.image: a container needs an image"),
        (f"{HEAD}.template.spec.volumes.0.emptyDir", {}, "volume runs must be of one kind"),
        (f"{WORKER}.template.spec.hostNetwork", True, "0.template.spec.hostNetwork: there is no such key"),
        (f"{WORKER}.template.spec.securityContext.privileged", True, "privileged: there is no such key"),
        (f"{WORKER}.groupName", "Teacher", "small letters"),
        ("spec.submitterPodTemplate.spec.restartPolicy", "Sometimes", "'Sometimes' is not one of"),
        ("status", {}, "status: there is no such key"),
    ],
)  # fmt: skip
def test_mistakes_are_refused(path: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_manifests(yaml.safe_dump(changed(path, value)), "job.yaml")
    assert said in str(refused.value) and "job.yaml" in str(refused.value)


def test_all_mistakes_of_a_file_are_said_at_once() -> None:
    two = [changed("spec.entryPoint", "x"), changed("spec.submissionMode", "Foo")]
    with pytest.raises(ConfigError, match=r"(?s)entryPoint.*submissionMode"):
        read_manifests(yaml.safe_dump_all(two), "job.yaml")


@pytest.mark.parametrize(
    ("file", "source", "options"),
    [
        ("rayjob-train.yaml", "run.yaml", RenderOptions(mlflow=MLFLOW)),
        ("rayjob-sweep.yaml", "space.yaml", RenderOptions(mlflow=MLFLOW)),
        ("raycluster.yaml", "run.yaml", RenderOptions(staying=True)),
    ],
)
def test_files_are_what_render_prints(file: str, source: str, options: RenderOptions) -> None:
    assert (
        render_manifests(read_request(CLUSTER / source), options) == (CLUSTER / "kuberay" / file).read_text()
    )


def test_a_rendered_run_is_the_run(tmp_path: Path) -> None:
    """What stands in the ConfigMap is the run that was given: nothing that changes a result was changed."""
    source = ROOT / "raykd" / "presets" / "demo.yaml"
    rendered = list(
        yaml.safe_load_all(render_manifests(read_request(source, ["objective.alpha=0.3"]), RenderOptions()))
    )
    (tmp_path / "run.yaml").write_text(rendered[0]["data"]["run.yaml"])
    far, here = load_run(tmp_path / "run.yaml"), load_run(source, ["objective.alpha=0.3"])
    assert far.fingerprint() == here.fingerprint() and far.objective.alpha == here.objective.alpha
    assert far.output == "/raykd/runs" and far.serving.store == "/raykd/store" and far.ray.address == "auto"
    assert {str(t.actor.resources) for t in far.teachers} == {"{'teacher': 0.001}"}
    assert far.workers.resources == {"student": 0.001}
    groups = rendered[1]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert [(g["groupName"], g["replicas"], g["rayStartParams"]["num-cpus"]) for g in groups] == [
        ("teacher", 1, "1"),  # three teachers of a third of a CPU in one process
        ("student", 1, "1"),
    ]


def test_a_rendered_sweep_is_the_sweep(tmp_path: Path) -> None:
    source = CLUSTER / "space.yaml"
    rendered = list(
        yaml.safe_load_all(
            render_manifests(read_request(source, ["num_samples=5"]), RenderOptions(trials_at_once=3))
        )
    )
    (tmp_path / "space.yaml").write_text(rendered[0]["data"]["space.yaml"])
    far, here = load_sweep(tmp_path / "space.yaml"), load_sweep(source)
    assert far.fingerprint() == here.fingerprint() and far.trials == 5
    assert rendered[1]["spec"]["entrypoint"] == "raykd sweep /raykd/config/space.yaml --resume"
    assert [g["replicas"] for g in rendered[1]["spec"]["rayClusterSpec"]["workerGroupSpecs"]] == [1, 3]


def custom_resources(group: dict[str, Any]) -> dict[str, float]:
    """What a node of the group offers beside CPU, GPU and memory, as Ray reads it: by a shell, then as JSON."""
    offered: dict[str, float] = json.loads(shlex.split(group["rayStartParams"]["resources"])[0])
    return offered


def test_nodes_are_as_large_as_the_run_needs() -> None:
    changes = ["teacher_defaults.actor={num_cpus: 3, num_gpus: 1, replicas: 2, group: null}",
               "workers={num_workers: 4, num_cpus: 2, num_gpus: 1, resources: {fast: 0.5}}"]  # fmt: skip
    text = render_manifests(read_request(CLUSTER / "run.yaml", changes), RenderOptions(teacher_gib=24))
    job = next(one for one in read_manifests(text, "rendered") if one["kind"] == "RayJob")
    teacher, student = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = [g["template"]["spec"]["containers"][0]["resources"]["limits"] for g in (teacher, student)]
    assert (teacher["replicas"], limits[0]["cpu"], limits[0]["nvidia.com/gpu"], limits[0]["memory"]) == (
        4,
        3,
        1,
        "24Gi",
    )
    assert (student["replicas"], limits[1]["cpu"], limits[1]["nvidia.com/gpu"]) == (4, 2, 1)
    assert custom_resources(student) == {"student": 1.0, "fast": 1.0}


def test_a_run_that_a_new_cluster_cannot_do_is_not_rendered(tmp_path: Path) -> None:
    tree = yaml.safe_load((CLUSTER / "run.yaml").read_text())
    tree["data"]["train"] = {"kind": "files", "paths": ["train.jsonl"]}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=r"(?s)files of this machine.*train.jsonl.*raykd submit"):
        render_manifests(read_request(tmp_path / "run.yaml"), RenderOptions())
    there = read_request(tmp_path / "run.yaml", ["data.train.paths=[/raykd/runs/data/train.jsonl]"])
    assert "/raykd/runs/data/train.jsonl" in render_manifests(there, RenderOptions())
    with pytest.raises(ConfigError, match="named pool"):
        render_manifests(read_request(CLUSTER / "run.yaml", ["serving.pool=warm"]), RenderOptions())


def test_ray_s_launcher_takes_its_file() -> None:
    import jsonschema
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    tree = yaml.safe_load((CLUSTER / "ray-cluster.yaml").read_text())
    jsonschema.validate(tree, schema)
    for name in ("teacher", "student"):
        node = tree["available_node_types"][name]
        assert (
            node["resources"][name] == 1
            and 0 < node["min_workers"] < node["max_workers"] <= tree["max_workers"]
        )
    assert tree["available_node_types"]["head"]["resources"] == {"CPU": 0}
    starts = [
        c for c in tree["head_start_ray_commands"] + tree["worker_start_ray_commands"] if "ray start" in c
    ]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in c for c in starts)
    with pytest.raises(jsonschema.ValidationError, match="min_worker"):
        jsonschema.validate(
            {**tree, "available_node_types": {"student": {"node_config": {}, "min_worker": 1}}}, schema
        )


def test_the_image_runs_as_nobody_special_and_keeps_no_compiler() -> None:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    stages = [at for at, line in enumerate(lines) if line.startswith("FROM ")]
    last = "\n".join(lines[stages[-1] :])
    assert len(stages) == 2 and re.search(r"^USER 1000:1000$", last, re.MULTILINE)
    assert "build-essential" not in last and "ninja" not in last
    assert re.search(r"^ARG BASE=python:3\.11\.\d+-slim-", "\n".join(lines), re.MULTILINE), "a pinned base"
    said = "\n".join(line for line in lines if not line.startswith("#"))
    assert not re.search(r"(PASSWORD|SECRET|TOKEN|API_KEY)\s*=", said) and "://" not in said
    assert "--constraint constraints.txt" in said and "RAY_AUTH_MODE=token" in said


def test_nothing_shows_a_dashboard_to_the_network_without_a_token() -> None:
    for file in sorted(CLUSTER.rglob("*")):
        text = file.read_text() if file.is_file() else ""
        assert "dashboard-host=0.0.0.0" not in text and "dashboard-host: 0.0.0.0" not in text, file
        assert "RAY_AUTH_MODE=disabled" not in text, file
        if "ray start" in text or "kind: Ray" in text:
            assert "RAY_AUTH_MODE" in text and "token" in text, file


def test_a_cluster_that_stays_grows() -> None:
    text = (CLUSTER / "kuberay" / "raycluster.yaml").read_text()
    cluster = read_manifests(text, "raycluster.yaml")[0]
    assert cluster["kind"] == "RayCluster" and cluster["spec"]["enableInTreeAutoscaling"] is True
    groups = cluster["spec"]["workerGroupSpecs"]
    assert [g["groupName"] for g in groups] == ["teacher", "student"]
    assert all(custom_resources(g) == {g["groupName"]: 1.0} for g in groups)
    assert all(g["minReplicas"] < g["maxReplicas"] for g in groups)


COMMANDS = [
    line.strip() for line in (CLUSTER / "README.md").read_text().splitlines() if line.startswith("    ")
]


def parse_raykd(words: list[str]) -> None:
    """Whether the command line takes it; runs nothing."""
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]  # type: ignore[attr-defined]
    command.make_context("raykd", words)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_readme(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is run as far as one machine can: what needs a cluster is parsed, files that it names are there."""
    monkeypatch.chdir(ROOT)
    assert subprocess.run(["bash", "-n", "-c", line], check=False).returncode == 0
    for part in line.split("|"):
        words = shlex.split(part)
        files = [word for word in words if word.startswith("cluster/")]
        assert all((ROOT / file).is_file() for file in files), files
        if words[0] == "raykd":
            parse_raykd(words[1:])
        elif words[0] == "cluster/submit.sh":
            parse_raykd(["submit", *words[1:]])
        if words[:2] == ["raykd", "submit"] and "--print-only" in words:
            app(words[1:], standalone_mode=False)
            printed = shlex.split(capsys.readouterr().out)
            assert printed[:3] == ["ray", "job", "submit"]
            assert printed[printed.index("--") :] == [
                "--", "raykd", "train", "run.yaml", "ray.address=auto", "--resume"
            ]  # fmt: skip
        if words[:3] == ["raykd", "cluster", "render"] and files:
            app(words[1:], standalone_mode=False)
            assert len(read_manifests(capsys.readouterr().out, "rendered")) == 2


def test_submit_sh_reads_well() -> None:
    script = CLUSTER / "submit.sh"
    text = script.read_text()
    assert script.stat().st_mode & 0o111 and "set -euo pipefail" in text
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    told = subprocess.run([str(script), "--help"], capture_output=True, text=True, check=True).stdout
    assert told.startswith("submit.sh RUN_OR_SPACE") and "CLUSTER" in told and "#" not in told


def test_submit_sh_calls_raykd_submit(tmp_path: Path) -> None:
    """With an address it needs no kubectl; a fake raykd says how it was called."""
    fake = tmp_path / "raykd"
    fake.write_text('#!/bin/sh\necho "$RAY_AUTH_MODE" "$@"\nexit 4\n')
    fake.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RAY_ADDRESS": "http://127.0.0.1:1"}
    command = [str(CLUSTER / "submit.sh"), "run.yaml", "name=a b"]
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert told.returncode == 4, told.stderr
    assert told.stdout == "token submit run.yaml name=a b --address http://127.0.0.1:1 --output /raykd/runs\n"
