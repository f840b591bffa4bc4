"""Read a file of Kubernetes objects and check it against KubeRay's schema and raykd's rules.

Decision record: the schemas are data. `schemas/kuberay.json` is what KubeRay publishes, pruned to the keys that raykd's
files use (an unknown key is an error, which Kubernetes itself would drop without a word); `schemas/rules.yaml` is what
raykd asks beside it; what JSON schema cannot say is checked here. All that is wrong in a file is said at once, with the
object's kind and name and the path of the key, as for a run file. A Secret is no kind that is taken: what stands in a
file is soon in a repository, so files only refer to one that `kubectl create secret` made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from raykd.errors import ConfigError
from raykd.parse import JsonObject
from raykd.redaction import redact_value

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

KINDS = ("RayCluster", "RayJob", "ConfigMap")
"""What a rendered file may hold."""
_SCHEMAS = Path(__file__).parent / "schemas"


def read_manifests(text: str, origin: str) -> list[JsonObject]:
    """Return the objects of a file of one or several YAML documents.

    Raises:
        ConfigError: All that is wrong in it.
    """
    try:
        trees = [tree for tree in yaml.safe_load_all(text) if tree is not None]
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is not valid YAML", got=" ".join(str(error).split())) from None
    if wrong := [line for tree in trees for line in _describe_problems(tree)]:
        raise ConfigError("\n".join([f"{origin} is no file that raykd would send to a cluster", *wrong]))
    if not trees:
        raise ConfigError(f"{origin} holds no object", got="nothing", wanted=", ".join(KINDS))
    return trees


def schema_problems(tree: object, rule: str) -> dict[str, str]:
    """Return what is wrong with a tree: path of a key to what people should read.

    Args:
        tree: An object or a part of one.
        rule: Where its schema stands in `rules.yaml`: "RayJob", "$defs/pod".
    """
    found: dict[str, str] = {}
    for error in _validator(rule).iter_errors(tree):
        path = ".".join(map(str, error.absolute_path))
        message = error.schema.get("x-message")
        if error.validator == "additionalProperties":
            for key in error.instance.keys() - error.schema.get("properties", {}).keys():
                found[f"{path}.{key}".lstrip(".")] = "there is no such key"
        elif message is not None:
            values = error.instance if isinstance(error.instance, dict) else {}
            found[path] = message.format_map({"name": "it", **values}) + _got(error.instance)
        elif error.validator == "required":
            found[f"{path}.{error.message.split(chr(39))[1]}".lstrip(".")] = "the key is missing"
        else:
            found.setdefault(path, error.message)
    return found


@cache
def _validator(rule: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    kuberay = json.loads((_SCHEMAS / "kuberay.json").read_text(encoding="utf-8"))
    rules = yaml.safe_load((_SCHEMAS / "rules.yaml").read_text(encoding="utf-8"))
    resources = [
        (name, DRAFT202012.create_resource(tree))
        for name, tree in (("kuberay.json", kuberay), ("rules", rules))
    ]
    return Draft202012Validator({"$ref": f"rules#/{rule}"}, registry=Registry().with_resources(resources))


def _got(value: object) -> str:
    return "" if isinstance(value, (dict, list)) else f"; got {value!r}"


def _describe_problems(tree: object) -> Iterator[str]:
    keys: JsonObject = tree if isinstance(tree, dict) else {}
    kind, metadata = keys.get("kind"), keys.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if kind not in KINDS:
        yield f"  {kind or type(tree).__name__} {name or 'without a name'}: wanted one of the kinds {', '.join(KINDS)}"
        return
    problems = schema_problems(tree, kind)
    for path, message in problems.items():
        yield f"  {kind} {name}: {path or '(the whole object)'}: {message}"
    if not problems and kind != "ConfigMap":
        for message in _find_conflicts(keys["spec"]):
            yield f"  {kind} {name}: {message}"


def _find_conflicts(spec: JsonObject) -> Iterator[str]:
    """Describe what no schema can say of a RayJob's or a RayCluster's spec, which its schema takes."""
    cluster = spec.get("rayClusterSpec", spec)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    for pod in [*pods, *([spec["submitterPodTemplate"]["spec"]] if "submitterPodTemplate" in spec else [])]:
        yield from find_missing_volumes(pod)
    for group in cluster["workerGroupSpecs"]:
        least, replicas, most = (group.get(key, 0) for key in ("minReplicas", "replicas", "maxReplicas"))
        if not least <= replicas <= most:
            yield (
                f"{group['groupName']}: wanted minReplicas <= replicas <= maxReplicas, "
                f"got {least}, {replicas}, {most}"
            )
    images = {pod["containers"][0]["image"] for pod in pods}
    if len(images) > 1:
        yield f"head and workers need one image, got {sorted(images)}"
    claims = [_claims(pod) for pod in pods]
    if not claims[0] or any(other != claims[0] for other in claims):
        yield f"head and workers need the same volume of runs at the same path, got {claims}"
    variables = (yaml.safe_load(spec.get("runtimeEnvYAML", "")) or {}).get("env_vars", {})
    for name, value in variables.items():
        if redact_value(name, value) != str(value):
            yield f"runtimeEnvYAML: env_vars.{name} is a secret, and the Jobs API shows it to all: use a Secret"


def find_missing_volumes(pod: JsonObject) -> Iterator[str]:
    """Describe the mounts of a pod that name no volume of it."""
    there = {volume["name"] for volume in pod.get("volumes", ())}
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        missing = {mount["name"] for mount in container.get("volumeMounts", ())} - there
        if missing:
            yield f"container {container['name']} mounts {sorted(missing)}, which is no volume of the pod"


def _claims(pod: JsonObject) -> dict[str, str]:
    """Return the persistent volume claims of a pod's first container: path to claim."""
    volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
    mounts = {m["mountPath"]: volumes[m["name"]] for m in pod["containers"][0].get("volumeMounts", ())
              if m["name"] in volumes}  # fmt: skip
    claims = {path: volume.get("persistentVolumeClaim") for path, volume in mounts.items()}
    return {path: claim["claimName"] for path, claim in claims.items() if claim}
