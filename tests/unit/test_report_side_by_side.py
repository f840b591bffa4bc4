"""Runs side by side: the numbers are those of their records, and what cannot be compared is said."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import raykd
from raykd.cli import app
from raykd.errors import ConfigError, DataError
from raykd.report.comparisons.page import write_comparison_page
from raykd.report.comparisons.results import ReferenceSystem, build_comparison_report
from raykd.report.html import read_asset
from raykd.report.record import ARMS, read_record
from raykd.report.runs.page import write_run_page
from raykd.report.runs.report import RunReport
from raykd.report.runs.tasks_page import TasksReport, write_tasks_page
from raykd.report.side_by_side.rewrite import read_sweep_report, rewrite_pages
from raykd.report.side_by_side.summaries import flatten_config
from raykd.report.sweeps.page import write_sweep_page
from raykd.report.sweeps.trials import Evaluation
from raykd.report.table import ResultTable
from tests.charts import NODE, run_in_node
from tests.fakes import scored
from tests.made_trials import made_sweep, row
from tests.unit.test_report_comparison import made
from tests.unit.test_report_page import Reader, system


def state(folder, rows="r1"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished", "rows": {"data.test": rows}}))
    return folder


def made_run(folder, right=0.8, rows="r1", **config):
    systems = [
        system("m", "teacher", 0.9),
        system("b", "baseline", 0.6),
        system("s", "student", right, seed=3),
    ]
    report = RunReport(
        folder.name, "A run.", tuple((p, scored(p)) for p in systems), data=(("split", "zh"), ("test", "30")),
        config=yaml.safe_dump({"name": folder.name, "train": {"epochs": 2, **config}}), metric="accuracy",
    )  # fmt: skip
    write_run_page(report, state(folder, rows) / "report.html")
    return report


def made_comparison(folder):
    teacher = ReferenceSystem(
        "teacher zh", "teacher", {"test/zh/accuracy": 0.9, "test/macro/accuracy": 0.9}, 1000
    )
    report = made({"base": 0.0, "winner": 0.02}, references=(teacher,))
    write_comparison_page(report, state(folder) / "report.html")
    arms = {"base": {"train": {"epochs": 2}}, "winner": {"train": {"epochs": 3}}}
    (folder / "arms.yaml").write_text(yaml.safe_dump({"arms": arms}))
    return report


def made_sweep_folder(folder):
    report = made_sweep(6, best_yaml="train: {epochs: 5}\n")
    write_sweep_page(report, state(folder) / "report.html")
    (folder / "space.yaml").write_text("{}\n")
    return report


def test_the_table_of_two_runs_is_what_their_records_say(tmp_path):
    first, second = made_run(tmp_path / "a"), made_run(tmp_path / "b", 0.9, epochs=4)
    found = raykd.write_report(tmp_path / "a", tmp_path / "b")
    for name, report in (("a", first), ("b", second)):
        score = next(s for p, s in report.systems if p.role == "student")
        own = {line["language"]: line for line in found.table if line["run"] == name}
        for language, values in score.by_language.items():
            assert own[language]["accuracy"] == values["accuracy"]
        assert own["macro"]["accuracy"] == score.macro["accuracy"]
        assert own["macro"]["gain"] == pytest.approx(ResultTable(report.systems, "accuracy").gap.points / 100)
    assert found.differences == {"train.epochs": ["2", "4"]} and found.notes == ()
    assert found.report == tmp_path / "compared.html"
    reader = Reader()
    reader.feed(found.report.read_text(encoding="utf-8"))
    mean = next(s for p, s in second.systems if p.role == "student").macro["accuracy"]
    assert f"{100 * mean:.1f}" in reader.cells and "train.epochs" in reader.cells


def test_arms_and_the_best_trial_stand_beside_runs_and_what_cannot_be_compared_is_said(tmp_path):
    made_run(tmp_path / "a", rows="r2")
    comparison, sweep = made_comparison(tmp_path / "c"), made_sweep_folder(tmp_path / "s")
    found = raykd.write_report(
        tmp_path / "a", tmp_path / "c", tmp_path / "s", page=tmp_path / "x" / "all.html"
    )
    means = {line["run"]: line for line in found.table if line["language"] == "macro"}
    for arm in comparison.arms:
        assert means[f"c: {arm.name}"]["accuracy"] == pytest.approx(comparison.average(arm).mean)
        assert means[f"c: {arm.name}"]["seeds"] == 5
    best = sweep.best
    assert (
        means[f"s: {best.name}"]["accuracy"] == best.score
        and means[f"s: {best.name}"]["split"] == "validation"
    )
    assert any("scored on validation rows" in note for note in found.notes)
    assert any("other held-out rows than those of a: c: base, c: winner" in note for note in found.notes)
    assert found.differences == {"train.epochs": ["2", "2", "3", "5"]}
    assert found.report == tmp_path / "x" / "all.html" and found.report.is_file()


@pytest.mark.parametrize("make", [made_run, made_comparison, made_sweep_folder])
def test_a_page_is_the_same_when_it_is_written_again(tmp_path, make):
    make(tmp_path / "r")
    before = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    (tmp_path / "r" / "report.html").unlink()
    assert rewrite_pages(tmp_path / "r").read_text(encoding="utf-8") == before


def test_the_pages_of_several_tasks_are_written_again(tmp_path):
    for task in ("a", "b"):
        made_run(tmp_path / "tasks" / task)
    write_tasks_page(TasksReport("two", "Two tasks.", ("a", "b")), state(tmp_path) / "report.html")
    before = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert rewrite_pages(tmp_path).read_text(encoding="utf-8") == before and "tasks/b/report.html" in before
    assert {line["run"] for line in raykd.write_report(tmp_path).table} == {
        f"{tmp_path.name}: a",
        f"{tmp_path.name}: b",
    }


def test_records_keep_units_and_what_is_no_number(tmp_path):
    report = made()
    student = report.arms[0].students[1]
    right_N = np.asarray([True, False])
    changed = replace(student, right_N=right_N, scores={**student.scores, "test/zh/nll": float("nan")})
    arms = (replace(report.arms[0], students={1: changed}), report.arms[1])
    write_comparison_page(replace(report, arms=arms), tmp_path / "report.html")
    again = read_record(tmp_path / ARMS, build_comparison_report)
    assert again.arms[0].students[1].right_N.tolist() == [True, False]
    assert again.arms[0].students[1].scores["test/zh/nll"] != again.arms[0].students[1].scores["test/zh/nll"]
    assert (
        again.arms[1] == report.arms[1]
        and again.main_differences == replace(report, arms=arms).main_differences
    )
    sweep = made_sweep(3)
    odd = replace(sweep, trials=(*sweep.trials, row("odd", ())))
    odd = replace(
        odd,
        trials=(
            *odd.trials[:-1],
            replace(odd.trials[-1], evaluations=(Evaluation(1, 9, 0.5, float("nan")),)),
        ),
    )
    (tmp_path / "s").mkdir()
    write_sweep_page(odd, tmp_path / "s" / "report.html")
    assert read_sweep_report(tmp_path / "s").trials[:3] == sweep.trials


def test_what_is_no_folder_or_has_no_report_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        raykd.write_report(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no report"):
        raykd.write_report(state(tmp_path / "cut"))
    made_run(tmp_path / "a")
    with pytest.raises(ConfigError, match="the page of one run stays in its folder"):
        raykd.write_report(tmp_path / "a", page=tmp_path / "b.html")
    (tmp_path / "a" / "report.json").write_text('{"results": 3}')
    with pytest.raises(DataError, match="cannot be read"):
        raykd.write_report(tmp_path / "a")


def test_the_command_says_where_the_page_is(tmp_path):
    made_run(tmp_path / "a")
    made_run(tmp_path / "b", 0.9, epochs=4)
    done = CliRunner().invoke(app, ["report", str(tmp_path / "a"), str(tmp_path / "b")])
    assert done.exit_code == 0, done.output
    assert "compared.html" in done.output.replace("\n", "") and "epochs" in done.output


def test_a_png_needs_its_extra(tmp_path, monkeypatch):
    made_run(tmp_path / "a")
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    with pytest.raises(ConfigError, match="a PNG cannot be drawn here"):
        raykd.write_report(tmp_path / "a", png=True)


def test_pngs_are_drawn_from_the_same_charts(tmp_path):
    pytest.importorskip("vl_convert")
    made_run(tmp_path / "a")
    pictures = raykd.write_report(tmp_path / "a", png=True).pictures
    assert pictures[0].name == "report.png" and all(p.name.startswith("report-") for p in pictures[1:])
    assert {picture.read_bytes()[:8] for picture in pictures} == {b"\x89PNG\r\n\x1a\n"}


def test_folders_of_one_name_are_told_apart_and_a_teacher_of_one_run_is_one_line(tmp_path):
    made_run(tmp_path / "x" / "a", teachers=[{"name": "zh", "kind": "model", "path": "p"}])
    made_run(
        tmp_path / "y" / "a",
        teachers=[{"name": "zh", "kind": "model", "path": "q"}, {"name": "fr", "kind": "file"}],
    )
    found = raykd.write_report(tmp_path / "x" / "a", tmp_path / "y" / "a")
    assert {line["run"] for line in found.table} == {"x/a", "y/a"}
    assert found.differences == {"train.teachers.fr": ["–", "file"], "train.teachers.zh.path": ["p", "q"]}


def test_configurations_are_flattened_by_name():
    tree = {
        "name": "x",
        "output": "o",
        "teachers": [{"name": "zh", "path": "p"}],
        "train": {"epochs": 2, "a": [1, 2]},
    }
    assert flatten_config(tree) == {"teachers.zh.path": "p", "train.epochs": "2", "train.a": "[1, 2]"}


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_tables_are_sorted_by_number_with_what_is_absent_last_and_filtered_by_words():
    script = read_asset("page.js")
    rows = [["b", "1.08 M"], ["a", "–"], ["c", "−2.5 [−3, −2]"], ["d", "67.5 k"], ["e", "1,200"], ["f2", ""]]
    found = run_in_node(
        f"""
        {script}
        const rows = {json.dumps(rows)};
        return [sortRows(rows, 1, true), sortRows(rows, 1, false), sortRows(rows, 0, false),
                sortRows([["x10"], ["x9"]], 0, true), matchesQuery(["distilled student", "zh en"], "STUDENT -fr zh"),
                matchesQuery(["distilled student"], "student -dist"), matchesQuery(["a"], ""), readNumber("<0.001") || "none"];
        """
    )
    assert found == [
        [2, 4, 3, 0, 1, 5],
        [0, 3, 4, 2, 1, 5],
        [5, 4, 3, 2, 0, 1],
        [1, 0],
        True,
        False,
        True,
        "none",
    ]
