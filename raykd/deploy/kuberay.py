"""KubeRay's RayCluster and RayJob (ray.io/v1, operator 1.6 and later) as strict models, with what raykd asks of them.

Decision record: KubeRay accepts much that loses a night: a submission mode that there is none of, a submitter that
sends the job three times, a job that waits for nodes for ever, a cluster without a token whose dashboard runs
anybody's code. So the models refuse more than the operator does: token authentication, no root, no second sending,
a deadline, a dashboard inside the cluster only. A RayJob may be tried again (`backoffLimit`) on a new cluster, as its
entrypoint goes on from the last checkpoint.
"""

from __future__ import annotations

import json
import shlex
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from raykd.deploy.kubernetes import (
    Container,
    Env,
    Metadata,
    Name,
    Object,
    PodSpec,
    PodTemplate,
    Resources,
    SecurityContext,
)
from raykd.redaction import redact_value
from raykd.spec import Spec

RAY_VERSION = "2.60.0"
"""Of the image: `ray --version` in it must say the same."""


class AuthOptions(Spec):
    """Who may use the cluster: those who have the token, which the operator makes and keeps in a Secret."""

    mode: Literal["token"]
    secretName: Name | None = None


class AutoscalerOptions(Spec):
    """When nodes come and go."""

    version: Literal["v1", "v2"] | None = None
    idleTimeoutSeconds: int | None = Field(None, ge=0)
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] | None = None
    resources: Resources | None = None
    securityContext: SecurityContext | None = None
    env: tuple[Env, ...] = ()


class _RayGroup(Spec):
    rayStartParams: dict[str, str]
    template: PodTemplate
    resources: dict[str, str] = {}
    labels: dict[str, str] = {}

    @model_validator(mode="after")
    def _may_be_started(self) -> _RayGroup:
        _not_as_root(self.template.spec)
        offered = self.rayStartParams.get("resources")
        if offered is not None:
            _resources(offered)
        return self

    @property
    def custom_resources(self) -> dict[str, float]:
        """What a node of the group offers beside CPU, GPU and memory."""
        return _resources(self.rayStartParams.get("resources", "{}"))


class HeadGroup(_RayGroup):
    """The head: no work, the dashboard, the jobs' drivers."""

    serviceType: Literal["ClusterIP"]
    """The dashboard runs the code of whoever reaches it, so it is not reached from outside."""
    enableIngress: Literal[False] = False

    @model_validator(mode="after")
    def _no_work(self) -> HeadGroup:
        if self.rayStartParams.get("num-cpus") != "0":
            raise ValueError(
                'rayStartParams.num-cpus must be "0": what runs on the head takes the cluster down with it'
            )
        return self


class WorkerGroup(_RayGroup):
    """Nodes of one type."""

    groupName: Name
    replicas: int = Field(0, ge=0)
    minReplicas: int = Field(ge=0)
    maxReplicas: int = Field(ge=0)
    numOfHosts: int = Field(1, ge=1)
    idleTimeoutSeconds: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> WorkerGroup:
        if not self.minReplicas <= self.replicas <= self.maxReplicas:
            raise ValueError(
                f"wanted minReplicas <= replicas <= maxReplicas, got {self.minReplicas}, {self.replicas}, "
                f"{self.maxReplicas}"
            )
        return self


class RayClusterSpec(Spec):
    """A Ray cluster."""

    rayVersion: Literal["2.60.0"]
    authOptions: AuthOptions
    enableInTreeAutoscaling: bool = False
    autoscalerOptions: AutoscalerOptions | None = None
    headGroupSpec: HeadGroup
    workerGroupSpecs: tuple[WorkerGroup, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_image_one_volume(self) -> RayClusterSpec:
        groups = [self.headGroupSpec, *self.workerGroupSpecs]
        ray = [group.template.spec.containers[0] for group in groups]
        if len({container.image for container in ray}) > 1:
            raise ValueError(f"head and workers need one image, got {sorted({c.image for c in ray})}")
        claims = [_claims(group.template.spec) for group in groups]
        if not claims[0] or any(other != claims[0] for other in claims):
            raise ValueError(f"head and workers need the same volume of runs at the same path, got {claims}")
        return self


class RayCluster(Object):
    """A Ray cluster that stays until it is deleted."""

    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    spec: RayClusterSpec


class SubmitterConfig(Spec):
    """Of the pod that sends the job: it sends once, as a second time is refused for its equal submission id."""

    backoffLimit: Literal[0]


class RayJobSpec(Spec):
    """A cluster that lives as long as its job."""

    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"] = "K8sJobMode"
    submitterConfig: SubmitterConfig
    submitterPodTemplate: PodTemplate | None = None
    backoffLimit: int = Field(0, ge=0)
    preRunningDeadlineSeconds: int = Field(ge=1)
    activeDeadlineSeconds: int | None = Field(None, ge=1)
    shutdownAfterJobFinishes: Literal[True]
    ttlSecondsAfterFinished: int = Field(0, ge=0)
    entrypointNumCpus: float | None = Field(None, ge=0.0)
    entrypointNumGpus: float | None = Field(None, ge=0.0)
    entrypointResources: str | None = None
    runtimeEnvYAML: str | None = None
    metadata: dict[str, str] = {}
    suspend: bool = False
    rayClusterSpec: RayClusterSpec

    @field_validator("entrypoint")
    @classmethod
    def _goes_on(cls, value: str) -> str:
        words = shlex.split(value)
        wanted = {"train": "--resume", "sweep": "--continue"}.get(words[1] if len(words) > 1 else "")
        if words[:1] != ["raykd"] or wanted is None or wanted not in words:
            raise ValueError(
                "wanted raykd train RUN.yaml --resume or raykd sweep SPACE.yaml --continue: a second attempt goes on"
            )
        return value

    @field_validator("runtimeEnvYAML")
    @classmethod
    def _no_secrets(cls, value: str | None) -> str | None:
        environment = (yaml.safe_load(value or "") or {}).get("env_vars", {})
        for name, one in environment.items():
            if redact_value(name, one) != str(one):
                raise ValueError(
                    f"env_vars.{name} is a secret, and the Jobs API shows it to all: use a Secret"
                )
        return value


class RayJob(Object):
    """One run or one sweep, with a cluster of its own."""

    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec

    @field_validator("metadata")
    @classmethod
    def _short(cls, value: Metadata) -> Metadata:
        if len(value.name or "") > 47:
            raise ValueError(
                "KubeRay takes at most 47 characters for a RayJob's name: pods are named after it"
            )
        return value


def _not_as_root(pod: PodSpec) -> None:
    context = pod.securityContext
    if context is None or not context.runAsNonRoot or context.runAsUser is None:
        raise ValueError("template.spec.securityContext needs runAsNonRoot: true and runAsUser")
    for container in pod.containers:
        _check_container(container)


def _check_container(container: Container) -> None:
    own = container.securityContext
    if own is None or own.allowPrivilegeEscalation is not False:
        raise ValueError(f"container {container.name} needs securityContext.allowPrivilegeEscalation: false")
    modes = [env.value for env in container.env if env.name == "RAY_AUTH_MODE"]
    if modes != ["token"]:
        raise ValueError(f"container {container.name} needs env RAY_AUTH_MODE=token, got {modes or 'none'}")


def _resources(text: str) -> dict[str, float]:
    """Ray's custom resources as they stand in rayStartParams: JSON, in quotes for the shell that starts Ray."""
    words = shlex.split(text)
    try:
        found: Any = json.loads(words[0] if words else "")
        return {str(name): float(amount) for name, amount in found.items()}
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"rayStartParams.resources must be JSON in single quotes, got {text}") from None


def _claims(pod: PodSpec) -> dict[str, str]:
    """Persistent volume claims of a pod's first container: path to claim."""
    claims = {v.name: v.persistentVolumeClaim.claimName for v in pod.volumes if v.persistentVolumeClaim}
    return {m.mountPath: claims[m.name] for m in pod.containers[0].volumeMounts if m.name in claims}
