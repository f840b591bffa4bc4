"""Waiting for a busy cluster: for a time with an end, and never in silence.

Decision record: whether a run fits the cluster at all is arithmetic (`check_cluster`). What fits may still be held by
somebody else, and Ray waits for it without a word and without end. So a placement group is asked for first, as workers
or actors will be: it stands in the same queue, wakes an autoscaler, and knows how nodes are cut up, which a sum of free
CPUs does not. Once it was granted it is given back, and the real one asked for; who is quicker in between makes Ray
Train's own limits count, which are finite too. Where resources are free this costs about 0.05 s.
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
        what: Whose they are, for people.
        say: Takes a line every ``every_s``.

    Raises:
        ResourceError: It could not within ``limit_s``.
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
    """For example ``2 CPU, 1 free``."""
    totals: dict[str, float] = {}
    for bundle in bundles:
        for name, amount in bundle.items():
            totals[name] = totals.get(name, 0.0) + amount
    return "; ".join(f"{amount:g} {name}, {free.get(name, 0.0):g} free" for name, amount in totals.items())
