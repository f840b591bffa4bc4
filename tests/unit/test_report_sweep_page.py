"""The page of a sweep is one file, safe, whole, and says the same numbers as the trials."""

import dataclasses
import re

import numpy as np
import pytest

from raykd.report.sweeps import plots as sweep_plots
from raykd.report.sweeps import search_plots
from raykd.report.sweeps.axes import INACTIVE, SearchAxis
from raykd.report.sweeps.page import (
    build_teacher_cells,
    draw_sweep_figures,
    summarize_sweep,
    summarize_teacher_passes,
    write_sweep_page,
)
from raykd.report.sweeps.trial_table import TrialTable
from tests.charts import NODE, draw_in_node, read_rows, strip_scripts
from tests.made_trials import made_sweep, report_of, row
from tests.unit.test_report_page import Reader

EVIL = "<script>alert('x')</script>"
TEACHERS = {
    f"zh{EVIL}": {"texts": 1000.0, "answered": 29000.0, "forwarded": 1000.0, "store_hit_rate": 0.965},
    "multi": {"texts": 3000.0, "answered": 87000.0, "forwarded": 3200.0},
}


def page_of(report, path):
    html = write_sweep_page(report, path / "out" / "sweep.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(html)
    return html, reader


@pytest.fixture(scope="module")
def report():
    return made_sweep(
        mark=EVIL, title=f"sweep {EVIL}", summary=f"A search {EVIL}.", teachers=TEACHERS, environment={"python": EVIL},
        facts={"MLflow": EVIL}, notes=(EVIL, "2 trials failed"), best_yaml=f"name: {EVIL}\n", space_yaml=f"space: {EVIL}\n",
        best_path=f"runs/{EVIL}/best.yaml", created=EVIL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    return page_of(report, tmp_path_factory.mktemp("page"))


def test_nothing_is_loaded_from_anywhere(page):
    html, read = page
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", strip_scripts(html))
    assert all(link.startswith("#") for link in read.links)
    assert not {"link", "iframe", "object"} & set(read.tags)
    assert len(re.findall("<script>", html)) == 2 and "default-src 'none'" in html


def test_names_are_escaped_and_the_page_is_well_formed(page):
    html, read = page
    assert EVIL not in html
    text = "".join(read.text)
    for told in (f"sweep {EVIL}", f"small{EVIL}", f"zh{EVIL}", f"name: {EVIL}", f"space: {EVIL}", f"a worker was lost{EVIL}",
                 f"raykd train runs/{EVIL}/best.yaml", "2 trials failed"):  # fmt: skip
        assert told in text
    assert read.open == [] and len(read.ids) == len(set(read.ids))


def test_the_table_on_the_page_is_the_table(report, page):
    heads, lines = TrialTable(report).to_cells()
    cells = page[1].cells
    at = cells.index("trial")
    wanted = heads + [cell for line in lines for cell in line]
    assert cells[at : at + len(wanted)] == wanted


def test_the_headline_says_the_score_the_statuses_the_steps_and_the_passes(report):
    found = summarize_sweep(report)
    best = report.best
    assert (
        found[0][:2] == (f"best trial: {best.name}", f"{100 * best.score:.2f} %")
        and f"step {best.best_step}" in found[0][2]
    )
    assert found[1][1] == "30" and "2 failed, 1 diverged" in found[1][2]
    run = sum(t.last.step for t in report.trials if t.last)
    assert found[2][1] == f"{run / 2700:.0%}" and f"{run:,} of 2,700" in found[2][2]
    assert found[3] == ("teacher passes per text", "1.05", "trials asked 29.0 times")


def test_passes_without_the_number_of_texts_are_counted_not_guessed():
    report = report_of([row()], teachers={"zh": {"answered": 5000, "forwarded": 1000}})
    assert summarize_teacher_passes(report) == (
        "teacher forward passes",
        "1,000",
        "for 5,000 texts that were asked for",
    )
    assert summarize_teacher_passes(report_of([row()])) is None


def test_counters_of_teachers_are_shown_as_they_are(report):
    heads, lines = build_teacher_cells(report)
    assert heads == ["teacher", "texts", "answered", "forwarded", "store hit %"]
    assert lines[0][1:] == ["1,000", "29,000", "1,000", "96.5"] or lines[0][1:] == [
        "1,000",
        "29,000",
        "1,000",
        "96.6",
    ]
    assert lines[1] == ["multi", "3,000", "87,000", "3,200", "–"]


def test_every_chart_is_drawn_from_the_trials(report):
    drawn = draw_sweep_figures(report)
    assert set(drawn) == {
        "objective",
        "learning_curves",
        "importance",
        "parallel_coordinates",
        "slices",
        "rungs",
    }
    assert all(caption for _, caption in drawn.values())
    shown = {row["trial"]: row for row in read_rows(drawn["objective"][0]) if "trial" in row}
    for t in report.trials:
        if t.score is not None:
            assert shown[t.name]["shown"] == f"{100 * t.score:.2f}" and shown[t.name]["status"] == t.status
    shares = {row["key"]: row["share"] for row in read_rows(drawn["importance"][0]) if "key" in row}
    assert shares == {k.label: pytest.approx(100 * k.share, rel=1e-5) for k in report.importance.keys}


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_the_library_draws_every_chart(report):
    for name, found in draw_in_node(draw_sweep_figures(report)).items():
        assert found["warnings"] == [] and "NaN" not in found["svg"], (name, found["warnings"])


def test_plots_without_data_are_none():
    waiting = report_of([row("t0", (), "waiting", {"a": 1, "b": 2})], rungs=(1,))
    for nothing in (report_of([], rungs=(1,)), waiting):
        assert draw_sweep_figures(nothing) == {}
    assert sweep_plots.draw_rung_survival(made_sweep(6, rungs=())) is None
    assert (
        search_plots.draw_parallel_coordinates(
            report_of([row("a", sample={"x": 1}), row("b", sample={"x": 2})])
        )
        is None
    )


@pytest.mark.parametrize("higher", [True, False])
def test_the_axis_of_scores_leaves_out_only_far_outliers_on_the_bad_side(higher):
    sign = 1.0 if higher else -1.0
    scores = [sign * s for s in (*np.linspace(0.7, 0.8, 20), -40.0)]
    trials = [row(f"t{i}", (s,)) for i, s in enumerate(scores)]
    report = report_of(trials, metric="score", higher_is_better=higher)
    low, high = sweep_plots.choose_limits(report, scores)
    assert sorted(s for s in scores if not low <= s <= high) == [sign * -40.0]
    low, high = sweep_plots.choose_limits(report, [0.6, 0.6])
    assert low < 0.6 < high


def test_the_better_score_is_at_the_top_of_its_axis():
    axis = SearchAxis("k", "NLL", low=0.2, high=1.2, flipped=True)
    assert axis.place({"k": 0.2}) == 1.0 and axis.place({"k": 1.2}) == 0.0 and axis.place({}) == INACTIVE


@pytest.mark.parametrize("count", [1, 300])
def test_one_trial_and_three_hundred_give_a_page(count, tmp_path):
    report = made_sweep(count)
    html, read = page_of(report, tmp_path)
    assert html.count('<tr class="student">') == 1 and read.open == []
    assert all(t.name in read.cells for t in report.trials)
    assert ("needs comparable scores of at least 10 trials, and there are 1." in html) == (count == 1)
    assert ('id="importance"' in html) == (count == 300)
    assert len(html) < 3_000_000


def test_a_sweep_without_a_finished_trial_is_a_page(tmp_path):
    made = made_sweep(4)
    early = [
        dataclasses.replace(t, status="cut off" if at else "waiting", evaluations=())
        for at, t in enumerate(made.trials)
    ]
    html, read = page_of(dataclasses.replace(made, trials=tuple(early)), tmp_path)
    assert "no trial has a score that counts" in html and "The best trial" not in html
    assert read.cells.count("cut off") == 3 and "Too few trials ran to their end" in html
    html, _ = page_of(report_of([], rungs=(1, 3)), tmp_path)
    assert "No trial was started." in html


def test_importance_is_computed_once(report):
    assert report.importance is report.importance
