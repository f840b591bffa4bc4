"""Comparisons of arms: intervals against scipy's, corrections by hand, and what tables and page say."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import t, ttest_1samp, ttest_rel

from raykd.report.comparisons.differences import compute_paired_difference
from raykd.report.comparisons.page import write_comparison_page
from raykd.report.comparisons.plain_data import dump_comparison, list_differences
from raykd.report.comparisons.plots import draw_comparison_figures
from raykd.report.comparisons.results import ArmResult, ComparisonReport, ReferenceSystem, TrainedStudent
from raykd.report.comparisons.statistics import (
    bootstrap_seeds,
    bootstrap_seeds_and_rows,
    compute_t_interval,
    compute_t_test,
    correct_p_values,
)
from raykd.report.comparisons.tables import ComparisonTables
from raykd.report.comparisons.weak_teachers import describe_weak_teachers
from raykd.tasks.scores.classes import ClassScore, ClassScores
from tests.charts import NODE, draw_in_node, read_rows, strip_scripts
from tests.unit.test_report_page import Reader

EVIL = "<script>alert('x')</script>"


def made(
    gains: dict[str, float] | None = None, seeds: int = 5, noise: float = 0.004, **fields: Any
) -> ComparisonReport:
    """A comparison whose arms are better than their baseline by known amounts."""
    gains = gains or {"base": 0.0, "winner": 0.02}
    rng = np.random.default_rng(0)
    students: dict[str, dict[int, TrainedStudent]] = {arm: {} for arm in gains}
    for seed in range(1, seeds + 1):
        base = 0.8 + rng.normal(0, 0.02)
        for arm, more in gains.items():
            values = {}
            for split in ("validation", "test"):
                by_language = {x: base + more + float(rng.normal(0, noise)) for x in ("zh", "en")}
                for language, value in {**by_language, "macro": sum(by_language.values()) / 2}.items():
                    values |= {f"{split}/{language}/nll": 1.2 - value, f"{split}/{language}/accuracy": value}
            by_class = tuple(
                ClassScore(name, 0.5, 0.5, f1, 10, 10)
                for name, f1 in (("positive", base + more), ("negative", base - more))
            )
            classes = ClassScores(by_class, (), ("positive", "negative"), ((8, 2), (seed, 10 - seed)))
            students[arm][seed] = TrainedStudent(values, classes, 1000, 0.5, 2.0, 10.0 + more)
    arms = tuple(
        ArmResult(name, f"{name} changes", None if name == "base" else "base", None, students[name])
        for name in gains
    )
    return ComparisonReport(arms, tuple(range(1, seeds + 1)), baseline="base", **fields)


def test_t_interval_and_test_are_scipys() -> None:
    values = [0.3, 0.1, 0.45, 0.2, 0.22]
    wanted = t.interval(0.95, 4, np.mean(values), np.std(values, ddof=1) / np.sqrt(5))
    assert compute_t_interval(values) == (pytest.approx(wanted[0]), pytest.approx(wanted[1]))
    assert compute_t_test(values) == pytest.approx(ttest_1samp(values, 0.0).pvalue)
    assert compute_t_interval([0.3]) is None and compute_t_test([0.3]) is None
    assert compute_t_test([0.0, 0.0]) == 1.0 and compute_t_test([0.1, 0.1]) == 0.0


def test_holm_is_that_of_an_example_by_hand() -> None:
    # Sorted: 0.005 x 4 = 0.02, 0.01 x 3 = 0.03, 0.03 x 2 = 0.06, 0.04 x 1 = 0.04, which may not fall below 0.06.
    assert correct_p_values([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert correct_p_values([0.2, None, 0.9]) == [pytest.approx(0.4), None, pytest.approx(0.9)]
    assert correct_p_values([0.6, 0.7]) == [1.0, 1.0]


def test_a_bootstrap_of_two_seeds_is_known_exactly() -> None:
    # The mean of a resample is 0, 1 or 2 with probability 1/4, 1/2, 1/4: its 2.5 % and 97.5 % quantiles are the ends.
    assert bootstrap_seeds([0.0, 2.0]) == (0.0, 2.0)
    assert bootstrap_seeds([1.0]) is None
    assert bootstrap_seeds([3.0, 3.0, 3.0]) == (3.0, 3.0)


def test_a_bootstrap_over_seeds_and_rows_has_the_spread_that_theory_gives() -> None:
    """Rows alone differ: the mean over two languages has variance (v1 / n1 + v2 / n2) / 4."""
    rng = np.random.default_rng(1)
    row_N = np.concatenate([rng.integers(-1, 2, size=400), rng.integers(-1, 2, size=100)]).astype(float)
    groups = ["zh"] * 400 + ["en"] * 100
    interval = bootstrap_seeds_and_rows(np.stack([row_N, row_N]), groups, draws=20_000)
    assert interval is not None
    mean = (row_N[:400].mean() + row_N[400:].mean()) / 2
    error = np.sqrt((row_N[:400].var() / 400 + row_N[400:].var() / 100) / 4)
    assert interval[0] == pytest.approx(mean - 1.96 * error, abs=0.05 * error + 0.003)
    assert interval[1] == pytest.approx(mean + 1.96 * error, abs=0.05 * error + 0.003)
    again = bootstrap_seeds_and_rows(np.stack([row_N, row_N]), groups, draws=20_000)
    assert again == interval, "the resampling has a seed of its own"
    # Seeds alone differ: the crossed bootstrap is that over seeds.
    seed_SN = np.repeat(np.array([[0.0], [2.0]]), 10, axis=1)
    assert bootstrap_seeds_and_rows(seed_SN, ["zh"] * 10) == pytest.approx((0.0, 2.0))
    assert bootstrap_seeds_and_rows(seed_SN[:1], ["zh"] * 10) is None


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    report = made()
    found = report.all_differences
    assert len(found) == 2 * 2 * 3
    for d in found:
        pairs = report.list_pairs(report.find_arm(d.arm), f"{d.split}/{d.language}/{d.metric}")
        one, two = np.asarray([p[1:] for p in pairs]).T
        wanted = ttest_rel(one, two).confidence_interval(0.95)
        assert d.interval == (pytest.approx(wanted.low, rel=1e-9), pytest.approx(wanted.high, rel=1e-9))
        assert d.p == pytest.approx(ttest_rel(one, two).pvalue)
        assert d.mean == pytest.approx(one.mean() - two.mean()) and d.seeds == 5
        assert d.excludes_zero == (ttest_rel(one, two).pvalue < 0.05)


def test_each_table_corrects_for_its_own_comparisons() -> None:
    report = made({"base": 0.0, "good": 0.02, "equal": 0.0, "bad": -0.02})
    main = {d.arm: d for d in report.main_differences}
    assert [d.corrected_p for d in report.main_differences] == pytest.approx(
        correct_p_values([d.p for d in report.main_differences])
    )
    assert main["good"].is_significant and main["bad"].is_significant and not main["equal"].is_significant
    assert main["good"].is_better and not main["bad"].is_better
    assert len(report.language_differences) == 3 * 2 and len(report.class_differences) == 3 * 2
    assert [d.corrected_p for d in report.language_differences] == pytest.approx(
        correct_p_values([d.p for d in report.language_differences])
    )
    says = ComparisonTables(report).describe()
    assert "better: good (+" in says and "worse: bad (−" in says and "not shown to differ: equal" in says


def test_rows_are_resampled_where_units_are_counted() -> None:
    rng = np.random.default_rng(3)
    right = {arm: {seed: rng.random(50) < 0.7 for seed in (1, 2, 3)} for arm in ("base", "new")}
    arms = []
    for name, by_seed in right.items():
        students = {
            seed: TrainedStudent({"test/macro/accuracy": float(one.mean())}, right_N=one)
            for seed, one in by_seed.items()
        }
        arms.append(ArmResult(name, "", None if name == "base" else "base", None, students))
    report = ComparisonReport(tuple(arms), (1, 2, 3), baseline="base", unit_languages=("en",) * 50)
    (d,) = report.main_differences
    units = np.stack([right["new"][s].astype(float) - right["base"][s] for s in (1, 2, 3)])
    assert d.bootstrap == bootstrap_seeds_and_rows(units, ("en",) * 50)
    assert d.mean == pytest.approx(units.mean())


def test_test_rows_come_first_then_the_metric_that_was_searched_and_the_mean() -> None:
    order = [(d.split, d.metric, d.language) for d in made().all_differences]
    assert order[:4] == [
        ("test", "accuracy", "macro"),
        ("test", "accuracy", "zh"),
        ("test", "accuracy", "en"),
        ("test", "nll", "macro"),
    ]
    assert made(metric="nll").main_differences[0].metric == "nll"


def test_wins_know_that_a_lower_nll_is_better() -> None:
    by_metric = {
        d.metric: d
        for d in made({"base": 0.0, "winner": 0.05}).all_differences
        if (d.split, d.language) == ("test", "macro")
    }
    assert by_metric["accuracy"].wins == by_metric["nll"].wins == 5
    assert by_metric["accuracy"].mean > 0 > by_metric["nll"].mean
    assert by_metric["accuracy"].is_better and by_metric["nll"].is_better
    d = compute_paired_difference([(1, 0.5, 0.5), (2, 0.6, 0.7)], "a", "b")
    assert (d.wins, d.ties, d.means) == (0, 1, (pytest.approx(0.55), pytest.approx(0.6)))


def test_a_seed_that_one_arm_lacks_leaves_its_partner_out() -> None:
    report = made()
    base, winner = report.arms
    del base.students[3]  # type: ignore[attr-defined]
    winner.students[4].scores["test/macro/accuracy"] = float("nan")  # type: ignore[index]
    assert [seed for seed, _, _ in report.list_pairs(winner, "test/macro/accuracy")] == [1, 2, 5]
    assert report.main_differences[0].seeds == 3 and report.list_missing() == ["base, seed 3"]


@pytest.mark.parametrize(
    ("gain", "metric", "words"),
    [
        (0.05, "accuracy", "excludes 0: winner is better than base"),
        (-0.05, "accuracy", "excludes 0: winner is worse than base"),
        (0.0, "accuracy", "includes 0"),
        (0.05, "nll", "excludes 0: winner is better"),
    ],
)
def test_the_sentence_says_whether_the_interval_excludes_zero(gain: float, metric: str, words: str) -> None:
    assert words in ComparisonTables(made({"base": 0.0, "winner": gain}, metric=metric)).describe()


def test_one_seed_has_no_interval_and_none_has_no_difference() -> None:
    one = made(seeds=1)
    d = one.main_differences[0]
    assert d.interval is None and d.p is None and not d.excludes_zero and not d.is_significant
    assert "at least two" in ComparisonTables(one).describe()
    empty = ComparisonReport((ArmResult("a"), ArmResult("b", against="a")), (1, 2), baseline="a")
    assert empty.main_differences == [] and "no seed" in ComparisonTables(empty).describe()
    assert draw_comparison_figures(empty) == {}


def test_tables_hold_the_same_numbers() -> None:
    report = made({"base": 0.0, "good": 0.02, "bad": -0.02})
    tables = ComparisonTables(report)
    json.dumps(dump_comparison(tables.report), allow_nan=False)
    rows = list_differences(tables.report)
    assert rows[0]["difference"] == report.main_differences[0].mean and len(rows) == 2 * 2 * 2 * 3
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*tables.to_rich())
    terminal, markdown = console.export_text(), tables.to_markdown()
    for _, lines in (
        tables.main_cells(),
        tables.language_cells(),
        tables.metric_cells(),
        tables.cost_cells(),
    ):
        for line in lines:
            assert all(cell in terminal for cell in line) and "| " + " | ".join(line) + " |" in markdown
    heads, lines = tables.metric_cells()
    nll = [np.mean([one.scores["test/macro/nll"] for one in arm.students.values()]) for arm in report.arms]
    assert heads == ["arm", "NLL nats"] and lines[0][1] == f"{nll[0]:.3f}"
    assert lines[1][1] == f"{nll[1]:.3f} (−{nll[0] - nll[1]:.3f})"
    heads, lines = tables.main_cells()
    assert heads[:3] == ["arm", "accuracy %", "− base"] and lines[0][2] == "–"
    assert float(lines[1][1]) == pytest.approx(100 * report.main_differences[0].means[0], abs=0.006)


def test_the_peer_of_a_student_has_a_column_of_its_own_and_is_compared_with_nothing() -> None:
    plain, report = made(), made()
    for at, one in enumerate(report.arms[1].students.values()):
        one.scores["peer/test/macro/accuracy"] = 0.5 + at / 100  # type: ignore[index]
    heads, lines = ComparisonTables(report).metric_cells()
    assert heads == ["arm", "NLL nats", "its peer's accuracy %"]
    assert [line[2] for line in lines] == ["–", "52.00"]
    assert report.languages == plain.languages and report.all_differences == plain.all_differences


@pytest.mark.parametrize("width", [24, 60, 80, 120, 200])
def test_a_terminal_of_any_width_shows_arms_means_and_differences_whole(width: int) -> None:
    report = made({"base": 0.0, "an-arm-with-a-longer-name": 0.02})
    console = Console(width=width, record=True, file=io.StringIO())
    for table in ComparisonTables(report).to_rich():
        console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    d = report.main_differences[0]
    joined = "".join(text.split())
    assert d.format(d.mean) in text and (d.format_interval(d.interval) or "").replace(" ", "") in joined


def test_the_page_is_escaped_whole_and_says_what_is_missing(tmp_path: Path) -> None:
    report = made(
        {"base": 0.0, f"winner{EVIL}": 0.02}, title=EVIL, summary=EVIL, notes=(EVIL,), environment={"x": EVIL}
    )
    del report.arms[0].students[3]  # type: ignore[attr-defined]
    html = write_comparison_page(report, tmp_path / "out" / "c.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(html)
    assert EVIL not in html and reader.open == [] and html.count("<script>") == 2
    text = "".join(reader.text)
    assert ComparisonTables(report).conclusions()[0] in text and "Not measured: base, seed 3" in text
    assert not re.search(r"(src|href)=\"(?!#)", strip_scripts(html)), "it asks no server for anything"
    empty = write_comparison_page(ComparisonReport((ArmResult("a"),), (1,)), tmp_path / "e.html")
    assert "No arm is compared" in empty.read_text(encoding="utf-8")


def test_charts_hold_every_seed_and_the_budget_is_drawn_over_labelled_rows() -> None:
    whole = draw_comparison_figures(made())
    assert set(whole) == {"arms", "cost", "confusions"}
    seeds = [row for row in read_rows(whole["arms"][0]) if "seed" in row]
    assert len(seeds) == 15, "each seed of both arms, and each difference"
    for row in seeds[:10]:
        score = made().find_arm(row["arm"]).students[row["seed"]].scores["test/macro/accuracy"]
        assert row["value"] == pytest.approx(100 * score, rel=1e-5)
    assert [row["count"] for row in read_rows(whole["confusions"][0])] == [40, 10, 15, 35]
    arms = []
    for count in (30, 100, 300):
        for name, more in ((f"labelled_{count}", 0.1), (f"labelled_{count}_no_teachers", 0.0)):
            students = {
                seed: TrainedStudent({"test/macro/accuracy": 0.6 + more + 0.001 * seed + count / 1e4})
                for seed in (1, 2, 3)
            }
            against = f"labelled_{count}_no_teachers" if more else None
            arms.append(ArmResult(name, "", against, count, students))
    report = ComparisonReport(tuple(arms), (1, 2, 3))
    found = draw_comparison_figures(report)
    assert set(found) == {"arms", "budget"}
    assert [d.against for d in report.main_differences] == [
        f"labelled_{count}_no_teachers" for count in (30, 100, 300)
    ]
    heads, _ = ComparisonTables(report).main_cells()
    assert "compared with" in heads
    if NODE is not None:
        for name, drawn in {**draw_in_node(found), **draw_in_node(whole)}.items():
            assert drawn["warnings"] == [] and "NaN" not in drawn["svg"], (name, drawn["warnings"])


def test_students_that_no_teacher_taught_have_sizes_and_speeds_and_no_ratio() -> None:
    def arm(name: str, parameters: int, ms: float) -> ArmResult:
        one = {
            s: TrainedStudent({"test/macro/accuracy": 0.8}, None, parameters, 1.0, ms * s, 3.0)
            for s in (1, 2)
        }
        return ArmResult(name, "", None if name == "base" else "base", None, one)

    report = ComparisonReport((arm("base", 4000, 8.0), arm("half", 1000, 2.0)), (1, 2), baseline="base")
    heads, lines = ComparisonTables(report).cost_cells()
    # The least of the seeds' times counts: 1e6 / 8 and 1e6 / 2 texts a second.
    assert lines == [
        ["base", "80.00", "4 k", "1.0", "125,000", "3.0"],
        ["half", "80.00", "1 k", "1.0", "500,000", "3.0"],
    ]
    equal = ComparisonReport((arm("base", 4000, 8.0), arm("other", 4000, 2.0)), (1, 2), baseline="base")
    heads, lines = ComparisonTables(equal).cost_cells()
    assert "x smaller" not in heads and {line[4] for line in lines} == {"500,000"}, "one model has one speed"


@pytest.mark.parametrize(("other", "said"), [(4000, True), (1000, False)])
def test_the_caption_speaks_of_the_teachers_where_the_chart_shows_them(other: int, said: bool) -> None:
    def arm(name: str, parameters: int) -> ArmResult:
        one = {
            s: TrainedStudent({"test/macro/accuracy": 0.8 + s / 100}, None, parameters, 1.0, 2.0, 3.0)
            for s in (1, 2)
        }
        return ArmResult(name, students=one)

    scores = {"test/macro/accuracy": 0.9}
    teacher = ReferenceSystem("teacher zh", "teacher", scores, parameters=90_000)
    report = ComparisonReport((arm("base", 1000), arm("large", other)), (1, 2), references=(teacher,))
    caption, spec = (drawn := draw_comparison_figures(report)["cost"])[1], drawn[0]
    assert ("Diamonds are the teachers" in caption) is said is ("90000" in json.dumps(spec))


@pytest.mark.parametrize(
    ("zh", "noted"), [(0.88, "teacher zh (+2.0)"), (0.89, None), (0.70, "teacher zh (−16.0)")]
)
def test_a_teacher_hardly_above_the_student_without_teachers_is_named(zh: float, noted: str | None) -> None:
    scores = {"test/macro/accuracy": 0.8, "test/zh/accuracy": 0.86, "test/en/accuracy": 0.74}
    arms = tuple(
        ArmResult(x, students={seed: TrainedStudent(scores) for seed in (1, 2)}) for x in ("plain", "taught")
    )
    # Of zh alone it knows something: 2, 3 or -16 points above 86, whatever the mean over languages is.
    teacher = ReferenceSystem("teacher zh", "teacher", {"test/macro/accuracy": zh, "test/zh/accuracy": zh})
    together = ReferenceSystem("teachers' ensemble", "ensemble", scores)
    report = ComparisonReport(arms, (1, 2), references=(teacher, together))
    assert [note.partition(":")[0] for note in describe_weak_teachers(report, ["plain"])] == (
        [noted] if noted else []
    )
    assert describe_weak_teachers(report, []) == []
    # A teacher that lacks labels is wrong at them and may know the others.
    assert describe_weak_teachers(report, ["plain"], ["teacher zh"]) == []


def test_teachers_and_their_ensemble_stand_below_the_arms(tmp_path: Path) -> None:
    def arm(name: str, timed_on: str = "1 thread, cpu") -> ArmResult:
        scores = {"test/macro/accuracy": 0.8, "test/zh/accuracy": 0.7, "test/en/accuracy": 0.9}
        one = {s: TrainedStudent(scores, None, 1000, 1.0, 2.0, 3.0, timed_on=timed_on) for s in (1, 2)}
        return ArmResult(name, "", None if name == "base" else "base", None, one)

    zh = ReferenceSystem(
        "teacher zh",
        "teacher",
        {"test/macro/accuracy": 0.75, "test/zh/accuracy": 0.75},
        10_000,
        4.0,
        8.0,
        "1 thread, cpu",
    )
    both = {"test/macro/accuracy": 0.95, "test/zh/accuracy": 0.95, "test/en/accuracy": 0.95}
    together = ReferenceSystem("teachers' ensemble", "ensemble", both, 30_000, None, 24.0, "1 thread, cpu")
    arms = (arm("base"), arm("other", "2 threads, cpu"))
    report = ComparisonReport(arms, (1, 2), baseline="base", references=(zh, together))
    tables = ComparisonTables(report)
    heads, lines = tables.main_cells()
    assert [line[:2] for line in lines[2:]] == [["teacher zh", "75.00 (zh)"], ["teachers' ensemble", "95.00"]]
    assert all(len(line) == len(heads) and set(line[2:]) == {"–"} for line in lines[2:])
    assert tables.language_cells()[1][2:] == [
        ["teacher zh", "75.00", "–"],
        ["teachers' ensemble", "95.00", "95.00"],
    ]
    heads, lines = tables.cost_cells()
    assert heads[-2:] == ["x smaller", "x faster"]
    # 30,000 and 10,000 parameters over 1,000; 24 and 8 ms over 2, where the threads are the ensemble's.
    assert lines == [
        ["base", "80.00", "1 k", "1.0", "500,000", "3.0", "30", "12"],
        ["other", "80.00", "1 k", "1.0", "500,000", "3.0", "30", "–"],
        ["teacher zh", "75.00 (zh)", "10 k", "4.0", "125,000", "–", "3.0", "3.0"],
        ["teachers' ensemble", "95.00", "30 k", "–", "41,667", "–", "1.0", "1.0"],
    ]
    assert "x smaller, x faster: than the teachers together" in tables.to_markdown()
    assert [one["name"] for one in dump_comparison(tables.report)["references"]] == [
        "teacher zh",
        "teachers' ensemble",
    ]
    page = write_comparison_page(report, tmp_path / "report.html")
    text = page.read_text(encoding="utf-8")
    assert text.count('<td class="left">teacher zh</td>') == 3, "arms, languages and costs"
