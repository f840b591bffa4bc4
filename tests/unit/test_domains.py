"""Domains: rows by the values of a column, scores for each of them, and leaving one out."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from raykd.config import DataConfig, RunConfig, TrainedTeacher
from raykd.config.loading import validate_run
from raykd.data.load import load_data
from raykd.driver.jobs import make_jobs, make_teacher_run
from raykd.errors import ConfigError, DataError
from raykd.experiments.config import load_experiment
from raykd.experiments.scoring import build_references
from raykd.report.comparisons.left_out import MEAN, OTHERS, measure_left_out
from raykd.report.comparisons.page import write_comparison_page
from raykd.report.comparisons.plain_data import dump_comparison
from raykd.report.comparisons.results import ArmResult, ComparisonReport, TrainedStudent
from raykd.report.comparisons.tables import ComparisonTables
from raykd.report.results import score_rows
from raykd.report.table import ResultTable
from tests.unit.test_experiment_config import base
from tests.unit.test_experiment_scoring import system, world

DOMAINS = ("food", "hotel", "phone")


def data(folder: Path, **more: Any) -> DataConfig:
    """30 training rows and 6 of each other part, of three domains in turn; one training row has none."""
    sources = {}
    for part, count in (("train", 30), ("validation", 6), ("test", 6), ("unlabeled", 6)):
        rows = [
            {"text": f"{part} {i}", "label": "ab"[i // 3 % 2], "lang": "en", "domain": DOMAINS[i % 3]}
            for i in range(count)
        ]
        rows += [{"text": "bare", "label": "a", "lang": "en", "domain": ""}] if part == "train" else []
        path = folder / f"{part}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        sources[part] = {"kind": "files", "paths": [str(path)]}
    tree = {**sources, "labels": ["a", "b"], "languages": ["en"], "columns": {"group": "domain"}, **more}
    return DataConfig.model_validate(tree)


def count(config: DataConfig, folder: Path) -> dict[str, Counter[str]]:
    """Rows of each part by domain."""
    found = load_data(config, folder)
    parts = {"train": found.train, "validation": found.validation, "test": found.test}
    return {name: Counter(rows.groups or ()) for name, rows in parts.items() if rows is not None}


@pytest.mark.parametrize(
    ("keys", "left"),
    [
        ({"select_groups": ["hotel"]}, {"hotel": 12}),
        ({"leave_out_groups": ["hotel"]}, {"food": 12, "phone": 12}),
        ({"select_groups": ["hotel", "food"], "leave_out_groups": ["hotel"]}, {"food": 12}),
        ({}, {"food": 12, "hotel": 12, "phone": 12, "": 1}),
    ],
)
def test_what_is_learnt_from_is_chosen_and_all_test_rows_stay(
    keys: Any, left: dict[str, int], tmp_path: Path
) -> None:
    found = count(data(tmp_path, **keys), tmp_path)
    assert found["train"] == left
    assert found["validation"] == {name: 2 for name in left if name}
    assert found["test"] == dict.fromkeys(DOMAINS, 2)


def test_rows_that_are_not_learnt_from_are_counted_and_the_fingerprint_changes(tmp_path: Path) -> None:
    whole, one = data(tmp_path), data(tmp_path, leave_out_groups=["hotel"])
    assert load_data(one, tmp_path).left_out == {
        "train: without a value of data.columns.group": 1,
        "train: of groups that are not learnt from": 10,
        "validation: without a value of data.columns.group": 0,
        "validation: of groups that are not learnt from": 2,
        "unlabeled: without a value of data.columns.group": 0,
        "unlabeled: of groups that are not learnt from": 2,
    }
    runs = [
        validate_run({**base(), "data": {**base()["data"], **c.model_dump(include={"columns", "leave_out_groups"})}}, "")
        for c in (whole, one)
    ]  # fmt: skip
    assert runs[0].fingerprint() != runs[1].fingerprint()


def test_values_that_choose_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leave_out_groups names 'hotels', which no row has") as error:
        load_data(data(tmp_path, leave_out_groups=["hotels"]), tmp_path)
    assert "['food', 'hotel', 'phone']" in str(error.value)
    with pytest.raises(DataError, match=r"data\.train holds no row that"):
        load_data(data(tmp_path, select_groups=["hotel"], leave_out_groups=["hotel"]), tmp_path)
    with pytest.raises(ValueError, match="select_groups reads a column that no key names"):
        data(tmp_path, select_groups=["hotel"], columns={})


@pytest.mark.parametrize(
    ("objective", "train", "said"),
    [
        ({"least_confidence": 0.9}, {}, ""),
        (
            {"weighting": {"kind": "by_column", "weights_of": {"Hotel": "m"}}},
            {},
            "names 'Hotel', which no row",
        ),
        ({"weighting": {"kind": "by_column", "weights_of": {"hotel": "m"}}}, {}, ""),
        ({}, {"alignment": {}}, "finds no two values of language"),
        ({}, {"alignment": {"column": "group"}}, ""),
    ],
)
def test_values_that_no_row_has_are_refused_before_a_worker_is_taken(
    objective: Any, train: Any, said: str, tmp_path: Path
) -> None:
    tree = {
        "data": data(tmp_path).model_dump(mode="json"),
        "student": {"kind": "linear"},
        "teachers": [{"name": "m", "languages": "all", "path": "m"}],
        "objective": objective,
        "train": {"batch_size": 8, **train},
        "output": str(tmp_path / "runs"),
    }
    run = validate_run(tree, "run")
    if said:
        with pytest.raises(ConfigError, match=said):
            make_jobs(run, tmp_path)
        make_jobs(validate_run({**tree, "smoke": "whole"}, "run"), tmp_path)  # its few rows say nothing
    else:
        make_jobs(run, tmp_path)


@pytest.mark.parametrize("objective", [{"least_confidence": 0.9}, {"anneal_on": "unlabelled"}])
def test_what_acts_on_texts_without_label_needs_some(objective: dict[str, Any], tmp_path: Path) -> None:
    tree = {
        "data": {**data(tmp_path).model_dump(mode="json"), "unlabeled": None},
        "student": {"kind": "linear"},
        "teachers": [{"name": "m", "languages": "all", "path": "m"}],
        "objective": objective,
        "train": {"batch_size": 8},
    }
    with pytest.raises(ConfigError, match="acts on training rows without gold label, and there are none"):
        make_jobs(validate_run(tree, "run"), tmp_path)


def of_domains(**keys: Any) -> dict[str, Any]:
    """A run of three teachers that it trains."""
    tree = base()
    own = [("en", ["en"]), ("zh", ["zh"]), ("multi", "all")]
    teachers = [{"name": name, "languages": languages, "training": {}} for name, languages in own]
    return {
        **tree, "teachers": teachers, "data": {**tree["data"], "columns": {"group": "domain"}, **keys}
    }  # fmt: skip


def test_a_general_teacher_learns_what_its_student_does_not_but_nothing_that_is_left_out() -> None:
    run = RunConfig.model_validate(of_domains(select_groups=["hotel"], leave_out_groups=["food"]))
    teacher = next(t for t in run.teachers if isinstance(t, TrainedTeacher))
    made = make_teacher_run(run, teacher).data
    assert made.select_groups is None and made.leave_out_groups == ("food",)
    own = teacher.training.model_copy(update={"data": {"select_groups": ["phone"]}})
    assert make_teacher_run(run, teacher.model_copy(update={"training": own})).data.select_groups == (
        "phone",
    )
    itself = teacher.training.model_copy(update={"labelled": "student"})
    made = make_teacher_run(run, teacher.model_copy(update={"training": itself})).data
    assert made.select_groups == ("hotel",), "self-training knows the student's rows alone"


def test_arms_of_a_domain_that_is_left_out_have_teachers_that_did_not_learn_it() -> None:
    found = load_experiment(
        {"name": "x", "base": of_domains(), "generate": [{"left_out": ["food", "a b"]}], "seeds": 2}
    ).share_teachers()
    assert [(arm.name, arm.against, arm.left_out) for arm in found.arms] == [
        ("unseen_food", "unseen_food_no_teachers", "food"), ("unseen_food_no_teachers", None, "food"),
        ("unseen_a-b", "unseen_a-b_no_teachers", "a b"), ("unseen_a-b_no_teachers", None, "a b"),
    ]  # fmt: skip
    assert found.baseline is None, "each is compared with its own"
    names = {t.name for t in found.base.teachers}
    assert names == {f"{t}-unseen-{d}" for t in ("en", "zh", "multi") for d in ("food", "a-b")}
    for arm in found.arms:
        run = found.build_run({"arm": arm.name, "seed": 1})
        assert isinstance(run, RunConfig) and run.data.leave_out_groups == (arm.left_out,)
        assert arm.run.plain == arm.name.endswith("no_teachers")
        for teacher in run.active_teachers:
            assert isinstance(teacher, TrainedTeacher)
            # Teachers are trained with the rows of the base, which leaves nothing out.
            made = make_teacher_run(found.base, teacher)  # type: ignore[arg-type]
            assert made.data.leave_out_groups == (arm.left_out,)
    assert "teachers" not in found.arms[0].changes
    assert found.list_own_teachers()["unseen_food"] == (
        "en-unseen-food",
        "zh-unseen-food",
        "multi-unseen-food",
    )


def test_what_cannot_be_left_out_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.columns\.group"):
        load_experiment({"name": "x", "base": base(), "generate": [{"left_out": ["food"]}]})


def test_scores_of_a_group_are_the_mean_over_languages_of_its_rows() -> None:
    languages, groups = ["en", "en", "zh", "zh", "zh"], ["a", "b", "a", "", "b"]
    right = np.asarray([1.0, 0.0, 0.0, 1.0, 1.0])
    counted_B = np.asarray([True, True, True, True, False])
    score = score_rows(languages, groups, counted_B, lambda rows: {"accuracy": float(right[rows].mean())})
    # a: en 1, zh 0. b: en 0, its zh row does not count. The row without a value is in no group.
    assert score.by_group == {"a": {"accuracy": 0.5}, "b": {"accuracy": 0.0}}
    assert score.macro == {"accuracy": (0.5 + 0.5) / 2}
    assert score_rows(languages, None, counted_B, lambda rows: {"accuracy": 1.0}).by_group == {}


def test_scores_by_group_are_named_apart_from_languages() -> None:
    run, job = world("")
    p, score = system("zh", "teacher", 10, zh=0.7)
    score = replace(score, rows={"zh": 5}, by_group={"zh": {"accuracy": 0.4}})
    (teacher,) = build_references(run, {"": [(p, score)]}, job)
    assert teacher.scores == {
        "test/zh/accuracy": 0.7, "test/macro/accuracy": 0.7, "test/group/zh/accuracy": 0.4
    }  # fmt: skip
    table = ResultTable(((p, score),), "accuracy")
    assert table.group_cells() == (["system", "zh"], [["zh", "40.0"]])
    assert "| zh | 40.0 |" in table.to_markdown()


def left_out_report() -> ComparisonReport:
    """Two domains left out, three seeds; distilled is better by 0.04 on what is left out and by 0.01 on the others."""
    noise = {1: 0.0, 2: 0.02, 3: -0.01}
    arms = []
    for left in ("food", "hotel"):
        for name, gains in ((f"unseen_{left}", (0.04, 0.01)), (f"unseen_{left}_no_teachers", (0.0, 0.0))):
            students = {}
            for seed, luck in noise.items():
                rates = {d: (0.7 if d == left else 0.8) + luck * (d == left) for d in DOMAINS}
                rates = {d: rate + gains[d != left] for d, rate in rates.items()}
                scores = {f"test/group/{d}/accuracy": rate for d, rate in rates.items()}
                students[seed] = TrainedStudent(
                    {**scores, "test/macro/accuracy": 0.75, "test/en/accuracy": 0.75}
                )
            distilled = not name.endswith("teachers")
            taught = (
                {f"test/group/{d}/accuracy": 0.75 if d == left else 0.9 for d in DOMAINS} if distilled else {}
            )
            against = f"unseen_{left}_no_teachers" if distilled else None
            arms.append(ArmResult(name, "", against, None, students, left, taught))
    return ComparisonReport(tuple(arms), (1, 2, 3))


def test_the_table_of_what_is_left_out_is_that_of_the_scores_by_hand() -> None:
    report = left_out_report()
    lines = measure_left_out(report)
    assert [(line.left_out, line.rows) for line in lines] == [
        ("food", "food"), ("food", OTHERS), ("hotel", "hotel"), ("hotel", OTHERS),
        (MEAN, "what was left out"), (MEAN, OTHERS),
    ]  # fmt: skip
    for own, others in (lines[0:2], lines[2:4], lines[4:6]):
        assert own.teachers == pytest.approx(0.75) and others.teachers == pytest.approx(0.9)
        assert own.difference.mean == pytest.approx(0.04) and others.difference.mean == pytest.approx(0.01)
        assert others.difference.means == (pytest.approx(0.81), pytest.approx(0.8))
    before = [0.7, 0.72, 0.69]
    wanted = t.interval(0.95, 2, np.mean(before), np.std(before, ddof=1) / np.sqrt(3))
    assert lines[0].intervals[0] == pytest.approx(wanted)
    assert lines[4].intervals[0] == pytest.approx(wanted), "both domains have the luck of the same seed"
    assert measure_left_out(ComparisonReport(report.arms[:2], (1, 2, 3)))[-1].left_out == "food"


def test_the_table_is_in_all_reports(tmp_path: Path) -> None:
    report = left_out_report()
    tables = ComparisonTables(report)
    text = tables.to_markdown()
    assert "| food | food | 75.00 | 70.33 ± 3.79 | 74.33 ± 3.79 | +4.00 | +4.00 to +4.00 | 3 of 3 |" in text
    assert "| unseen_food | 74.33 (+4.00*) | 81.00 (+1.00*) | 81.00 (+1.00*) |" in text
    page = write_comparison_page(report, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Rows that neither teachers nor students learnt from" in page and "70.33 ± 3.79" in page
    tree = json.loads(json.dumps(dump_comparison(tables.report)))
    assert tree["left_out"][0]["distilled"] == pytest.approx(0.7433, abs=1e-4)
    assert report.languages == ["en"] and report.groups == list(DOMAINS)
    plain = [ArmResult(a.name, against=a.against, students=a.students) for a in report.arms]
    assert measure_left_out(ComparisonReport(tuple(plain), (1, 2, 3))) == []
