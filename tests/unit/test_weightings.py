"""Routing by columns and near languages, and weights in the space of gradients, against numbers and identities."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raykd.answers.servable import check_servable
from raykd.config import RunConfig
from raykd.data.load import load_data
from raykd.distill.objective import Objective
from raykd.distill.signals import UNLABELLED, Signals
from raykd.distill.weighting import Uniform
from raykd.distill.weightings.base import WeightingBase
from raykd.distill.weightings.confidence import InverseLoss
from raykd.distill.weightings.families import compare_languages
from raykd.distill.weightings.gradients import GradientAgreement, find_least_norm
from raykd.distill.weightings.routing import ByColumn, ByLanguage, LanguageSimilarity
from raykd.errors import ConfigError
from raykd.teachers.source import TeacherRouter
from raykd.text.batch import TextBatch
from tests.worlds import build_loop, run_config

TEACHERS = ("de", "multi", "world", "de2")
DECLARED = (frozenset({"de"}), frozenset({"de", "fr"}), None, frozenset({"de"}))


def make_signals(seed: int = 0, units: int = 12, classes: int = 3, **changes: Any) -> Signals:
    make = torch.Generator().manual_seed(seed)
    whole = Signals(
        teachers=TEACHERS,
        teacher_languages=DECLARED,
        logits_MNC=3.0 * torch.randn(4, units, classes, generator=make),
        covered_MN=torch.ones(4, units, dtype=torch.bool),
        labels_N=torch.randint(0, classes, (units,), generator=make),
        languages=("de",) * units,
    )
    return replace(whole, **changes)


# columns ------------------------------------------------------------------------------------------------------


def test_by_column_of_the_language_is_by_language_written_out() -> None:
    languages = tuple("de" if i % 3 else "fr" for i in range(12))
    declared_MN = torch.tensor([[d is None or language in d for language in languages] for d in DECLARED])
    signals = make_signals(languages=languages, covered_MN=declared_MN)
    written = ByColumn(column="language", weights_of={"de": ["de", "de2"], "fr": ["multi", "world"]})  # type: ignore[dict-item]
    torch.testing.assert_close(written.weights(signals), ByLanguage().weights(signals))
    for language in ("de", "fr"):
        asked = ByLanguage().may_need(language, TEACHERS, DECLARED)
        assert written.may_need(language, TEACHERS, DECLARED) == asked


def test_by_column_of_groups_by_hand() -> None:
    weighting = ByColumn(weights_of={"film": {"de": 3.0, "world": 1.0}, "food": "multi"}, otherwise="de2")  # type: ignore[dict-item,arg-type]
    signals = make_signals(units=4, groups=("film", "food", "", "film"))
    signals.covered_MN[2, 3] = False
    wanted = [[0.75, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0], [0.25, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    assert weighting.weights(signals).tolist() == wanted
    assert weighting.may_need("de", TEACHERS, DECLARED, "film") == (True, False, True, False)
    assert weighting.may_need("de", TEACHERS, DECLARED, "unheard of") == (False, False, False, True)
    # Of any group: whoever some group needs. In French, who speaks it.
    assert weighting.may_need("de", TEACHERS, DECLARED) == (True,) * 4
    assert weighting.may_need("fr", TEACHERS, DECLARED) == (False, True, True, False)


def test_only_the_teachers_of_a_rows_group_are_asked() -> None:
    weighting = ByColumn(weights_of={"film": "de", "food": ["multi", "world"]})  # type: ignore[dict-item]
    batch = TextBatch(
        ids=("a", "b", "c"), texts=("x", "y", "z"), languages=("de", "de", "fr"),
        labels_B=np.zeros(3, np.int64), groups=("film", "food", "film"),
    )  # fmt: skip
    asked_MB = TeacherRouter(TEACHERS, DECLARED, weighting).route(batch)
    assert asked_MB.T.tolist() == [[True, False, False, False], [False, True, True, False], [False] * 4]


def test_by_column_refuses_what_the_run_does_not_have() -> None:
    with pytest.raises(ConfigError, match="no teacher nobody"):
        ByColumn(weights_of={"film": {"nobody": 1.0}}).check(TEACHERS, DECLARED, ("de",))
    with pytest.raises(ConfigError, match="no language it"):
        ByColumn(column="language", weights_of={"it": {"de": 1.0}}).check(TEACHERS, DECLARED, ("de",))
    with pytest.raises(ValidationError, match="above 0"):
        ByColumn(weights_of={"film": {"de": 0.0}})
    with pytest.raises(ValidationError, match=r"data\.columns\.group=domain"):
        run_config({"weighting": {"kind": "by_column", "weights_of": {"film": "en"}}})


def test_the_column_is_read_from_files_and_weighs_the_rows(tmp_path: Path) -> None:
    tree = run_config({"weighting": {"kind": "uniform"}}).model_dump(mode="json")
    lines = [
        {
            "text": f"a text {i}",
            "label": ["neg", "pos"][i % 2],
            "lang": "en",
            "domain": [7, "film", None][i % 3],
        }
        for i in range(12)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "bare.jsonl").write_text(json.dumps({"text": "without one", "lang": "en"}))
    labels = {
        "labels": ["neg", "pos"],
        "languages": ["en", "zh", "fr"],
        "train": {"kind": "files", "paths": ["x"]},
    }
    tree["data"] |= labels | {"columns": {**tree["data"]["columns"], "group": "domain"}}
    for name, path in (("train", "rows"), ("validation", "rows"), ("unlabeled", "bare")):
        tree["data"][name] = {"kind": "files", "paths": [str(tmp_path / f"{path}.jsonl")]}
    tree["objective"]["weighting"] = {"kind": "by_column", "weights_of": {"film": "en", "7": "multi"}}
    rows = load_data(RunConfig.model_validate(tree).data, tmp_path).train
    assert rows.groups is not None
    found = dict(zip(rows.texts, rows.groups, strict=True))
    assert [found[f"a text {i}"] for i in range(4)] == ["7", "film", "", "7"]
    assert found["without one"] == ""
    del tree["data"]["columns"]["group"]
    tree["objective"]["weighting"] = {"kind": "uniform"}
    assert load_data(RunConfig.model_validate(tree).data, tmp_path).train.groups is None


# near languages -----------------------------------------------------------------------------------------------


def test_similarity_of_languages() -> None:
    assert compare_languages("de", "de") == 1.0
    assert compare_languages("es", "pt_BR") == 2 * 3 / 8
    assert compare_languages("en", "hi") == 2 * 1 / 8
    assert compare_languages("fi", "sv") == 0.0
    near = [compare_languages("gl", other) for other in ("pt", "fr", "de", "zh")]
    assert near == sorted(near, reverse=True)
    assert compare_languages("ja", "ko") == compare_languages("ko", "ja") == 0.0


def test_teachers_of_near_languages_serve_a_language_without_one() -> None:
    teachers, declared = (
        ("es", "de", "zh"),
        (frozenset({"es", "gl"}), frozenset({"de", "gl"}), frozenset({"zh", "gl"})),
    )
    weighting = LanguageSimilarity(home={"es": ("es",), "de": ("de",), "zh": ("zh",)}, tau=0.5)
    signals = replace(
        make_signals(units=2), teachers=teachers, teacher_languages=declared, languages=("gl", "es"),
        logits_MNC=torch.zeros(3, 2, 3), covered_MN=torch.tensor([[1, 1], [1, 0], [1, 0]]).bool(),
    )  # fmt: skip
    raw = [math.exp(s / 0.5) for s in (2 * 3 / 8, 2 * 1 / 8, 0.0)]
    weights_MN = weighting.weights(signals)
    assert weights_MN[:, 0].tolist() == pytest.approx([r / sum(raw) for r in raw], rel=1e-5)
    assert weights_MN[:, 1].tolist() == [1.0, 0.0, 0.0]
    written = LanguageSimilarity(home=weighting.home, similarity={"gl": {"es": 0.5, "de": 0.5, "zh": 0.5}})
    assert written.weights(signals)[:, 0].tolist() == pytest.approx([1 / 3] * 3)
    assert weighting.may_need("gl", teachers, declared) == (True,) * 3
    assert weighting.may_need("es", teachers, declared) == (True, False, False)


def test_a_language_that_no_table_knows_is_refused_by_name() -> None:
    declared = (frozenset({"de", "tlh"}), frozenset({"fr", "tlh"}))
    weighting = LanguageSimilarity(home={"a": ("de",), "b": ("fr",)})
    with pytest.raises(ConfigError, match="how near tlh is to de"):
        weighting.check(("a", "b"), declared, ("de", "tlh"))
    weighting.check(("a", "b"), declared, ("de", "fr"))
    named = LanguageSimilarity(home=weighting.home, similarity={"tlh": {"de": 0.1, "fr": 0.2}})
    named.check(("a", "b"), declared, ("de", "tlh"))


# gold and gradients ---------------------------------------------------------------------------------------------


def test_inverse_loss_by_hand() -> None:
    signals = make_signals(units=2, labels_N=torch.tensor([1, UNLABELLED]))
    ce_M = -torch.log_softmax(signals.logits_MNC[:, 0], dim=-1)[:, 1]
    raw = (1.0 / (1.0 + ce_M)).tolist()
    weights_MN = InverseLoss().weights(signals)
    assert weights_MN[:, 0].tolist() == pytest.approx([r / sum(raw) for r in raw], rel=1e-5)
    assert weights_MN[:, 1].tolist() == [0.25] * 4


def gradients(signals: Signals, student_NC: torch.Tensor, temperature: float) -> torch.Tensor:
    q_NC = torch.softmax(student_NC / temperature, dim=-1)
    return (q_NC - torch.softmax(signals.logits_MNC / temperature, dim=-1)).double()


@pytest.mark.parametrize("most", [0.6, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_two_teachers_have_the_closed_form(most: float, seed: int) -> None:
    signals = make_signals(seed)
    signals = replace(signals, teachers=TEACHERS[:2], teacher_languages=DECLARED[:2],
                      logits_MNC=signals.logits_MNC[:2], covered_MN=signals.covered_MN[:2])  # fmt: skip
    student_NC = torch.randn(12, 3, generator=torch.Generator().manual_seed(seed))
    first, second = gradients(signals, student_NC, 2.0).flatten(1)
    wanted = float(((second - first) @ second / (first - second).square().sum()).clamp(1 - most, most))
    weights_MN = GradientAgreement(most=most).weights(signals, student_NC, 2.0)
    torch.testing.assert_close(weights_MN[0], torch.full((12,), wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("most", [0.4, 0.7, 1.0])
def test_least_norm_is_the_least_on_a_grid(most: float) -> None:
    vectors_KD = np.random.default_rng(3).normal(size=(3, 4)) + np.array([[2.0], [0.3], [1.0]])
    products_KK = vectors_KD @ vectors_KD.T
    found_K = find_least_norm(products_KK, most)
    grid = [(i / 200, j / 200, 1 - (i + j) / 200) for i, j in itertools.product(range(201), repeat=2)]
    least = min(
        np.square(np.asarray(w) @ vectors_KD).sum() for w in grid if min(w) >= 0 and max(w) <= most + 1e-9
    )
    norm = float(found_K @ products_KK @ found_K)
    assert found_K.sum() == pytest.approx(1.0)
    assert found_K.min() >= 0.0
    assert found_K.max() <= most + 1e-12
    assert norm <= least + 1e-9
    assert norm >= least - 1e-2 * least
    assert most < 1.0 or norm <= np.diag(products_KK).min() + 1e-12


def test_least_norm_of_odd_vectors() -> None:
    assert find_least_norm(np.zeros((3, 3)), 0.6).tolist() == pytest.approx([1 / 3] * 3)
    assert find_least_norm(np.ones((2, 2)), 1.0).sum() == pytest.approx(1.0)
    # Fewer than 1 / most teachers: uniform is all that is left.
    assert find_least_norm(np.diag([1.0, 4.0]), 0.3).tolist() == [0.5, 0.5]
    assert find_least_norm(np.diag([1.0, 4.0]), 1.0).tolist() == pytest.approx([0.8, 0.2])


def test_each_set_of_covering_teachers_has_weights_of_its_own() -> None:
    signals, student_NC = make_signals(4), torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    signals.covered_MN[2:, 6:] = False
    weights_MN = GradientAgreement().weights(signals, student_NC, 1.0)
    alone = signals.units(6, 12)
    torch.testing.assert_close(weights_MN[:, 6:], GradientAgreement().weights(alone, student_NC[6:], 1.0))
    torch.testing.assert_close(weights_MN.sum(0), torch.ones(12))
    torch.testing.assert_close(GradientAgreement().weights(signals), Uniform().weights(signals))


def test_a_loop_trains_with_it_and_logs_its_weights() -> None:
    points: list[dict[str, float]] = []
    config = run_config({"alpha": 0.1, "weighting": {"kind": "gradient_agreement"}})
    build_loop(config, publish=lambda point: points.append(dict(point.values))).run()
    weights = [p["teacher/multi/weight"] for p in points if "teacher/multi/weight" in p]
    assert len(weights) == 12
    assert max(abs(w - 0.5) for w in weights) > 1e-3  # uniform would be 0.5: each language has two teachers
    assert all(0.4 - 1e-6 <= w <= 0.6 + 1e-6 for w in weights)


@pytest.mark.parametrize("weighting", [GradientAgreement()])
def test_a_language_model_refuses_it(weighting: WeightingBase) -> None:
    with pytest.raises(ConfigError, match="all units of a micro-batch at once"):
        check_servable(Objective(weighting=weighting), "hidden")  # type: ignore[arg-type]
