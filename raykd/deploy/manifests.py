"""Files of Kubernetes objects: read, checked against the models, written.

Decision record: all that is wrong in a file is said at once, with the object's kind and name and the path of the key,
as for a run file. A Secret is refused: what stands in a file is soon in a repository, so files only refer to one that
`kubectl create secret` made.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from raykd.deploy.kuberay import RayCluster, RayJob
from raykd.deploy.kubernetes import (
    ConfigMap,
    Deployment,
    NetworkPolicy,
    Object,
    PersistentVolumeClaim,
    Service,
)
from raykd.errors import ConfigError

KINDS = (RayCluster, RayJob, Service, Deployment, PersistentVolumeClaim, ConfigMap, NetworkPolicy)
"""What our files may hold."""
_ANY: TypeAdapter[Any] = TypeAdapter(
    Annotated[
        RayCluster | RayJob | Service | Deployment | PersistentVolumeClaim | ConfigMap | NetworkPolicy,
        Field(discriminator="kind"),
    ]
)


def read_manifests(text: str, origin: str) -> list[Object]:
    """The objects of a file of one or several YAML documents.

    Raises:
        ConfigError: all that is wrong in it.
    """
    try:
        trees = [tree for tree in yaml.safe_load_all(text) if tree is not None]
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is not valid YAML", got=" ".join(str(error).split())) from None
    return check_manifests(trees, origin)


def check_manifests(trees: Iterable[Any], origin: str) -> list[Object]:
    """As `read_manifests`, of trees that are read already."""
    objects: list[Object] = []
    wrong: list[str] = []
    for tree in trees:
        try:
            objects.append(_ANY.validate_python(tree))
        except ValidationError as error:
            wrong += _explain(error, tree)
    if wrong:
        raise ConfigError("\n".join([f"{origin} is no file that raykd would send to a cluster", *wrong]))
    if not objects:
        raise ConfigError(
            f"{origin} holds no object", got="nothing", wanted=", ".join(k.__name__ for k in KINDS)
        )
    return objects


def write_manifests(trees: Iterable[Any]) -> str:
    """Trees as one file of YAML documents; texts of several lines stand as they are."""
    return "---\n".join(
        yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110) for tree in trees
    )


class _Dumper(yaml.SafeDumper):
    """Writes several lines as a block, and no anchors, which not all who read such files take."""

    def ignore_aliases(self, data: Any) -> bool:
        """Of everything."""
        return True


def _block(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _block)


def _explain(error: ValidationError, tree: Any) -> Iterable[str]:
    kind = tree.get("kind") if isinstance(tree, dict) else type(tree).__name__
    metadata = tree.get("metadata") if isinstance(tree, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else "without a name"
    for problem in error.errors(include_url=False):
        path = ".".join(str(part) for part in problem["loc"] if part != kind) or "(the whole object)"
        if problem["type"] == "extra_forbidden":
            said = "there is no such key"
        elif problem["type"] == "missing":
            said = "the key is missing"
        else:
            said = f"{problem['msg'].removeprefix('Value error, ')}"
            if not isinstance(problem["input"], (dict, list)):
                said += f"; got {problem['input']!r}"
        yield f"  {kind} {name}: {path}: {said}"
