"""Held-out rows without gold labels: the teachers' labels, what is refused, and the names of scores against them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import encode_answer
from raykd.answers.source import AnswerSlots
from raykd.config import RunConfig
from raykd.data.load import Dataset, load_data
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED
from raykd.driver.gold_labels import check_gold_labels, describe_judged, name_metric, name_point, share_labels
from raykd.errors import ConfigError, DataError
from raykd.point import Point
from raykd.report.results import Predictions, Score
from raykd.report.table import ResultTable
from raykd.scoring.ensembles.agreement import describe_agreement, fill_missing_labels, name_score
from raykd.teachers.source import ReadyBatch
from tests.fakes import answer_slots
from tests.unit.test_data_load import row, world, write
from tests.unit.test_teacher_scores import judged
from tests.worlds import run_config

TAGS = ("O", "B-PER", "I-PER")


@pytest.fixture(autouse=True)
def pools_answer_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handle of a fake pool is its source."""
    monkeypatch.setattr("raykd.scoring.score.PoolSource", lambda handle: handle)


def bare_rows(languages: tuple[str, ...], **columns: Any) -> Rows:
    count = len(languages)
    return Rows(
        ids=tuple(f"v{i}" for i in range(count)),
        texts=tuple(f"text {i}" for i in range(count)),
        languages=languages,
        labels_B=np.full(count, UNLABELLED),
        **columns,
    )


def pool_of(signals: list[AnswerSlots], languages: list[frozenset[str] | None]) -> Any:
    names = tuple(signal.teacher for signal in signals)
    return SimpleNamespace(
        handle=SimpleNamespace(
            teachers=names, teacher_languages=languages, submit=lambda batch: ReadyBatch(signals)
        )
    )


def run_of(**changes: Any) -> RunConfig:
    objective = {"alpha": 0.0, "weighting": {"kind": "uniform"}}
    tree = run_config(objective).model_dump(mode="json")
    teachers = [
        {"name": "en", "languages": ["en"], "path": "en"},
        {"name": "multi", "languages": "all", "path": "multi"},
    ]
    data = {**tree["data"], **changes.pop("data", {})}
    return RunConfig.model_validate({**tree, "teachers": teachers, "data": data, **changes})


def test_the_label_of_a_row_is_that_of_the_mean_probability_and_nobody_answers_a_row_of_another_language() -> (
    None
):
    rows = bare_rows(("en", "en", "zh", "fr"))
    en = np.asarray([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0], [0.0, 0.0]], np.float32)
    multi = np.asarray([[0.0, 1.0], [9.0, 0.0], [0.0, 1.0], [0.0, 0.0]], np.float32)
    pool = pool_of(
        [
            answer_slots("en", en, np.asarray([True, True, False, False])),
            answer_slots("multi", multi, np.asarray([True, True, True, False])),
        ],
        [frozenset({"en"}), frozenset({"en", "zh"})],
    )
    data = Dataset(rows, rows, None, judged=("validation",))
    filled = fill_missing_labels(run_of(), data, pool)
    # Means of softmax: (0.881 + 0.269) / 2 of label 0; (0.047 + 1.000) / 2 of label 0; zh is multi's alone.
    assert filled.validation.labels_B.tolist() == [0, 0, 1, UNLABELLED]
    assert filled.train is rows and filled.judged == ("validation",)
    assert filled.validation.texts == rows.texts


def test_tags_are_the_teachers_most_probable_legal_row_and_a_row_seen_in_part_stays_without() -> None:
    words = (((0, 4), (5, 6)),) * 2
    rows = bare_rows(("en", "en"), words=words, golds=((), ()), modes=("", ""))
    logits = np.asarray([[0, 1, 5], [0, 0, 4], [0, 5, 0], [5, 0, 0]], np.float32)
    answer = DenseAnswer(logits_NC=logits, covered_N=np.asarray([True, True, True, False]))
    signal = AnswerSlots("multi", [encode_answer(one) for one in answer.rows([2, 2])])
    config = run_of(task={"kind": "token_classification"}, data={"labels": TAGS}, train=_f1(run_config()))
    filled = fill_missing_labels(
        config, Dataset(rows, rows, None, judged=("validation",)), pool_of([signal], [None])
    )
    assert filled.validation.golds == ((1, 2), ()), (
        "I-PER cannot begin a row: B-PER I-PER is the best legal one"
    )
    assert filled.validation.labels_B.tolist() == [0, UNLABELLED]


def _f1(config: RunConfig) -> dict[str, Any]:
    return {**config.train.model_dump(mode="json"), "metric": "f1"}


def test_rows_that_no_teacher_answers_are_an_error() -> None:
    rows = bare_rows(("fr",))
    nobody = answer_slots("multi", np.zeros((1, 2), np.float32), np.asarray([False]))
    with pytest.raises(
        DataError, match=r"no row of data\.validation has a gold label, and the teachers answer none"
    ):
        fill_missing_labels(
            run_of(), Dataset(rows, rows, None, judged=("validation",)), pool_of([nobody], [None])
        )


def bare(folder: Path, name: str, texts: list[str]) -> dict[str, Any]:
    return write(folder, f"bare-{name}.jsonl", [{"text": text, "lang": "en"} for text in texts])


def test_files_without_a_column_of_labels_are_read_where_the_user_says_so(tmp_path: Path) -> None:
    sources = {
        name: bare(tmp_path, name, [f"{name} {i}" for i in range(4)]) for name in ("validation", "test")
    }
    sources["train"] = bare(tmp_path, "train", ["new", "newer", "validation 2"])
    with pytest.raises(DataError, match=r"no column 'label'[\s\S]*data\.empty_label: unlabeled"):
        load_data(world(tmp_path, **sources, unlabeled=None), tmp_path)
    config = world(tmp_path, **sources, unlabeled=None, empty_label="unlabeled")
    data = load_data(config, tmp_path)
    assert data.judged == ("validation", "test") and data.held_out == "test"
    assert data.train.texts == ("new", "newer"), "a held-out text is not learnt from"
    assert not data.train.labelled.any() and len(data.validation) == 4
    assert data.notes == ("sources without a column of gold labels are read as texts without labels",)
    own = world(tmp_path, **sources, unlabeled=None, empty_label="unlabeled", columns={"label": "stars"})
    with pytest.raises(DataError, match=r"no column 'stars'"):
        load_data(own, tmp_path)
    same = {**sources, "train": sources["validation"]}
    with pytest.raises(DataError, match=r"every text of data\.train is also in validation or test"):
        load_data(world(tmp_path, **same, unlabeled=None, empty_label="unlabeled"), tmp_path)


@pytest.mark.parametrize(
    ("labelled", "judged_parts", "learnt"),
    [(("train",), ("validation", "test"), 3), (("validation", "test"), (), 0), (("train", "test"), ("validation",), 3)],
)  # fmt: skip
def test_some_parts_may_have_labels_and_others_not(
    tmp_path: Path, labelled: tuple[str, ...], judged_parts: tuple[str, ...], learnt: int
) -> None:
    sources = {
        name: write(tmp_path, f"gold-{name}.jsonl", [row(f"{name} {i}") for i in range(3)])
        if name in labelled
        else bare(tmp_path, name, [f"{name} {i}" for i in range(3)])
        for name in ("train", "validation", "test")
    }
    data = load_data(world(tmp_path, **sources, unlabeled=None, empty_label="unlabeled"), tmp_path)
    assert data.judged == judged_parts and int(data.train.labelled.sum()) == learnt
    said = describe_judged(data)
    assert (said is None) == (not judged_parts)
    assert said is None or ("chooses the best step" in said) == ("validation" in judged_parts)


def unlabelled(judged_parts: tuple[str, ...] = ("validation",)) -> Dataset:
    rows = bare_rows(("en", "en"))
    return Dataset(rows, rows, None, judged=judged_parts)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"objective": {"alpha": 0.1}}, r"objective\.alpha up to 0\.1[\s\S]*set objective\.alpha=0,"),
        (
            {"objective": {"alpha": 0.0, "weighting": {"kind": "loss_softmax"}}},
            r"weighting loss_softmax[\s\S]*set objective\.weighting=by_language",
        ),
        ({"baseline": True}, r"baseline: true[\s\S]*set baseline=false"),
        (
            {"phases": [{"at": 0.5, "set": {"objective": {"alpha": 0.3}}}]},
            r"objective\.alpha up to 0\.3[\s\S]*set objective\.alpha=0,",
        ),
    ],
)  # fmt: skip
def test_what_reads_gold_labels_is_refused_by_its_key(changes: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"no training row has a gold label[\s\S]*{wanted}"):
        check_gold_labels(run_of(**changes), unlabelled())


def test_a_run_of_the_teachers_alone_needs_no_label_and_one_without_teachers_does() -> None:
    check_gold_labels(run_of(), unlabelled())
    plain = run_of(objective={"alpha": 1.0})
    with pytest.raises(
        DataError, match=r"no row of data\.train has a gold label[\s\S]*leave the arms without teachers"
    ):
        check_gold_labels(plain, unlabelled())
    data = replace(unlabelled(), train=replace(bare_rows(("en",)), labels_B=np.asarray([1])))
    with pytest.raises(DataError, match=r"no row of data\.validation has a gold label"):
        check_gold_labels(plain, data)
    check_gold_labels(plain, data, judged_elsewhere=True)


def test_swapped_teachers_are_not_judged_by_their_own_agreement() -> None:
    def right(batch: Any, i: int) -> int:
        return int(batch.texts[i][-1])

    answers = {"a": right, "b": lambda batch, i: 1 - right(batch, i)}
    review = judged(answers, is_judged=True)
    assert review.complaints == ()
    assert review.warnings == (
        "no validation row has a gold label, so teachers are not judged: scores are agreement with all together",
    )
    assert "agreement %: a 100.0 (en, zh), b 0.0 (en, zh)" in review.summary
    assert set(review.scores["a"].macro or {}) == {
        "agreement", "agreement_macro_f1", "agreement_nll", "agreement_ece",
    }  # fmt: skip


def test_points_and_metrics_are_named_after_what_they_measure() -> None:
    point = Point(
        3, {"eval/mean/accuracy": 0.5, "eval/en/nll": 0.6, "train/loss": 1.0, "eval/mean/score": 0.4}
    )
    named = name_point(point, {"": unlabelled()})
    assert named.values == {
        "eval/mean/agreement": 0.5, "eval/en/agreement_nll": 0.6, "train/loss": 1.0, "eval/mean/score": 0.4,
    }  # fmt: skip
    assert (named.step, named.time_ms) == (point.step, point.time_ms)
    assert name_point(point, {"": unlabelled(("test",))}) is point
    one = name_point(
        Point(1, {"ner/eval/mean/f1": 0.1, "topic/eval/mean/accuracy": 0.2}), {"ner": unlabelled()}
    )
    assert one.values == {"ner/eval/mean/agreement_f1": 0.1, "topic/eval/mean/accuracy": 0.2}
    assert name_metric("accuracy", {"": unlabelled()}) == "agreement"
    assert name_metric("score", {"": unlabelled()}) == "score"


def test_a_trial_gets_the_labels_of_the_base_for_the_same_rows_and_no_others() -> None:
    data = unlabelled()
    given = replace(data.validation, labels_B=np.asarray([0, 1]))
    base = data.replace_held_out({"validation": given})
    assert share_labels(unlabelled(), base).validation.labels_B.tolist() == [0, 1]
    other = Dataset(data.train, bare_rows(("en",)), None, judged=("validation",))
    with pytest.raises(
        DataError, match=r"the teachers gave labels to other rows[\s\S]*as they are in the base"
    ):
        share_labels(other, base)


def test_the_table_says_agreement() -> None:
    empty = np.zeros((0, 2), np.float32), np.zeros(0, bool), np.zeros(0, np.int64), ()
    score = name_score(
        Score({"en": {"accuracy": 0.9, "nll": 0.3}}, {"accuracy": 0.9, "nll": 0.3}, {"en": 10})
    )
    table = ResultTable(((Predictions("s", "student", *empty, 5), score),), "agreement")
    heads, (line,) = table.to_cells()
    assert heads[2:5] == ["agreement en", "mean agreement %", "agreement NLL nats"]
    assert line[2:5] == ["90.0", "90.0", "0.300"]
    (note,) = describe_agreement(run_of(), Dataset(*(bare_rows(("en",)),) * 3, judged=("validation", "test")))
    assert note.startswith(
        "no test row has a gold label: all scores are agreement with the teachers together"
    )
    assert note.endswith("the best step was chosen by it, too")
