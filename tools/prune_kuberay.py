"""Write raykd/deploy/schemas/kuberay.json: the part of KubeRay's published schema that raykd's files use.

Usage: python -m tools.prune_kuberay CRD VERSION
  CRD      ray.io_rayjobs.yaml of a release of KubeRay (helm-chart/kuberay-operator/crds); it holds RayCluster too
  VERSION  that release, for the comment in the file

Kubernetes drops a key that it does not know without a word, so a typo is a setting that never was. Here an unknown key
is an error: every object takes the keys of `KEPT` that the published schema has, and no other. A key that is right and
missing is added to `KEPT`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

TARGET = Path(__file__).parents[1] / "raykd" / "deploy" / "schemas" / "kuberay.json"
KEPT = """
activeDeadlineSeconds add allowPrivilegeEscalation annotations args authOptions automountServiceAccountToken
autoscalerOptions backoffLimit capabilities claimName command configMap configMapKeyRef containerPort
containers defaultMode drop effect emptyDir enableInTreeAutoscaling enableIngress entrypoint entrypointNumCpus
entrypointNumGpus entrypointResources env exec failureThreshold fsGroup fsGroupChangePolicy groupName
headGroupSpec hostPath httpGet idleTimeoutSeconds image imagePullPolicy initContainers initialDelaySeconds key
labels limits livenessProbe maxReplicas medium metadata minReplicas mode mountPath name namespace nodeSelector
numOfHosts operator optional path periodSeconds persistentVolumeClaim port ports preRunningDeadlineSeconds
rayClusterSpec rayStartParams rayVersion readOnly readOnlyRootFilesystem readinessProbe replicas requests
resources restartPolicy runAsGroup runAsNonRoot runAsUser runtimeEnvYAML seccompProfile secret secretKeyRef
secretName securityContext serviceAccountName serviceType shutdownAfterJobFinishes sizeLimit spec subPath
submissionMode submitterConfig submitterPodTemplate suspend template terminationGracePeriodSeconds
timeoutSeconds tolerations tolerationSeconds ttlSecondsAfterFinished type upscalingMode value valueFrom
version volumeMounts volumes workerGroupSpecs workingDir
"""
SHARED = {
    "template": "template",
    "submitterPodTemplate": "template",
    "containers": "containers",
    "initContainers": "containers",
    "livenessProbe": "probe",
    "readinessProbe": "probe",
}
"""Keys whose schema is written once, under this name in ``$defs``."""


def prune(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with the kept keys alone, and no other key allowed; what is shared goes to the definitions."""
    names = KEPT.split()
    kept = {k: schema[k] for k in ("type", "enum", "pattern", "anyOf", "minimum", "required") if k in schema}
    if "properties" in schema:
        inside = {
            name: prune(part, definitions) for name, part in schema["properties"].items() if name in names
        }
        for name in inside.keys() & SHARED.keys():
            if definitions.setdefault(SHARED[name], inside[name]) != inside[name]:
                raise ValueError(f"{name} is not of one kind in the published schema: take it from SHARED")
            inside[name] = {"$ref": f"#/$defs/{SHARED[name]}"}
        kept |= {"properties": inside, "additionalProperties": False}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            kept[key] = prune(schema[key], definitions)
    return kept


if __name__ == "__main__":
    versions = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))["spec"]["versions"]
    found = next(one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1")
    definitions: dict[str, Any] = {}
    pruned = prune(found["properties"]["spec"], definitions)
    comment = f"RayJob.spec (ray.io/v1) of KubeRay {sys.argv[2]}, pruned by tools/prune_kuberay.py"
    tree = {"$comment": comment, **pruned, "$defs": definitions}
    TARGET.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
