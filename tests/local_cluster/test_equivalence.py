"""What must not change the result: how a step is split, ZeRO, resuming, teachers that weigh nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.local_cluster.ranks import run_ranks
from tests.worlds import build_loop, rows, run_config

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights and curves of 1 rank x 4 micro-batches, 1 x 1, and 2 ranks x 2 for ZeRO 0 to 3."""
    out = tmp_path_factory.mktemp("ranks")
    module = "tests.local_cluster.train_ranks"
    run_ranks(module, 1, str(out), "0:4", "0:1", "0:1:bfloat16", "1:4", "0:4:peer", "0:4:policy")
    others = ("0:2:peer", "2:2:peer", "2:2:peer:resumed", "0:2:policy")
    run_ranks(
        module, 2, str(out), "0:2", "1:2", "2:2", "3:2", "1:2:resumed", "3:2:resumed", "2:2:resumed", *others
    )
    run_ranks(module, 1, str(out), "2:4:converted")
    return out


def plain_torch() -> Weights:
    """The reference: the same rows, objective and AdamW in a plain loop without DeepSpeed or micro-batches."""
    config = run_config()
    loop = build_loop(config)
    model, source = loop.student.model, loop.trainer.source
    assert source is not None
    tokenizer_rows = loop.trainer.tokens
    fresh = type(model)(model.config)
    fresh.load_state_dict(
        config.student.build(loop.student.tokenizer, config.data.labels, config.seed).state_dict()
    )
    fresh.train()
    matrices = [p for p in fresh.parameters() if p.ndim >= 2]
    vectors = [p for p in fresh.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=0.002
    )
    for step in range(12):
        picked = loop.trainer.stream.batch(step)
        encoded = config.task.collate(tokenizer_rows, picked.tolist())
        answers = source.submit(loop.trainer.rows.take(picked.tolist())).result()
        signals = loop.trainer.signals(answers, encoded, picked.tolist())
        counts = config.objective.counts(encoded.labels_N, signals)
        logits = fresh(**encoded.inputs).logits
        loss = config.objective.evaluate(logits, encoded.labels_N, signals, step / 12, counts).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(fresh.parameters(), 1.0)
        optimizer.step()
    return {name: value.detach().float() for name, value in fresh.state_dict().items()}


def furthest(a: Weights, b: Weights) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


def test_the_world_has_uneven_units() -> None:
    """Otherwise the tests below would show nothing: micro-batches differ in labelled and in covered units."""
    loop = build_loop(run_config(gradient_accumulation=4))
    parts = loop.trainer.stream.shard(0, 0, 1, 4)
    labelled = [int((loop.trainer.rows.labels_B[p] >= 0).sum()) for p in parts]
    covered = [sum(loop.trainer.rows.languages[i] != "fr" for i in p) for p in parts]
    assert len(set(labelled)) > 1 and len(set(covered)) > 1


@pytest.mark.parametrize("case", ["1x0_4", "2x0_2"])
def test_split_of_a_step_equals_a_plain_torch_step(trained: Path, case: str) -> None:
    assert furthest(torch.load(trained / f"{case}.pt"), plain_torch()) < 1e-5


@pytest.mark.parametrize(
    "case", ["1x1_4", "2x1_2", "2x2_2", "2x3_2", "2x1_2_resumed", "2x3_2_resumed", "1x2_4_converted"]
)
def test_zero_stages_equal_stage_0_also_when_resumed(trained: Path, case: str) -> None:
    assert furthest(torch.load(trained / f"{case}.pt"), torch.load(trained / "2x0_2.pt")) < 1e-5


@pytest.mark.parametrize("case", ["2x0_2_peer", "2x2_2_peer", "2x2_2_peer_resumed"])
def test_two_networks_beside_each_other_depend_on_neither_split_nor_zero(trained: Path, case: str) -> None:
    assert furthest(torch.load(trained / f"{case}.pt"), torch.load(trained / "1x0_4_peer.pt")) < 1e-5


@pytest.mark.parametrize("how", ["", "_policy"])
def test_curves_do_not_depend_on_the_split(trained: Path, how: str) -> None:
    one, two = (json.loads((trained / f"{case}{how}.json").read_text()) for case in ("1x0_4", "2x0_2"))
    assert any("weighting/gold" in p for p in one) == bool(how)
    assert [p["step"] for p in one] == [p["step"] for p in two]
    for a, b in zip(one, two, strict=True):
        for name in a:
            if not name.endswith(("latency_s", "wait_s", "padding_efficiency")):
                assert a[name] == pytest.approx(b[name], abs=1e-5), name


def test_bfloat16_trains_near_float32(trained: Path) -> None:
    loss = {
        case: [
            p["train/loss"] for p in json.loads((trained / f"{case}.json").read_text()) if "train/loss" in p
        ]
        for case in ("1x0_1", "1x0_1_bfloat16")
    }
    difference = np.abs(np.asarray(loss["1x0_1"]) - np.asarray(loss["1x0_1_bfloat16"]))
    assert 0 < difference.max() < 0.05


def test_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    config = run_config(evaluations=4)
    unbroken_points: list = []
    unbroken = build_loop(config, publish=unbroken_points.append)
    unbroken.run()

    class StopError(Exception):
        pass

    def stop_at_6(loop) -> None:  # type: ignore[no-untyped-def]
        if loop.state.step == 6:
            loop.save(tmp_path)
            raise StopError

    broken = build_loop(config)
    with pytest.raises(StopError):
        broken.run(stop_at_6)
    points: list = []
    resumed = build_loop(config, publish=points.append)
    resumed.load(tmp_path)
    assert resumed.state.step == 6
    resumed.run()
    assert furthest(resumed.engine.weights() or {}, unbroken.engine.weights() or {}) == 0.0
    late = [p for p in unbroken_points if p.step > 6]
    assert [p.step for p in points] == [p.step for p in late]
    for a, b in zip(points, late, strict=True):
        assert {k: v for k, v in a.values.items() if "wait" not in k} == {
            k: v for k, v in b.values.items() if "wait" not in k
        }
    assert resumed.state.history == unbroken.state.history


def test_alpha_1_is_plain_supervised_training_bit_for_bit() -> None:
    labelled = rows(160, 1, unlabelled=0.0)
    with_teachers = build_loop(run_config({"alpha": 1.0}), train=labelled)
    without = build_loop(run_config({"alpha": 1.0}, teachers=False), train=labelled)
    for loop in (with_teachers, without):
        loop.run()
    assert furthest(with_teachers.engine.weights() or {}, without.engine.weights() or {}) == 0.0


def test_one_teacher_of_weight_1_is_single_teacher_distillation() -> None:
    objective = {
        "alpha": 0.3,
        "weighting": {"kind": "fixed", "by_teacher": {"en": 0.0, "zh": 0.0, "multi": 1.0}},
    }
    three = build_loop(run_config(objective))
    alone = run_config({"alpha": 0.3, "weighting": {"kind": "uniform"}})
    alone = alone.model_copy(update={"teachers": alone.teachers[2:]})
    one = build_loop(alone)
    # The fake answers by position; give the single teacher the position it has among three.
    inner = three.trainer.source
    assert inner is not None and one.trainer.source is not None
    submit = inner.submit
    one.trainer.source.submit = lambda batch: type(submit(batch))([submit(batch).result()[2]])  # type: ignore[method-assign]
    for loop in (three, one):
        loop.run()
    assert furthest(three.engine.weights() or {}, one.engine.weights() or {}) < 1e-6


def test_prefetch_asks_ahead_but_never_further_than_told() -> None:
    config = run_config()
    config = config.model_copy(update={"serving": config.serving.model_copy(update={"prefetch": 3})})
    loop = build_loop(config)
    submitted = []

    def checkpoint(current) -> None:  # type: ignore[no-untyped-def]
        submitted.append((current.state.step, len(loop.trainer.source.submitted)))  # type: ignore[union-attr]

    loop.run(checkpoint)
    assert submitted == [(4, 7), (8, 11), (12, 12)]
