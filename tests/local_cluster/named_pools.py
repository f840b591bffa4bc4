"""A program: named pools on a cluster of their own, which needs a process of its own. Argument: a folder."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from raykd.answers.source import AnswerSlots
from raykd.config import RunConfig, ServingConfig
from raykd.config.loading import load_run
from raykd.driver.pool import attach_pool, check_cluster, make_placements
from raykd.errors import ConfigError, ModelError, RaykdError, ResourceError, TeacherError
from raykd.runs.named_pools import run_teachers_down, run_teachers_status, run_teachers_up
from raykd.teachers.pool_source import PoolSource
from raykd.teachers.pools import named_pool
from raykd.teachers.pools.own_pool import OwnPool
from raykd.teachers.pools.pool import TeacherPool
from raykd.tuning.driver import list_free_node_resources
from tests.e2e.sweeps import plain_loop
from tests.fakes import LABELS, logits_of, save_transformer, text_batch, texts_and_labels

CPUS = 4
ROOT = Path(__file__).parents[2]
MODULE = "tests.local_cluster.named_pools"
LANGUAGES: dict[str, Any] = {"zh": ["zh"], "en": ["en"], "multi": "all"}


def write(folder: Path) -> Path:
    """A run file with three teachers that exist: zh and en in one process, multi in two of its own; 2 CPUs."""
    for seed, name in enumerate(LANGUAGES):
        save_transformer(folder / name, seed=seed)
    for split, count in (("train", 96), ("validation", 40)):
        texts, labels = texts_and_labels(count, seed=len(split))
        lines = [json.dumps({"text": t, "label": LABELS[y], "lang": ["zh", "en"][i % 2]})
                 for i, (t, y) in enumerate(zip(texts, labels, strict=True))]  # fmt: skip
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    actors = {"zh": {"group": "pair"}, "en": {"group": "pair"}, "multi": {"replicas": 2}}
    tree = {
        "name": "reviews",
        "output": str(folder / "runs"),
        "task": {"kind": "classification", "max_length": 48},
        "data": {
            **{s: {"kind": "files", "paths": [f"{s}.jsonl"]} for s in ("train", "validation")},
            "labels": list(LABELS),
            "languages": ["zh", "en"],
        },
        "student": {"kind": "linear", "buckets": 256},
        "teacher_defaults": {"actor": {"num_cpus": 0.5}, "on_poor": "warn"},
        "teachers": [
            {"name": n, "languages": spoken, "path": str(folder / n), "actor": actors[n]}
            for n, spoken in LANGUAGES.items()
        ],
        "train": {"steps": 12, "batch_size": 16, "evaluations": 2},
        "workers": {"num_workers": 1, "num_cpus": 1},
        "serving": {"dtype": "float32", "max_restarts": 0, "timeout_s": 60},
    }
    path = folder / "POOL.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")  # JSON is YAML
    return path


def raykd(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    command = [sys.executable, "-m", "raykd.cli", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def here(*arguments: str) -> tuple[int, str]:
    """The command line, in this process, where no cluster is named: its exit code and what it said."""
    from raykd.cli import main

    said, before = io.StringIO(), sys.argv
    sys.argv = ["raykd", *arguments]
    try:
        with redirect_stdout(said), redirect_stderr(said):
            main()
    except SystemExit as ended:
        return int(str(ended.code)), said.getvalue()
    finally:
        sys.argv = before
    raise AssertionError("it always ends with a code")


def join(address: str) -> None:
    """A driver of its own, as another command is."""
    if ray.is_initialized():
        ray.shutdown()
    ray.init(address=address, namespace="another", log_to_driver=False)


def raised(kind: type[RaykdError], body: Callable[[], Any]) -> str:
    try:
        body()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def free_cpus() -> float:
    return float(ray.available_resources().get("CPU", 0.0))


def nothing_is_left() -> None:
    assert named_pool.list_pool_names() == []
    # Ray Train has named actors of its own, in namespaces of its own.
    assert [
        a for a in ray.util.list_named_actors(all_namespaces=True) if a["namespace"] == named_pool.NAMESPACE
    ] == []
    until(lambda: free_cpus() == CPUS)


def table(name: str | None = None) -> list[dict[str, str]]:
    shown = run_teachers_status(name)
    assert shown is not None
    return [dict(zip(shown.heads, line, strict=True)) for line in shown.lines]


def answers(pool: TeacherPool, direct: bool = True) -> list[AnswerSlots]:
    texts, labels = texts_and_labels(64, seed=7)
    batch = text_batch(texts, ["zh", "en"] * 32, labels)
    signals: list[AnswerSlots] = PoolSource(pool.handle, direct=direct).submit(batch).result()
    return signals


def same(a: list[AnswerSlots], b: list[AnswerSlots]) -> bool:
    """Whether the same teachers cover the same rows with the same logits, to 1e-6.

    Two processes need not add in the same order: float32 logits of one text were seen to differ by 3e-8.
    """
    return [(s.teacher, s.answered_B.tobytes()) for s in a] == [
        (s.teacher, s.answered_B.tobytes()) for s in b
    ] and all(np.allclose(logits_of(x), logits_of(y), rtol=0.0, atol=1e-6) for x, y in zip(a, b, strict=True))


def life(address: str, path: Path) -> None:
    """Up by one command, asked by other drivers, shown, down."""
    env = {**os.environ, "RAY_ADDRESS": address}
    up = raykd("teachers", "up", str(path), "--name", "kept", env=env)
    assert up.returncode == 0, up.stdout + up.stderr
    assert "3 teachers (zh, en, multi) in 3 processes, 2 CPU" in up.stdout
    join(address)
    config = load_run(path, ["serving.pool=kept"])
    own = OwnPool(
        [replace(p, spec=replace(p.spec, store=None)) for p in make_placements(config, {})], config.serving
    )
    own.open()
    pool = attach_pool(config, {}, "kept")
    assert pool.handle.teachers == ("zh", "en", "multi")
    for direct in (False, True):
        assert same(answers(pool, direct), answers(own, direct))
    assert {n: (c["answered"], c["forwarded"]) for n, c in pool.counters().items()} == {
        "zh": (32, 32), "en": (32, 32), "multi": (64, 64)}  # fmt: skip
    # Another run: some of the teachers in another order; what was done before is not its.
    some = load_run(path, ["serving.pool=kept", "select_teachers=[multi, en]"])
    turned = some.model_copy(update={"teachers": some.teachers[::-1]})
    view = attach_pool(turned, {}, "kept")
    assert view.handle.teachers == ("multi", "en")
    _, en, multi = answers(own)
    assert same(answers(view, direct=False), [multi, en])
    assert {n: (c["answered"], c["forwarded"]) for n, c in view.counters().items()} == {
        "multi": (64, 0), "en": (32, 0)}  # fmt: skip
    own.stop()
    view.park()
    view.stop()
    until(lambda: free_cpus() == CPUS - 2)
    fits(load_run(path, ["serving.pool=kept"]))
    same_again(path)
    shown(address, path, pool)
    down = run_teachers_down(["kept"])
    assert "3 actors ended" in down[0], down  # one of the four was killed
    nothing_is_left()
    assert (
        "nothing was done" in run_teachers_down(["kept"])[0] and "nothing was done" in run_teachers_down()[0]
    )
    pool.handle = replace(pool.handle, timeout_s=10.0)
    for ask in (lambda: answers(pool, direct=False), pool.counters):
        message = raised(TeacherError, ask)
        assert "teacher pool kept" in message and "raykd teachers up" in message, message


def fits(config: RunConfig) -> None:
    """What the pool holds is not there for students."""
    check_cluster(config.model_copy(update={"workers": config.workers.model_copy(update={"num_cpus": 2})}))
    workers = config.workers.model_copy(update={"num_cpus": 2.5})
    for serving in (config.serving, ServingConfig()):
        beside = config.model_copy(update={"workers": workers, "serving": serving})
        message = raised(ResourceError, lambda beside=beside: check_cluster(beside))  # type: ignore[misc]
        assert "teacher pool kept 2 +" in message and "raykd teachers down kept" in message, message
    assert [node["CPU"] for node in list_free_node_resources()] == [CPUS - 2]


def same_again(path: Path) -> None:
    before = processes()
    lines = run_teachers_up(load_run(path), "kept")
    assert "nothing was changed" in lines[0] and len(lines) == 1, lines
    lines = run_teachers_up(load_run(path, ["teachers.multi.actor.replicas=1"]), "kept")
    assert "nothing was changed" in lines[0] and "multi: 2 x CPU 0.5" in lines[1], lines
    fewer = load_run(path, ["select_teachers=[zh, en]"])
    message = raised(TeacherError, lambda: run_teachers_up(fewer, "kept"))
    assert "multi: teacher in the pool" in message and "raykd teachers down kept" in message, message
    assert processes() == before


def processes() -> list[int]:
    """Of the replicas of the pool."""
    said = named_pool.read_replica_statuses(found("kept").handle).values()
    return [s.pid for s in said if isinstance(s, named_pool.ReplicaStatus)]


def found(name: str) -> named_pool.NamedPool:
    served = named_pool.find_named_pool(name)
    assert served is not None
    return served


def shown(address: str, path: Path, pool: TeacherPool) -> None:
    """Status, also of a replica that was killed."""
    rows = table("kept")
    assert [(r["teacher"], r["alive"]) for r in rows] == [("zh", "1/1"), ("en", "1/1"), ("multi", "2/2")]
    assert [(r["forwarded"], r["stored"]) for r in rows] == [("32", "32"), ("32", "32"), ("64", "64")]
    assert rows[1]["memory"] == "with zh" and rows[0]["loaded"] == "1 of 1"
    os.kill(ray.get(pool.handle.replicas[1][0].pid.remote()), signal.SIGKILL)
    until(lambda: table("kept")[2]["alive"] == "1/2 (dead)")
    assert len(answers(pool, direct=False)) == 3
    assert "dead: teacher:multi replica 0" in raised(
        TeacherError, lambda: run_teachers_up(load_run(path), "kept")
    )
    # A replica that hangs: the command says so in time.
    stuck = ray.get(pool.handle.replicas[0][0].pid.remote())
    os.kill(stuck, signal.SIGSTOP)
    try:
        assert [r["alive"] for r in table("kept")] == ["0/1 (no answer)", "0/1 (no answer)", "1/2 (dead)"]
    finally:
        os.kill(stuck, signal.SIGCONT)
    status = raykd("teachers", "status", env={**os.environ, "RAY_ADDRESS": address})
    assert status.returncode == 0 and "kept" in status.stdout and "1/2 (dead)" in status.stdout, status.stdout


def refusals(address: str, path: Path) -> None:
    """What is not whole, not the same, or cannot be started."""
    ray.shutdown()
    code, said = here("teachers", "up", str(path))
    assert code == 2 and "ray start --head" in said and "ray.address=auto" in said, said
    code, said = here("check", str(path), "serving.pool=x")
    assert code == 2 and "ray start --head" in said, said
    join(address)
    unloadable(path)
    killed_driver(address, path)
    config = load_run(path, ["serving.pool=orphan"])
    assert len(answers(attach_pool(config, {}, "orphan"))) == 3
    save_transformer(path.parent / "other", seed=9)
    changes = {
        "teachers.zh.path": (str(path.parent / "other"), "zh: fingerprint"),
        "data.labels": ("[positive, negative]", "multi: labels"),
        "task.max_length": ("32", ""),  # the teachers' own length rules
        "teachers.en.max_length": ("32", "en: max_length 64"),
        "teachers.en.languages": ("[en, zh]", "en: languages en"),
        "serving.dtype": ("bfloat16", "multi: dtype float32"),
    }
    for key, (value, said) in changes.items():
        other = load_run(path, ["serving.pool=orphan", f"{key}={value}"])
        if not said:
            attach_pool(other, {}, "orphan")
            continue
        message = raised(TeacherError, lambda other=other: attach_pool(other, {}, "orphan"))  # type: ignore[misc]
        assert said in message and "wanted:" in message and "next:" in message, message
    message = raised(TeacherError, lambda: attach_pool(config, {}, "nobody"))
    assert "orphan" in message and "raykd teachers up" in message
    raised(ConfigError, lambda: run_teachers_status("nobody"))
    run_teachers_down()
    nothing_is_left()


def unloadable(path: Path) -> None:
    """A start that fails leaves nothing: no directory, weights that cannot be loaded, no room, a start that was killed."""
    weights = path.parent / "broken" / "model.safetensors"
    save_transformer(weights.parent)
    gone = load_run(path, [f"teachers.multi.path={path.parent / 'nothing'}"])
    raised(ModelError, lambda: run_teachers_up(gone, "bad"))
    nothing_is_left()
    config = json.loads((weights.parent / "config.json").read_text(encoding="utf-8"))
    (weights.parent / "config.json").write_text(json.dumps({**config, "hidden_size": 32}), encoding="utf-8")
    bent = load_run(path, [f"teachers.multi.path={weights.parent}"])
    raised(RaykdError, lambda: run_teachers_up(bent, "bad", load=True))
    nothing_is_left()
    large = load_run(path, ["teachers.multi.actor.num_cpus=3"])
    assert "teachers 7 = 7 CPU" in raised(ResourceError, lambda: run_teachers_up(large, "bad"))
    nothing_is_left()
    keeper = (
        ray.remote(named_pool.PoolKeeper)
        .options(
            num_cpus=0, name="raykd.teachers/half/keeper", namespace=named_pool.NAMESPACE, lifetime="detached"
        )
        .remote()
    )
    assert ray.get(keeper.served.remote()) is None  # its process is there
    assert "killed" in raised(TeacherError, lambda: run_teachers_up(load_run(path), "half"))
    assert "not whole" in table()[0]["teacher"]
    assert "1 actors ended" in run_teachers_down(["half"])[0]
    nothing_is_left()


def killed_driver(address: str, path: Path) -> None:
    """A pool outlives a driver that is killed the moment it has started it."""
    starter = subprocess.run(
        [sys.executable, "-m", MODULE, str(path.parent), "start", address], cwd=ROOT, timeout=120, check=False
    )
    assert starter.returncode == -signal.SIGKILL


def start(address: str, path: Path) -> None:
    run_teachers_up(load_run(path, [f"ray.address={address}"]), "orphan")
    os.kill(os.getpid(), signal.SIGKILL)


def runs(address: str, path: Path) -> None:
    """A run over a named pool learns what the loop learns without Ray; a sweep asks it and leaves it as it is."""
    from raykd.runs.train import run_training
    from raykd.tuning.config import load_sweep
    from raykd.tuning.run import run_sweep

    join(address)
    there, quick = f"ray.address={address}", "tracking.log_model=false"
    run_teachers_up(load_run(path, [there]), "kept", load=True)
    attached = run_training(load_run(path, [there, "name=attached", "serving.pool=kept", quick]))
    space = {
        "name": "search",
        "base": str(path),
        "set": {"ray": {"address": address}, "serving": {"pool": "kept"}, "tracking": {"log_model": False}},
        "space": {"objective": {"alpha": {"grid": [0.1, 0.5]}}},
        "search": {"kind": "grid"},
    }
    (path.parent / "space.yaml").write_text(json.dumps(space), encoding="utf-8")
    before = [(r["alive"], r["forwarded"]) for r in table("kept")]
    run_sweep(load_sweep(path.parent / "space.yaml"))
    # Every training text was answered for the run; the sweep computed nothing and took nothing away.
    assert [(r["alive"], r["forwarded"]) for r in table("kept")] == before
    until(lambda: free_cpus() == CPUS - 2)
    run_teachers_down(["kept"])
    own = plain_loop(load_run(path, ["name=own", "serving.store=fresh"])).best_student().model.state_dict()
    weights = load_file(attached.student / "model.safetensors")
    assert weights.keys() == own.keys()
    assert all(torch.allclose(weights[name], own[name], atol=1e-6, rtol=0.0) for name in own)
    nothing_is_left()


def main() -> None:
    folder = Path(sys.argv[1])
    if sys.argv[2:3] == ["start"]:
        start(sys.argv[3], folder / "POOL.yaml")
    os.environ.pop("RAY_ADDRESS", None)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": CPUS, "include_dashboard": False})
    try:
        for part in (life, refusals, runs):
            (folder / part.__name__).mkdir()
            part(cluster.address, write(folder / part.__name__))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
