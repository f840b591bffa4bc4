"""Two students that learn from each other: their losses by hand, what flows where, saving, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raykd import models
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.driver.jobs import name_peer_folder
from raykd.driver.loop import make_student_model, save_student
from raykd.errors import ConfigError
from raykd.models.multi import PEER, PairModel
from raykd.preflight.combinations import check_combinations
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from raykd.student.trainers.pair import diverge
from tests.fakes import FixedSource, texts_and_labels

STUDENT = {"kind": "lstm", "embedding": 8, "hidden": 8, "vocab_size": 150, "dropout": 0.0}
SECOND = {"kind": "transformer", "layers": 1, "hidden": 16, "heads": 2, "dropout": 0.0}
TEACHERS = [{"name": "a", "languages": "all", "path": "a"}, {"name": "b", "languages": "all", "path": "b"}]


def run_config(peer: Any = None, **keys: Any) -> RunConfig:
    files = {"kind": "files", "paths": ["unused.jsonl"]}
    return RunConfig.model_validate({
        "task": {"kind": "classification", "max_length": 32},
        "data": {"train": files, "validation": files, "languages": ["en"], "labels": ["no", "yes"]},
        "student": STUDENT,
        "peer": {"student": SECOND} if peer is None else peer,
        "objective": {"alpha": 1.0},
        "train": {"steps": 40, "batch_size": 16, "learning_rate": 0.02, "evaluations": 2},
        **keys,
    })  # fmt: skip


def loop_of(config: RunConfig) -> TrainingLoop:
    texts, labels = texts_and_labels(120, 1)
    rows = Rows(tuple(f"r{i}" for i in range(120)), tuple(texts), ("en",) * 120, np.asarray(labels))
    tokenizer = config.student.fit_tokenizer(rows.texts)
    source = FixedSource(["a", "b"], [None, None], classes=2) if config.teachers else None
    prepared = prepare_rows(config, rows, rows, tokenizer)
    return TrainingLoop(config, prepared, make_student_model(config, tokenizer), source)


@pytest.mark.parametrize("taught", [False, True])
def test_each_learns_the_objective_and_from_the_other_and_nothing_flows_back(taught: bool) -> None:
    keys = (
        {"objective": {"alpha": 0.25, "weighting": {"kind": "uniform"}}, "teachers": TEACHERS}
        if taught
        else {}
    )
    loop = loop_of(run_config({"student": SECOND, "weight": 0.5}, **keys))
    trainer, picked = loop.trainer, np.arange(24)
    source = trainer.source
    answers = None if source is None else source.submit(trainer.rows.take(picked.tolist())).result()
    micro = trainer.make_micro_batch(picked, answers)
    assert micro.counts.seen == 24
    made, _ = trainer.forward(loop.engine, micro)
    # DeepSpeed lets nobody else ask for gradients of what its engine computed.
    outputs = tuple(SimpleNamespace(logits=each.logits.detach().requires_grad_()) for each in made)
    found = trainer.evaluate(loop.engine, outputs, micro, 0.0, micro.counts)
    own, other = (each.logits for each in outputs)
    alone = [
        trainer.objective.evaluate(logits.detach(), micro.encoded.labels_N, micro.signals, 0.0, micro.counts)
        for logits in (own, other)
    ]
    p, q = own.detach().double().softmax(1).numpy(), other.detach().double().softmax(1).numpy()
    mutual = (q * np.log(q / p)).sum() + (p * np.log(p / q)).sum()
    wanted = float(alone[0].loss) + float(alone[1].loss) + 0.5 * mutual / 24
    assert float(found.loss) == pytest.approx(wanted, rel=1e-5)
    assert float(found.sums["hard"]) == pytest.approx(float(alone[0].sums["hard"]))
    # d KL(q || p) / d logits = p - q: as of cross-entropy with the other's answers as constant labels.
    (gradient,) = torch.autograd.grad(found.loss, own)
    leaf = own.detach().clone().requires_grad_()
    result = trainer.objective.evaluate(leaf, micro.encoded.labels_N, micro.signals, 0.0, micro.counts)
    (bare,) = torch.autograd.grad(result.loss, leaf)
    torch.testing.assert_close(
        gradient - bare, 0.5 / 24 * torch.from_numpy(p - q).float(), atol=1e-6, rtol=1e-4
    )
    loop.engine.close()


def test_choices_that_a_unit_does_not_have_add_nothing() -> None:
    logits = torch.tensor([[1.0, 2.0, -1e4], [0.0, -1.0, 3.0]])
    other = torch.tensor([[0.0, 1.0, -1e4], [1.0, 1.0, 1.0]])
    found = diverge(logits.log_softmax(1), other.log_softmax(1))
    wanted = F.kl_div(logits[1].log_softmax(0), other[1].softmax(0), reduction="sum")
    torch.testing.assert_close(found, torch.stack([torch.zeros(()), wanted]))


def test_both_learn_and_both_are_saved_as_they_were_at_the_best_evaluation(tmp_path: Path) -> None:
    loop = loop_of(run_config())
    pair = loop.student
    assert isinstance(pair, PairModel)
    assert {p.data_ptr() for p in pair.student.model.parameters()}.isdisjoint(
        p.data_ptr() for p in pair.peer.model.parameters()
    )
    loop.run()
    last = loop.state.history[-1]
    assert last["eval/mean/accuracy"] > 0.8 and last["peer/eval/mean/accuracy"] > 0.8
    best = max(one["eval/mean/accuracy"] for one in loop.state.history)
    assert loop.state.best == best
    save_student(loop, tmp_path / "student")
    assert loop.best_weights is not None
    for folder, part, kind in (
        (tmp_path / "student", "student.", "lstm"),
        (name_peer_folder(tmp_path / "student"), "peer.", "transformer"),
    ):
        loaded = models.load_model(folder)
        assert loaded.kind == kind and loaded.labels == ("no", "yes")
        for name, weight in loaded.model.state_dict().items():
            assert torch.equal(weight, loop.best_weights[part + name])
    loop.engine.close()


def test_two_of_one_kind_begin_at_other_weights_and_a_checkpoint_holds_both(tmp_path: Path) -> None:
    loop = loop_of(run_config({"student": STUDENT}))
    pair = loop.student
    assert isinstance(pair, PairModel)
    first, second = (part.model.state_dict() for part in (pair.student, pair.peer))
    assert first.keys() == second.keys() and not torch.equal(
        first["classifier.weight"], second["classifier.weight"]
    )
    loop.advance()
    loop.save(tmp_path)
    weights = {name: value.clone() for name, value in loop.engine.module.state_dict().items()}
    loop.engine.close()
    again = loop_of(run_config({"student": STUDENT}))
    again.load(tmp_path)
    assert all(torch.equal(weights[name], value) for name, value in again.engine.module.state_dict().items())
    assert any(name.startswith(f"{PEER}.") for name in weights)
    again.engine.close()


@pytest.mark.parametrize(
    ("peer", "keys", "said"),
    [
        ({"kind": "linear"}, {}, "cannot read the tokens"),
        ({"kind": "lstm"}, {"student": {"kind": "linear"}}, "cannot read the tokens"),
        (
            {"kind": "linear", "buckets": 64},
            {"student": {"kind": "linear", "buckets": 128}},
            "cannot read the tokens",
        ),
        ({"kind": "decoder"}, {}, "cannot learn classification"),
        ({"kind": "transformer", "max_positions": 16}, {}, "below task.max_length"),
        (
            SECOND,
            {"phases": [{"at": 0.5, "set": {"objective": {"temperature": {"kind": "adversarial"}}}}]},
            "learnt from one student",
        ),
        (SECOND, {"train": {"adversarial": {"kind": "fgm"}}}, "moves the tokens of one network"),
        (
            SECOND,
            {"objective": {"alpha": 1.0, "temperature": {"kind": "adversarial"}}},
            "learnt from one student",
        ),
        (
            SECOND,
            {"objective": {"features": [{"kind": "hidden_mse"}]}, "teachers": TEACHERS},
            "states of one encoder",
        ),
    ],
)
def test_what_cannot_learn_together_is_refused_by_name(peer: Any, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run_config({"student": peer}, **keys)


@pytest.mark.parametrize("train", [{"zero_stage": 3}, {"deepspeed": {"zero_optimization": {"stage": 3}}}])
def test_a_network_that_is_split_up_is_refused(train: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="ZeRO stage 3 splits up one network"):
        check_combinations(run_config(train={"steps": 4, "batch_size": 16, **train}))


def test_a_run_without_a_peer_keeps_its_fingerprint_and_its_baseline_has_none() -> None:
    assert run_config().fingerprint() != run_config({"student": SECOND, "weight": 2.0}).fingerprint()
    assert run_config().without_teachers(10).peer is None
