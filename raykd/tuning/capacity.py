"""Compute how many trials run at once, from what each node has left beside the teachers.

Decision record: Tune does not know of actors that it did not start, and would wait forever for resources that teachers
hold. So the number is computed before anything starts. The workers of a trial need not share a node, so they are
counted one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raykd.cluster.connection import pool_demand
from raykd.config import WorkersConfig
from raykd.errors import ResourceError
from raykd.runs.worker import list_worker_resources
from raykd.teachers.groups import Group


def count_concurrent_trials(
    nodes: Sequence[Mapping[str, float]],
    workers: WorkersConfig,
    groups: Sequence[Group],
    asked: int | None,
) -> int:
    """Return how many trials fit at once.

    Args:
        nodes: Resources of each node, less what named pools hold there.
        workers: The workers of one trial.
        groups: Teachers that keep their resources while trials run.
        asked: The user's own limit, refused and not lowered if it does not fit; None takes all that fit.

    Raises:
        ResourceError: No trial fits, or fewer than were asked for. Shows the arithmetic.
    """
    needs = list_worker_resources(workers)
    free = _subtract_teachers(nodes, groups)
    places = sum(_count_fits(node, needs) for node in free)
    fits = places // workers.num_workers
    wanted = asked or 1
    if fits < wanted:
        held = pool_demand(list(groups))
        holds = f"{workers.num_workers} x {_format_amounts(needs)}"
        parts = [f"teachers hold CPU {held.cpus:g}, GPU {held.gpus:g}"] if groups else []
        has = _format_amounts({name: sum(node.get(name, 0.0) for node in nodes) for name in needs})
        raise ResourceError(
            "not one trial fits on the cluster" if fits < 1 else f"{wanted} trials at once do not fit on the cluster",
            got="; ".join([f"a trial holds {holds}", *parts, f"the cluster has {has} for it"]),
            wanted=f"max_concurrent_trials of {fits} at most" if fits else "room for one trial",
            next_step="lower max_concurrent_trials" if fits else
            "lower set.workers (num_workers, num_cpus), use label: ahead so that trials have the teachers' "
            "resources, or use a larger cluster",
        )  # fmt: skip
    return asked or fits


def _subtract_teachers(
    nodes: Sequence[Mapping[str, float]], groups: Sequence[Group]
) -> list[dict[str, float]]:
    """Return what each node has left with every replica on a node with room, else on the one with most CPUs."""
    free = [dict(node) for node in nodes]
    for group in groups:
        needs = {"CPU": group.num_cpus, "GPU": group.num_gpus, **group.resources}
        for _ in range(group.replicas):
            roomy = sorted(free, key=lambda node: -node.get("CPU", 0.0))
            place = next((node for node in roomy if _count_fits(node, needs) >= 1), roomy[0] if roomy else {})
            for name, amount in needs.items():
                place[name] = place.get(name, 0.0) - amount
    return free


def _count_fits(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Return how many workers with these needs fit on a node."""
    # Fractions of a CPU add up to sums such as 0.9999999 of one.
    counts = [int((node.get(name, 0.0) + 1e-6) // amount) for name, amount in needs.items() if amount > 0]
    return max(0, min(counts, default=0))


def _format_amounts(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in amounts.items())
