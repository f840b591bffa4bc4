"""Coalitions are scored as the final table scores; advice names planted teachers and is silent about healthy ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.planted import give_advice, is_recognised
from benchmarks.planted_parts.made_teachers import CASES, Case, make_ensemble
from raykd.distill.signals import UNLABELLED, Signals
from raykd.distill.weighting import Uniform
from raykd.distill.weightings.routing import ByLanguage
from raykd.ensemble.advice import Advice, AdviceKind
from raykd.ensemble.agreement import PairAgreement
from raykd.ensemble.calibration import compute_gold_nll, fit_temperature
from raykd.ensemble.contributions import compute_contributions
from raykd.ensemble.expected_changes import Estimate, ExpectedChange, estimate_changes
from raykd.ensemble.mixing import Combined, mix_coalition, mix_with_another
from raykd.ensemble.shapley import plan_game
from raykd.ensemble.units import LabelledUnits
from raykd.report.ensembles.advice_lines import make_advice_line
from raykd.tasks.scores.classification import compute_classification_metrics, log_softmax
from raykd.tasks.scores.entities import compute_entity_metrics

ANSWERED = {"en": [True, True, False], "de": [True, False, True]}
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def made_signals(seed: int = 0, units: int = 60, classes: int = 3) -> Signals:
    """Three teachers: of all languages, of en, and of de alone."""
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, units, classes)).astype(np.float32))
    codes = ("en", "de") * (units // 2)
    spoken = (None, frozenset(["en"]), frozenset(["de"]))
    covered = torch.tensor([[s is None or x in s for x in codes] for s in spoken])
    return Signals(("all", "en", "de"), spoken, logits, covered, torch.full((units,), UNLABELLED), codes)


def made_units(signals: Signals, classes: int = 3) -> LabelledUnits:
    """One unit a row."""
    n = len(signals.languages)
    gold = np.random.default_rng(9).integers(classes, size=n)
    return LabelledUnits(gold, np.ones(n, np.int64), signals.languages, tuple("abcdefg"[:classes]))


def test_a_coalition_is_mixed_as_if_the_run_had_no_other_teachers() -> None:
    signals = made_signals()
    first_two = mix_coalition(signals, ByLanguage(), "arithmetic", np.asarray([True, True, False]))
    p_MNC = signals.logits_MNC.softmax(-1).numpy()
    english = np.asarray([code == "en" for code in signals.languages])
    # Routed: the teacher of en alone answers en, and with nobody for de the one of all languages does.
    assert np.exp(first_two.logp_NC[english]) == pytest.approx(p_MNC[1][english], abs=1e-6)
    assert np.exp(first_two.logp_NC[~english]) == pytest.approx(p_MNC[0][~english], abs=1e-6)
    last = mix_coalition(signals, ByLanguage(), "arithmetic", np.asarray([False, False, True]))
    assert last.covered_N.tolist() == (~english).tolist()
    nobody = mix_coalition(signals, Uniform(), "arithmetic", np.zeros(3, dtype=bool))
    assert not nobody.covered_N.any() and np.exp(nobody.logp_NC) == pytest.approx(1 / 3)


def test_a_teacher_that_routing_leaves_out_is_added_at_an_equal_share() -> None:
    signals = made_signals()
    p_MNC = signals.logits_MNC.softmax(-1).numpy()
    added = mix_with_another(signals, ByLanguage(), "arithmetic", 0)
    english = np.asarray([code == "en" for code in signals.languages])
    assert np.exp(added.logp_NC[english]) == pytest.approx((p_MNC[0] + p_MNC[1])[english] / 2, abs=1e-6)


def test_accuracy_of_a_coalition_is_that_of_the_table_and_nobody_guesses() -> None:
    signals = made_signals()
    units = made_units(signals)
    game = plan_game(3)
    scored = [mix_coalition(signals, Uniform(), "arithmetic", row) for row in game.members_SM]
    parts = units.score_choices(scored)
    for language in ("en", "de"):
        picked = np.asarray([code == language for code in signals.languages])
        table = compute_classification_metrics(scored[-1].logp_NC[picked], units.gold_N[picked])["accuracy"]
        assert parts.score(parts.pick_language(language))[-1, 0] == pytest.approx(table)
    assert parts.score_mean()[0, 0] == pytest.approx(1 / 3)
    found = compute_contributions(game, parts, signals.teachers, units.labels, ANSWERED, samples=50)
    means = [c for c in found if c.group == "mean"]
    assert sum(c.value for c in means) == pytest.approx(parts.score_mean()[-1, 0] - 1 / 3)
    assert all(c.low <= c.value <= c.high for c in means)
    own = {c.teacher: c.alone for c in means}
    english = np.asarray([code == "en" for code in signals.languages])
    right = signals.logits_MNC[1].argmax(-1).numpy() == units.gold_N
    assert own["en"] == pytest.approx(right[english].mean())  # in its language alone
    by_class = [c.value for c in found if c.group == "class" and c.name == "b"]
    of_b = units.gold_N == 1
    assert sum(by_class) == pytest.approx((scored[-1].logp_NC.argmax(1)[of_b] == 1).mean() - 1 / 3)
    # In de the teacher of en is a null player.
    assert next(c.value for c in found if (c.teacher, c.name) == ("en", "de")) == pytest.approx(0.0)


def test_nll_of_a_coalition_is_taken_at_its_best_temperature() -> None:
    signals = made_signals()
    gold = made_units(signals).gold_N
    # Right on half of the rows, so that its best temperature is a finite one.
    gold = np.where(np.arange(60) % 2, gold, signals.logits_MNC[0].argmax(-1).numpy())
    units = replace(made_units(signals), gold_N=gold)
    one = mix_coalition(signals, Uniform(), "arithmetic", np.asarray([True, False, False]))
    sharper = Combined(log_softmax(3.0 * one.logp_NC).astype(np.float32), one.covered_N)
    scores = units.score_nll([one, sharper])
    nll = -scores.score(np.ones(60, dtype=bool))[:, 0]
    best = fit_temperature(one.logp_NC, units.gold_N)
    assert nll[0] == pytest.approx(compute_gold_nll(one.logp_NC, units.gold_N, best).mean(), rel=1e-3)
    assert nll[1] == pytest.approx(nll[0], rel=1e-3)  # being surer is no merit


def test_entity_f1_of_a_coalition_is_that_of_the_table() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 9, size=40)
    size = int(counts.sum())
    gold = np.zeros(size, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    gold[starts[::2]], gold[starts[1::3]] = 1, 3
    inside = starts[::2][counts[::2] > 1] + 1
    gold[inside] = np.where(gold[inside - 1] == 1, 2, 4)
    logits = rng.normal(size=(size, 5)).astype(np.float32)
    logits[np.arange(size), gold] += 1.5
    covered = rng.random(size) < 0.9
    units = LabelledUnits(gold, counts, ("en",) * 40, TAGS, tagging=True)
    parts = units.score_choices([Combined(logits, covered)])
    table = compute_entity_metrics(logits, gold, counts, TAGS, covered)
    assert parts.score_mean()[0, 0] == pytest.approx(table["f1"]) and 0.2 < table["f1"] < 1.0
    assert units.class_names == ("PER", "LOC")
    # By type: the two types' parts add up to the whole.
    both = parts.top_SI[:, parts.pick_class(0)].sum() + parts.top_SI[:, parts.pick_class(1)].sum()
    assert both == parts.top_SI.sum()


@pytest.mark.parametrize("case", CASES)
def test_advice_names_a_planted_teacher(case: Case) -> None:
    made = make_ensemble(1000, case)
    advice = give_advice(made)
    assert is_recognised(made, advice), advice


def test_advice_is_silent_about_equal_teachers() -> None:
    made = make_ensemble(3, None)
    alike = tuple(replace(made.teachers[0], name=f"t{m}") for m in range(4))
    assert give_advice(replace(made, teachers=alike, weighting=Uniform())) == ()


def test_a_teacher_is_dropped_only_where_others_cover_its_rows() -> None:
    signals = made_signals()
    changes = estimate_changes(made_units(signals), signals, ByLanguage(), "arithmetic", samples=50)
    # The teacher of all languages is not asked by this routing; each of the others could be replaced by it.
    assert set(changes.found) == {("add", 0, "en"), ("add", 0, "de"), ("drop", 1, "en"), ("drop", 2, "de")}
    alone = replace(signals, covered_MN=signals.covered_MN & torch.tensor([[False], [True], [True]]))
    assert estimate_changes(made_units(alone), alone, ByLanguage(), "arithmetic", samples=50).found == {}


def test_shared_errors_of_a_pair_without_errors_are_not_known() -> None:
    assert PairAgreement("a", "b", 10, 1.0, 1.0).shared_errors is None


def made_advice(kind: AdviceKind, score: float, nll: float, pairs: float = 0.2) -> Advice:
    """An advice whose intervals are 0.02 to either side."""

    def around(value: float) -> Estimate:
        return Estimate(value, value - 0.02, value + 0.02, np.zeros(1))

    change = ExpectedChange("drop", 0, ("en", "de"), around(score), around(nll), around(pairs), around(pairs))
    pair = PairAgreement("a", "b", 900, 0.99, 0.97, 50, 49) if kind == "copy" else None
    return Advice(kind, "a", ("en", "de"), change, "b" if pair else "", pair)


@pytest.mark.parametrize(
    ("advice", "line"),
    [
        (
            made_advice("drop", 0.03, 0.1),
            "drop a: the teachers together change by +3.0 [+1.0, +5.0] points of accuracy and −0.100 [−0.120, −0.080] "
            "nats of NLL",
        ),
        (
            made_advice("drop_in", 0.0, 0.0),
            "do not ask a in en, de: beside one other teacher it makes NLL worse by +0.200 [+0.180, +0.220] nats, and "
            "the teachers together change by +0.0 [−2.0, +2.0] points of accuracy and +0.000 [−0.020, +0.020] nats of NLL",
        ),
        (
            made_advice("copy", 0.0, 0.0),
            "drop a: it is a copy of b (99.0% equal answers, and 49 of the 50 errors that either makes are the same): the "
            "teachers together change by +0.0 [−2.0, +2.0] points of accuracy and +0.000 [−0.020, +0.020] nats of NLL",
        ),
        (
            made_advice("copy", -0.1, -0.1),
            "drop a, a copy, and give b twice the weight (objective.weighting fixed) (99.0% equal answers, and 49 of the "
            "50 errors that either makes are the same): dropped without that, the teachers together change by −10.0 "
            "[−12.0, −8.0] points of accuracy and +0.100 [+0.080, +0.120] nats of NLL",
        ),
    ],
    ids=["drop", "pairs", "copy", "weighty copy"],
)
def test_an_advice_says_what_is_expected(advice: Advice, line: str) -> None:
    assert make_advice_line(advice, "accuracy").line == line
