"""How many trials run at once: what each node has left beside the teachers, by arithmetic, before anything starts.

Decision record: Tune knows nothing of actors that it did not start, and would wait without end for resources that
teachers hold. A trial's first worker and the others need not be on one node, so a trial of several workers is
counted worker by worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raykd.cluster.connection import pool_demand
from raykd.config import WorkersConfig
from raykd.errors import ResourceError
from raykd.runs.ray_train import list_worker_resources
from raykd.teachers.groups import Group


def count_concurrent_trials(
    nodes: Sequence[Mapping[str, float]],
    workers: WorkersConfig,
    groups: Sequence[Group],
    asked: int | None,
) -> int:
    """Trials that fit at once.

    Args:
        nodes: Resources of each node, without what named pools hold there.
        groups: Teachers that keep their resources while trials run.
        asked: The user's own limit; one that does not fit is refused, not lowered.

    Raises:
        ResourceError: With the arithmetic: not one trial fits, or fewer than were asked for.
    """
    needs = list_worker_resources(workers)
    free = _without_teachers(nodes, groups)
    places = sum(_times(node, needs) for node in free)
    fits = places // workers.num_workers
    wanted = asked or 1
    if fits < wanted:
        held = pool_demand(list(groups))
        parts = [f"teachers hold CPU {held.cpus:g}, GPU {held.gpus:g}"] if groups else []
        has = _shown({name: sum(node.get(name, 0.0) for node in nodes) for name in needs})
        raise ResourceError(
            "not one trial fits on the cluster" if fits < 1 else f"{wanted} trials at once do not fit on the cluster",
            got="; ".join(
                [f"a trial holds {workers.num_workers} x {_shown(needs)}", *parts, f"the cluster has {has} for it"]
            ),
            wanted=f"max_concurrent_trials of {fits} at most" if fits else "room for one trial",
            next_step="lower max_concurrent_trials" if fits else
            "lower set.workers (num_workers, num_cpus), use label: ahead so that trials have the teachers' "
            "resources, or use a larger cluster",
        )  # fmt: skip
    return asked or fits


def _without_teachers(
    nodes: Sequence[Mapping[str, float]], groups: Sequence[Group]
) -> list[dict[str, float]]:
    """What is left of the nodes when each replica is put where it fits; what fits nowhere is taken from the largest."""
    free = [dict(node) for node in nodes]
    for group in groups:
        needs = {"CPU": group.num_cpus, "GPU": group.num_gpus, **group.resources}
        for _ in range(group.replicas):
            roomy = sorted(free, key=lambda node: -node.get("CPU", 0.0))
            place = next((node for node in roomy if _times(node, needs) >= 1), roomy[0] if roomy else {})
            for name, amount in needs.items():
                place[name] = place.get(name, 0.0) - amount
    return free


def _times(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Return how often ``needs`` fit on a node."""
    counts = [int((node.get(name, 0.0) + 1e-6) // amount) for name, amount in needs.items() if amount > 0]
    return max(0, min(counts, default=0))


def _shown(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in amounts.items())
