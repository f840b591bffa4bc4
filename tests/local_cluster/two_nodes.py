"""A program: a teacher with a replica on each of two nodes; each text has one home, whoever asks.

Keepers of named pools lie on the head node, so that the loss of a worker's node does not end them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray
from ray.cluster_utils import Cluster

from raykd.compat.ray_private import read_actor_row
from raykd.config import ActorConfig, ServingConfig
from raykd.runs.labelling import label_rows
from raykd.tasks import Classification
from raykd.teachers.pool_source import PoolSource
from raykd.teachers.pools.named_pool import end_named_pool, start_keeper
from raykd.teachers.pools.own_pool import OwnPool, Placement
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.store import make_text_keys
from tests.fakes import LABELS, logits_of, model_spec
from tests.local_cluster.test_label import rows_of

SPEC = model_spec("multi", sys.argv[1], LABELS, Classification(max_length=64), dtype="float32")


def forwarded(pool: OwnPool) -> list[int]:
    return [ray.get(a.counters.remote())["multi"]["forwarded"] for a in pool.handle.replicas[0]]


def pool_of(spec: TeacherSpec) -> OwnPool:
    pool = OwnPool([Placement(spec, ActorConfig(num_cpus=1, replicas=2))], ServingConfig())
    pool.open()
    assert len(set(pool.handle.nodes[0])) == 2, pool.handle.nodes
    return pool


def per_home(source: PoolSource, pool: OwnPool, rows: range) -> list[int]:
    keys = set(make_text_keys(rows_of(300).take(rows)))
    return [sum(source.find_home(0, key) == node for key in keys) for node in pool.handle.nodes[0]]


def keepers_lie_on_the_head() -> None:
    """Ray spreads actors without CPUs over the nodes: four of them would not all be there by chance."""
    (head,) = [n["NodeID"] for n in ray.nodes() if "node:__internal_head__" in n["Resources"]]
    keepers = [start_keeper(f"kept-{i}") for i in range(4)]
    assert ray.get([keeper.served.remote() for keeper in keepers]) == [None] * 4  # their processes are there
    assert {read_actor_row(keeper)["Address"]["NodeID"] for keeper in keepers} == {head}
    for i in range(4):
        end_named_pool(f"kept-{i}")


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        keepers_lie_on_the_head()
        rows = rows_of(300)
        spec = replace(SPEC, store=sys.argv[2])
        pool = pool_of(spec)
        # As if each node had a disk of its own: nothing is read directly, every row goes to its home.
        sources = [PoolSource(pool.handle, None, rank, direct=False) for rank in range(2)]
        for source in (*sources, *sources):
            signals = source.submit(rows.take(range(200))).result()
            assert signals[0].answered_B.all()
        expected = per_home(sources[0], pool, range(200))
        assert forwarded(pool) == expected and min(expected) > 50, (forwarded(pool), expected)
        assert [source.replicas.calls for source in sources] == [4, 4]
        report = label_rows(pool, rows, None, lambda done, total: None)
        assert report.forwarded == len(set(rows.texts)) - len(set(rows.texts[:200]))
        assert forwarded(pool) == per_home(sources[0], pool, range(300))
        pool.park()
        assert len(set(pool.handle.nodes[0])) == 2 and len(pool.handle.replicas[0]) == 2
        parked = PoolSource(pool.handle, direct=False).submit(rows.take(range(200))).result()
        np.testing.assert_array_equal(logits_of(parked[0]), logits_of(signals[0]))
        assert pool.counters()["multi"]["computed_while_parked"] == 0
        pool.stop()
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    assert Path(sys.argv[1]).is_dir()
    main()
