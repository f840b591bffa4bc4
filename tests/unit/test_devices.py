"""Where tensors lie on an accelerator, seen on a CPU: no operator is given tensors of the device and of the host.

What is moved to the device by name is followed (`benchmarks.gpu_parts.counting.Syncs`); an operator that meets a tensor
that was left behind fails, as it does on a GPU. The self-test once asked models there with inputs on the host.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_parts.counting import Syncs
from raykd.prediction import findings
from raykd.student.prefetch import Prefetcher
from raykd.tasks import CausalLM, Classification
from raykd.teachers.teacher import Teacher
from tests import made_units
from tests.fakes import LABELS, model_spec, save_transformer, text_batch, texts_and_labels
from tests.unit import test_equivalence_language as language
from tests.unit import test_equivalence_units as units
from tests.worlds import build_loop, run_config

FORMS = ({"kind": "top_k", "k": 5}, {"kind": "sampled", "draws": 4}, {"kind": "hidden"})


@pytest.fixture(autouse=True)
def untested_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """No finding of another test is taken: each model is tested here."""
    monkeypatch.setattr(findings, "read_finding", lambda key: None)


def save_language(architecture: str, folder: Path) -> Any:
    kind, _ = language.ARCHITECTURES[architecture]
    family = language.word_piece if kind == "masked_lm" else language.byte_level
    tokenizer = family([*language.TEXTS, *language.TARGETS], language.TEMPLATES[kind][0])
    model = language.built(architecture, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return language.TASKS[kind]


def make_case(name: str, folder: Path) -> tuple[Any, Any, tuple[str, ...]]:
    """Save a teacher; return its task, rows and labels."""
    if name == "classification":
        save_transformer(folder)
        return Classification(max_length=64), text_batch(texts_and_labels(20)[0]), LABELS
    if name == "tagging":
        made_units.save_tagger(folder, "wordpiece", steps=1)
        return units.TAGGER, units.tagged(made_units.tagged_rows(12)), made_units.TAGS
    if name == "questions":
        made_units.save_answerer(folder, "wordpiece", steps=1)
        return units.ASKED, units.asked(made_units.asked_rows(12)), ()
    return save_language(name, folder), language.batch(), ()


@pytest.mark.parametrize("name", ["classification", "tagging", "questions", "gpt2", "llama", "t5", "bert"])
def test_a_teacher_is_tested_and_answers_where_it_lies(name: str, tmp_path: Path) -> None:
    task, rows, labels = make_case(name, tmp_path)
    spec = model_spec("t", str(tmp_path), labels, task, max_length=task.max_length, dtype="float32")
    wanted = Teacher(spec).answer(rows.without_labels()).bodies
    with Syncs(strict=True) as syncs:
        teacher = Teacher(spec)
        found = teacher.answer(rows.without_labels()).bodies
    assert found == wanted
    assert syncs.counts["to device"] > 0  # the model was followed


@pytest.mark.parametrize("form", FORMS, ids=lambda form: str(form["kind"]))
def test_each_form_of_answer_is_made_where_the_teacher_lies(form: dict[str, Any], tmp_path: Path) -> None:
    save_language("gpt2", tmp_path)
    task = CausalLM.model_validate({**language.TASKS["causal_lm"].model_dump(), "answers": form})
    spec = model_spec("t", str(tmp_path), (), task, max_length=task.max_length, dtype="float32")
    with Syncs(strict=True):
        assert all(Teacher(spec).answer(language.batch().without_labels()).bodies)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("weighting", ["uniform", "entropy", "by_language"])
def test_a_student_learns_where_it_lies(weighting: str, precision: str) -> None:
    objective = {"alpha": 0.5, "weighting": {"kind": weighting}}
    with Syncs(strict=True):
        loop = build_loop(run_config(objective, precision=precision))
        for work in Prefetcher(loop.ask, 1).steps(0, 3):
            loop.step(work)
        assert loop.evaluate()


def test_an_operator_on_both_places_fails() -> None:
    device = torch.device("cpu")
    with Syncs(strict=True):
        here = torch.ones(3).to(device, non_blocking=True)
        assert float((here + torch.tensor(1.0)).sum().cpu()) == 6.0  # a number may lie on the host
        assert here[torch.tensor([0])].shape == (1,)
        with pytest.raises(RuntimeError, match="tensors of add to be on the same device"):
            here + torch.ones(3)
