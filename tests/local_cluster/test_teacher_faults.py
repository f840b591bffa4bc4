"""Real processes of teachers that hang, and what a source makes of it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from raykd.config import ActorConfig, ServingConfig
from raykd.distill.weightings.routing import ByLanguage
from raykd.errors import TeacherLostError
from raykd.tasks import Classification
from raykd.teachers.pool_source import PoolSource
from raykd.teachers.pools.own_pool import OwnPool, Placement
from raykd.teachers.source import LocalSource
from raykd.teachers.teacher import Teacher
from raykd.text.batch import TextBatch
from tests.e2e.conftest import wait_until
from tests.fakes import LABELS, logits_of, model_spec, save_transformer, text_batch

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.nightly]
MARKER = "HANG"


class Sleepy(Classification):
    """A task whose model sleeps for ever on a text with the marker."""

    kind: Literal["classification"] = "classification"

    def encode(self, tokenizer: Any, batch: TextBatch) -> Any:
        """As usual, but for the marker."""
        if any(MARKER in text for text in batch.texts):
            time.sleep(1e6)
        return super().encode(tokenizer, batch)


def alive(pid: int) -> bool:
    """Whether there is such a process; one that nobody has waited for yet is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_hung_process_is_killed_and_asked_again_and_a_lost_teacher_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    specs = [
        model_spec(name, str(save_transformer(tmp_path / name, seed=seed)), LABELS, Sleepy(max_length=64),
                    spoken, dtype="float32")
        for seed, (name, spoken) in enumerate({"zh": frozenset({"zh"}), "multi": None}.items())
    ]  # fmt: skip
    serving = ServingConfig(timeout_s=120.0, max_restarts=1, on_teacher_loss="drop_and_renormalise")
    pool = OwnPool([Placement(s, ActorConfig(num_cpus=0.5)) for s in specs], serving)
    weighting = ByLanguage()
    batch = text_batch(["a good day", "a bad day"], ["zh", "en"])
    try:
        pool.open()
        quick = replace(pool.handle, timeout_s=15.0)
        source = PoolSource(quick, weighting)
        expected = LocalSource([Teacher(s) for s in specs], weighting).submit(batch).result()
        source.submit(batch).result()  # loads the weights
        pids = {
            name: ray.get(pool.handle.replicas[i][0].pid.remote()) for i, name in enumerate(("zh", "multi"))
        }

        os.kill(pids["zh"], signal.SIGSTOP)
        begun = time.monotonic()
        for served, here in zip(source.submit(batch).result(), expected, strict=True):
            np.testing.assert_array_equal(served.answered_B, here.answered_B)
            np.testing.assert_allclose(logits_of(served), logits_of(here), atol=1e-6)
        recovered_s = time.monotonic() - begun
        assert (
            source.replicas.hangs == 1
            and pool.restarts() == {"zh": 1, "multi": 0}
            and pool.replicas.lost() == ()
        )
        assert wait_until(lambda: not alive(pids["zh"]), 20.0), "a stopped process was left behind"

        poison = text_batch([MARKER, "a bad day"], ["zh", "en"])
        strict = PoolSource(replace(quick, on_loss="fail"), weighting)
        tickets = [strict.submit(poison), strict.submit(batch)]
        with pytest.raises(TeacherLostError, match="teacher zh") as caught:
            tickets[0].result()
        assert "drop_and_renormalise" in str(caught.value)
        assert wait_until(lambda: pool.replicas.lost() == ("zh",), 10.0)

        # The teacher is dead for good: whoever asked it goes on with the one that speaks its language too.
        zh, multi = source.submit(batch).result()
        whole = LocalSource([Teacher(specs[1])]).submit(batch).result()[0]
        assert zh.lost and not zh.answered_B.any() and not multi.lost and multi.answered_B.all()
        np.testing.assert_allclose(logits_of(multi), logits_of(whole), atol=1e-6)
        assert not np.any(source.replicas.in_flight)
    finally:
        pool.stop()
    with capsys.disabled():
        print(
            f"\n[time to recover] SIGSTOP to the next answer: {recovered_s:.1f} s, 15 s of them the time-out"
        )
    ours = {actor._actor_id.hex() for actors in pool.handle.replicas for actor in actors}
    states = ray._private.state.actors
    assert wait_until(lambda: all(states(i)["State"] == "DEAD" for i in ours), 20.0)
