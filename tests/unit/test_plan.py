"""`raykd plan` and the disk: numbers computed by hand, and models that are really built."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raykd import models
from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import encode_answer
from raykd.config import RunConfig
from raykd.config.loading import load_run
from raykd.data.load import load_data
from raykd.errors import ResourceError
from raykd.preflight.disk import MAY_NOT_FIT, Disk, check_disk, compute_disk, format_bytes
from raykd.preflight.plan import plan_run, read_measured_pace
from raykd.preflight.sizes import (
    StoreSize,
    count_student_parameters,
    estimate_body_bytes,
    estimate_store_sizes,
)
from raykd.tasks import Classification, MaskedLM, QuestionAnswering, TokenClassification
from raykd.tasks.kinds.question_answering import BESIDE
from raykd.teachers.store.sqlite import estimate_stored_bytes
from raykd.tuning.checks.plan import plan_sweep
from raykd.tuning.config import load_sweep
from tests.fakes import texts_and_labels
from tests.unit.test_cli_bad_input import tree


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(tree(tmp_path)), encoding="utf-8")
    return load_run(path)


def detail(items: list[Any], what: str) -> str:
    return next(item.detail for item in items if item.what == what)


def test_weights_are_those_of_the_model_that_is_built() -> None:
    # BERT by hand: vocabulary 200, positions 64, 2 token types, width 16, feed-forward 64, one layer, pooler, 2 labels.
    h, f = 16, 64
    embeddings = (200 + 64 + 2) * h + 2 * h
    layer = 4 * (h * h + h) + 2 * h + (h * f + f) + (f * h + h) + 2 * h
    spec = models.TransformerStudent(layers=1, hidden=h, heads=2, vocab_size=200, max_positions=64)
    by_hand = embeddings + layer + (h * h + h) + (h * 2 + 2)
    assert count_student_parameters(spec, Classification(), ("a", "b")) == by_hand
    assert count_student_parameters(spec, Classification(), ("a", "b"), least=True) == by_hand - (200 - 5) * h
    lstm = models.LSTMStudent(embedding=8, hidden=6, vocab_size=100)
    tokenizer = lstm.fit_tokenizer(texts_and_labels(300)[0])
    built = lstm.build(tokenizer, ("a", "b"), 0)
    least = 8 * (100 - len(tokenizer))  # type: ignore[arg-type]
    assert (
        count_student_parameters(lstm, Classification(), ("a", "b"))
        == sum(p.numel() for p in built.parameters()) + least
    )
    linear = models.LinearStudent(buckets=1000)
    assert count_student_parameters(linear, Classification(), ("a", "b", "c")) == 3 * 1000 + 3
    assert (
        count_student_parameters(models.PretrainedStudent(path="who/knows"), Classification(), ("a", "b"))
        is None
    )


def test_bytes_of_an_answer_are_those_of_the_body_that_is_written(run: RunConfig) -> None:
    rows = load_data(run.data, Path.cwd(), run.form).train.select(range(3))
    assert estimate_body_bytes(Classification(), 7, rows, None) == (14 + 28.0, False)
    words = ((0, 1), (2, 3), (4, 6))
    tagged = replace(rows, words=(words,) * 3)
    body = encode_answer(DenseAnswer(logits_NC=np.zeros((3, 5), np.float32), covered_N=np.ones(3, bool)))
    assert estimate_body_bytes(TokenClassification(), 5, tagged, None) == (float(len(body)), False)
    asked = replace(rows, pairs=("one two three four",) * 3)
    body = encode_answer(
        DenseAnswer(logits_NC=np.zeros((2, 4 + BESIDE), np.float32), covered_N=np.ones(2, bool))
    )
    assert estimate_body_bytes(QuestionAnswering(), 0, asked, None) == (float(len(body)), False)
    hidden = MaskedLM(answers={"kind": "hidden"})  # type: ignore[arg-type]
    assert estimate_body_bytes(hidden, 0, rows, None)[0] is None
    size, bound = estimate_body_bytes(hidden, 0, rows, 10)
    assert bound and size is not None and size >= 14 + 20


def test_the_store_counts_each_text_once_and_held_out_texts_by_every_teacher(run: RunConfig) -> None:
    data = load_data(run.data, Path.cwd(), run.form)
    texts = {*data.train.texts, *data.validation.texts}
    (size,) = estimate_store_sizes(run, data)
    assert size == StoreSize("en", len(texts), len(texts) * estimate_stored_bytes(14 + 8), False)
    assert (
        estimate_store_sizes(
            run.model_copy(update={"serving": run.serving.model_copy(update={"store": None})}), data
        )
        == []
    )


def test_disk_arithmetic() -> None:
    def disk(free: int | None, **more: Any) -> Disk:
        store = (StoreSize("a", 10, 5_000, False), StoreSize("b", 10, 95_000, True))
        return Disk(Path("out"), 1000, 16_000, 8_000, store, more.pop("limit", 10**9), free, **more)

    assert disk(10**9).needed == 3 * 16_000 + 100_000 and disk(0, limit=70_000).needed == 48_000 + 70_000
    assert disk(0, copies=9).needed == 144_000 + 100_000
    more = disk(0, teachers=1_000, models=200, records=30)
    assert more.needed == 48_000 + 100_000 + 1_230
    assert (
        "+ 1 kB models trained first + 200 bytes models + 30 bytes records + 100 kB answers"
        in more.arithmetic()
    )
    assert "3 x 16 kB checkpoints + 100 kB answers = 148 kB of 1 GB free" in check_disk(disk(10**9))
    assert check_disk(disk(147_999)).startswith(MAY_NOT_FIT) and check_disk(disk(148_000)).startswith("3 x")
    assert "not checked" in check_disk(disk(None))
    with pytest.raises(ResourceError, match="not one checkpoint") as caught:
        check_disk(disk(7_999))
    assert caught.value.exit_code == 2 and "free space" in str(caught.value)
    assert [format_bytes(n) for n in (999, 1500, 2_000_000, 3 * 10**9, 5 * 10**12)] == [
        "999 bytes", "1.5 kB", "2 MB", "3 GB", "5,000 GB",
    ]  # fmt: skip


def test_the_plan_of_a_run(run: RunConfig, tmp_path: Path) -> None:
    items = plan_run(run)
    assert detail(items, "stage 1") == "training teacher en CPU 1 of CPU 2 on this machine"
    assert (
        detail(items, "stage 2") == "teachers CPU 1; student workers CPU 1 = CPU 2 of CPU 2 on this machine"
    )
    assert detail(items, "student") == "2 steps (train.steps); 48 rows / batch 16 = 3 steps an epoch"
    assert detail(items, "teacher-en") == "48 rows / batch 16 = 3 steps an epoch x 3 epochs = 9 steps"
    count = count_student_parameters(run.student, run.task, run.data.labels)
    assert f"16 bytes x {count:,} = {format_bytes(16 * (count or 0))}" in detail(items, "weights")
    assert "unknown" in detail(items, "time") and not [i for i in items if i.error]
    disk, count = compute_disk(run), count_student_parameters(run.student, run.task, run.data.labels) or 0
    assert disk.copies == 3 and not (tmp_path / "runs").exists()
    assert disk.models == 2 * (4 * count + 60 * run.student.vocab_size)  # type: ignore[union-attr]
    assert disk.records > 2_000_000 and disk.teachers > 0
    crowded = run.model_copy(update={"workers": run.workers.model_copy(update={"num_workers": 2})})
    (wrong,) = [i.error for i in plan_run(crowded) if i.error]
    assert "teachers 1 + student workers 2 = 3 CPU" in str(wrong)


def test_time_is_told_only_where_it_was_measured(run: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "bad"
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(json.dumps(tree(tmp_path) | {"seed": 5}), encoding="utf-8")
    points = [
        {"job": "student", "step": s, "time_ms": 1000 + 250 * s, "values": {"x": 1.0}} for s in (10, 30)
    ]
    (folder / "curves.jsonl").write_text("".join(json.dumps(p) + "\n" for p in points), encoding="utf-8")
    assert read_measured_pace(run, folder) == 0.25
    assert "2 steps x 250.0 ms" in detail(plan_run(run), "time")
    wider = run.model_copy(update={"train": run.train.model_copy(update={"batch_size": 8})})
    assert read_measured_pace(wider, folder) is None and read_measured_pace(run, tmp_path / "none") is None


def test_the_plan_of_a_sweep(tmp_path: Path) -> None:
    space = {
        "name": "s",
        "base": tree(tmp_path),
        "num_samples": 6,
        "space": {"objective": {"alpha": {"uniform": [0, 1]}}},
    }
    path = tmp_path / "space.yaml"
    space["base"]["ray"] = {"num_cpus": 5}  # type: ignore[index]
    for key, label, fits in (("ahead", {}, 5), ("on_demand", {"label": "on_demand"}, 4)):
        path.write_text(json.dumps(space | label), encoding="utf-8")
        items = plan_sweep(load_sweep(path))
        assert detail(items, "trials at once").startswith(f"{fits} fit on this machine with CPU 5"), key
        assert f"6 trials x {2} steps = 12 steps at most" in detail(items, "trials")
        assert f"{6 + fits} x " in detail(items, "disk")
    path.write_text(json.dumps(space | {"max_concurrent_trials": 9}), encoding="utf-8")
    (wrong,) = [i.error for i in plan_sweep(load_sweep(path)) if i.error]
    assert "max_concurrent_trials of 5 at most" in str(wrong)
