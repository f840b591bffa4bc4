"""Adversarial alignment of features: the reversed gradient, what is trained and kept, what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from raykd.config import RunConfig
from raykd.data.selection.groups import code_aligned
from raykd.distill.adversarial.alignment import DISCRIMINATOR
from raykd.distill.shares import ObjectiveResult
from raykd.errors import ConfigError
from raykd.models import PretrainedStudent
from raykd.preflight.combinations import check_combinations
from raykd.student.adversarial.alignment import find_head, pick_last, reverse_gradient
from raykd.student.loop import TrainingLoop
from raykd.student.prefetch import StepWork
from tests.made_models import save_classifier
from tests.reversed_gradients import assert_reversed
from tests.worlds import build_loop, rows, run_config

DESCENT = {
    "optimizer": {"kind": "sgd", "momentum": 0.0}, "learning_rate": 1.0, "weight_decay": 0.0, "gradient_clipping": 0.0,
}  # fmt: skip


def weights(loop: TrainingLoop) -> dict[str, torch.Tensor]:
    found = loop.engine.weights()
    assert found is not None
    return found


def test_the_gradient_is_reversed_and_the_value_is_not() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    (reverse_gradient(x, 0.25) * torch.arange(4.0)).sum().backward()
    assert torch.equal(reverse_gradient(x, 0.25), x)
    assert x.grad is not None and torch.allclose(x.grad, -0.25 * torch.arange(4.0).expand(3, 4))


def test_of_a_decoder_the_token_that_its_head_answers_by_is_aligned(tmp_path: Path) -> None:
    """GPT-2's head reads every token, and the logits of the last one are the answer."""
    folder = save_classifier(tmp_path, "bytes", steps=0)
    config = run_config({"alpha": 1.0}, teachers=False, alignment={"weight": 0.5}, steps=1, evaluations=1)
    config = config.model_copy(update={"student": PretrainedStudent(path=str(folder))})
    loop = build_loop(config)
    micro = loop.trainer.make_micro_batch(np.arange(12), None)
    model: Any = loop.student.model
    head, read = find_head(model), []
    head.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    logits = model(**micro.encoded.inputs).logits
    mask = micro.encoded.inputs["attention_mask"]
    assert read[0].ndim == 3 and torch.allclose(head(pick_last(read[0], mask)), logits, atol=1e-6)
    assert torch.equal(pick_last(read[0], mask.flip(1)), read[0][:, -1])
    points: list[Any] = []
    loop.publish = points.append
    loop.run()
    assert points[0].values["train/alignment"] == pytest.approx(np.log(3), abs=0.3)


def test_rows_without_a_value_are_not_told_apart() -> None:
    own = replace(rows(60, 1), groups=["film", "", "book"] * 20)
    names, codes_B = code_aligned(own, "group")
    assert names == ("book", "film") and codes_B.tolist() == [1, -1, 0] * 20
    config = run_config({"alpha": 1.0}, teachers=False, alignment={"column": "group"}, steps=1, evaluations=1)
    loop = build_loop(config, train=own)
    bare_rows = np.flatnonzero(np.array(loop.trainer.rows.groups) == "")
    micro = loop.trainer.make_micro_batch(bare_rows[:3], None)
    aligner: Any = loop.trainer.aligner
    with aligner.recording():
        outputs = micro.encoded.run(loop.student.model)
    bare = ObjectiveResult(torch.zeros(()), {}, None, micro.counts)
    assert aligner.add(bare, micro, outputs, 0.0).loss.item() == 0.0


def test_a_step_has_the_gradients_of_the_formula() -> None:
    """The student ascends what the discriminator descends, beside its own loss; no gold label is in either."""
    loop = build_loop(run_config(alignment={"weight": 0.5, "hidden": 8}, steps=1, evaluations=1, **DESCENT))
    model: Any = copy.deepcopy(loop.student.model)
    before = weights(loop)
    pending = loop.ask(0)
    answers = [tuple(batch.result()) for batch in pending.batches or ()]
    plain = build_loop(run_config(steps=1, evaluations=1, **DESCENT))
    plain_before = weights(plain)
    plain.step(StepWork(0, pending.rows, [list(a) for a in answers], 0.0))
    loop.step(StepWork(0, pending.rows, [list(a) for a in answers], 0.0))
    micro = loop.trainer.make_micro_batch(pending.rows[0], list(answers[0]))
    read = []
    find_head(model).register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    model(**micro.encoded.inputs)
    _, codes_B = loop.trainer.rows.code_languages()
    target = torch.from_numpy(np.asarray(codes_B, dtype=np.int64)[pending.rows[0]])
    loss = functional.cross_entropy(getattr(model, DISCRIMINATOR)(read[0]), target)
    loss.backward()
    moved, plain_moved = (before, weights(loop)), (plain_before, weights(plain))
    assert_reversed(model, moved, plain_moved, discriminator_atol=1e-6, atol=2e-6)


def test_with_weight_0_the_student_is_the_plain_one_and_the_discriminator_is_not_kept(tmp_path: Path) -> None:
    points: list[Any] = []
    still = {"gradient_clipping": 0.0, "steps": 6, "evaluations": 2}
    loop = build_loop(run_config(alignment={"weight": 0.0}, **still), publish=points.append)
    plain = build_loop(run_config(**still))
    loop.run()
    plain.run()
    own, expected = weights(loop), weights(plain)
    assert {name for name in own if name not in expected} == {
        f"{DISCRIMINATOR}.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }
    assert all(torch.allclose(own[name], value, atol=1e-6) for name, value in expected.items())
    assert loop.best_student().model.state_dict().keys() == plain.best_student().model.state_dict().keys()
    logged = [p.values["train/alignment"] for p in points if "train/alignment" in p.values]
    assert logged[0] == pytest.approx(np.log(3), abs=0.15)  # three languages, nothing learnt yet


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": {"kind": "linear", "buckets": 64}}, "features are counts"),
        ({"train": {"alignment": {}, "zero_stage": 3}}, "ZeRO stage 3"),
        ({"objective": {"features": [{"kind": "hidden_mse"}]}}, "objective.features as well"),
    ],
)
def test_what_cannot_be_aligned_is_refused(changes: dict[str, Any], words: str) -> None:
    tree = run_config(alignment={}).model_dump()
    with pytest.raises(ConfigError, match="cannot align the student") as error:
        check_combinations(RunConfig.model_validate({**tree, **changes}))
    assert words in str(error.value)


def test_one_language_alone_is_refused() -> None:
    only = rows(160, 1)
    with pytest.raises(ConfigError, match="no two values of language"):
        build_loop(run_config(alignment={}), train=only.select(only.is_in_language("en")))
    with pytest.raises(ConfigError, match="no two values of group"):
        build_loop(run_config(alignment={"column": "group"}))


def test_runs_without_it_keep_their_fingerprint() -> None:
    assert run_config(alignment=None).fingerprint() == run_config().fingerprint()
    assert run_config(alignment={}).fingerprint() != run_config().fingerprint()
