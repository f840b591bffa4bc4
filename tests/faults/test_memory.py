"""A node that runs full: its object store, and its memory. Each has a cluster of its own and takes a minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.nightly

FULL_STORE = """
import numpy as np, ray, sys
from pathlib import Path
from raykd.teachers.pool_source import PoolSource
from raykd.config import ActorConfig, ServingConfig
from raykd.tasks import Classification
from raykd.teachers.pools.own_pool import Placement, OwnPool
from raykd.teachers.teacher import Teacher
from tests.fakes import LABELS, logits_of, model_spec, save_transformer, text_batch, texts_and_labels
import json

def main():
    folder = Path(sys.argv[1])
    ray.init(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, _temp_dir=sys.argv[2])
    spec = model_spec("one", str(save_transformer(folder / "m")), LABELS, Classification(max_length=64), dtype="float32")
    pool = OwnPool([Placement(spec, ActorConfig(num_cpus=0.5))], ServingConfig(store=None))
    pool.open()
    source, alone = PoolSource(pool.handle), Teacher(spec)
    held = [ray.put(np.full(10 * 2**20, i, dtype=np.uint8)) for i in range(30)]  # 300 MB in a store of 80 MB
    wrong = 0
    for seed in range(20):
        batch = text_batch(texts_and_labels(64, seed=seed)[0])
        waiting = [source.submit(batch) for _ in range(3)]
        want = logits_of(alone.answer(batch))
        wrong += sum(not np.allclose(logits_of(t.result()[0]), want, atol=1e-5) for t in waiting)
    whole = all(int(ray.get(ref)[-1]) == i for i, ref in enumerate(held))
    print(json.dumps({"wrong": wrong, "whole": whole, "in_flight": source.replicas.in_flight, "restarts": pool.restarts()}))
    pool.stop()
    ray.shutdown()

main()
"""

HOG = """
import time
from pathlib import Path
from typing import Literal
from raykd.tasks import Classification

class Hungry(Classification):
    kind: Literal["classification"] = "classification"
    def encode(self, tokenizer, batch):
        flag = Path(FLAG)
        if not flag.exists():
            flag.write_text("once")
            hog = bytearray(SIZE)
            for at in range(0, SIZE, 4096):
                hog[at] = 1
            time.sleep(60)
        return super().encode(tokenizer, batch)
"""

OUT_OF_MEMORY = """
import json, logging, sys
import numpy as np, ray
from pathlib import Path
from raykd.config import ActorConfig, ServingConfig
from raykd.tasks import Classification
from raykd.teachers.pool_source import PoolSource
from raykd.teachers.pools.own_pool import Placement, OwnPool
from raykd.teachers.teacher import Teacher
from tests.fakes import LABELS, logits_of, model_spec, save_transformer, text_batch
from hungry import Hungry

def main():
    folder = Path(sys.argv[1])
    said = []
    class Keep(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())
    logging.getLogger("raykd.teachers").addHandler(Keep())
    ray.init(num_cpus=2, include_dashboard=False, _temp_dir=sys.argv[2])
    path = str(save_transformer(folder / "m"))
    spec = model_spec("hungry", path, LABELS, Hungry(max_length=64), dtype="float32")
    pool = OwnPool([Placement(spec, ActorConfig(num_cpus=0.5))], ServingConfig(store=None))
    pool.open()
    batch = text_batch(["a good day", "a bad day"])
    got = logits_of(PoolSource(pool.handle).submit(batch).result()[0])
    want = Teacher(model_spec("same", path, LABELS, Classification(max_length=64), dtype="float32")).answer(batch)
    same = bool(np.allclose(got, logits_of(want), atol=1e-5))
    print(json.dumps({"same": same, "said": said, "restarts": pool.restarts()}))
    pool.stop()
    ray.shutdown()

main()
"""


def ran(script: str, folder: Path, ray_folder: Path, **environment: str) -> dict[str, Any]:
    """Runs a script with a cluster of its own; what its last line says."""
    (folder / "script.py").write_text(script, encoding="utf-8")
    paths = os.pathsep.join([str(Path(__file__).parents[2]), str(folder), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(folder / "script.py"), str(folder), str(ray_folder)],
        capture_output=True, text=True, timeout=150, check=False,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.fixture
def short_folder() -> Any:
    """A folder whose name leaves room for Ray's sockets."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="rk"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_a_full_object_store_spills_and_no_answer_is_lost(tmp_path: Path, short_folder: Path) -> None:
    said = ran(FULL_STORE, tmp_path, short_folder)
    assert said == {"wrong": 0, "whole": True, "in_flight": [[0]], "restarts": {"one": 0}}


def test_a_teacher_killed_for_memory_is_asked_again_in_smaller_passes(
    tmp_path: Path, short_folder: Path
) -> None:
    import psutil
    from ray._common.utils import get_system_memory
    from ray._private.utils import get_used_memory

    # As Ray sees it: in a container that is its cgroup's limit, and not the machine's memory.
    total, used, machine = get_system_memory(), get_used_memory(), psutil.virtual_memory()
    if total == machine.total:
        used = max(used, machine.total - machine.available)
    # What else runs here may take this much meanwhile without having the fresh process killed too.
    margin = max(0.09 * total, min(0.2 * total, 4e9))
    size, threshold = int(1.6 * margin), (used + margin) / total
    if used + 1.2 * size > total:
        pytest.skip(f"only {(total - used) / 1e9:.1f} GB of memory are free here")
    fill = HOG.replace("SIZE", str(size)).replace("FLAG", repr(str(tmp_path / "flag")))
    (tmp_path / "hungry.py").write_text(fill, encoding="utf-8")
    said = ran(OUT_OF_MEMORY, tmp_path, short_folder, RAY_memory_usage_threshold=f"{threshold:.3f}",
               RAY_memory_monitor_refresh_ms="100")  # fmt: skip
    # Whatever else runs here may have the fresh process killed once more before it has begun to answer.
    assert said["same"] and said["restarts"]["hungry"] >= 1
    line = next(text for text in said["said"] if "killed for memory" in text)
    assert "the process of teacher hungry was killed for memory (its process " in line
    assert "in use on its node" in line
