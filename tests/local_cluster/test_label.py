"""Answers kept ahead: labelling, direct reading and parked pools on a real local cluster."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from raykd.config import ActorConfig, FileTeacher, ServingConfig
from raykd.config.loading import validate_run
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED
from raykd.distill.weightings.routing import ByLanguage
from raykd.driver.jobs import load_rows
from raykd.driver.pool import make_placements
from raykd.errors import ConfigError, TeacherError
from raykd.runs.answer_files import AnswerTargets
from raykd.runs.labelling import label_rows, run_labelling
from raykd.tasks import Classification
from raykd.teachers.pool_source import PoolSource
from raykd.teachers.pools.own_pool import OwnPool, Placement
from raykd.teachers.source import LocalSource
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.store.inventory import list_stores
from raykd.teachers.teacher import Teacher
from tests.fakes import LABELS, logits_of, model_spec, save_transformer, text_batch, texts_and_labels

pytestmark = pytest.mark.usefixtures("ray_cluster")
TASK = Classification(max_length=64)


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[TeacherSpec]:
    root = tmp_path_factory.mktemp("models")
    languages = {"zh": frozenset({"zh"}), "en": frozenset({"en"}), "multi": None}
    return [
        model_spec(name, str(save_transformer(root / name, seed=seed)), LABELS, TASK, spoken, dtype="float32")
        for seed, (name, spoken) in enumerate(languages.items())
    ]


def start(specs: list[TeacherSpec], store: Path | None, **actor: object) -> OwnPool:
    config = ActorConfig(**{"num_cpus": 0.5, "group": "all", **actor})
    kept = [replace(s, store=None if store is None else str(store)) for s in specs]
    pool = OwnPool([Placement(s, config) for s in kept], ServingConfig())
    pool.open()
    return pool


def rows_of(count: int, seed: int = 0) -> Rows:
    texts, _ = texts_and_labels(count, seed)
    codes = np.random.default_rng(seed).choice(["zh", "en", "fr"], size=count)
    hidden = np.full(count, UNLABELLED, dtype=np.int64)
    return Rows(tuple(f"r{i}" for i in range(count)), tuple(texts), tuple(map(str, codes)), hidden)


def total(pool: OwnPool, what: str) -> int:
    return sum(counters[what] for counters in pool.counters().values())


def free_cpus() -> float:
    import ray

    return float(ray.available_resources().get("CPU", 0.0))


def comes_to(cpus: float) -> bool:
    """Whether so many CPUs come to be free; Ray tells late."""
    until = time.monotonic() + 20.0
    while free_cpus() != cpus and time.monotonic() < until:
        time.sleep(0.05)
    return free_cpus() == cpus


def test_labelled_ahead_equals_asked_on_demand_and_each_pair_is_computed_once(
    specs: list[TeacherSpec], tmp_path: Path
) -> None:
    rows = rows_of(1500)
    twice = Rows.concat([rows, rows.select(range(50))])
    pool = start(specs, tmp_path, replicas=2)
    local = LocalSource([Teacher(s) for s in specs])
    reports: list[tuple[int, int]] = []
    try:
        done = label_rows(pool, twice, None, lambda a, b: reports.append((a, b)))
        pairs = {(t, lang) for t, lang in zip(rows.texts, rows.languages, strict=True)}
        by_teacher = [{t for t, lang in pairs if lang == "zh"}, {t for t, lang in pairs if lang == "en"}]
        expected = sum(map(len, by_teacher)) + len(set(rows.texts))
        assert (done.asked, done.stored, done.forwarded) == (expected, 0, expected)
        assert total(pool, "forwarded") == expected == sum(s.entries or 0 for s in list_stores(tmp_path))
        assert reports[0] == (0, expected) and reports[-1] == (expected, expected)
        assert done.real_tokens / done.computed_tokens >= 0.85
        batch = rows.take(range(200))
        source = PoolSource(pool.handle)
        for served, here in zip(source.submit(batch).result(), local.submit(batch).result(), strict=True):
            np.testing.assert_array_equal(served.answered_B, here.answered_B)
            np.testing.assert_allclose(logits_of(served), logits_of(here), atol=1e-5)
            assert served.forwarded == 0
        assert source.replicas.calls == 0
        again = label_rows(pool, twice, None, lambda a, b: None)
        assert (again.asked, again.stored, again.forwarded) == (expected, expected, 0)
    finally:
        pool.stop()


def test_labelling_goes_on_where_it_was_and_follows_the_weighting(
    specs: list[TeacherSpec], tmp_path: Path
) -> None:
    rows = rows_of(300)
    distinct = len(set(zip(rows.texts, rows.languages, strict=True)))
    pool = start(specs, tmp_path)
    try:
        half = label_rows(pool, rows.select(range(150)), ByLanguage(), lambda a, b: None)
        whole = label_rows(pool, rows, ByLanguage(), lambda a, b: None)
        assert half.stored == 0 and whole.asked == distinct  # one teacher a row
        assert whole.stored == half.forwarded and whole.forwarded == distinct - half.forwarded
        source = PoolSource(pool.handle, ByLanguage())
        source.submit(rows.take(range(300))).result()
        assert source.replicas.calls == 0
        assert source.counters()["multi"]["direct"] == list(rows.languages).count("fr")
    finally:
        pool.stop()


def test_only_missing_pairs_are_asked_and_a_second_pool_loads_no_weights(
    specs: list[TeacherSpec], tmp_path: Path
) -> None:
    rows = rows_of(64)
    pool = start(specs, tmp_path)
    try:
        PoolSource(pool.handle, teachers=["multi"]).submit(rows.take(range(40))).result()
        before = total(pool, "answered")
        source = PoolSource(pool.handle)
        signals = source.submit(rows.take(range(64))).result()
        texts, languages = np.asarray(rows.texts), np.asarray(rows.languages)
        new = int((~np.isin(texts, texts[:40])).sum()) + int((languages != "fr").sum())
        assert total(pool, "answered") - before == new and total(pool, "loaded") == 3
        assert source.counters()["multi"] == {
            "answered": 64,
            "direct": 64 - int((~np.isin(texts, texts[:40])).sum()),
        }
    finally:
        pool.stop()
    pool = start(specs, tmp_path)
    try:
        asked = PoolSource(pool.handle, direct=False).submit(rows.take(range(64))).result()
        read = PoolSource(pool.handle).submit(rows.take(range(64))).result()
        for a, b, c in zip(signals, asked, read, strict=True):
            assert logits_of(a).tobytes() == logits_of(b).tobytes() == logits_of(c).tobytes()
            np.testing.assert_array_equal(a.answered_B, b.answered_B)
            np.testing.assert_array_equal(a.answered_B, c.answered_B)
        assert (total(pool, "loaded"), total(pool, "forwarded")) == (0, 0)
    finally:
        pool.stop()


def test_without_a_store_some_teachers_answer_in_the_pools_order_and_none_is_parked(
    specs: list[TeacherSpec],
) -> None:
    pool = start(specs, None, group=None, num_cpus=0.25)
    try:
        source = PoolSource(pool.handle, ByLanguage(), teachers=("multi", "en"))
        assert source.teachers == ("en", "multi")
        batch = text_batch(["good food", "bad food", "fine"], ["zh", "en", "fr"])
        en, multi = source.submit(batch).result()
        assert (en.teacher, multi.teacher) == ("en", "multi")
        assert en.answered_B.tolist() == [False, True, False]
        assert multi.answered_B.tolist() == [True, False, True]  # nobody else speaks zh here
        with pytest.raises(ConfigError, match="pool has"):
            PoolSource(pool.handle, teachers=("de",))
        with pytest.raises(TeacherError, match="cannot be parked"):
            pool.park()
    finally:
        pool.stop()


def test_a_parked_pool_holds_no_cpu_answers_equally_and_counts_what_it_computes(
    specs: list[TeacherSpec], tmp_path: Path
) -> None:
    rows = rows_of(100)
    import ray

    every = float(ray.cluster_resources()["CPU"])
    assert comes_to(every), "earlier tests hold nothing"
    pool = start(specs, tmp_path, num_cpus=1.0)
    try:
        label_rows(pool, rows, None, lambda a, b: None)
        labelled = pool.counters()
        reference = PoolSource(pool.handle).submit(rows.take(range(100))).result()
        assert comes_to(every - 3.0)
        pool.park()
        assert comes_to(every)
        for direct in (True, False):
            answers = PoolSource(pool.handle, direct=direct).submit(rows.take(range(100))).result()
            for a, b in zip(reference, answers, strict=True):
                assert logits_of(a).tobytes() == logits_of(b).tobytes()
        counters = pool.counters()
        assert total(pool, "computed_while_parked") == 0
        assert [c["forwarded"] for c in counters.values()] == [c["forwarded"] for c in labelled.values()]
        new = PoolSource(pool.handle).submit(text_batch(["never seen"], ["en"])).result()
        here = LocalSource([Teacher(s) for s in specs]).submit(text_batch(["never seen"], ["en"])).result()
        np.testing.assert_allclose(logits_of(new[1]), logits_of(here[1]), atol=1e-6)
        assert pool.counters()["en"]["computed_while_parked"] == 1
    finally:
        pool.stop()


@pytest.mark.nightly
def test_rows_have_a_home_among_nodes(tmp_path: Path, specs: list[TeacherSpec]) -> None:
    """Two nodes in a cluster of their own, which needs a process of its own."""
    command = [
        sys.executable,
        "-m",
        "tests.local_cluster.two_nodes",
        specs[2].teacher.model_path,
        str(tmp_path),
    ]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_labelled_answers_are_written_and_teach_from_files(tmp_path: Path) -> None:
    """`raykd label --to`: held-out rows too, and what an earlier labelling has stored is not computed again."""
    function = """
import numpy as np

def predict(texts):
    p = np.asarray([(sum(map(ord, text)) % 97 + 1) / 99 for text in texts])
    return np.stack([p, 1 - p], axis=1)

predict.labels = ["positive", "negative"]
"""
    (tmp_path / "own.py").write_text(function, encoding="utf-8")
    data = {
        part: {"kind": "embedded", "split": part, "rows_per_language": 20} for part in ("train", "validation")
    }
    tree = {
        "output": f"{tmp_path}/runs",
        "data": {**data, "labels": LABELS, "languages": ["zh", "en"]},
        "teachers": [
            {
                "name": "own", "languages": "all", "function": f"{tmp_path}/own.py:predict", "on_poor": "warn",
                "actor": {"num_cpus": 0.5},
            }
        ],
        "student": {"kind": "lstm"},
    }  # fmt: skip
    config = validate_run(tree, "test")
    path = f"{tmp_path}/answers/{{teacher}}.parquet"
    console = Console(quiet=True)
    first = run_labelling(config, console)
    second = run_labelling(config, console, to=AnswerTargets(path))
    train, validation = (load_rows(config)[""].train, load_rows(config)[""].validation)
    assert first.forwarded + second.forwarded <= len({*train.texts, *validation.texts})
    (spec,) = (replace(p.spec, store=None) for p in make_placements(config, {}))
    files = FileTeacher(name="own", languages="all", path=path.replace("{teacher}", "own"))
    for rows in (train, validation):
        batch = rows.take(range(len(rows)))
        written = Teacher(replace(spec, teacher=files, source=None)).answer(batch)
        assert written.bodies == Teacher(spec).answer(batch).bodies and written.answered_B.all()
