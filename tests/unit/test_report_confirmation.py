"""Paired differences against scipy's, and what the report says about them."""

import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import ttest_rel

from raykd.report.sweeps.confirmation import ConfirmationReport
from raykd.report.sweeps.confirmation_page import draw_confirmation_figures, write_confirmation_page
from tests.unit.test_report_page import Reader

EVIL = "<script>alert('x')</script>"


def made(gain=0.02, seeds=5, noise=0.004, arms=("winner", "default"), **fields):
    rng = np.random.default_rng(0)
    scores = {arm: {} for arm in arms}
    for seed in range(1, seeds + 1):
        base = 0.8 + rng.normal(0, 0.02)
        for arm, more in zip(arms, (gain, 0.0), strict=True):
            values = {}
            for split in ("validation", "test"):
                by_language = {x: base + more + float(rng.normal(0, noise)) for x in ("zh", "en")}
                for language, value in {**by_language, "macro": sum(by_language.values()) / 2}.items():
                    values |= {f"{split}/{language}/nll": 1.2 - value, f"{split}/{language}/accuracy": value}
            scores[arm][seed] = values
    return ConfirmationReport(arms, tuple(range(1, seeds + 1)), scores, **fields)


def test_the_interval_is_that_of_the_paired_t_test():
    report = made()
    found = report.compute_differences()
    assert len(found) == 2 * 2 * 3
    for d in found:
        one, two = np.asarray([p[1:] for p in report.pair_scores(d.split, d.language, d.metric)]).T
        wanted = ttest_rel(one, two).confidence_interval(0.95)
        assert (d.low, d.high) == (pytest.approx(wanted.low, rel=1e-9), pytest.approx(wanted.high, rel=1e-9))
        assert d.mean == pytest.approx(one.mean() - two.mean()) and d.seeds == 5
        assert d.excludes_zero == (ttest_rel(one, two).pvalue < 0.05)


def test_test_rows_come_first_then_the_mean_then_the_metric_that_was_searched():
    order = [(d.split, d.metric, d.language) for d in made().compute_differences()]
    assert order[:4] == [
        ("test", "accuracy", "macro"),
        ("test", "accuracy", "zh"),
        ("test", "accuracy", "en"),
        ("test", "nll", "macro"),
    ]
    assert (
        made(metric="nll").main_difference.metric == "nll"
        and made().main_difference == made().compute_differences()[0]
    )


def test_wins_know_that_a_lower_nll_is_better():
    by_metric = {
        d.metric: d
        for d in made(gain=0.05).compute_differences()
        if (d.split, d.language) == ("test", "macro")
    }
    assert by_metric["accuracy"].wins == by_metric["nll"].wins == 5
    assert by_metric["accuracy"].mean > 0 > by_metric["nll"].mean
    scores = {"a": {1: {"test/macro/accuracy": 0.5}, 2: {"test/macro/accuracy": 0.6}},
              "b": {1: {"test/macro/accuracy": 0.5}, 2: {"test/macro/accuracy": 0.7}}}  # fmt: skip
    d = ConfirmationReport(("a", "b"), (1, 2), scores).main_difference
    assert (d.wins, d.ties, d.means) == (0, 1, (pytest.approx(0.55), pytest.approx(0.6)))


def test_a_seed_that_one_arm_lacks_leaves_its_partner_out():
    report = made()
    report.scores["default"][3] = {}
    report.scores["winner"][4]["test/macro/accuracy"] = float("nan")
    assert [seed for seed, _, _ in report.pair_scores("test", "macro", "accuracy")] == [1, 2, 5]
    assert report.main_difference.seeds == 3 and report.list_missing() == ["default, seed 3"]


def test_the_sentence_says_whether_the_interval_excludes_zero():
    assert "excludes 0: winner is better than default" in made(gain=0.05).describe()
    assert "excludes 0: winner is worse than default" in made(gain=-0.05).describe()
    assert "includes 0" in made(gain=0.0).describe()
    assert "excludes 0: winner is better" in made(gain=0.05, metric="nll").describe()
    d = made(gain=0.05).main_difference
    assert (
        f"+{100 * d.mean:.2f} points" in made(gain=0.05).describe()
        and "wins 5 of 5" in made(gain=0.05).describe()
    )


def test_one_seed_has_no_interval_and_none_has_no_difference():
    one = made(seeds=1)
    assert (
        one.main_difference.low is None
        and not one.main_difference.excludes_zero
        and "at least two" in one.describe()
    )
    none = ConfirmationReport(("a", "b"), (1, 2), {})
    assert none.main_difference is None and none.compute_differences() == [] and "no seed" in none.describe()
    assert draw_confirmation_figures(none) == {}


def test_tables_hold_the_same_numbers():
    report = made()
    rows = report.to_rows()
    json.dumps(rows, allow_nan=False)
    assert (
        rows[0]["difference"] == report.main_difference.mean
        and rows[0]["winner_mean"] == report.main_difference.means[0]
    )
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report.to_rich())
    terminal, markdown, (_, lines) = console.export_text(), report.to_markdown(), report.to_cells()
    assert lines[0][3:6] == [f"{100 * m:.2f}" for m in report.main_difference.means] + [
        f"{100 * report.main_difference.mean:+.2f}"
    ]
    for line in lines:
        assert all(cell in terminal for cell in line) and "| " + " | ".join(line) + " |" in markdown


def test_the_page_is_escaped_whole_and_says_what_is_missing(tmp_path):
    report = made(
        arms=(f"winner{EVIL}", "default"), title=EVIL, summary=EVIL, notes=(EVIL,), environment={"x": EVIL}
    )
    report.scores["default"][3] = {}
    html = write_confirmation_page(
        report, tmp_path / "out" / "c.html", draw_confirmation_figures(report)
    ).read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(html)
    assert EVIL not in html and reader.open == [] and "script" not in reader.tags
    text = "".join(reader.text)
    assert report.describe() in text and "Not measured: default, seed 3" in text
    heads, lines = report.to_cells()
    assert reader.cells == heads + [cell for line in lines for cell in line]
    empty = write_confirmation_page(ConfirmationReport(("a", "b"), (1,), {}), tmp_path / "e.html", {})
    assert "There is no seed" in empty.read_text(encoding="utf-8")


def test_the_plot_is_valid_svg_with_a_caption():
    ((svg, caption),) = draw_confirmation_figures(made()).values()
    assert ElementTree.fromstring(svg).tag.endswith("svg") and caption
    assert "nan" not in re.sub(r'd="[^"]*"', "", svg).lower()
