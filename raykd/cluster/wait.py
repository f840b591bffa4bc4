"""Wait for a busy cluster: for a limited time, and with a line now and then.

Decision record: whether a run fits the cluster at all is arithmetic (`check_cluster`). Resources that fit may still be
in use, and Ray waits for them silently and without end. So a placement group is requested first, like those of workers
or actors: it stands in the same queue, wakes an autoscaler, and respects the borders of nodes, which a sum of free CPUs
does not. Once granted it is released, and the real one is requested. If somebody is quicker in between, Ray Train's own
limits apply, which are finite too. With free resources this costs about 0.05 s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from raykd.errors import ResourceError

HEARTBEAT_S = 30.0
"""Seconds between two lines while somebody waits without a progress bar."""


def wait_for_resources(
    bundles: Sequence[Mapping[str, float]],
    what: str,
    say: Callable[[str], None],
    limit_s: float,
    *,
    every_s: float = HEARTBEAT_S,
) -> None:
    """Block until the cluster can place these bundles at once.

    Args:
        bundles: Resources of each process.
        what: Whose they are, for messages.
        say: Shows a line.
        limit_s: Longest wait, in seconds.
        every_s: Seconds between two lines.

    Raises:
        ResourceError: The cluster could not within ``limit_s``.
    """
    asked = [{name: amount for name, amount in bundle.items() if amount} for bundle in bundles]
    asked = [bundle for bundle in asked if bundle]
    if not asked:
        return
    group = placement_group(asked, strategy="PACK")
    begun = said = time.monotonic()
    try:
        while not group.wait(min(1.0, limit_s)):
            now = time.monotonic()
            if now - begun >= limit_s:
                raise ResourceError(
                    f"{what} could not start: the cluster is busy",
                    got=f"{describe_demand(asked, ray.available_resources())} after {now - begun:.0f} s",
                    wanted="what is asked for, at once",
                    next_step="end what holds it (other runs, raykd teachers down), or wait longer: ray.wait_s",
                )
            if now - said >= every_s:
                said = now
                say(f"{what}: waiting for {describe_demand(asked, ray.available_resources())}")
    finally:
        remove_placement_group(group)


def describe_demand(bundles: Sequence[Mapping[str, float]], free: Mapping[str, float]) -> str:
    """Return what is asked for and what is free, for example ``2 CPU, 1 free``."""
    totals: dict[str, float] = {}
    for bundle in bundles:
        for name, amount in bundle.items():
            totals[name] = totals.get(name, 0.0) + amount
    return "; ".join(f"{amount:g} {name}, {free.get(name, 0.0):g} free" for name, amount in totals.items())
