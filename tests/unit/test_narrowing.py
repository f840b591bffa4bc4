"""A checkpoint that is made less wide: what is kept, what it answers, and by which measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raykd import models
from raykd.driver.loop import make_task_model, save_student, yield_gold_losses
from raykd.errors import ModelError
from raykd.models import PretrainedStudent
from raykd.models.bases import inspect_base
from raykd.networks.narrowing import measure_magnitude, measure_taylor
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from tests.fakes import LABELS, texts_and_labels
from tests.worlds import rows, run_config

HIDDEN, UNITS, HEADS = 16, 64, 4
INPUTS = {"input_ids": torch.tensor([[2, 9, 30, 31, 3], [2, 40, 12, 17, 3]])}
DEAD = torch.arange(0, UNITS, 2)
"""Feed-forward units of the checkpoint that do nothing, in every layer."""


@pytest.fixture(params=["bert", "distilbert"])
def base(request: Any, tmp_path: Path) -> Path:
    """A classifier that plain transformers wrote, half of whose units and one of whose heads are dead."""
    spec = models.TransformerStudent(
        architecture=request.param,
        layers=2,
        hidden=HIDDEN,
        heads=HEADS,
        dropout=0.0,
        vocab_size=200,
        max_positions=64,
    )
    tokenizer = spec.fit_tokenizer(texts_and_labels(300)[0])
    model = spec.build(tokenizer, LABELS, 3)
    for name, module in model.named_modules():
        if name.endswith((".intermediate.dense", "ffn.lin1")):
            module.weight.data[DEAD] = 0.0
            module.bias.data[DEAD] = 0.0
        elif name.endswith(("attention.output.dense", "out_lin")):
            module.weight.data[:, : HIDDEN // HEADS] = 0.0  # what the first head says is not heard
    model.classifier.weight.data.mul_(20.0)
    model.save_pretrained(str(tmp_path / "base"))
    tokenizer.save_pretrained(str(tmp_path / "base"))
    return tmp_path / "base"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**INPUTS).logits  # type: ignore[no-any-return]


def build(base: Path, **keys: Any) -> Any:
    student = PretrainedStudent(path=str(base), **keys)
    return student.build(student.load_tokenizer(), LABELS, 0)


def measured(base: Path, **keys: Any) -> Any:
    """The student of a run, narrowed by its rows; with the run and its rows."""
    config = run_config({"alpha": 1}, teachers=False, steps=2, evaluations=1)
    config = config.model_copy(update={"student": PretrainedStudent(path=str(base), **keys)})
    tokenizer = config.student.fit_tokenizer(())
    prepared = prepare_rows(config, rows(60, 1), rows(20, 2, unlabelled=0.0), tokenizer)
    return make_task_model(config, tokenizer, prepared), config, prepared


def test_nothing_taken_out_changes_nothing(base: Path) -> None:
    assert torch.equal(logits(build(base, feed_forward=UNITS, hidden=HIDDEN)), logits(build(base)))


def test_units_that_do_nothing_leave_first_and_answers_stay(base: Path) -> None:
    whole, narrowed = build(base), build(base, feed_forward=UNITS - len(DEAD))
    assert torch.allclose(logits(narrowed), logits(whole), atol=1e-6)
    by_rows = measured(base, feed_forward=UNITS - len(DEAD), importance="taylor")[0].model
    assert torch.allclose(logits(by_rows), logits(whole), atol=1e-6)
    assert models.count_parameters(narrowed) == models.count_parameters(whole) - 2 * len(DEAD) * (
        2 * HIDDEN + 1
    )


def test_a_head_that_is_not_heard_leaves_first_and_the_others_keep_their_numbers(base: Path) -> None:
    for measure in (measure_magnitude, measure_of_rows(base)):
        heads_LH = measure(build(base)).heads_LH
        assert bool((heads_LH.argmin(dim=1) == 0).all()) and float(heads_LH[:, 0].max()) < 1e-6 < float(
            heads_LH[:, 1:].min()
        )
    whole, narrowed = build(base), build(base, hidden=12)
    assert narrowed.config.num_attention_heads == 3 and narrowed.config.hidden_size == 12
    kept = measure_magnitude(whole).hidden_D.topk(12).indices.sort().values
    first = next(p for n, p in whole.named_parameters() if n.endswith(("self.query.weight", "q_lin.weight")))
    ours = next(
        p for n, p in narrowed.named_parameters() if n.endswith(("self.query.weight", "q_lin.weight"))
    )
    assert torch.equal(ours, first[4:][:, kept])


def measure_of_rows(base: Path) -> Any:
    _, config, prepared = measured(base)
    tokenizer = config.student.fit_tokenizer(())
    return lambda model: measure_taylor(
        model, lambda m: yield_gold_losses(config, prepared, m, tokenizer=tokenizer)
    )


def test_importance_is_the_mean_over_rows_of_what_a_little_less_of_a_unit_costs(base: Path) -> None:
    model = build(base).double()
    _, config, prepared = measured(base)
    tokenizer = config.student.fit_tokenizer(())
    unit, step = 5, 1e-5
    second = next(m for n, m in model.named_modules() if n.endswith(("1.output.dense", "1.ffn.lin2")))
    labelled = prepared.train.labelled.nonzero()[0]

    def row_losses() -> torch.Tensor:
        found = []
        for row in labelled:
            encoded = config.task.collate(prepared.train_tokens, [int(row)])
            units = config.task.gather(model.eval()(**encoded.inputs), encoded)
            found.append(torch.nn.functional.cross_entropy(units, encoded.labels_N, reduction="sum"))
        return torch.stack(found)

    with torch.no_grad():
        before = row_losses()
        second.weight.data[:, unit] *= 1 - step
        slopes = (row_losses() - before) / step
        second.weight.data[:, unit] /= 1 - step
    found = measure_taylor(
        model.float(), lambda m: yield_gold_losses(config, prepared, m, tokenizer=tokenizer)
    ).units_LF[1, unit]
    assert float(found) == pytest.approx(float(slopes.abs().sum()), rel=1e-3)


def test_a_narrowed_student_trains_and_is_an_ordinary_checkpoint(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    keys = {"hidden": 8, "feed_forward": 24, "layers": (1,), "importance": "taylor"}
    student, config, prepared = measured(base, **keys)
    looked = inspect_base(base, LABELS, "classification", student=config.student)
    assert looked.parameters == models.count_parameters(student.model)
    loop = TrainingLoop(config, prepared, student, None)
    loop.run()
    save_student(loop, tmp_path / "student")
    plain = AutoModelForSequenceClassification.from_pretrained(str(tmp_path / "student"))
    assert torch.allclose(logits(plain), logits(loop.best_student().model), atol=1e-6)
    assert plain.config.hidden_size == 8 and plain.config.num_attention_heads == 2


def test_what_cannot_be_narrowed_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a multiple of 4"):
        build(base, hidden=10)
    with pytest.raises(ModelError, match="feed_forward: at most 64"):
        build(base, feed_forward=65)
    student = PretrainedStudent(path=str(base), feed_forward=8, importance="taylor")
    with pytest.raises(ModelError, match="whose weights begin at random"):
        student.build(student.load_tokenizer(), ("bad", "so", "good"), 0)
    decoder = models.DecoderStudent(layers=1, hidden=16, heads=2, vocab_size=520, max_positions=32)
    tokenizer = decoder.fit_tokenizer(["a good room", "awful food"])
    whole = models.TextModel(decoder.build(tokenizer, (), 0), tokenizer, (), task="causal_lm")
    path = models.save_model(whole, tmp_path / "decoder")
    with pytest.raises(ModelError, match="model type llama"):
        PretrainedStudent(path=str(path), feed_forward=8).build(tokenizer, (), 0, "causal_lm")
    with pytest.raises(ValueError, match="taylor goes with hidden"):
        PretrainedStudent(path=str(base), importance="taylor")
