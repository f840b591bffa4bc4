"""Estimate what nodes a run needs: how many of which type, how large.

Decision record: one student node for each worker, as DeepSpeed shards over workers. Teacher processes share nodes as
large as the largest of them. Types are told apart by the custom resources `teacher` and `student`, of which a node has
1 and a process asks for a thousandth: it only says where, never how many. Memory is an estimate on the safe side (a
process with torch and transformers holds about 1 GiB before it loads anything; weights are counted twice, while they
are read), so it can be set by hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from raykd.config import Run, RunConfig, WorkersConfig
from raykd.teachers.groups import Group
from raykd.teachers.pools.own_pool import Placement, group_placements
from raykd.teachers.spec import TeacherSpec

PLACE = 0.001
"""Of the custom resource of its node type that a process asks for."""
BASE_GIB, PROCESS_GIB = 2.0, 1.5
"""Of a node by itself (Ray, its object store), and of each process on it."""


@dataclass(frozen=True)
class NodeType:
    """Nodes of one kind.

    Attributes:
        name: "teacher" or "student".
        nodes: How many.
        cpus: Of one node.
        gpus: Of one node.
        gib: Memory of one node.
        resources: Custom resources that one node offers.
        why: The arithmetic, for people.
    """

    name: str
    nodes: int
    cpus: int
    gpus: int
    gib: int
    resources: dict[str, float]
    why: str

    @property
    def ray_resources(self) -> str:
        """The custom resources as rayStartParams takes them: JSON, in quotes for the shell that starts Ray."""
        inside = ", ".join(f'"{name}": {amount:g}' for name, amount in self.resources.items())
        return f"'{{{inside}}}'"


def plan_nodes(run: Run, trials_at_once: int) -> list[NodeType]:
    """Return the nodes that hold the run while teachers answer and students learn."""
    groups = [found for member in run.members.values() for found in _groups(member)]
    return [*([_teachers(run, groups)] if groups else []), _students(run, trials_at_once)]


def _groups(member: RunConfig) -> list[Group]:
    teachers = member.active_teachers
    return group_placements([Placement(TeacherSpec(t, (), member.task), t.actor) for t in teachers])


def _teachers(run: Run, groups: Sequence[Group]) -> NodeType:
    cpus = max(1, *(math.ceil(g.num_cpus) for g in groups))
    gpus = max(math.ceil(g.num_gpus) for g in groups)
    bins: list[tuple[float, float, int]] = []
    for g in sorted(groups, key=lambda g: (-g.num_gpus, -g.num_cpus)):
        for _ in range(g.replicas):
            for at, (has_cpus, has_gpus, processes) in enumerate(bins):
                if g.num_cpus <= has_cpus + 1e-9 and g.num_gpus <= has_gpus + 1e-9:
                    bins[at] = (has_cpus - g.num_cpus, has_gpus - g.num_gpus, processes + 1)
                    break
            else:
                bins.append((cpus - g.num_cpus, gpus - g.num_gpus, 1))
    processes = max(count for _, _, count in bins)
    weights = sum(_weights(getattr(t, "path", None)) for t in run.active_teachers)
    gib = BASE_GIB + PROCESS_GIB * processes + 2 * weights / 2**30
    why = ", ".join(f"{g.name} {g.replicas} x {g.num_cpus:g} CPU" + (f" {g.num_gpus:g} GPU" if g.num_gpus else "")
                     for g in groups)  # fmt: skip
    offered = _offered("teacher", [g.resources for g in groups], processes)
    return NodeType("teacher", len(bins), cpus, gpus, math.ceil(gib), offered, why)


def _students(run: Run, trials_at_once: int) -> NodeType:
    training = [t.training.workers for t in run.trained_teachers]
    most = max([run.workers.num_workers * trials_at_once, *(w.num_workers for w in training)])
    workers: list[WorkersConfig] = [run.workers, *training]
    cpus = max(math.ceil(w.num_cpus) for w in workers)
    gpus = max(math.ceil(w.num_gpus) for w in workers)
    weights = _weights(getattr(run.student, "path", None))
    # six times the weights: themselves, gradients, two moments, and twice while they are read
    gib = BASE_GIB + 2 * PROCESS_GIB + 6 * weights / 2**30
    why = f"{run.workers.num_workers} worker(s)"
    why += f" x {trials_at_once} trials at once" if trials_at_once > 1 else ""
    why += f", {max(w.num_workers for w in training)} to train a teacher" if training else ""
    offered = _offered("student", [w.resources for w in workers], 1)
    return NodeType("student", most, cpus, gpus, math.ceil(gib), offered, why)


def _offered(name: str, asked: Sequence[dict[str, float]], processes: int) -> dict[str, float]:
    """Return what a node offers: its type, and as much of any other resource as its processes ask for."""
    offered = {name: 1.0}
    for resources in asked:
        for other, amount in resources.items():
            offered[other] = max(offered.get(other, 0.0), float(math.ceil(amount * processes)))
    return {other: amount for other, amount in offered.items() if amount}


def _weights(path: str | None) -> int:
    """Return the bytes of a model folder of this machine; 0 where it is not here."""
    folder = Path(path) if path else None
    return sum(f.stat().st_size for f in folder.glob("*.safetensors")) if folder and folder.is_dir() else 0


def with_memory(node: NodeType, gib: int | None) -> NodeType:
    """Return the same nodes with this much memory; None leaves the estimate."""
    return node if gib is None else replace(node, gib=gib)
