"""A kind of teacher of somebody else's, in a file of its own, is read, checked, served and stored like those that ship."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import yaml

import raykd
from raykd.config import RunConfig, TeacherBase, register_teacher
from raykd.config.loading import dump_run, load_run, validate_run
from raykd.driver.pool import make_teacher_spec
from raykd.errors import ConfigError, LabelMismatchError, NonFiniteError, TeacherError
from raykd.report.results import Score
from raykd.scoring.poor_teachers import make_complaint
from raykd.scoring.score import make_student_spec
from raykd.tasks.scores.chance import Comparison, Swap
from raykd.teachers.backends.backend import describe_teacher, make_backend
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.teacher import Teacher
from tests.fakes import LABELS, logits_of, text_batch, texts_and_labels
from tests.toy_teacher import ConstantTeacher

PROBABILITIES = {"negative": 0.25, "positive": 0.75}
PACKAGE = Path(__file__).resolve().parents[2] / "raykd"


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A run on files, taught by the kind."""
    for split, seed in (("train", 0), ("validation", 1)):
        texts, labels = texts_and_labels(40, seed)
        rows = [
            {"text": text, "label": LABELS[label], "language": "en"}
            for text, label in zip(texts, labels, strict=True)
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree()), encoding="utf-8")
    return tmp_path / "run.yaml"


def tree(**teacher: Any) -> dict[str, Any]:
    return {
        "data": {
            "train": {"kind": "files", "paths": ["train.jsonl"]},
            "validation": {"kind": "files", "paths": ["validation.jsonl"]},
            "labels": list(LABELS),
            "languages": ["en"],
        },
        "task": {"kind": "classification", "max_length": 32},
        "teachers": [
            {
                "kind": "constant",
                "name": "sure",
                "languages": "all",
                "probabilities": PROBABILITIES,
                **teacher,
            }
        ],
        "student": {"kind": "linear"},
        "train": {"steps": 4, "batch_size": 8},
    }


def spec_of(store: Path | None = None, **teacher: Any) -> TeacherSpec:
    config = validate_run(
        {**tree(**teacher), "serving": {"store": None if store is None else str(store)}}, "x"
    )
    assert isinstance(config, RunConfig)
    return make_teacher_spec(config, config.teachers[0], {})


def test_a_run_file_names_it_and_it_is_written_as_it_was_read(run_file: Path) -> None:
    config = load_run(run_file)
    (teacher,) = config.teachers
    assert isinstance(teacher, ConstantTeacher) and teacher.probabilities == PROBABILITIES
    assert yaml.safe_load(dump_run(config))["teachers"][0]["kind"] == "constant"
    assert config.trained_teachers == () and teacher.model_path is None
    other = load_run(run_file, ["teachers.sure.probabilities.negative=0.5"])
    assert other.fingerprint() != config.fingerprint()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"probabilitys": {}}, r"probabilitys[\s\S]*probabilities"),
        ({"probabilities": {"negative": -1.0}}, r"probabilities[\s\S]*-1"),
        ({"kind": "constnat"}, r"constnat[\s\S]*constant"),
        ({"path": "models/x"}, r"kind constant has no path"),
    ],
    ids=str,
)
def test_wrong_keys_of_it_are_answered_like_those_of_any_kind(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        validate_run(tree(**change), "test")


def test_a_check_describes_it(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_file.parent)
    found = {finding.what: finding for finding in raykd.check(run_file)}
    assert found["teacher sure"].error is None
    assert found["teacher sure"].detail == "constant, labels negative, positive, float32 on cpu"
    assert [finding for finding in found.values() if finding.error] == []


def test_it_answers_and_its_answers_are_stored(tmp_path: Path) -> None:
    teacher = Teacher(spec_of(tmp_path / "store"))
    batch = text_batch(["good", "bad", "good"])
    first, again = teacher.answer(batch), teacher.answer(batch)
    np.testing.assert_allclose(np.exp(logits_of(again)), [[0.25, 0.75]] * 3, rtol=1e-6)
    assert (first.forwarded, again.forwarded) == (2, 0), "a text that stands twice is answered once"
    counted = teacher.counters()
    assert (counted["answered"], counted["forwarded"], counted["computed_tokens"]) == (6, 2, 0)
    teacher.halve()
    teacher.load()
    assert teacher.loaded and teacher.finding is None and teacher.measure_time(batch) is None
    teacher.close()
    assert Teacher(spec_of(tmp_path / "store")).answer(batch).forwarded == 0
    changed = {"negative": 0.5, "positive": 0.5}
    assert Teacher(spec_of(tmp_path / "store", probabilities=changed)).answer(batch).forwarded == 2


def test_its_labels_are_found_by_name_and_others_are_refused() -> None:
    batch = text_batch(["good"])
    turned = Teacher(spec_of(probabilities={"positive": 0.75, "negative": 0.25}))
    np.testing.assert_allclose(np.exp(logits_of(turned.answer(batch))), [[0.25, 0.75]], rtol=1e-6)
    own = {"up": 0.75, "down": 0.25}
    mapped = spec_of(probabilities=own, label_map={"up": "positive", "down": "negative"})
    np.testing.assert_allclose(np.exp(logits_of(Teacher(mapped).answer(batch))), [[0.25, 0.75]], rtol=1e-6)
    assert describe_teacher(mapped).columns == ((1,), (0,))
    with pytest.raises(LabelMismatchError, match="teacher sure has other labels than the run"):
        describe_teacher(spec_of(probabilities=own))


def test_an_answer_that_is_not_finite_is_refused() -> None:
    backend = make_backend(spec_of())
    batch = text_batch(["good", "bad"])
    bodies = backend.encode_logits(batch, np.asarray([[0.0, 1.0], [np.nan, 1.0]], dtype=np.float32))
    with pytest.raises(NonFiniteError, match="teacher sure"):
        backend.finish(batch, bodies)


def test_what_only_a_language_model_can_is_refused_by_name() -> None:
    backend = make_backend(spec_of())
    with pytest.raises(TeacherError, match="teacher sure has no vocabulary"):
        backend.vocabulary()
    with pytest.raises(TeacherError, match="teacher sure writes no text"):
        backend.generate(text_batch(["good"]), beams=None, max_new_tokens=4)


def test_a_poor_one_is_told_about_without_a_folder() -> None:
    config, spec = validate_run(tree(), "x"), spec_of()
    score = Score({"en": {"accuracy": 0.1}}, {"accuracy": 0.1}, {"en": 40})
    plain = Comparison(40, 0.1, 0.05, 0.2, 0, 0.5)
    for found, said in (
        (plain, "are its answers meant for this task"),
        (replace(plain, swap=Swap((1, 0), 0.9)), "check teachers.sure.label_map"),
    ):
        complaint = make_complaint(config, spec, describe_teacher(spec), found, score, on_poor="stop")
        assert complaint is not None and said in complaint.cause
        assert "config.json" not in complaint.cause and " is  a model" not in complaint.cause


def test_a_student_is_asked_as_a_model(tmp_path: Path) -> None:
    spec = make_student_spec(tmp_path, validate_run(tree(), "x"))
    assert (spec.name, spec.teacher.model_path) == ("student", str(tmp_path))


def test_a_kind_that_nothing_serves_is_an_error_that_names_it() -> None:
    class Unserved(TeacherBase):
        kind: Literal["unserved"] = "unserved"

    with pytest.raises(TeacherError, match=r"nothing serves teacher t[\s\S]*unserved[\s\S]*constant"):
        make_backend(TeacherSpec(Unserved(name="t", languages="all"), LABELS, spec_of().task))


def test_a_kind_is_registered_once() -> None:
    with pytest.raises(ValueError, match="two teachers are of kind constant"):

        @register_teacher
        class Other(TeacherBase):
            kind: Literal["constant"] = "constant"


def test_nothing_but_the_preparation_of_models_asks_of_which_kind_one_is() -> None:
    asking = re.compile(r"(?:teacher|\bt)\.kind (?:==|!=|in|not in) ")
    found = [
        f"{path.relative_to(PACKAGE)}:{number}"
        for path in PACKAGE.rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if asking.search(line)
    ]
    assert found == []
