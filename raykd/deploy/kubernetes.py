"""The part of Kubernetes' objects that raykd's files use, as strict models: an unknown key is an error.

Decision record: Kubernetes drops a key that it does not know without a word, so a typo is a setting that never was.
Its schemas are megabytes and need a server or a copy; what our files use is this page. A field has the name that it
has in the file. A key that is right and missing here is added here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from raykd.spec import Spec


def _dns(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise ValueError(
            "a name has small letters, digits and '-', at most 63, and begins and ends with no '-'"
        )
    return name


def _quantity(value: str | int | float) -> str | int | float:
    if not re.fullmatch(r"\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?", str(value)):
        raise ValueError("an amount is a number, with m, Ki, Mi, Gi or Ti after it or nothing")
    return value


Name = Annotated[str, AfterValidator(_dns)]
Quantity = Annotated[str | int | float, AfterValidator(_quantity)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Metadata(Spec):
    """Of an object. A template's has labels only."""

    name: Name | None = None
    namespace: Name | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class KeyRef(Spec):
    """A key of a Secret or a ConfigMap."""

    name: Name
    key: str
    optional: bool = False


class EnvSource(Spec):
    """Where a variable's value comes from."""

    secretKeyRef: KeyRef | None = None
    configMapKeyRef: KeyRef | None = None


class Env(Spec):
    """An environment variable: a value that all may read, or a reference."""

    name: str
    value: str | None = None
    valueFrom: EnvSource | None = None

    @model_validator(mode="after")
    def _no_secret_in_the_file(self) -> Env:
        if (self.value is None) == (self.valueFrom is None):
            raise ValueError("a variable has either value or valueFrom")
        if self.value and re.search(r"(TOKEN|PASSWORD|SECRET|API_KEY)$", self.name, re.IGNORECASE):
            raise ValueError(f"{self.name} is a secret: take it from a Secret with valueFrom.secretKeyRef")
        return self


class Capabilities(Spec):
    """Of a container."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SeccompProfile(Spec):
    """Which system calls a container may make."""

    type: Literal["RuntimeDefault", "Localhost", "Unconfined"]


class SecurityContext(Spec):
    """As whom a pod or a container runs."""

    runAsNonRoot: bool | None = None
    runAsUser: int | None = Field(None, ge=1)
    runAsGroup: int | None = Field(None, ge=1)
    fsGroup: int | None = Field(None, ge=1)
    fsGroupChangePolicy: Literal["OnRootMismatch", "Always"] | None = None
    allowPrivilegeEscalation: bool | None = None
    readOnlyRootFilesystem: bool | None = None
    capabilities: Capabilities | None = None
    seccompProfile: SeccompProfile | None = None


class Resources(Spec):
    """What a container asks for and may use."""

    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}


class VolumeMount(Spec):
    """A volume at a path of a container."""

    name: Name
    mountPath: str = Field(pattern=r"^/")
    subPath: str | None = None
    readOnly: bool = False


class ContainerPort(Spec):
    """A port that a container listens on."""

    containerPort: Port
    name: str | None = None


class HttpGet(Spec):
    """A request whose answer says that a container is well."""

    path: str
    port: Port | str


class Exec(Spec):
    """A command in a container."""

    command: tuple[str, ...]


class Probe(Spec):
    """How a container is asked whether it is well."""

    httpGet: HttpGet | None = None
    exec: Exec | None = None
    initialDelaySeconds: int | None = Field(None, ge=0)
    periodSeconds: int | None = Field(None, ge=1)
    failureThreshold: int | None = Field(None, ge=1)
    timeoutSeconds: int | None = Field(None, ge=1)


class Container(Spec):
    """A container of a pod."""

    name: Name
    image: str = Field(min_length=1)
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] | None = None
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    workingDir: str | None = None
    env: tuple[Env, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    resources: Resources | None = None
    securityContext: SecurityContext | None = None
    volumeMounts: tuple[VolumeMount, ...] = ()
    readinessProbe: Probe | None = None
    livenessProbe: Probe | None = None


class ClaimRef(Spec):
    """A persistent volume claim."""

    claimName: Name
    readOnly: bool = False


class EmptyDir(Spec):
    """A folder of the node that lives as long as the pod."""

    sizeLimit: Quantity | None = None
    medium: Literal["", "Memory"] = ""


class HostPath(Spec):
    """A folder of the node that outlives the pod."""

    path: str = Field(pattern=r"^/")
    type: Literal["", "Directory", "DirectoryOrCreate"] = ""


class ConfigMapRef(Spec):
    """A ConfigMap as files."""

    name: Name
    optional: bool = False


class SecretRef(Spec):
    """A Secret as files."""

    secretName: Name
    defaultMode: int | None = None
    optional: bool = False


class ClaimSpec(Spec):
    """What a claim asks for."""

    accessModes: tuple[Literal["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany", "ReadWriteOncePod"], ...]
    resources: Resources
    storageClassName: str | None = None


class Volume(Spec):
    """A volume of a pod, of one kind."""

    name: Name
    persistentVolumeClaim: ClaimRef | None = None
    emptyDir: EmptyDir | None = None
    hostPath: HostPath | None = None
    configMap: ConfigMapRef | None = None
    secret: SecretRef | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Volume:
        kinds = self.model_dump(exclude={"name"}, exclude_none=True)
        if len(kinds) != 1:
            raise ValueError(f"a volume is of one kind, got {sorted(kinds) or 'none'}")
        return self


class PodSpec(Spec):
    """What a pod runs."""

    containers: tuple[Container, ...] = Field(min_length=1)
    initContainers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    securityContext: SecurityContext | None = None
    serviceAccountName: str | None = None
    automountServiceAccountToken: bool | None = None
    restartPolicy: Literal["Always", "OnFailure", "Never"] | None = None
    nodeSelector: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()
    terminationGracePeriodSeconds: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _mounts_exist(self) -> PodSpec:
        there = {volume.name for volume in self.volumes}
        for container in [*self.initContainers, *self.containers]:
            missing = {mount.name for mount in container.volumeMounts} - there
            if missing:
                raise ValueError(
                    f"container {container.name} mounts {sorted(missing)}, which is no volume of the pod"
                )
        return self


class PodTemplate(Spec):
    """A pod to be made."""

    metadata: Metadata = Metadata()
    spec: PodSpec


class Object(Spec):
    """What all objects of a file have."""

    apiVersion: str
    kind: str
    metadata: Metadata

    @field_validator("metadata")
    @classmethod
    def _named(cls, value: Metadata) -> Metadata:
        if value.name is None:
            raise ValueError("an object needs metadata.name")
        return value


class ServicePort(Spec):
    """A port of a service."""

    name: str | None = None
    port: Port
    targetPort: Port | str | None = None


class ServiceSpec(Spec):
    """Whom a service reaches; only inside the cluster."""

    type: Literal["ClusterIP"] = "ClusterIP"
    clusterIP: Literal["None"] | None = None
    selector: dict[str, str]
    ports: tuple[ServicePort, ...] = Field(min_length=1)


class Service(Object):
    """A name for pods."""

    apiVersion: Literal["v1"]
    kind: Literal["Service"]
    spec: ServiceSpec


class Selector(Spec):
    """Pods, or namespaces, by label."""

    matchLabels: dict[str, str] = {}


class DeploymentSpec(Spec):
    """Pods that are kept running."""

    replicas: int = Field(1, ge=0)
    selector: Selector
    template: PodTemplate
    strategy: dict[Literal["type"], Literal["Recreate", "RollingUpdate"]] = {}

    @model_validator(mode="after")
    def _selects_itself(self) -> DeploymentSpec:
        if not self.selector.matchLabels.items() <= self.template.metadata.labels.items():
            raise ValueError(
                "selector.matchLabels are no labels of the template: its pods would not be found"
            )
        return self


class Deployment(Object):
    """A server of several pods or one."""

    apiVersion: Literal["apps/v1"]
    kind: Literal["Deployment"]
    spec: DeploymentSpec


class PersistentVolumeClaim(Object):
    """Storage that outlives pods."""

    apiVersion: Literal["v1"]
    kind: Literal["PersistentVolumeClaim"]
    spec: ClaimSpec


class ConfigMap(Object):
    """Files of plain text."""

    apiVersion: Literal["v1"]
    kind: Literal["ConfigMap"]
    data: dict[str, str]


class Peer(Spec):
    """Who may talk, or be talked to."""

    podSelector: Selector | None = None
    namespaceSelector: Selector | None = None


class PolicyPort(Spec):
    """On which port."""

    port: Port
    endPort: Port | None = None
    protocol: Literal["TCP", "UDP"] = "TCP"


class Ingress(Spec):
    """Who may talk to the pods."""

    model_config = Spec.model_config | {"populate_by_name": True}
    from_: tuple[Peer, ...] = Field((), alias="from")
    ports: tuple[PolicyPort, ...] = ()


class NetworkPolicySpec(Spec):
    """Which connections pods may take."""

    podSelector: Selector
    policyTypes: tuple[Literal["Ingress", "Egress"], ...] = Field(min_length=1)
    ingress: tuple[Ingress, ...] = ()


class NetworkPolicy(Object):
    """Closes pods to all but those who are named."""

    apiVersion: Literal["networking.k8s.io/v1"]
    kind: Literal["NetworkPolicy"]
    spec: NetworkPolicySpec
