"""Language models: the mixture's NLL from the likelihoods in their answers, where they cut texts alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from raykd.answers.answer import TopKAnswer
from raykd.answers.codec import encode_answer
from raykd.answers.source import AnswerSlots
from raykd.distill.weighting import Uniform
from raykd.distill.weightings.routing import ByLanguage
from raykd.report.ensembles.report import EnsembleReport
from raykd.report.ensembles.tables import build_sections
from raykd.scoring.ensembles.language import measure_language_models

VOCAB = 50
LANGUAGES = ("en", "en", "fr")


def body(gold_logp: NDArray[Any], shift: int = 0, vocab: int = VOCAB) -> bytes:
    """One row's answer, of as many tokens as likelihoods."""
    n = len(gold_logp)
    return encode_answer(
        TopKAnswer(
            covered_N=np.ones(n, bool),
            offsets_N=np.arange(n) * 3 + shift,
            entropy_N=np.ones(n, np.float32),
            gold_logp_N=np.asarray(gold_logp, np.float32),
            ids_NK=np.zeros((n, 1), np.int32),
            logits_NK=np.zeros((n, 1), np.float16),
            lse_NG=np.zeros((n, 1), np.float32),
            temperatures=(1.0,),
            vocab=vocab,
        )
    )


ALL = [np.log(p) for p in ([0.5, 0.25], [0.125], [0.25, 0.25, 0.5])]
FRENCH = np.log([0.5, 0.5, 0.125])


def made(**french: Any) -> list[AnswerSlots]:
    """A teacher of all languages, and one of fr."""
    return [
        AnswerSlots("all", [body(row) for row in ALL]),
        AnswerSlots("fr", [None, None, body(FRENCH, **french)]),
    ]


def measure(answers: list[AnswerSlots], weighting: Any) -> EnsembleReport | None:
    report = EnsembleReport("r", "causal_lm", "nll", 3, True, ("en", "fr"), ("all", "fr"), weighting.kind)
    return measure_language_models(report, answers, [None, frozenset(["fr"])], LANGUAGES, weighting)


def test_the_nll_of_a_mixture_is_that_of_the_mean_probability() -> None:
    found = measure(made(), Uniform())
    assert found is not None and found.metric == "nll"
    english = -np.log([0.5, 0.25, 0.125]).mean()
    together = -np.log((np.asarray([0.25, 0.25, 0.5]) + np.asarray([0.5, 0.5, 0.125])) / 2).mean()
    assert found.base == pytest.approx((english + together) / 2, rel=1e-3)
    assert found.guess == pytest.approx(np.log(VOCAB))
    means = {c.teacher: c for c in found.contributions if c.group == "mean"}
    assert sum(c.value for c in means.values()) == pytest.approx(np.log(VOCAB) - found.base)
    assert means["fr"].alone == pytest.approx(FRENCH.mean(), rel=1e-3)
    assert all(c.group != "class" for c in found.contributions)


def test_routing_asks_the_teacher_of_the_language_alone() -> None:
    found = measure(made(), ByLanguage())
    assert found is not None
    english = -np.log([0.5, 0.25, 0.125]).mean()
    assert found.base == pytest.approx((english - FRENCH.mean()) / 2, rel=1e-3)
    table = build_sections(found)[0]
    assert table.title == "Nats per teacher and language" and table.heads[1] == "nats [95 %]"
    assert float(table.lines[1][-2]) == pytest.approx(-FRENCH.mean(), abs=2e-3)


@pytest.mark.parametrize("french", [{"shift": 1}, {"vocab": 51}])
def test_teachers_that_cut_texts_otherwise_are_not_combined(french: dict[str, Any]) -> None:
    assert measure(made(**french), Uniform()) is None
    fewer = [made()[0], AnswerSlots("fr", [None, None, body(FRENCH[:2])])]
    assert measure(fewer, Uniform()) is None
