"""How many trials run at once: arithmetic over nodes, and refusals that show it."""

from __future__ import annotations

from typing import Any

import pytest

from raykd.config import ActorConfig, WorkersConfig
from raykd.errors import ResourceError
from raykd.tasks import Classification
from raykd.teachers.groups import Group
from raykd.teachers.pools.own_pool import Placement, group_placements
from raykd.tuning.capacity import count_concurrent_trials, list_worker_resources
from tests.fakes import model_spec

Node = dict[str, float]


def cpus(*amounts: float, **more: float) -> list[Node]:
    """Nodes with so many CPUs, and what every node has."""
    return [{"CPU": amount, "memory": 1e9, "object_store_memory": 1e9, **more} for amount in amounts]


def teachers(**actor: Any) -> list[Group]:
    """One teacher, as it asks to be placed."""
    spec = model_spec("en", "", ("no", "yes"), Classification())
    return group_placements([Placement(spec, ActorConfig.model_validate(actor))])


@pytest.mark.parametrize(
    ("nodes", "workers", "kept", "fits"),
    [
        (cpus(4), {}, [], 4),
        (cpus(4), {"num_cpus": 1.5}, [], 2),
        (cpus(1), {"num_cpus": 0.1}, [], 10),
        (cpus(0.3), {"num_cpus": 0.1}, [], 3),
        (cpus(2, 2), {}, [], 4),
        # 3 CPUs in all, and no node with 2 left over: what is scattered holds no worker.
        (cpus(1.5, 1.5), {}, [], 2),
        (cpus(3, 3, 3), {"num_cpus": 2}, [], 3),
        # Workers of a trial may stand on several nodes, so places are counted one by one.
        (cpus(1, 1), {"num_workers": 2}, [], 1),
        (cpus(3, 2), {"num_workers": 2}, [], 2),
        (cpus(4), {}, teachers(num_cpus=1), 3),
        (cpus(4), {}, teachers(num_cpus=0.5, replicas=3), 2),
        (cpus(4, 2), {"num_cpus": 2}, teachers(num_cpus=2), 2),
        # A teacher of 3 CPUs has one node to stand on, and two trials of 2 CPUs have the other.
        (cpus(4, 4), {"num_cpus": 2}, teachers(num_cpus=3), 2),
        # Replicas are counted where there is most room, so one on each node: 3 + 3 CPUs are left.
        (cpus(4, 4), {"num_cpus": 2}, teachers(num_cpus=1, replicas=2), 2),
        (cpus(8, GPU=2.0), {"num_gpus": 0.5}, [], 4),
        (cpus(8, GPU=2.0), {"num_gpus": 0.5}, teachers(num_gpus=1), 2),
        ([*cpus(8), *cpus(1, GPU=4.0)], {"num_gpus": 1}, [], 1),
        (cpus(8, student=3.0), {"resources": {"student": 1}}, [], 3),
        (cpus(8, student=3.0), {"resources": {"student": 2}}, [], 1),
        ([*cpus(8), *cpus(2, student=9.0)], {"resources": {"student": 1}}, [], 2),
        # A teacher that must stand on the second node takes nothing from the first.
        ([*cpus(8), *cpus(2, teacher=1.0)], {}, teachers(num_cpus=2, resources={"teacher": 1}), 8),
    ],
)
def test_trials_that_fit(nodes: list[Node], workers: dict[str, Any], kept: list[Group], fits: int) -> None:
    config = WorkersConfig.model_validate(workers)
    assert count_concurrent_trials(nodes, config, kept, None) == fits
    for asked in {1, fits}:
        assert count_concurrent_trials(nodes, config, kept, asked) == asked
    with pytest.raises(ResourceError, match=f"{fits + 1} trials at once do not fit") as refused:
        count_concurrent_trials(nodes, config, kept, fits + 1)
    assert f"max_concurrent_trials of {fits} at most" in str(refused.value)


@pytest.mark.parametrize(
    ("nodes", "workers", "kept", "words"),
    [
        (cpus(4), {"num_cpus": 8}, [], ["1 x CPU 8", "cluster has CPU 4"]),
        (cpus(4), {"num_workers": 5}, [], ["5 x CPU 1", "cluster has CPU 4"]),
        (cpus(1.5, 1.5), {"num_cpus": 2}, [], ["1 x CPU 2", "cluster has CPU 3"]),
        (cpus(2), {}, teachers(num_cpus=1, replicas=2), ["1 x CPU 1", "teachers hold CPU 2", "has CPU 2"]),
        (cpus(4), {}, teachers(num_cpus=8), ["teachers hold CPU 8, GPU 0", "has CPU 4"]),
        (cpus(4), {"num_gpus": 1}, [], ["CPU 1, GPU 1", "has CPU 4, GPU 0"]),
        (cpus(4), {"resources": {"student": 1}}, [], ["student 1", "student 0"]),
        ([], {}, [], ["has CPU 0"]),
    ],
)
def test_not_one_fits_and_the_arithmetic_says_why(
    nodes: list[Node], workers: dict[str, Any], kept: list[Group], words: list[str]
) -> None:
    with pytest.raises(ResourceError, match="not one trial fits") as refused:
        count_concurrent_trials(nodes, WorkersConfig.model_validate(workers), kept, None)
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_nothing_is_changed_that_was_given() -> None:
    nodes = cpus(4)
    count_concurrent_trials(nodes, WorkersConfig(), teachers(num_cpus=2), None)
    assert nodes == cpus(4)


def test_a_worker_holds_what_it_asks_for_and_no_zeros() -> None:
    workers = WorkersConfig(num_cpus=2, resources={"student": 1, "none": 0})
    assert list_worker_resources(workers) == {"CPU": 2.0, "student": 1}
    assert list_worker_resources(WorkersConfig(num_gpus=0.5)) == {"CPU": 1.0, "GPU": 0.5}
