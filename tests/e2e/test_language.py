"""Translation from the generated corpus to report: two language models of other vocabularies teach a smaller one."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raykd import models
from raykd.config.loading import resolve_paths, validate_run
from raykd.data.load import load_data
from raykd.errors import ModelError
from raykd.runs.sequences import write_sequences
from raykd.runs.train import run_training
from raykd.scoring.model import Model
from raykd.scoring.outcome import Outcome


def embedded(split: str, rows: int) -> dict[str, Any]:
    return {"kind": "embedded", "split": split, "rows_per_language": rows, "label_noise": 0.0}


def config_of(folder: Path, name: str, **changes: Any) -> Any:
    model = {"kind": "encoder_decoder", "layers": 1, "hidden": 48, "heads": 2, "dropout": 0.0}
    training = {"steps": 60, "batch_size": 16, "learning_rate": 0.004, "evaluations": 1}
    tree = {
        "name": name,
        "output": str(folder / "runs"),
        "task": {
            "kind": "seq2seq", "max_length": 48, "max_target_length": 48, "max_new_tokens": 24,
            "written": ["chrf"], "answers": {"kind": "top_k", "k": 16, "temperatures": [1.0, 2.0]},
        },
        "data": {
            "train": embedded("train", 120), "validation": embedded("validation", 10),
            "test": embedded("test", 10), "languages": ["en", "fr"],
        },
        "student": {**model, "vocab_size": 600},
        "teacher_defaults": {"actor": {"num_cpus": 0.3, "group": "teachers"}},
        "teachers": [
            {"name": "fr", "languages": ["fr"], "path": str(folder / "fr")},
            {"name": "multi", "languages": "all", "path": str(folder / "multi")},
        ],
        "objective": {"alpha": 0.5, "temperature": 2.0},
        "train": {**training, "steps": 20},
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
        **changes,
    }  # fmt: skip
    return resolve_paths(validate_run(tree, "test"), folder)


@pytest.fixture(scope="module")
def translation(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Path, Outcome]:
    """A run whose teachers are as they were drawn: what they say is of no use, and all of its way is real."""
    folder = tmp_path_factory.mktemp("language")
    config = config_of(folder, "translation")
    rows = load_data(config.data, Path.cwd(), config.form).train
    for name, size, parts in (
        ("fr", 600, rows.pairs or ()),
        ("multi", 760, (*rows.texts, *(rows.pairs or ()))),
    ):
        spec = models.EncoderDecoderStudent(layers=1, hidden=48, heads=2, vocab_size=size, dropout=0.0)
        tokenizer = spec.fit_tokenizer(parts)
        model = spec.build(tokenizer, (), 0)
        made = models.TextModel(model, tokenizer, (), kind=spec.kind, task="seq2seq", max_length=48)
        models.save_model(made, folder / name)
    return folder, run_training(config)


def test_systems_are_scored_by_likelihood_and_by_what_they_write(translation: tuple[Path, Outcome]) -> None:
    _, outcome = translation
    scores = {p.name: s for p, s in outcome.table.systems}
    assert set(scores) == {"fr", "multi", "student"}
    assert set(scores["fr"].by_language) == {"fr"} and set(scores["student"].by_language) == {"en", "fr"}
    for found in scores.values():
        for values in found.by_language.values():
            assert 0.0 < values["nll"] < 12.0 and 0.0 <= values["chrf"] <= 100.0
    assert "NLL" in outcome.table.to_markdown()
    student = Model.load(outcome.student)
    (row,) = student.predict(["The cat sees the house."], language="fr")
    assert set(row) == {"text", "written"}
    with pytest.raises(ModelError, match="several languages"):
        student.predict(["The cat sees the house."])


def test_answers_cover_what_the_vocabularies_share(translation: tuple[Path, Outcome]) -> None:
    _, outcome = translation
    lines = (outcome.student.parent / "curves.jsonl").read_text(encoding="utf-8").splitlines()
    values = [point["values"] for point in map(json.loads, lines) if point["job"] == "student"]
    last = {name: value for point in values for name, value in point.items()}
    assert 0.2 < last["teacher/fr/coverage"] < 1.0 and 0.2 < last["teacher/multi/coverage"] < 1.0


def test_what_teachers_write_is_data_for_the_next_run(translation: tuple[Path, Outcome]) -> None:
    folder, _ = translation
    data = {
        "train": embedded("train", 120),
        "validation": embedded("validation", 10),
        "languages": ["en", "fr"],
    }
    config = config_of(folder, "sequences", data={**data, "labelled_per_language": 6})
    path, said = folder / "written.jsonl", StringIO()
    assert write_sequences(config, path, Console(file=said), beams=2) == 12 and "12 of 12" in said.getvalue()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {(row["lang"], row["teacher"]) for row in rows} == {("fr", "fr"), ("en", "multi")}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:5]) + '{"id": "torn', encoding="utf-8")
    assert write_sequences(config, path, Console(file=StringIO()), beams=2) == 7
    written = [row for row in rows if row["tgt"].strip()]
    files = {"kind": "files", "paths": [str(path)]}
    next_run = config_of(
        folder, "next", data={**data, "train": files, "on_bad_row": "skip", "max_bad_rows": 1.0}
    )
    assert len(load_data(next_run.data, Path.cwd(), next_run.form).train) == len(written) > 0
