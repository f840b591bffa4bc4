"""Students by form: what each form closes of the gap, and the angle of its gradient to the dense one's."""

from __future__ import annotations

import copy
from typing import Any

import torch

from benchmarks.payload_parts.fitting import fit
from benchmarks.payload_parts.setting import PLAIN, Form, Setting
from raykd import models
from raykd.models.lm import Headless
from raykd.student.evaluate import answer_rows
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows

FIXED_ROWS = 64
"""Rows of the batch on which gradients are compared."""


def make_teacher(setting: Setting) -> dict[str, Any]:
    """Trains the teacher, unless it is there, and says how good it is."""
    torch.set_num_threads(2)  # alone: everybody waits for it
    config = setting.config("teacher")
    took = 0.0
    if not (setting.teacher / "config.json").exists():
        fitted = fit(config, setting.rows(), setting.tokenizer(), None)
        models.save_model(fitted.model, setting.teacher)
        took = fitted.seconds
    model = models.load_model(str(setting.teacher), head="causal_lm")
    return {"nll": _nll(setting, model), "seconds": took}


def run_student(setting: Setting, form: Form | None, seed: int) -> dict[str, Any]:
    """One student: negative log-likelihood a token of the test rows, at T = 1."""
    torch.set_num_threads(1)
    config = setting.config("student", form, seed)
    source = None if form is None else setting.source(config)
    fitted = fit(config, setting.student_rows(), setting.tokenizer(), source)
    if form is None and seed == 0:
        models.save_model(fitted.model, setting.work / "plain")
    name = PLAIN if form is None else form.name
    return {"form": name, "seed": seed, "nll": _nll(setting, fitted.model), "seconds": fitted.seconds}


def _nll(setting: Setting, model: models.TextModel) -> float:
    rows, task = setting.rows().test, setting.config("student").task
    assert rows is not None
    module = Headless(model.model).eval()  # type: ignore[no-untyped-call]
    tokens = task.encode(model.tokenizer, rows.take(range(len(rows))))
    with torch.inference_mode():
        said = answer_rows(module, task, tokens, range(len(rows)), torch.device("cpu"), model.padding)
    assert said.nll_B is not None and said.tokens_B is not None
    return float(said.nll_B.sum() / said.tokens_B.sum())


def angles(setting: Setting, forms: list[Form]) -> dict[str, float]:
    """Degrees between the gradient of all the student's weights by each form and by the dense one of its temperature,
    for the undistilled student of seed 0 on one batch."""
    torch.set_num_threads(1)
    student = models.load_model(str(setting.work / "plain"), head="causal_lm")
    found = {form.name: _gradient(setting, form, student) for form in forms}
    dense = {form.temperature: found[form.name] for form in forms if form.answers["kind"] == "hidden"}
    return {form.name: degrees(found[form.name], dense[form.temperature]) for form in forms}


def _gradient(setting: Setting, form: Form, student: models.TextModel) -> torch.Tensor:
    config = setting.config("student", form)
    config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": FIXED_ROWS})})
    data = setting.student_rows()
    prepared = prepare_rows(config, data.train, data.validation, student.tokenizer)
    loop = TrainingLoop(config, prepared, copy.deepcopy(student), setting.source(config))
    member = loop.trainer
    rows = loop.ask(0).rows[0]
    answers = setting.source(config).submit(member.rows.take(rows.tolist())).result()
    micro = member.make_micro_batch(rows, answers)
    module: Any = loop.engine.module
    module.eval()
    result = member.evaluate(loop.engine, module(**micro.encoded.inputs), micro, 0.0, micro.counts)
    result.loss.backward()  # type: ignore[no-untyped-call]
    gradient = torch.cat([p.grad.double().flatten() for p in module.parameters() if p.grad is not None])
    loop.engine.close()
    return gradient


def degrees(one: torch.Tensor, other: torch.Tensor) -> float:
    """The angle between two vectors."""
    # By the sine, because the cosine of a small angle is 1 to rounding.
    one, other = one / one.norm(), other / other.norm()
    return float(torch.rad2deg(2 * torch.asin(((one - other).norm() / 2).clamp(max=1.0))))
