"""Answers that a run writes teach what its models teach, and an ensemble of them is one teacher."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import decode_answers
from raykd.config import FileTeacher, RunConfig
from raykd.data.rows import Rows
from raykd.errors import ConfigError
from raykd.point import Point
from raykd.runs.answer_files import ENSEMBLE, AnswerTargets, write_answers
from raykd.tasks import Classification
from raykd.tasks.kinds.multi_label import MultiLabel
from raykd.tasks.kinds.regression import Regression
from raykd.tasks.kinds.token_classification import TokenClassification
from raykd.tasks.scores.classification import log_softmax
from raykd.teachers.source import LocalSource
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.teacher import Teacher
from tests import worlds
from tests.fakes import LABELS, logits_of, model_spec, save_transformer
from tests.worlds import TEACHERS, rows, run_config

DATA = rows(160, 1)
LANGUAGES = {t["name"]: frozenset(t["languages"]) for t in TEACHERS}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "cache"))


def open_models(folder: Path) -> list[Teacher]:
    """The three teachers of the world as models with a store; two name their labels in another order."""
    found = []
    for seed, (name, spoken) in enumerate(LANGUAGES.items()):
        path = save_transformer(folder / name, seed=seed, labels=LABELS[::-1] if seed else LABELS)
        spec = model_spec(name, str(path), LABELS, Classification(max_length=64), spoken, dtype="float32")
        found.append(Teacher(replace(spec, store=str(folder / "store"))))
    return found


def open_files(path: str, names: dict[str, frozenset[str]] = LANGUAGES) -> list[Teacher]:
    """The same teachers, whose answers are in files."""
    found = []
    for name, spoken in names.items():
        file = FileTeacher(name=name, languages=tuple(sorted(spoken)), path=path.replace("{teacher}", name))
        found.append(Teacher(TeacherSpec(file, LABELS, Classification(max_length=64))))
    return found


def write(config: RunConfig, teachers: list[Teacher], parts: list[Rows], path: str, **keys: Any) -> int:
    source = LocalSource(teachers, config.objective.weighting)
    paths = {name: path for (_, name), path in AnswerTargets(path, **keys).name_files(config).items()}
    infos = [teacher.open() for teacher in teachers]
    return write_answers(config, infos, [(part, source) for part in parts], paths, lambda done, total: None)


def train(
    config: RunConfig, teachers: list[Teacher], monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, float]]:
    """The curves of a training without Ray, without times."""
    points: list[Point] = []
    source = LocalSource(teachers, config.objective.weighting)
    monkeypatch.setattr(worlds, "source", lambda config: source)
    worlds.build_loop(config, train=DATA, publish=points.append).run()
    kept = ("train/loss", "train/soft", "eval/")
    return [{k: v for k, v in point.values.items() if k.startswith(kept)} for point in points]


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_student_learns_from_written_answers_what_it_learns_from_the_models(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, models = run_config(), open_models(tmp_path)
    path = f"{tmp_path}/answers/{{teacher}}.{ending}"
    asked = sum(language in spoken for language in DATA.languages for spoken in LANGUAGES.values())
    assert write(config, models, [DATA], path) == asked
    files = open_files(path)
    batch = DATA.take(range(len(DATA)))
    for model, file in zip(models, files, strict=True):
        assert file.answer(batch).bodies == model.answer(batch).bodies
    curves = [train(config, each, monkeypatch) for each in (models, files)]
    assert curves[0] == curves[1]
    losses = [values["train/loss"] for values in curves[0] if "train/loss" in values]
    assert len(set(losses)) == len(losses) > 2


def test_an_ensemble_is_written_as_one_teacher(tmp_path: Path) -> None:
    objective = {
        "alpha": 0.1,
        "mixture": "geometric",
        "weighting": {"kind": "fixed", "by_teacher": {"en": 3.0, "zh": 1.0, "multi": 1.0}},
    }
    config, models = run_config(objective), open_models(tmp_path)
    path = f"{tmp_path}/ensemble.parquet"
    spoken = np.asarray(DATA.languages) != "fr"
    assert write(config, models, [DATA], path, together=True) == int(spoken.sum())
    (ensemble,) = open_files(path, {ENSEMBLE: frozenset({"en", "zh", "fr"})})
    slots = ensemble.answer(DATA.take(range(len(DATA))))
    assert (slots.answered_B == spoken).all()
    # The definition, from the models: a weighted mean of log-probabilities, normalised.
    answers = LocalSource(models).submit(DATA).result()
    logp_MNC = np.stack([log_softmax(logits_of(each)) for each in answers])
    weights_MN = np.asarray([[3.0], [1.0], [1.0]]) * np.stack([each.answered_B for each in answers])
    mixed_NC = (weights_MN[..., None] * logp_MNC).sum(axis=0) / weights_MN.sum(axis=0).clip(1e-9)[:, None]
    np.testing.assert_allclose(
        log_softmax(logits_of(slots))[spoken], log_softmax(mixed_NC)[spoken], atol=1e-5
    )


def test_a_label_that_a_teacher_lacks_is_no_column_and_that_of_a_mixture_leaves_rows_out(
    tmp_path: Path,
) -> None:
    labels = ("negative", "positive", "neutral")
    task = Classification(max_length=64)
    en = FileTeacher(name="en", languages=("en",), path=f"{tmp_path}/given.parquet", missing=("neutral",))
    zh = FileTeacher(name="zh", languages=("zh",), path=f"{tmp_path}/given.parquet", label_map={})
    frame = pd.DataFrame({"text": list(DATA.texts), "negative": 0.25, "positive": 0.75, "neutral": 0.0})
    frame = frame.drop_duplicates("text")
    frame.drop(columns="neutral").to_parquet(en.path)
    frame.to_parquet(tmp_path / "three.parquet")
    zh = zh.model_copy(update={"path": f"{tmp_path}/three.parquet"})
    config = run_config()
    teachers = [config.teachers[0].model_copy(update={"name": "en"}), config.teachers[1]]
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"labels": labels}), "teachers": tuple(teachers)}
    )
    models = [Teacher(TeacherSpec(each, labels, task)) for each in (en, zh)]
    write(config, models, [DATA], f"{tmp_path}/{{teacher}}.parquet")
    columns = [pq.read_schema(f"{tmp_path}/{name}.parquet").field("logits").type for name in ("en", "zh")]
    assert [[part.name for part in kind] for kind in columns] == [list(labels[:2]), list(labels)]
    assert write(config, models, [DATA], f"{tmp_path}/all.parquet", together=True) == DATA.languages.count(
        "zh"
    )


def test_tags_are_written_word_by_word(tmp_path: Path) -> None:
    tags = ("O", "B-PER", "I-PER")
    words = (((0, 4), (5, 8)), ((0, 2),))
    batch = replace(DATA.select([0, 1]), texts=("Anna ran", "He"), languages=("en", "en"), words=words)
    logits = [[{"O": -1.5, "B-PER": 3.0, "I-PER": 0.1}, None], [{"O": 2.0, "B-PER": 0.0, "I-PER": 0.25}]]
    given = FileTeacher(name="en", languages="all", path=f"{tmp_path}/given.parquet")
    pd.DataFrame({"text": batch.texts, "logits": logits}).to_parquet(given.path)
    teacher = Teacher(TeacherSpec(given, tags, TokenClassification()))
    config = run_config().model_copy(update={"task": TokenClassification(), "teachers": (given,)})
    config = config.model_copy(update={"data": config.data.model_copy(update={"labels": tags})})
    for ending in ("parquet", "jsonl"):
        path = f"{tmp_path}/again.{ending}"
        assert write(config, [teacher], [batch], path) == 2
        again = Teacher(TeacherSpec(given.model_copy(update={"path": path}), tags, TokenClassification()))
        assert again.answer(batch).bodies == teacher.answer(batch).bodies
    line = json.loads(Path(path).read_text(encoding="utf-8").splitlines()[0])
    assert line["tokens"] == ["Anna", "ran"] and line["logits"] == logits[0]


def test_labels_that_stand_alone_and_values_are_written(tmp_path: Path) -> None:
    batch = DATA.select([0, 1, 2])
    frame = pd.DataFrame({"text": batch.texts, "positive": [0.5, 0.25, 0.1], "value": [1.5, -2.0, 0.1]})
    frame.to_parquet(tmp_path / "given.parquet")
    for task, labels in ((MultiLabel(outputs=2), LABELS), (Regression(), ())):
        missing = ("negative",) if labels else ()
        given = FileTeacher(
            name="en", languages="all", path=f"{tmp_path}/given.parquet", missing=missing, labels=labels[1:]
        )
        teacher = Teacher(TeacherSpec(given, labels, task))
        config = run_config().model_copy(update={"task": task, "teachers": (given,)})
        config = config.model_copy(update={"data": config.data.model_copy(update={"labels": labels})})
        for together in (False, True):
            path = f"{tmp_path}/{task.kind}-{together}.parquet"
            assert write(config, [teacher], [batch], path, together=together) == 3
            again = given.model_copy(update={"path": path, "labels": ()})
            both = [Teacher(TeacherSpec(each, labels, task)).answer(batch).bodies for each in (again, given)]
            (got, _), (expected, _) = (decode_answers(bodies) for bodies in both)
            assert isinstance(got, DenseAnswer) and isinstance(expected, DenseAnswer)
            assert (got.covered_N == expected.covered_N).all()
            np.testing.assert_allclose(got.logits_NC, expected.logits_NC, atol=1e-6)


def test_files_that_cannot_be_written_are_refused_before_teachers_are_asked(tmp_path: Path) -> None:
    config = run_config()
    (tmp_path / "there.jsonl").touch()
    for path, keys, said in (
        (f"{tmp_path}/a.parquet", {}, r"several teachers[\s\S]*a-\{teacher\}\.parquet'; --ensemble"),
        (f"{tmp_path}/{{teacher}}.csv", {}, "does not say what to write"),
        (f"{tmp_path}/there.jsonl", {"together": True}, "is there already"),
    ):
        with pytest.raises(ConfigError, match=said):
            AnswerTargets(path, **keys).name_files(config)
    memory = AnswerTargets("memory://written/{teacher}.jsonl").name_files(config)
    assert sorted(memory.values()) == [f"memory://written/{name}.jsonl" for name in sorted(LANGUAGES)]
