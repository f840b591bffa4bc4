"""Teachers in real actors on a real local cluster."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from raykd.config import ActorConfig, ServingConfig
from raykd.errors import LabelMismatchError, ModelError, NonFiniteError, TeacherError
from raykd.tasks import Classification
from raykd.teachers.pool_source import PoolSource
from raykd.teachers.pools.own_pool import OwnPool, Placement
from raykd.teachers.source import LocalSource
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.teacher import Teacher
from tests.fakes import LABELS, logits_of, model_spec, save_transformer, text_batch, texts_and_labels

pytestmark = pytest.mark.usefixtures("ray_cluster")
TASK = Classification(max_length=64)
CPU = 0.5


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[TeacherSpec]:
    root = tmp_path_factory.mktemp("models")
    languages = {"zh": frozenset({"zh"}), "en": frozenset({"en"}), "multi": None}
    return [
        model_spec(name, str(save_transformer(root / name, seed=seed)), LABELS, TASK, spoken, dtype="float32")
        for seed, (name, spoken) in enumerate(languages.items())
    ]


def start(specs: list[TeacherSpec], serving: ServingConfig | None = None, **actor: object) -> OwnPool:
    config = ActorConfig(**{"num_cpus": CPU, **actor})
    return OwnPool([Placement(s, config) for s in specs], serving or ServingConfig())


def batches(count: int = 6, size: int = 16) -> list:
    texts, labels = texts_and_labels(count * size)
    codes = np.random.default_rng(0).choice(["zh", "en", "fr"], size=len(texts))
    parts = [slice(i * size, (i + 1) * size) for i in range(count)]
    return [text_batch(texts[p], [str(c) for c in codes[p]], labels[p]) for p in parts]


@pytest.mark.parametrize(("group", "lent"), [(None, 0), ("one", 0), ("one", 2)])
def test_served_by_actors_equals_in_process_and_what_is_late_is_an_error(
    specs: list[TeacherSpec], group: str | None, lent: int
) -> None:
    pool = start(specs, group=group)
    try:
        infos = pool.open()
        assert [i.name for i in infos] == ["zh", "en", "multi"] and len({i.fingerprint for i in infos}) == 3
        source = PoolSource(pool.handle, idle_threads=lent)
        local = LocalSource([Teacher(s) for s in specs])
        tickets = [source.submit(batch) for batch in batches()]
        for ticket, batch in zip(tickets, batches(), strict=True):
            for served, here in zip(ticket.result(), local.submit(batch).result(), strict=True):
                np.testing.assert_array_equal(served.answered_B, here.answered_B)
                np.testing.assert_allclose(logits_of(served), logits_of(here), atol=1e-5)
        assert source.replicas.calls <= len(batches()) * len(pool.handle.groups)
        assert not np.any(source.replicas.in_flight)
        late = PoolSource(pool.handle).submit(text_batch(["a"] * 64, ["zh"] * 64))
        with pytest.raises(TeacherError, match="did not answer in time"):
            late.result(timeout=0.0)
    finally:
        pool.stop()


def test_replicas_share_the_load_and_a_killed_one_is_asked_again(specs: list[TeacherSpec]) -> None:
    import ray

    pool = start(specs[2:], replicas=2)
    try:
        pool.open()
        source = PoolSource(pool.handle)
        local = LocalSource([Teacher(specs[2])])
        tickets = [source.submit(batch) for batch in batches(8)]
        assert source.replicas.in_flight == [[4, 4]]
        victim = ray.get(pool.handle.replicas[0][0].pid.remote())
        os.kill(victim, signal.SIGKILL)
        for ticket, batch in zip(tickets, batches(8), strict=True):
            np.testing.assert_allclose(
                logits_of(ticket.result()[0]), logits_of(local.submit(batch).result()[0]), atol=1e-5
            )
        assert not np.any(source.replicas.in_flight)
    finally:
        pool.stop()


def test_without_restarts_a_dead_replica_is_left_out_and_the_last_ones_death_is_a_clear_error(
    specs: list[TeacherSpec],
) -> None:
    import ray

    pool = start(specs[2:], ServingConfig(max_restarts=0, timeout_s=60.0), replicas=2)
    try:
        pool.open()
        first, second = (ray.get(replica.pid.remote()) for replica in pool.handle.replicas[0])
        source = PoolSource(pool.handle)
        tickets = [source.submit(batch) for batch in batches(8)]
        os.kill(first, signal.SIGKILL)
        assert all(ticket.result()[0].answered_B.all() for ticket in tickets)
        assert {source.replicas.pick(0) for _ in range(4)} == {1}
        os.kill(second, signal.SIGKILL)
        time.sleep(0.5)
        with pytest.raises(TeacherError, match="teacher multi"):
            PoolSource(pool.handle).submit(text_batch(["a"])).result()
    finally:
        pool.stop()


def test_errors_of_a_teacher_keep_their_type_across_processes(
    specs: list[TeacherSpec], tmp_path: Path
) -> None:
    other = model_spec("zh", specs[0].teacher.model_path, ("good", "bad"), TASK, dtype="float32")
    gone = model_spec("gone", str(tmp_path / "nothing"), LABELS, TASK)
    broken = save_transformer(tmp_path / "nan")
    from raykd import models

    model = models.load_model(broken)
    model.model.classifier.bias.data.fill_(float("nan"))
    models.save_model(model, broken)
    pools = [start([s]) for s in (other, gone, model_spec("nan", str(broken), LABELS, TASK, dtype="float32"))]
    try:
        with pytest.raises(LabelMismatchError, match="teacher zh"):
            pools[0].open()
        with pytest.raises(ModelError, match="nothing"):
            pools[1].open()
        with pytest.raises(NonFiniteError, match="teacher nan"):
            PoolSource(pools[2].handle).submit(text_batch(["a"])).result()
    finally:
        for pool in pools:
            pool.stop()
