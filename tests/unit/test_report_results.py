"""Scores, agreement and tables against numbers worked out by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from raykd.distill.signals import UNLABELLED
from raykd.report.formats import format_count, format_metric
from raykd.report.results import Predictions, Score, compute_agreement
from raykd.report.sizes import format_ratios
from raykd.report.table import ResultTable
from tests.fakes import scored

LANGUAGES = ("zh", "zh", "zh", "zh", "en", "en", "fr", "fr")
GOLD = np.array([0, 1, 0, 1, 0, 1, 1, UNLABELLED])


def system(name, role, chosen, covered=None, parameters=1_200_000, ms=34.0):
    """Predictions that choose these labels, each with probability 0.75."""
    logits_NC = np.zeros((len(chosen), 2), np.float32)
    logits_NC[np.arange(len(chosen)), chosen] = np.log(3.0)
    covered_N = np.ones(len(chosen), bool) if covered is None else np.isin(LANGUAGES, list(covered))
    return Predictions(name, role, logits_NC, covered_N, GOLD, LANGUAGES, parameters, ms)


SYSTEMS = [
    system("student", "student", [0, 1, 0, 0, 0, 1, 1, 0]),  # zh 3/4, en 2/2, fr 1/1
    system("zh-bert", "teacher", [0, 1, 0, 1, 1, 0, 0, 0], {"zh"}, 102_000_000, 5200.0),  # zh 4/4
    system("both", "ensemble", [0, 1, 0, 1, 0, 1, 1, 0], None, 380_000_000, None),  # all right
    system("student", "baseline", [0, 0, 0, 0, 0, 1, 1, 1]),  # zh 2/4, en 2/2, fr 1/1
]


@pytest.fixture
def table():
    return ResultTable(tuple((p, scored(p)) for p in SYSTEMS))


def test_scores_are_those_worked_out_by_hand():
    found = scored(SYSTEMS[0])
    assert {x: v["accuracy"] for x, v in found.by_language.items()} == {"zh": 0.75, "en": 1.0, "fr": 1.0}
    assert found.rows == {"zh": 4, "en": 2, "fr": 1}  # the unlabelled row of fr does not count
    assert found.macro["accuracy"] == pytest.approx(2.75 / 3)
    # zh: three rows at 0.75 and one at 0.25; macro-F1 over F1(0) = 4/5 and F1(1) = 2/3
    assert found.by_language["zh"]["nll"] == pytest.approx(-(3 * np.log(0.75) + np.log(0.25)) / 4)
    assert found.by_language["zh"]["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert found.by_language["zh"]["ece"] == pytest.approx(0.0, abs=1e-6)
    assert found.by_language["en"]["ece"] == pytest.approx(0.25)
    assert found.macro["nll"] == pytest.approx(np.mean([v["nll"] for v in found.by_language.values()]))


def test_a_language_that_is_not_covered_is_absent():
    found = scored(SYSTEMS[1])
    assert set(found.by_language) == {"zh"}
    assert found.macro == found.by_language["zh"]
    nothing = scored(system("none", "teacher", [0] * 8, set()))
    assert (nothing.by_language, nothing.macro, nothing.rows) == ({}, None, {})


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"odd: .*\[7, 8\]"):
        Predictions("odd", "teacher", np.zeros((8, 2), np.float32), np.ones(8, bool), GOLD[:7], LANGUAGES, 1)


def test_agreement_by_hand():
    matrix = compute_agreement([SYSTEMS[0], SYSTEMS[1], system("fr", "teacher", [1] * 8, {"fr"})])
    assert matrix.names == ("student", "zh-bert", "fr")
    expected = [[1, 3 / 4, 1 / 2], [3 / 4, 1, np.nan], [1 / 2, np.nan, 1]]  # the unlabelled row counts here
    np.testing.assert_allclose(matrix.share_SS, expected)


def test_the_table_holds_the_scores_in_the_order_of_roles(table):
    heads, lines = table.to_cells()
    assert heads[:6] == [
        "system",
        "languages",
        "accuracy zh",
        "accuracy en",
        "accuracy fr",
        "mean accuracy %",
    ]
    assert [line[0] for line in lines] == [
        "zh-bert",
        "teachers' ensemble",
        "undistilled student",
        "distilled student",
    ]
    assert lines[0][1:6] == ["zh", "100.0", "–", "–", "100.0 (zh)"]
    assert lines[3][1:6] == ["zh en fr", "75.0", "100.0", "100.0", "91.7"]
    assert heads[-5:] == ["parameters", "MB", "texts/s", "x smaller", "x faster"]
    assert [line[-5:] for line in lines] == [
        ["102 M", "–", "192", "3.7", "–"],
        ["380 M", "–", "–", "1.0", "–"],
        ["1.2 M", "–", "29,412", "317", "–"],
        ["1.2 M", "–", "29,412", "317", "–"],
    ]


def test_a_system_is_set_beside_the_teachers_together_where_both_were_timed_alike():
    def timed(role, parameters, ms, timed_on):
        return replace(system(role, role, [0] * 8), parameters=parameters, ms_per_1000=ms, timed_on=timed_on)

    together = timed("ensemble", 900, 60.0, "1 thread, cpu")
    size = together.size
    assert format_ratios(size, timed("student", 30, 4.0, "1 thread, cpu").size) == ["30", "15"]
    assert format_ratios(size, timed("student", 30, 4.0, "2 threads, cpu").size) == ["30", "–"]
    assert format_ratios(size, timed("student", 30, 4.0, None).size) == ["30", "–"]
    score = Score({}, None, {})
    alone = ResultTable(((timed("student", 30, 4.0, "1 thread, cpu"), score),))
    assert "x smaller" not in alone.to_cells()[0] and alone.remarks == []
    both = ResultTable(((together, score), (timed("student", 30, 4.0, "1 thread, cpu"), score)))
    assert both.to_cells()[1][1][-2:] == ["30", "15"] and both.remarks[-1].startswith(
        "x smaller, x faster: than"
    )


def test_rows_are_the_scores_as_flat_json(table):
    rows = json.loads(json.dumps(table.to_rows()))
    assert len(rows) == 2 + 3 * 4
    macro = [r for r in rows if r["language"] == "macro"]
    for row, (_, s) in zip(macro, table.systems, strict=True):
        assert {m: row[m] for m in s.macro} == s.macro
    assert macro[0]["covers"] == "zh"
    assert (macro[3]["parameters"], macro[3]["ms_per_1000"], macro[3]["rows"]) == (1_200_000, 34.0, 7)
    en = next(r for r in rows if r["role"] == "student" and r["language"] == "en")
    assert (en["accuracy"], en["rows"]) == (1.0, 2)


def test_the_gap(table):
    # student 2.75/3, baseline 2.5/3, ensemble 1: gained 1/12 of the 1/6 that there was to gain
    assert table.gap.points == pytest.approx(100 / 12)
    assert table.gap.closed == pytest.approx(0.5)
    assert (
        str(table.gap)
        == "distilled − undistilled: +8.3 points of mean accuracy, 83.3 to 91.7; 50% of the gap to the ensemble is closed"
    )


def test_a_gap_is_told_in_the_metric_of_the_run_with_its_unit_and_enough_digits():
    def told(metric, before, after, *rest):
        values = {"nll": 0.5, "chrf": 20.0, "accuracy": 0.5}
        pairs = []
        for role, value, other in (("baseline", before, 21.0), ("student", after, 20.0)):
            p = system(role, role, [0] * 8)
            own = {**values, "chrf": other, metric: value} if "chrf" in rest else {**values, metric: value}
            pairs.append((p, Score({"zh": own}, own, {"zh": 8})))
        return str(ResultTable(tuple(pairs), metric).gap)

    assert told("nll", 4.693, 4.656) == (
        "distilled − undistilled: −0.037 nats of mean NLL, 4.693 to 4.656 (better: lower is better)"
    )
    assert told("nll", 4.693, 4.656, "chrf").endswith("; chrF −1.0 points (worse)")
    assert told("chrf", 20.0, 20.5) == "distilled − undistilled: +0.5 points of mean chrF, 20.000 to 20.500"
    assert told("accuracy", 0.5, 0.5002).startswith("distilled − undistilled: +0.02 points of mean accuracy")
    assert told("perplexity", 12.0, 13.0).endswith(
        "+1.000 of mean perplexity, 12.000 to 13.000 (worse: lower is better)"
    )


def test_a_plain_student_is_no_distilled_one_and_one_answer_for_all_rows_is_marked():
    plain = replace(system("student", "student", [0] * 8), plain=True, constant="label negative")
    table = ResultTable(((plain, scored(plain)),))
    assert table.to_cells()[1][0][0] == "student (!)"
    assert "(!) student answers alike to every row: label negative" in table.to_markdown()


def test_the_gap_is_left_out_where_it_means_nothing():
    def gap_of(*systems):
        return ResultTable(tuple((p, scored(p)) for p in systems)).gap

    student, teacher, _, baseline = SYSTEMS
    assert gap_of(student, teacher) is None
    assert gap_of(student, baseline).closed is None
    weak = system("weak", "ensemble", [1] * 8)
    assert gap_of(student, baseline, weak).closed is None
    partial = system("partial", "ensemble", [0, 1, 0, 1, 0, 1, 1, 0], {"zh", "en"})
    assert gap_of(student, baseline, partial).closed is None
    assert gap_of(student, system("b", "baseline", [0] * 8, {"zh"})) is None
    # A student that lost nothing closed of it, and no negative share.
    swapped = [
        replace(p, role={"student": "baseline", "baseline": "student"}[p.role]) for p in (student, baseline)
    ]
    lost = gap_of(*swapped, SYSTEMS[2])
    assert lost.points < 0 and lost.closed is None


@pytest.mark.parametrize("width", [100, 140])
def test_the_terminal_shows_every_number(table, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table.to_rich())
    text = console.export_text()
    assert "…" not in text
    for line in table.to_cells()[1]:
        shown_line = next(row for row in text.splitlines() if row.strip().startswith(line[0]))
        assert all(
            cell in shown_line for cell in (*line[:-4], line[-3])
        )  # MB and ratios stand in the table below it


@pytest.mark.parametrize("width", [80, 120])
def test_languages_that_do_not_fit_side_by_side_have_a_row_each(width):
    spoken = ("de", "en", "es", "fr", "it", "nl", "pl", "pt", "zh-Hans")
    labels_N = np.arange(18) % 2
    logits_NC = np.stack([-3.0 * labels_N, 3.0 * labels_N], 1).astype(np.float32)
    one = Predictions(
        "all", "student", logits_NC, np.ones(18, bool), labels_N, spoken * 2, 1_230_000, 12.0
    )  # fmt: skip
    many = ResultTable(((one, scored(one)),))
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(many.to_rich())
    lines = [line.split() for line in console.export_text().splitlines()]
    assert not any("…" in cell for line in lines for cell in line)
    by_language = {cells[1]: cells[2:] for cells in many.language_cells()[1]}
    for language in spoken:
        shown_line = next(line for line in lines if language in line)
        assert shown_line[shown_line.index(language) + 1 :] == by_language[language][1:]
    assert any("mean" in line and "1.23" in line and "83,333" in line for line in lines)


def test_markdown_escapes_what_would_break_it():
    name = "a|b\nc"
    text = ResultTable(((system(name, "teacher", [0] * 8), scored(SYSTEMS[0])),)).to_markdown()
    assert "| a\\|b c |" in text
    assert len({line.replace("\\|", "").count("|") for line in text.split("\n\n")[0].splitlines()}) == 1


def test_an_empty_table_is_still_a_table():
    empty = ResultTable(())
    assert (empty.to_rows(), empty.gap, empty.languages) == ([], None, ())
    assert empty.to_cells()[1] == []
    Console(file=open("/dev/null", "w")).print(empty.to_rich())  # noqa: SIM115


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (12_345, "12.3 k"), (999_900, "1 M"), (1_234_567, "1.23 M"), (7.3e9, "7.3 G")],
)
def test_counts(number, text):
    assert format_count(int(number)) == text


def test_shown():
    assert [format_metric("accuracy", 0.8715), format_metric("nll", 0.3333), format_metric("ece", None)] == [
        "87.2",
        "0.333",
        "–",
    ]
