"""A language that is routed to the weaker of its teachers is named before the student learns from it."""

from typing import Any

import pytest

from raykd.report.results import Score
from raykd.scoring.poor_teachers import find_poor_routes
from tests.worlds import run_config


def score(rows: int = 500, **rates: float) -> Score:
    return Score({x: {"accuracy": rate} for x, rate in rates.items()}, {}, dict.fromkeys(rates, rows))


def config(weighting: Any = None) -> Any:
    return run_config({"alpha": 0.1, "weighting": weighting or {"kind": "by_language"}})


def test_the_warning_names_language_scores_and_keys() -> None:
    scores = {"en": score(en=0.80), "zh": score(zh=0.91), "multi": score(en=0.90, zh=0.90)}
    assert find_poor_routes(config(), scores, {"en", "zh"}) == [
        "en is taught by en, although multi, which speaks it too, is better there: validation accuracy 80.0 against "
        "90.0 %. select_teachers=[zh, multi] leaves en out, objective.weighting={kind: uniform} asks both, "
        "objective.weighting.chain=[multilingual, monolingual, any] asks multilingual teachers first in every language"
    ]
    assert find_poor_routes(config(), scores, {"zh"}) == [], "no row of en is taught"
    assert find_poor_routes(config({"kind": "uniform"}), scores, {"en"}) == [], "all are asked"


@pytest.mark.parametrize(
    ("rows", "own", "warned"),
    [
        (500, 0.89, False),  # a point
        (500, 0.86, False),  # 2 x sqrt(0.86 x 0.14 / 500 + 0.9 x 0.1 / 500) is 4.1 points
        (500, 0.85, True),  # 5 points against 4.2
        (50, 0.80, False),  # 10 points against 14 of 50 rows
        (50, 0.70, True),
    ],
)
def test_luck_is_no_reason(rows: int, own: float, warned: bool) -> None:
    scores = {"en": score(rows, en=own), "zh": score(rows, zh=0.9), "multi": score(rows, en=0.9)}
    assert bool(find_poor_routes(config(), scores, {"en", "zh"})) == warned


def test_a_teacher_that_is_asked_first_may_be_beaten_by_a_monolingual_one() -> None:
    scores = {"en": score(en=0.9), "zh": score(zh=0.9), "multi": score(en=0.8, zh=0.8)}
    first = config({"kind": "by_language", "chain": ["multilingual", "monolingual"]})
    lines = find_poor_routes(first, scores, {"en", "zh"})
    assert [line.split(",")[0] for line in lines] == ["en is taught by multi", "zh is taught by multi"]
    assert not any("leaves multi out" in line for line in lines), "it speaks another language, too"
