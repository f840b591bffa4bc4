"""What a run does with teachers that are scored before they teach: stop, warn, or say that they cannot be judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import encode_answer
from raykd.answers.source import AnswerSlots
from raykd.config import ModelTeacher, RunConfig
from raykd.data.load import Dataset
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED
from raykd.driver.jobs import Job, make_teacher_jobs
from raykd.errors import ModelError
from raykd.models import read_labels
from raykd.preflight.check import collect_findings
from raykd.report.results import Predictions
from raykd.runs.teacher_stage import TeacherStage
from raykd.scoring import teacher_scores
from raykd.scoring.absent_teachers import describe_unused_teachers, find_unused_teachers
from raykd.scoring.score import score_ensemble, stack_signals
from raykd.scoring.teacher_scores import TeacherReview, record_reviews, refuse_poor_teachers, review_teachers
from raykd.tasks import Classification
from raykd.teachers.pools.stored_pool import NeededAnswers
from raykd.teachers.source import ReadyBatch
from raykd.teachers.spec import TeacherSpec
from raykd.text.batch import TextBatch
from raykd.tuning.driver import SweepDriver
from tests.fakes import answer_slots
from tests.worlds import run_config

Answer = Callable[[TextBatch, int], int]
"""The label that a teacher gives to a row of a batch."""


def right(batch: TextBatch, i: int) -> int:
    return int(batch.texts[i][-1])


def swapped(batch: TextBatch, i: int) -> int:
    return 1 - right(batch, i)


def constant(label: int) -> Answer:
    return lambda batch, i: label


@dataclass
class FakePool:
    """Teachers by their answers; counts what it was asked."""

    answers: dict[str, Answer]
    languages: dict[str, frozenset[str] | None]
    paths: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = tuple(self.answers)
        specs = [
            TeacherSpec(
                ModelTeacher(
                    name=n,
                    languages="all",
                    path=self.paths.get(n, "nowhere"),
                    label_map={self.dropped[n]: None} if n in self.dropped else {},
                ),
                ("negative", "positive"),
                Classification(),
            )
            for n in names
        ]
        self.handle = SimpleNamespace(
            teachers=names, groups=[SimpleNamespace(specs=specs)], submit=self.submit
        )

    def submit(self, batch: TextBatch) -> ReadyBatch:
        assert isinstance(batch, TextBatch)
        self.asked += batch.ids
        signals = []
        for name, answer in self.answers.items():
            own = self.languages[name]
            covered_N = np.asarray([own is None or lang in own for lang in batch.languages])
            logits_NC = np.zeros((len(batch), 2), np.float32)
            for i in np.flatnonzero(covered_N):
                logits_NC[i, answer(batch, int(i))] = 5.0
            signals.append(answer_slots(name, logits_NC, covered_N))
        return ReadyBatch(signals)

    @property
    def replicas(self) -> FakePool:
        """What asks the replicas is the pool itself."""
        return self

    def findings(self) -> dict[str, str]:
        return {}


@pytest.fixture(autouse=True)
def pools_answer_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handle of a `FakePool` is its source."""
    monkeypatch.setattr("raykd.scoring.score.PoolSource", lambda handle: handle)


def made_rows(count: int = 200, languages: tuple[str, ...] = ("en", "zh"), even: bool = False) -> Rows:
    """Texts that end with their label, as many of each in each language where that is asked for."""
    rng = np.random.default_rng(0)
    labels_B = (np.arange(count) // 2) % 2 if even else (rng.random(count) < 0.4).astype(np.int64)
    return Rows(
        ids=tuple(f"v{i}" for i in range(count)),
        texts=tuple(f"text {i} is {y}" for i, y in enumerate(labels_B.tolist())),
        pairs=None,
        languages=tuple(languages[i % len(languages)] for i in range(count)),
        labels_B=labels_B,
    )


def config_of(teachers: list[dict[str, Any]], **changes: Any) -> RunConfig:
    tree = run_config().model_dump(mode="json")
    objective = {**tree["objective"], "weighting": changes.pop("weighting", {"kind": "uniform"})}
    return RunConfig.model_validate({**tree, "teachers": teachers, "objective": objective, **changes})


def named(*names: str) -> RunConfig:
    return config_of([{"name": name, "languages": "all", "path": "x"} for name in names])


def judged(
    answers: dict[str, Answer], rows: Rows | None = None, *, languages: tuple[str, ...] = ("en", "zh"),
    spoken: dict[str, Any] | None = None, on_poor: dict[str, str] | None = None, paths: dict[str, str] | None = None,
    dropped: dict[str, str] | None = None,
    is_judged: bool = False, training: dict[str, dict[str, Any]] | None = None, **changes: Any,
) -> TeacherReview:  # fmt: skip
    own = {name: (spoken or {}).get(name, "all") for name in answers}
    teachers = [
        {"name": n, "languages": own[n], "on_poor": (on_poor or {}).get(n, "stop")}
        | ({"training": training[n]} if n in (training or {}) else {"path": "x"})  # type: ignore[index]
        for n in answers
    ]
    sets = {n: None if who == "all" else frozenset(who) for n, who in own.items()}
    pool: Any = FakePool(answers, sets, paths or {}, dropped or {})
    infos: Any = [
        SimpleNamespace(
            name=n,
            parameters=1,
            max_length=64,
            columns=((0,), (1,)),
            labels=read_labels(paths[n]) if n in (paths or {}) else (),
        )
        for n in answers
    ]
    rows = made_rows() if rows is None else rows
    return review_teachers(
        config_of(teachers, **changes), pool, infos, rows, languages, lambda line: None, is_judged=is_judged
    )


def test_swapped_labels_stop_the_run_with_the_score_beside_the_most_frequent_label(tmp_path: Path) -> None:
    for name, labels in (("same", ["negative", "positive"]), ("other", ["LABEL_0", "LABEL_1"])):
        (tmp_path / name).mkdir()
        config = {
            "architectures": ["BertForSequenceClassification"], "model_type": "bert",
            "id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)},
        }  # fmt: skip
        (tmp_path / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, shown in (
        ("same", "{negative: positive, positive: negative}"),
        ("other", "{LABEL_0: positive, LABEL_1: negative}"),
    ):
        found = judged({"good": right, "bad": swapped}, paths={"bad": str(tmp_path / name)})
        with pytest.raises(ModelError) as caught:
            refuse_poor_teachers([found], named("good", "bad"))
        said = str(caught.value)
        assert caught.value.exit_code == 3
        assert "teacher bad is worse on the validation rows" in said
        assert "accuracy 0.0 % (95 % interval 0.0 to 1.9) of 200 labelled texts (en 0.0 %, zh 0.0 %)" in said
        assert "always negative, the most frequent label, would be right in 65.0 %" in said
        assert f"its labels look swapped: with label_map {shown} it would reach 100.0 %" in said
        assert (
            "teachers.bad.label_map" in said
            and "id2label" in said
            and "; teachers.bad.on_poor=warn goes on" in said
        )
        assert found.warnings == ()


def test_a_proposed_label_map_keeps_the_labels_that_the_user_dropped() -> None:
    found = judged({"good": right, "bad": swapped}, dropped={"bad": "unknown"})
    with pytest.raises(
        ModelError, match=r"label_map {negative: positive, positive: negative, unknown: null}"
    ):
        refuse_poor_teachers([found], named("good", "bad"))


def test_a_teacher_that_may_be_poor_is_a_warning_and_a_tag() -> None:
    found = judged({"good": right, "bad": swapped}, on_poor={"bad": "warn"})
    refuse_poor_teachers([found], named("good", "bad"))
    (line,) = found.warnings
    assert "teacher bad is worse" in line and line in found.notes and f"warning: {line}" in found.lines
    assert "good 100.0 (en, zh), bad 0.0 (en, zh)" in found.summary
    points, tags = [], {}
    tracker: Any = SimpleNamespace(run_id="r", log_points=points.extend, set_tags=tags.update)
    state: dict[str, Any] = {}
    folder: Any = SimpleNamespace(state=state, write_state=state.update)
    record_reviews({"": found}, tracker, folder)
    record_reviews({"": found}, tracker, folder)
    (point,) = points
    assert point.step == 0 and point.values["teacher/bad/validation/accuracy"] == 0.0
    assert tags == {"raykd.teacher.bad.poor": line}


def test_several_bad_teachers_are_told_at_once() -> None:
    found = judged({"one": swapped, "two": constant(1), "good": right})
    with pytest.raises(
        ModelError, match=r"teachers one, two are not good enough[\s\S]*one: accuracy[\s\S]*two: acc"
    ):
        refuse_poor_teachers([found], named("one", "two", "good"))
    two = next(c for c in found.complaints if c.teacher == "two")
    assert "no other order of its labels fits" in two.cause and "max_length (64 tokens)" in two.cause


def test_a_teacher_that_nobody_asks_stops_nothing() -> None:
    found = judged(
        {"good": right, "bad": swapped}, weighting={"kind": "fixed", "by_teacher": {"good": 1.0, "bad": 0.0}}
    )
    refuse_poor_teachers([found], named("good", "bad"))
    assert "teacher bad is worse" in found.notes[0]
    assert found.notes[1] == (
        "teacher bad is asked for no row of this run: objective.weighting.by_teacher.bad is 0"
    )


def test_no_teacher_is_blamed_for_a_hard_language() -> None:
    """zh is hard: both are wrong in 44 % there. Over all its rows the monolingual one is far below the other."""

    def hard(batch: TextBatch, i: int) -> int:
        wrong = batch.languages[i] == "zh" and int(batch.ids[i][1:]) % 25 < 11
        return 1 - right(batch, i) if wrong else right(batch, i)

    found = judged({"zh": hard, "multi": hard}, made_rows(even=True), spoken={"zh": ["zh"]})
    own, theirs = (found.scores[name].macro["accuracy"] for name in ("zh", "multi"))  # type: ignore[index]
    assert theirs - own > 0.2 and found.warnings == ()

    def weak(batch: TextBatch, i: int) -> int:
        return swapped(batch, i) if int(batch.ids[i][1:]) % 4 == 0 else right(batch, i)

    (line,) = judged({"weak": weak, "good": right}).warnings
    assert "teacher weak is 25.0 points below teacher good on the validation rows in en, zh" in line
    assert "accuracy 75.0 against 100.0 %" in line
    # self-training: it knows the student's labels alone, and what it is compared with teaches another arm
    alone = {"weak": {"model": {"kind": "linear"}, "labelled": "student"}}
    assert judged({"weak": weak, "good": right}, training=alone).warnings == ()


@pytest.mark.parametrize(("missing", "count"), [((), 1), (("sports",), 0)])
def test_teachers_of_other_labels_are_not_compared(missing: tuple[str, ...], count: int) -> None:
    teachers = [SimpleNamespace(name="whole", missing=()), SimpleNamespace(name="part", missing=missing)]
    config: Any = SimpleNamespace(task=Classification(), active_teachers=teachers)
    scores: Any = {
        "whole": SimpleNamespace(by_language={"en": {"accuracy": 0.9}}),
        "part": SimpleNamespace(by_language={"en": {"accuracy": 0.5}}),
    }
    assert len(teacher_scores._far_below(config, scores, set())) == count


def test_a_language_without_validation_labels_is_said() -> None:
    rows = made_rows()
    hidden = np.where(np.asarray(rows.languages) == "zh", UNLABELLED, rows.labels_B)
    rows = Rows(rows.ids, rows.texts, rows.languages, hidden)
    found = judged({"zh": right, "multi": right}, rows, spoken={"zh": ["zh"]}, languages=("en", "zh", "fr"))
    assert found.warnings == (
        "teacher zh could not be judged in zh: no validation row there has a label",
        "teacher multi could not be judged in fr, zh: no validation row there has a label",
    )
    assert "zh – (none)" in found.summary


def test_answers_are_held_where_no_store_keeps_them() -> None:
    assert judged({"good": right}).answers == {}
    assert set(judged({"good": right}, serving={"store": None}).answers) == {"good"}


TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def tagged(answer: Callable[[int], int], cut: int = 99) -> TeacherReview:
    """Twenty sentences of ten words: two persons, a place of two words, six words outside."""
    gold = (0, 1, 0, 0, 3, 4, 0, 0, 1, 0)
    rows = Rows(
        ids=tuple(f"v{i}" for i in range(20)),
        texts=("a b c d e f g h i j",) * 20,
        pairs=None,
        languages=("en",) * 20,
        labels_B=np.zeros(20, np.int64),
        words=(tuple((2 * i, 2 * i + 1) for i in range(10)),) * 20,
        golds=(gold,) * 20,
    )
    logits_NC = np.full((200, 5), -5.0, np.float32)
    logits_NC[np.arange(200), [answer(tag) for tag in gold * 20]] = 5.0
    seen_N = np.tile(np.arange(10) < cut, 20)
    bodies: list[bytes | None] = [
        encode_answer(row) for row in DenseAnswer(logits_NC=logits_NC, covered_N=seen_N).rows([10] * 20)
    ]
    signal = AnswerSlots("t", bodies)
    pool: Any = FakePool({"t": right}, {"t": None})
    pool.handle.submit = lambda batch: ReadyBatch([signal])
    tree = config_of([{"name": "t", "languages": "all", "path": "x"}]).model_dump(mode="json")
    data = {**tree["data"], "labels": TAGS}
    config = RunConfig.model_validate(
        {
            **tree,
            "data": data,
            "task": {"kind": "token_classification"},
            "train": {**tree["train"], "metric": "f1"},
        }
    )
    infos: Any = [
        SimpleNamespace(
            name="t", parameters=1, max_length=64, labels=(), columns=tuple((c,) for c in range(5))
        )
    ]
    return review_teachers(config, pool, infos, rows, ("en",), lambda line: None)


def test_a_tagger_is_compared_with_o_everywhere_by_words() -> None:
    assert tagged(lambda tag: tag).complaints == ()
    (silent,) = tagged(lambda tag: 0).complaints
    assert (
        not silent.stops
        and "is no better on the validation rows than one label for everything" in silent.what
    )
    (poor,) = tagged(lambda tag: [1, 0, 0, 0, 0][tag]).complaints
    assert poor.stops and "of 200 labelled words in en; O everywhere would be right in 60.0 %" in poor.got
    (turned,) = tagged(lambda tag: [0, 3, 4, 1, 2][tag]).complaints
    assert not turned.stops, "O alone is right in 60 %: it is warned of, schemes of tags overlap"
    assert "with label_map {B-PER: B-LOC, I-PER: I-LOC, B-LOC: B-PER, I-LOC: I-PER}" in turned.cause
    (cut,) = tagged(lambda tag: tag, cut=0).complaints
    assert "accuracy 60.0 %" in cut.got, "words that are cut off count as O"


@pytest.mark.parametrize(
    ("weighting", "alpha", "why"),
    [
        (
            {"kind": "by_language"},
            0.2,
            "by_language routes them to others (rows in en go to en; rows in zh go to zh)",
        ),
        ({"kind": "fixed", "by_teacher": {"en": 1, "zh": 1, "multi": 0}}, 0.2, "by_teacher.multi is 0"),
        ({"kind": "uniform"}, 1.0, "objective.alpha is 1"),
    ],
)
def test_teachers_that_are_never_asked_are_named(weighting: Any, alpha: float, why: str) -> None:
    config = run_config({"alpha": alpha, "weighting": weighting})
    found = find_unused_teachers(config, ["en", "zh", "en"])
    assert "multi" in found and why in found["multi"]
    assert set(found) == ({"multi"} if alpha < 1 else {"en", "zh", "multi"})
    assert describe_unused_teachers(found)[-1].startswith("teacher multi is asked for no row of this run: ")


def test_teachers_are_asked_where_their_language_has_a_row() -> None:
    config = run_config({"alpha": 0.2, "weighting": {"kind": "by_language"}})
    assert find_unused_teachers(config, ["en", "fr", "zh"]) == {
        "multi": "objective.weighting by_language routes them to others (rows in en go to en; rows in zh go to zh)"
    }
    assert find_unused_teachers(config, ["en"]) == {
        "zh": "no training row is in its languages",
        "multi": "objective.weighting by_language routes them to others (rows in en go to en)",
    }
    assert find_unused_teachers(run_config(), ["en", "zh"]) == {}


@pytest.mark.parametrize(
    ("weights", "expected"), [({"a": 1.0, "b": 0.0}, 40.0), ({"a": 1.0, "b": 1.0}, None)]
)
def test_an_ensemble_has_a_time_where_all_that_it_asks_have_one(weights: Any, expected: float | None) -> None:
    rows, config = made_rows(20), None
    teachers = [{"name": n, "languages": "all", "path": "x"} for n in weights]
    config = config_of(teachers, weighting={"kind": "fixed", "by_teacher": weights})
    pool = FakePool({"a": right, "b": right}, {"a": None, "b": None})
    signals = pool.submit(rows.take(range(20))).answers
    together = stack_signals(config, signals, [None, None], rows)
    empty = np.empty((0, 0), np.float32), np.empty(0, bool), np.empty(0, np.int64), ()
    own = [Predictions(n, "teacher", *empty, 1, t) for n, t in (("a", 40.0), ("b", None))]
    predictions, _ = score_ensemble(config, together, np.ones(20, bool), own, rows)
    assert predictions.ms_per_1000 == expected


def test_whether_a_poor_teacher_may_teach_changes_no_result() -> None:
    teachers = [{"name": "a", "languages": "all", "path": "x"}]
    warned = config_of(teachers, teacher_defaults={"on_poor": "warn"})
    assert warned.teachers[0].on_poor == "warn" and config_of(teachers).teachers[0].on_poor == "stop"
    assert warned.fingerprint() == config_of(teachers).fingerprint()


def test_a_sweep_judges_its_teachers_once_and_stops(tmp_path: Path) -> None:
    rows, teachers = made_rows(), [{"name": n, "languages": "all", "path": "x"} for n in ("good", "bad")]
    infos: Any = [
        SimpleNamespace(name=n, parameters=1, max_length=64, columns=((0,), (1,)), labels=())
        for n in ("good", "bad")
    ]
    points: list[Any] = []
    tracker: Any = SimpleNamespace(run_id="r", log_points=points.extend, set_tags=lambda tags: None)
    for on_poor in ("stop", "warn"):
        state: dict[str, Any] = {}
        folder: Any = SimpleNamespace(path=tmp_path / on_poor, state=state, write_state=state.update)
        folder.path.mkdir()
        base = config_of([{**t, "on_poor": on_poor} for t in teachers])
        pool: Any = FakePool({"good": right, "bad": swapped}, {"good": None, "bad": None})
        said = StringIO()
        student = Job("student", "student", base, {"": Dataset(rows, rows, None, {}, "text")}, tmp_path)
        session: Any = SimpleNamespace(
            folder=folder, console=Console(file=said, width=200), open_tracker=lambda own=tracker: own
        )
        driver = SweepDriver(base, [], student, session, "ahead", {"": [NeededAnswers(rows)]})
        counts: Any = None
        stage = TeacherStage(base, student, session, driver._print, {"": (pool, infos)}, counts)
        if on_poor == "stop":
            with pytest.raises(
                ModelError, match=r"teacher bad is worse[\s\S]*base.teachers.bad.on_poor=warn goes on"
            ):
                driver.review(stage)
        else:
            driver.review(stage)
            assert len(driver.notes) == 1 and "warning: teacher bad is worse" in said.getvalue()
        assert pool.asked == list(rows.ids), "each validation row is asked for once"
        assert "good 100.0 (en, zh), bad 0.0 (en, zh)" in said.getvalue()
    assert [p.step for p in points] == [0, 0]


def test_check_says_which_teachers_are_never_asked(tmp_path: Path) -> None:
    tree = {
        "output": str(tmp_path),
        "data": {
            "train": {"kind": "embedded", "split": "train", "rows_per_language": 40},
            "validation": {"kind": "embedded", "split": "validation", "rows_per_language": 10},
            "labels": ["negative", "positive"],
            "languages": ["zh", "en"],
        },
        "student": {"kind": "linear"},
        "teachers": [
            {"name": n, "languages": who, "training": {}} for n, who in (("zh", ["zh"]), ("en", ["en"]), ("multi", "all"))
        ],
        "objective": {"weighting": {"kind": "by_language"}},
    }  # fmt: skip
    found = {f.what: f for f in collect_findings(RunConfig.model_validate(tree))}
    assert found["teachers"].error is None and found["teachers"].detail == (
        "note: teacher multi is asked for no row of this run: objective.weighting by_language routes them to others "
        "(rows in en go to en; rows in zh go to zh)"
    )


def test_check_says_which_teachers_are_trained_already(tmp_path: Path) -> None:
    source = {"kind": "embedded", "rows_per_language": 80}
    config = RunConfig.model_validate({
        "output": str(tmp_path),
        "data": {
            "train": source, "validation": {**source, "split": "validation"}, "labels": ["negative", "positive"],
            "languages": ["zh", "en"],
        },
        "student": {"kind": "linear"},
        "train": {"batch_size": 8},
        "teachers": [{"name": name, "languages": [name], "training": {}} for name in ("zh", "en")],
    })  # fmt: skip
    there = next(job.output for job in make_teacher_jobs(config) if job.name == "teacher-zh")
    there.mkdir(parents=True)
    (there / "config.json").write_text("{}", encoding="utf-8")
    found = {f.what: f.detail for f in collect_findings(config)}
    assert found["teacher zh"] == f"trained before, and reused: {there}"
    assert found["teacher en"].startswith("will be trained: ")
