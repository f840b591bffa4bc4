"""Tagging and question answering from generated corpora to report, through everything that is real.

Teachers are made beside the runs, with tokenizers and tag lists of their own: permuted, of a subset, and in BILOU.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.overlap import overlap_sentence
from raykd import models
from raykd.answers.layout import read_unit_logits
from raykd.config import Embedded
from raykd.config.loading import resolve_paths, validate_run
from raykd.data.embedded.rows import NAME_TAGS, read_corpus
from raykd.data.load import load_data
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED
from raykd.driver.pool import start_pool
from raykd.runs.train import run_training
from raykd.scoring.model import Model
from raykd.scoring.outcome import Outcome
from raykd.scoring.score import ask_teachers
from raykd.tasks.schemes import parse_scheme, read_entities, write_tags
from raykd.tasks.scores import spans as answers
from raykd.teachers.teacher import Teacher

LANGUAGES = ["en", "zh"]
TAGS = list(NAME_TAGS)
PERMUTED = [TAGS[0], *reversed(TAGS[1:])]
SUBSET = [tag for tag in TAGS if not tag.endswith("ORG")]
BILOU = ["O", *(f"{letter}-{kind}" for kind in ("PER", "LOC", "ORG") for letter in "BILU")]
TAGGING = {"kind": "token_classification", "max_length": 48}
ASKING = {"kind": "question_answering", "max_length": 128, "stride": 16}


def embedded(split: str, rows: int) -> dict[str, Any]:
    return {"kind": "embedded", "split": split, "rows_per_language": rows, "label_noise": 0.0}


def config_of(folder: Path, task: dict[str, Any], teachers: list[dict[str, Any]], **changes: Any) -> Any:
    labelled = {"labels": TAGS} if task is TAGGING else {}
    tree = {
        "name": "run",
        "output": str(folder / "runs"),
        "task": task,
        "data": {
            "train": embedded("train", 120), "validation": embedded("validation", 20),
            "test": embedded("test", 30), "unlabeled": embedded("unlabeled", 80),
            "languages": LANGUAGES, "labelled_per_language": 80, **labelled,
        },
        "student": {"kind": "lstm", "embedding": 32, "hidden": 24, "vocab_size": 700, "dropout": 0.0},
        "teacher_defaults": {"actor": {"num_cpus": 0.3, "group": "teachers"}},
        "teachers": teachers,
        "objective": {"alpha": 0.3, "temperature": 2.0, "weighting": {"kind": "uniform"}},
        "train": {"steps": 110, "batch_size": 16, "learning_rate": 0.03, "evaluations": 2},
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
        **changes,
    }  # fmt: skip
    return resolve_paths(validate_run(tree, "test"), folder)


def taught(path: Path, config: Any, rows: Rows, labels: list[str], steps: int, **student: Any) -> str:
    """A teacher that learnt the rows with a plain loop of torch."""
    spec = models.LSTMStudent(embedding=32, hidden=24, dropout=0.0, **student)
    tokenizer = spec.fit_tokenizer([*rows.texts, *(rows.pairs or ())])
    model, task = spec.build(tokenizer, labels, 0, config.task.kind), config.task
    encoded = task.encode(tokenizer, rows.take(range(len(rows))))
    optimizer, draw = torch.optim.AdamW(model.parameters(), lr=0.02), np.random.default_rng(0)
    for _ in range(steps):
        batch = task.collate(encoded, draw.choice(len(rows), 16, replace=False).tolist())
        units_NC = task.gather(model(**batch.inputs), batch)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(units_NC, batch.labels_N, ignore_index=UNLABELLED).backward()
        optimizer.step()
    made = models.TextModel(
        model, tokenizer, tuple(labels), kind="lstm", task=task.kind, max_length=task.max_length
    )
    return str(models.save_model(made, path))


def in_scheme(rows: Rows, labels: list[str]) -> Rows:
    """The same names in other tags; names of a type that the tags lack are outside."""
    golds = []
    for gold in rows.golds or ():
        found = read_entities([TAGS[i] for i in gold], "BIO")
        kept = [name for name in found if any(tag.endswith(f"-{name[2]}") for tag in labels)]
        tags = write_tags(kept, len(gold), parse_scheme(labels).name)
        golds.append(tuple(labels.index(tag) for tag in tags))
    return replace(rows, golds=tuple(golds))


@pytest.fixture(scope="module")
def tagging(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Any, Outcome]:
    """A run whose three taggers have three lists of tags and three tokenizers."""
    folder = tmp_path_factory.mktemp("tagging")
    source = Embedded(split="train", rows_per_language=200, label_noise=0.0)
    config = config_of(folder, TAGGING, [{"name": "x", "languages": "all", "path": "x"}])
    made = {
        "en": (["en"], PERMUTED, {"vocab_size": 500, "lowercase": False}),
        "zh": (["zh"], SUBSET, {"vocab_size": 900}),
        "multi": (LANGUAGES, BILOU, {"vocab_size": 1100, "lowercase": False}),
    }
    teachers = []
    for name, (languages, labels, student) in made.items():
        rows = in_scheme(read_corpus(source, languages, "words"), labels)
        path = taught(folder / name, config, rows, labels, 90, **student)
        teachers.append({"name": name, "languages": languages, "path": path})
    config = config_of(folder, TAGGING, teachers)
    return config, run_training(config)


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Any, Outcome]:
    """A run whose teachers read contexts in windows of 48 tokens and whole."""
    folder = tmp_path_factory.mktemp("asking")
    source = Embedded(split="train", rows_per_language=200, label_noise=0.0)
    config = config_of(folder, ASKING, [{"name": "x", "languages": "all", "path": "x"}])
    teachers = []
    for name, languages, limit in (("en", ["en"], 48), ("multi", LANGUAGES, None)):
        rows = read_corpus(source, languages, "answers")
        path = taught(folder / name, config, rows, [], 90, vocab_size=600 if limit else 900)
        teachers.append({"name": name, "languages": languages, "path": path, "max_length": limit})
    config = config_of(folder, ASKING, teachers)
    return config, run_training(config)


@pytest.mark.parametrize("run", ["tagging", "asking"])
def test_what_actors_served_is_what_the_same_teachers_answer_here(
    run: str, request: pytest.FixtureRequest
) -> None:
    config, _ = request.getfixturevalue(run)
    rows = load_data(config.data, Path.cwd(), config.form).test
    assert rows is not None
    pool, _ = start_pool(config, {})
    try:
        served = ask_teachers(pool.handle, rows)
        # The run has asked all of this: a second pool reads it from disk.
        assert all(count["forwarded"] == count["loaded"] == 0 for count in pool.counters().values())
        specs = [spec for group in pool.handle.groups for spec in group.specs]
    finally:
        pool.stop()
    batch = rows.take(range(len(rows)))
    counts_B, wide = config.task.count_units(batch), config.task.count_choices(batch, config.data.labels)
    for spec, there in zip(specs, served, strict=True):
        here = Teacher(replace(spec, store=None)).answer(batch)
        (ours, seen), (theirs, covered) = (read_unit_logits(s, counts_B, wide) for s in (here, there))
        assert (seen == covered).all() and seen.any()
        assert np.isneginf(ours).any() == (spec.name == "zh" and run == "tagging")
        known = np.isfinite(ours)
        assert (known == np.isfinite(theirs)).all()
        assert np.abs(ours[known] - theirs[known]).max() < 1e-3


def test_the_tagger_finds_names_and_says_where(tagging: tuple[Any, Outcome]) -> None:
    config, outcome = tagging
    assert outcome.macro("ensemble")["f1"] > 0.5 and outcome.macro("student")["f1"] > 0.2  # all O has 0
    rows = load_data(config.data, Path.cwd(), config.form).test
    assert rows is not None and rows.words is not None
    tokens = [[t[b:e] for b, e in w] for t, w in zip(rows.texts, rows.words, strict=True)]
    found = Model.load(outcome.student).predict([{"tokens": row} for row in tokens])
    names = [entity for row in found for entity in row["entities"]]
    assert names and all(
        row["text"][e["start"] : e["end"]] == e["text"] for row in found for e in row["entities"]
    )
    assert {e["type"] for e in names} <= {"PER", "LOC", "ORG"}


def test_the_reader_beats_the_sentence_that_overlaps_most(asking: tuple[Any, Outcome]) -> None:
    config, outcome = asking
    rows = load_data(config.data, Path.cwd(), config.form).test
    assert rows is not None and rows.pairs is not None and rows.golds is not None
    pairs = list(zip(rows.texts, rows.pairs, strict=True))
    guessed = [overlap_sentence(*pair) for pair in pairs]
    gold = [[c[g[0] : g[1]]] for c, g in zip(rows.pairs, rows.golds, strict=True)]
    floor = answers.compute_answer_metrics(guessed, gold, rows.languages)["f1"]
    assert 0.1 < floor < outcome.macro("student")["f1"]
    found = Model.load(outcome.student).predict(rows.texts, rows.pairs)
    assert all(c[r["start"] : r["end"]] == r["answer"] for r, (_, c) in zip(found, pairs, strict=True))
    scored = answers.compute_answer_metrics([row["answer"] for row in found], gold, rows.languages)["f1"]
    assert scored == pytest.approx(outcome.macro("student")["f1"], abs=0.02)


@pytest.mark.parametrize(
    ("run", "columns"),
    [("tagging", ["entities"]), ("asking", ["answer", "start", "end", "probability"])],
)
def test_records_hold_coverage_and_a_model_that_answers_in_the_terms_of_the_task(
    run: str, columns: list[str], request: pytest.FixtureRequest
) -> None:
    import mlflow
    import pandas

    config, outcome = request.getfixturevalue(run)
    client = mlflow.MlflowClient(config.tracking.uri)
    record = client.get_run(outcome.mlflow_run_id)
    coverage = {k: v for k, v in record.data.metrics.items() if k.endswith("coverage")}
    assert set(coverage) == {"train/coverage", *(f"teacher/{t.name}/coverage" for t in config.teachers)}
    assert all(value == 1.0 for value in coverage.values())
    assert record.data.metrics["train/long_rows"] == 0.0
    (model,) = client.search_logged_models([record.info.experiment_id])
    frame = {"text": ["Anna lives in Paris ."]}
    if run == "asking":
        frame = {"question": ["Who ?"], "context": ["Anna lives in Paris."]}
    answered = mlflow.pyfunc.load_model(model.artifact_location).predict(pandas.DataFrame(frame))
    assert list(answered.columns) == columns
    report = json.loads((outcome.report.parent / "report.json").read_text(encoding="utf-8"))
    assert {row["language"] for row in report["results"]} == {"en", "zh", "macro"}


def test_a_second_run_forwards_nothing(tagging: tuple[Any, Outcome]) -> None:
    import mlflow

    config, _ = tagging
    changes = {"name": "again", "seed": 1, "train": config.train.model_copy(update={"steps": 4})}
    outcome = run_training(config.model_copy(update=changes))
    metrics = mlflow.MlflowClient(config.tracking.uri).get_run(outcome.mlflow_run_id).data.metrics
    assert [metrics[f"teacher/{t.name}/rows_forwarded"] for t in config.teachers] == [0.0, 0.0, 0.0]
    # Workers read the store themselves: not even the actors were asked.
    assert [metrics[f"teacher/{t.name}/store_hit_rate"] for t in config.teachers] == [1.0, 1.0, 1.0]
