"""Tables on terminals of any width, and samples as people read them."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from rich.console import Console

from raykd.report.key_names import fold_sample, name_mlflow_params
from raykd.report.results import Predictions
from raykd.report.sweeps.trial_table import TrialTable, describe_sample
from raykd.report.table import ResultTable
from tests.fakes import scored
from tests.made_trials import report_of, row

WIDTHS = (24, 40, 60, 80, 120, 200)


def shown(table: object, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    return text


def wide_results() -> ResultTable:
    codes = ("de", "en", "es", "fr", "it", "nl", "pl", "pt", "zh-Hans") * 4
    gold = np.arange(36) % 2
    systems = []
    for name, role in (("a-teacher", "teacher"), ("b", "baseline"), ("s", "student")):
        logits = np.random.default_rng(len(name)).normal(size=(36, 2)).astype(np.float32)
        covered = np.ones(36, bool)
        p = Predictions(name, role, logits, covered, gold, codes, 12_300_000, 1234.5)  # type: ignore[arg-type]
        systems.append((p, scored(p)))
    return ResultTable(tuple(systems))


@pytest.mark.parametrize("width", WIDTHS)
def test_results_show_every_number_at_every_width(width: int) -> None:
    table = wide_results()
    text = shown(table.to_rich(), width)
    assert "…" not in text
    _, lines = table.to_cells()
    numbers = [cell for line in lines for cell in line[2:] if re.fullmatch(r"[\d.]+", cell)]
    assert [n for n in numbers if n not in text] == []
    assert "distilled − undistilled" in " ".join(text.split())


@pytest.mark.parametrize("width", WIDTHS)
def test_trials_show_every_number_at_every_width(width: int) -> None:
    sample = {f"objective.terms.{at}.lambda_schedule": 0.125 + at for at in range(9)}
    rows = [row(f"t{at:04}", (0.5 + 0.0123 * at,), sample=sample) for at in range(3)]
    text = shown(TrialTable(report_of(rows)).to_rich(), width)
    assert "…" not in text and all(f"{0.125 + at:.4g}" in text for at in range(9))


def test_a_searched_constant_has_the_name_of_its_key_alone() -> None:
    sample = {"objective.alpha": "uniform", "objective.alpha[uniform]": 0.42, "train.batch_size": 8}
    assert fold_sample(sample) == {"objective.alpha": 0.42, "train.batch_size": 8}
    names = {
        "objective.alpha": "alpha",
        "objective.alpha[uniform]": "alpha",
        "train.batch_size": "batch_size",
    }
    assert describe_sample(sample, names) == "alpha 0.42, batch_size 8"
    other = {"objective.alpha": "annealing", "objective.alpha[annealing].end": 0.7}
    assert fold_sample(other) == other
    assert name_mlflow_params(other) == {"objective.alpha": "annealing", "objective.alpha.annealing.end": 0.7}
    heads, lines = TrialTable(
        report_of([row("t1", (0.5,), sample=sample), row("t2", (0.4,), sample=other)])
    ).to_cells()
    assert heads[-3:] == ["alpha", "batch_size", "alpha[annealing].end"]
    assert [line[-3:] for line in lines] == [["0.42", "8", "–"], ["annealing", "–", "0.7"]]


def test_tables_of_several_tasks_say_whose_they_are() -> None:
    text = shown(wide_results().to_rich().with_title("reviews"), 200)
    assert "reviews. Results on the held-out rows" in text
    assert shown(wide_results().to_rich().with_title("reviews"), 24).startswith("reviews. Results")
