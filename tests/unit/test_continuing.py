"""A run that goes on from an earlier one: its keys, its rows, its head, its anchor, and what it says was forgotten."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raykd import models
from raykd.config import RunConfig
from raykd.config.loading import dump_run, load_run, resolve_paths, validate_run
from raykd.data.load import load_data
from raykd.data.rows import draw_share
from raykd.distill.signals import Signals
from raykd.distill.weighting import Anchored, Fixed, Uniform
from raykd.driver.jobs import TaskJob
from raykd.errors import ConfigError
from raykd.models import LinearStudent, LSTMStudent, PretrainedStudent, TransformerStudent
from raykd.report.forgetting import Forgotten
from raykd.scoring.evaluation.forgetting import measure_forgetting
from raykd.tasks.scores.intervals import RowShares, compute_change_interval
from raykd.text.padding import pad_sequences
from raykd.text.tokens import tokenize
from tests.fakes import LABELS, save_transformer, texts_and_labels
from tests.worlds import rows

NEW = ("other", *LABELS)


def write_rows(
    folder: Path, name: str, languages: tuple[str, ...], seed: int, count: int = 40
) -> dict[str, Any]:
    """Labelled rows of some languages as a source of a run."""
    paths = []
    for at, lang in enumerate(languages):
        texts, labels = texts_and_labels(count, seed=seed + 100 * at)
        lines = [
            {"text": f"{lang} {t}", "label": LABELS[y], "lang": lang}
            for t, y in zip(texts, labels, strict=True)
        ]
        path = folder / f"{name}-{lang}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        paths.append(str(path))
    return {"kind": "files", "paths": paths}


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The folder of a finished run in English and French."""
    folder = tmp_path / "runs" / "old"
    save_transformer(folder / "student")
    tree = {
        "name": "old", "output": str(tmp_path / "runs"),
        "data": {
            "train": write_rows(tmp_path, "train", ("en", "fr"), 1, 60),
            "validation": write_rows(tmp_path, "validation", ("en", "fr"), 2),
            "labels": list(LABELS), "languages": ["en", "fr"],
        },
        "task": {"kind": "classification", "max_length": 64},
        "student": {"kind": "transformer", "layers": 1, "hidden": 16, "heads": 2, "dropout": 0.0, "vocab_size": 200},
        "objective": {"alpha": 1.0}, "train": {"steps": 4, "batch_size": 8},
    }  # fmt: skip
    (folder / "run.yaml").write_text(
        dump_run(resolve_paths(validate_run(tree, "old"), tmp_path)), encoding="utf-8"
    )
    (folder / "run.json").write_text(
        json.dumps({"status": "finished", "folder": str(folder)}), encoding="utf-8"
    )
    return folder


def new_tree(folder: Path, earlier: Path, **changes: Any) -> dict[str, Any]:
    """A run that adds German and a label."""
    tree = {
        "name": "new", "output": str(folder / "runs"), "from_run": str(earlier),
        "data": {
            "train": write_rows(folder, "new", ("de",), 3),
            "validation": write_rows(folder, "new-validation", ("de",), 4),
            "labels": list(NEW), "languages": ["de"],
        },
        "task": {"kind": "classification", "max_length": 64},
        "train": {"steps": 4, "batch_size": 8},
    }  # fmt: skip
    return {**tree, **changes}


def test_what_continuing_means_is_written_as_ordinary_keys(tmp_path: Path, earlier: Path) -> None:
    run = validate_run(new_tree(tmp_path, earlier), "new")
    assert run.student == PretrainedStudent(path=str(earlier / "student"))
    assert run.data.languages == ("de", "en", "fr") and run.data.labels == NEW
    (anchor,) = run.teachers
    assert (anchor.name, anchor.languages, anchor.missing) == ("old_student", ("en", "fr"), ("other",))
    assert run.objective.weighting == Anchored(teacher="old_student")
    assert run.data.replay is not None and run.data.replay.data.labels == NEW
    # What a resume reads again, and arms of an experiment change, is the same run.
    again = tmp_path / "again.yaml"
    again.write_text(dump_run(run), encoding="utf-8")
    assert load_run(again) == resolve_paths(run, tmp_path)
    assert load_run(again, ["data.replay.share=0.5"]).data.replay.share == 0.5  # type: ignore[union-attr]


def test_own_teachers_and_weightings_stay_beside_the_anchor(tmp_path: Path, earlier: Path) -> None:
    teacher = {"name": "de", "languages": ["de"], "path": str(earlier / "student"), "missing": ["other"]}
    weighting = {"kind": "fixed", "by_teacher": {"de": 1.0}}
    tree = new_tree(
        tmp_path, earlier, teachers=[teacher], objective={"weighting": weighting}, select_teachers=["de"]
    )
    run = validate_run(tree, "new")
    assert [t.name for t in run.active_teachers] == ["de", "old_student"]
    assert run.objective.weighting.inner == Fixed(by_teacher={"de": 1.0})
    off = {"weighting": {"kind": "anchored", "share": 0, "among": weighting}}
    bare = validate_run({**tree, "objective": off}, "new")
    assert [t.name for t in bare.teachers] == ["de"] and bare.objective.weighting == Fixed(
        by_teacher={"de": 1.0}
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"from_run": "/nowhere"}, r"from_run names no run with a student"),
        ({"task": {"kind": "regression"}}, r"another task"),
        ({"student": {"kind": "lstm"}}, r"asks for another one[\s\S]*lstm[\s\S]*transformer"),
        ({"data": {"labels": ["other", LABELS[0]]}}, rf"lacks a label[\s\S]*add {LABELS[1]}"),
    ],
)
def test_what_cannot_go_on_is_refused(
    tmp_path: Path, earlier: Path, changes: dict[str, Any], message: str
) -> None:
    tree = new_tree(tmp_path, earlier)
    merged = {**tree, **changes, "data": {**tree["data"], **changes.get("data", {})}}
    with pytest.raises(ConfigError, match=message):
        validate_run(merged, "new")


def test_a_share_of_the_old_rows_is_learnt_again(tmp_path: Path, earlier: Path) -> None:
    run = validate_run(new_tree(tmp_path, earlier), "new")
    data = load_data(run.data, Path.cwd(), run.form)
    assert [int(data.train.is_in_language(x).sum()) for x in ("de", "en", "fr")] == [40, 12, 12]
    old = [NEW[y] for y in data.train.labels_B[~data.train.is_in_language("de")]]
    assert set(old) == set(LABELS), "labels are found by name"
    assert data.left_out["train: of the earlier run, learnt again (data.replay)"] == 24
    none = run.data.model_copy(update={"replay": run.data.replay.model_copy(update={"share": 0.0})})  # type: ignore[union-attr]
    assert load_data(none, Path.cwd(), run.form).train.list_languages() == ("de",)


def test_a_larger_share_holds_the_smaller_one_with_labels_in_proportion() -> None:
    every = rows(400, 5)
    small, large = draw_share(every, 0.1, 0), draw_share(every, 0.3, 0)
    assert set(small.ids) < set(large.ids) and set(draw_share(every, 0.1, 1).ids) != set(small.ids)
    for language in every.list_languages():
        for label in np.unique(every.labels_B):
            of = every.is_in_language(language) & (every.labels_B == label)
            drawn = large.is_in_language(language) & (large.labels_B == label)
            assert abs(drawn.sum() - 0.3 * of.sum()) <= 1


def test_the_anchor_has_its_share_and_the_others_the_rest() -> None:
    signals = Signals(
        teachers=("a", "anchor", "b"),
        teacher_languages=(frozenset({"de"}), frozenset({"en"}), None),
        logits_MNC=torch.zeros(3, 4, 2),
        # All three, the anchor alone, the others alone, nobody.
        covered_MN=torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.bool),
        labels_N=torch.zeros(4, dtype=torch.int64),
        languages=("en",) * 4,
    )
    weighting = Anchored(teacher="anchor", share=0.25, among=Fixed(by_teacher={"a": 1.0, "b": 3.0}))
    wanted = torch.tensor([[0.1875, 0, 0.25, 0], [0.25, 1, 0, 0], [0.5625, 0, 0.75, 0]])
    torch.testing.assert_close(weighting.weights(signals), wanted)
    known = replace(signals, eligible_MN=weighting.eligible(signals))
    torch.testing.assert_close(weighting.weights(known), wanted)
    assert weighting.may_need("de", signals.teachers, signals.teacher_languages) == (True, False, True)
    assert weighting.may_need("en", signals.teachers, signals.teacher_languages) == (False, True, True)
    assert weighting.without({"anchor", "a"}) == Fixed(by_teacher={"b": 3.0})
    alone = Anchored(teacher="anchor", among=Uniform())
    assert alone.may_need("en", ("anchor",), (None,)) == (True,)
    with pytest.raises(ConfigError, match="names no teacher"):
        Anchored(teacher="x").check(("a",), (None,), ("de",))


def logits_of_model(model: Any, tokenizer: Any, labels: tuple[str, ...]) -> torch.Tensor:
    """``[5, C]`` for five texts."""
    texts = texts_and_labels(5, seed=9)[0]
    encoded = tokenize(tokenizer, texts, None, 64)
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**pad_sequences(encoded, range(5))).logits
    assert found.shape == (5, len(labels))
    return found


@pytest.mark.parametrize(
    "student",
    [
        TransformerStudent(layers=1, hidden=16, heads=2, dropout=0.0, vocab_size=150, max_positions=64),
        LSTMStudent(embedding=8, hidden=8, vocab_size=150, dropout=0.0),
        LinearStudent(buckets=512),
    ],
    ids=lambda s: s.kind,
)
def test_a_head_is_carried_by_the_names_of_its_labels(student: Any, tmp_path: Path) -> None:
    texts = texts_and_labels(50)[0]
    tokenizer = student.fit_tokenizer(texts)
    own = ("b", "a", "c")
    saved = models.TextModel(student.build(tokenizer, own, 0), tokenizer, own, max_length=64)
    with torch.no_grad():
        for weight in saved.model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    models.save_model(saved, tmp_path / "model")
    before = logits_of_model(saved.model, tokenizer, own)
    labels = ("a", "new", "b", "c")
    model = PretrainedStudent(path=str(tmp_path / "model")).build(None, labels, 0).eval()
    torch.testing.assert_close(logits_of_model(model, tokenizer, labels)[:, [2, 0, 3]], before)
    assert tuple(model.config.id2label.values()) == labels
    swapped = PretrainedStudent(path=str(tmp_path / "model")).build(None, ("c", "d", "b"), 0).eval()
    after = logits_of_model(swapped, tokenizer, ("c", "d", "b"))
    torch.testing.assert_close(after[:, [2, 0]], before[:, [0, 2]])
    assert not torch.allclose(after[:, 1], before[:, 1]), "the row of another label"


def test_a_student_that_learnt_nothing_has_forgotten_nothing(tmp_path: Path, earlier: Path) -> None:
    run = validate_run(new_tree(tmp_path, earlier), "new")
    start = run.student.build(run.student.load_tokenizer(), NEW, 0)  # type: ignore[union-attr]
    with torch.no_grad():
        start.classifier.bias[0] = -50.0  # type: ignore[index,union-attr]  # the new label is never given
    saved = models.TextModel(start, run.student.load_tokenizer(), NEW, max_length=64)  # type: ignore[union-attr]
    models.save_model(saved, tmp_path / "new")
    table = measure_forgetting(_job(run, tmp_path / "new"))
    assert table is not None and [line.what for line in table.lines][:2] == ["en", "fr"]
    assert all(
        (line.rows, line.change, line.low, line.high) == (40, 0.0, 0.0, 0.0) for line in table.lines[:2]
    )
    assert {line.what for line in table.lines[2:]} <= {f"label {label}" for label in LABELS}
    assert table.replayed == 24 and "40" in table.to_markdown()
    with torch.no_grad():
        start.classifier.bias[0] = 50.0  # type: ignore[index,union-attr]  # nothing but the new label is given
    models.save_model(replace(saved, model=start), tmp_path / "lost")
    lost = measure_forgetting(_job(run, tmp_path / "lost"))
    assert lost is not None and [line.after for line in lost.lines] == [0.0] * len(lost.lines)
    assert lost.lines[0].change == -lost.lines[0].before and (lost.lines[0].high or 0.0) < 0.0


def _job(run: RunConfig, output: Path) -> TaskJob:
    return TaskJob("student", "student", run, load_data(run.data, Path.cwd(), run.form), output)


def test_the_interval_of_a_change_is_paired() -> None:
    right_B = (np.arange(200) % 2).astype(np.float64)
    better_B = np.where(np.arange(200) < 20, 1.0, right_B)  # ten more are right, and nothing else differs
    ones_B = np.ones(200)
    found = compute_change_interval(RowShares(right_B, ones_B), RowShares(better_B, ones_B))
    # A paired change is a proportion of 10 in 200: its standard error is sqrt(0.05 * 0.95 / 200) = 0.0154.
    assert (
        found is not None
        and 0.05 - 2.3 * 0.0154 < found.low < 0.03
        and 0.07 < found.high < 0.05 + 2.3 * 0.0154
    )


def test_changes_are_shown_in_points() -> None:
    line = Forgotten("en", 40, "accuracy", 0.9, 0.8, -0.15, -0.05)
    assert line.to_cells() == ["en", "40", "accuracy", "90.0", "80.0", "−10.0", "−15.0 to −5.0"]
