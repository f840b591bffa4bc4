"""The best trial, the order and the table, against what was worked out by hand."""

import csv
import dataclasses
import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from raykd.report.formats import format_value
from raykd.report.key_names import shorten_names
from raykd.report.sizes import RATIO_REMARK, Size
from raykd.report.sweeps.axes import INACTIVE, build_search_axes
from raykd.report.sweeps.trial_table import TrialTable, format_score_title
from raykd.report.sweeps.trials import Evaluation, TrialRow
from tests.made_trials import made_sweep, report_of, row


def test_the_score_is_the_best_evaluation_and_ties_go_to_the_lower_nll():
    trial = row(scores=(0.5, 0.8, 0.8, math.nan, 0.7), nlls=(1.0, 0.6, 0.55, math.nan, 0.4))
    assert (trial.score, trial.nll, trial.best_step, trial.last_evaluation) == (0.8, 0.55, 30, 5)
    assert trial.score_at(4) is None and trial.score_at(5) == 0.7 and trial.score_at(6) is None


def test_the_report_tells_its_trials_which_direction_is_better():
    report = report_of([row(scores=(0.9, 0.4, 0.6))], metric="nll", higher_is_better=False)
    assert (report.trials[0].score, report.trials[0].best_step) == (0.4, 20)


def test_evaluations_may_come_in_any_order():
    later, earlier = Evaluation(2, 20, 0.6, 1.0), Evaluation(1, 10, 0.7, 1.0)
    trial = TrialRow("t", "stopped", {}, (later, earlier), 40, 1.0)
    assert trial.last == later and trial.best == earlier


def test_the_best_is_never_a_broken_trial_and_ties_go_to_nll_then_name():
    trials = [
        row("t3", (0.8,), nlls=(0.5,)),
        row("t2", (0.8,), nlls=(0.4,), status="stopped"),
        row("t1", (0.8,), nlls=(0.4,)),
        row("t0", (0.99,), status="failed"),
        row("t4", (0.98, math.nan), status="diverged"),
        row("t5", (math.nan,)),
        row("t6", (), status="waiting"),
    ]
    report = report_of(trials)
    assert report.best.name == "t1"
    assert [t.name for t in report.rank_trials()] == ["t1", "t2", "t3", "t0", "t4", "t5", "t6"]
    assert report.by_status == {"finished": 3, "stopped": 1, "failed": 1, "diverged": 1, "waiting": 1}
    assert report_of(trials[3:]).best is None
    lowest = report_of(trials, metric="nll", higher_is_better=False)
    assert lowest.best.name == "t1"


def test_lower_is_better_turns_the_order():
    report = report_of([row("a", (0.5,)), row("b", (0.3,))], metric="nll", higher_is_better=False)
    assert [t.name for t in report.rank_trials()] == ["b", "a"]


def test_two_trials_of_one_name_are_refused():
    with pytest.raises(ValueError, match="t1"):
        report_of([row("t1"), row("t1")])


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["objective.alpha", "train.learning_rate"], ["alpha", "learning_rate"]),
        (["objective.temperature.start", "objective.temperature.kind"], ["temperature.start", "temperature.kind"]),
        (["a.b.rate", "c.b.rate"], ["a.b.rate", "c.b.rate"]),
        (["objective.terms.0.beta", "objective.terms.1.beta"], ["terms.0.beta", "terms.1.beta"]),
        (["teachers.0", "seed"], ["teachers.0", "seed"]),
        (["kind"], ["kind"]),
    ],
)  # fmt: skip
def test_short_names_are_the_shortest_that_say_which(keys, names):
    assert list(shorten_names(keys).values()) == names


def test_cells_hold_the_numbers_and_a_dash_for_what_is_not_there():
    report = report_of(
        [
            row(
                "t0",
                (0.5, 0.75),
                sample={"objective.alpha": 0.123456, "t.kind": "linear", "t.end": 2},
                total=40,
            ),
            row("t1", (), "failed", {"objective.alpha": 1e-5, "t.kind": None}, seconds=1234.4),
        ]
    )
    heads, lines = TrialTable(report).to_cells()
    assert heads == [
        "trial",
        "status",
        "accuracy %",
        "NLL nats",
        "best step",
        "steps",
        "seconds",
        "alpha",
        "t.kind",
        "t.end",
    ]
    assert lines[0] == ["t0", "finished", "75.00", "1.0000", "20", "20 / 40", "10", "0.1235", "linear", "2"]
    assert lines[1] == ["t1", "failed", "–", "–", "–", "0 / 10", "1,234", "1e-05", "null", "–"]


def test_a_sweep_over_nll_shows_it_once():
    heads, _ = TrialTable(report_of([row()], metric="eval/mean/nll", higher_is_better=False)).to_cells()
    assert heads.count("NLL nats") == 1 and format_score_title("eval/mean/accuracy") == "accuracy %"
    heads, (line,) = TrialTable(report_of([row(nlls=(math.nan,))], metric="eval/mean/spearman")).to_cells()
    assert "NLL nats" not in heads and len(line) == len(heads), "numbers have none"


def test_values_are_written_as_in_yaml():
    assert [format_value(v) for v in (True, None, 3, 0.5, 1 / 3, "a")] == [
        "true",
        "null",
        "3",
        "0.5",
        "0.3333",
        "a",
    ]


def test_rows_and_csv_hold_every_trial_unrounded_with_whole_paths():
    report = made_sweep()
    rows = TrialTable(report).to_rows()
    assert len(rows) == 30 and len({tuple(r) for r in rows}) == 1
    assert rows[0]["score"] == report.best.score and rows[0]["rank"] == 1
    assert [r["rank"] for r in rows if r["status"] in ("failed", "diverged")] == [None] * 3
    json.dumps(rows, allow_nan=False)
    read = list(csv.DictReader(io.StringIO(TrialTable(report).to_csv())))
    assert [r["trial"] for r in read] == [r["trial"] for r in rows]
    assert [float(r["train.learning_rate"]) for r in read] == [r["train.learning_rate"] for r in rows]
    constant = [r["objective.temperature.end"] for r in read if r["objective.temperature.kind"] == "constant"]
    assert constant and set(constant) == {""}
    assert TrialTable(report_of([])).to_csv() == ""


def test_the_terminal_shows_the_best_and_says_how_many_more():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(TrialTable(made_sweep()).to_rich(top=5))
    text = console.export_text()
    assert sum(line.lstrip().startswith("t0") for line in text.splitlines()) == 5
    assert "and 25 more trials" in text and "more trials" not in TrialTable(made_sweep(5)).to_markdown()


@pytest.mark.parametrize("keys", [2, 8])
def test_a_terminal_loses_no_digit(keys):
    made = made_sweep()
    kept = made.keys[:keys]
    trials = [
        dataclasses.replace(t, sample={k: v for k, v in t.sample.items() if k in kept}) for t in made.trials
    ]
    table = TrialTable(report_of(trials))
    console = Console(width=112, record=True, file=io.StringIO())
    console.print(table.to_rich(top=5))
    text = console.export_text()
    assert "…" not in text and ("values" in text) == (keys == 8)
    for trial in table.report.rank_trials()[:5]:
        assert all(format_value(v) in text for v in trial.sample.values())


def test_markup_in_a_name_is_shown_as_it_is():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(TrialTable(report_of([row("[red]t|1")])).to_rich())
    assert "[red]t|1" in console.export_text()
    assert "| [red]t\\|1 |" in TrialTable(report_of([row("[red]t|1")])).to_markdown()


def axis_of(values, **fields):
    trials = [row(f"t{i}", sample={} if v is ... else {"k": v}) for i, v in enumerate(values)]
    return build_search_axes(report_of(trials, **fields))[0]


def test_numbers_are_logarithmic_over_two_decades_or_where_the_sweep_says_so():
    axis = axis_of([1e-4, 1e-3, 1e-1])
    assert axis.log and axis.place({"k": 1e-3}) == pytest.approx(1 / 3)
    assert not axis_of([1.0, 100.0]).log
    assert axis_of([1.0, 100.0], log_keys=("k",)).log
    assert not axis_of([0.0, 1e-6, 1.0], log_keys=("k",)).log  # zero has no logarithm
    assert axis_of([2, 4, 10]).place({"k": 4}) == pytest.approx(0.25)
    assert axis_of([7]).place({"k": 7}) == 0.5


def test_categories_keep_true_apart_from_one_and_null_comes_first():
    axis = axis_of(["b", 1, True, None, "a"])
    assert axis.categories == (None, True, 1, "a", "b") and axis.categories[1] is True
    assert [axis.place({"k": v}) for v in (None, True, 1, "b")] == [0.0, 0.25, 0.5, 1.0]


def test_an_inactive_key_has_a_place_of_its_own_with_a_dash():
    axis = axis_of([1.0, ..., 2.0])
    assert axis.place({}) == INACTIVE and (INACTIVE, "–") in axis.ticks()
    assert "–" not in dict(axis_of([1.0, 2.0]).ticks()).values()


def test_ticks_are_round_and_inside():
    for values in ([0.013, 0.94], [3e-5, 0.02], [16, 64]):
        ticks = axis_of(values).ticks()
        assert len(ticks) >= 2
        assert all(-1e-6 <= place <= 1 + 1e-6 for place, _ in ticks)
        axis = axis_of(values)
        np.testing.assert_allclose(
            [axis.place({"k": float(text)}) for _, text in ticks], [p for p, _ in ticks], atol=1e-9
        )


def test_sizes_have_columns_where_trials_differ_in_them_and_the_winner_stands_beside_the_teachers():
    place = "1 thread, cpu"
    small, large = Size(1000, 0.004, 0.5, place), Size(4000, 0.016, 1.0, place)
    teacher, together = Size(40_000, 0.16, 10.0, place), Size(80_000, None, 8.0, place)
    trials = [
        dataclasses.replace(row("t0000", (0.6,), sample={"student.hidden": 8}), size=small),
        dataclasses.replace(row("t0001", (0.7,), sample={"student.hidden": 32}), size=large),
        row("t0002", (0.5,), sample={"student.hidden": 64}),
    ]
    table = TrialTable(report_of(trials, teacher_sizes={"zh": teacher}, together=together))
    heads, lines = table.to_cells()
    assert heads[6:-1] == ["seconds", "parameters", "MB", "texts/s", "x smaller", "x faster"]
    assert [line[7:-1] for line in lines] == [
        ["4 k", "0.016", "1,000", "20", "8.0"],
        ["1 k", "0.004", "2,000", "80", "16"],
        ["–", "–", "–", "–", "–"],
    ]
    assert [(r["parameters"], r["megabytes"], r["texts_s"]) for r in table.to_rows()] == [
        (4000, 0.016, 1000.0), (1000, 0.004, 2000.0), (None, None, None)]  # fmt: skip
    heads, lines = table.size_cells()
    assert heads == ["system", "accuracy %", "parameters", "MB", "texts/s", "x smaller", "x faster"]
    assert lines == [
        ["teacher zh", "–", "40 k", "0.2", "100", "2.0", "0.8"],
        ["teachers together", "–", "80 k", "–", "125", "1.0", "1.0"],
        ["student of t0001", "70.00", "4 k", "0.016", "1,000", "20", "8.0"],
    ]
    assert "| student of t0001 | 70.00 |" in table.to_markdown() and RATIO_REMARK in table.to_markdown()
    alike = TrialTable(report_of([dataclasses.replace(trial, size=small) for trial in trials]))
    assert "parameters" not in alike.to_cells()[0] and "x smaller" not in alike.size_cells()[0]
    assert alike.size_cells()[1] == [["student of t0001", "70.00", "1 k", "0.004", "2,000"]]
