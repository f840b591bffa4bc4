"""Alignment where a row has more than one vector: words, words of a context, candidates, texts of a pair."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from raykd.config import RunConfig
from raykd.config.loading import validate_run
from raykd.data.rows import Rows
from raykd.distill.adversarial.alignment import DISCRIMINATOR
from raykd.driver.loop import make_task_model
from raykd.errors import ConfigError
from raykd.preflight.combinations import check_combinations
from raykd.student.adversarial.alignment import find_head
from raykd.student.loop import TrainingLoop
from raykd.student.prefetch import StepWork
from raykd.student.prepare import prepare_rows
from raykd.text.words import find_word_spans
from tests.fakes import texts_and_labels
from tests.reversed_gradients import assert_reversed

TEXTS = texts_and_labels(200, 5)[0]
LENGTH = 16
KINDS = ("token_classification", "question_answering", "ranking", "embedding")
HEADS = KINDS[:3]
FILES = {"kind": "files", "paths": ["unused.jsonl"]}


def make_config(kind: str, student: dict[str, Any] | None = None, **train: Any) -> RunConfig:
    """A run without teachers, of steps of 12 rows."""
    tagger = kind == "token_classification"
    stride = {"stride": 4} if kind == "question_answering" else {}
    tree = {
        "task": {"kind": kind, "max_length": LENGTH, **stride},
        "data": {
            "train": FILES, "validation": FILES, "languages": ["en", "zh", "fr"],
            **({"labels": ["O", "B-X"], "columns": {"tokens": "t", "tags": "g"}} if tagger else {}),
        },
        "student": student or {
            "kind": "transformer", "layers": 1, "hidden": 16, "heads": 2, "dropout": 0.0, "vocab_size": 150,
            "max_positions": 64,
        },
        "objective": {"alpha": 1.0},
        "train": {
            "steps": 1, "batch_size": 12, "evaluations": 1, "lr_schedule": 1.0, "gradient_clipping": 0.0, **train
        },
    }  # fmt: skip
    run = validate_run(tree, "test")
    assert isinstance(run, RunConfig)
    return run


def make_rows(kind: str) -> Rows:
    """Rows of three languages whose words, contexts and candidates differ in number; some are cut off."""
    rng = np.random.default_rng(2)
    texts, more = TEXTS[:48], {}
    if kind == "token_classification":
        texts = [f"{text} {text}" if at % 5 == 0 else text for at, text in enumerate(texts)]
        words = [tuple(map(tuple, find_word_spans(text).tolist())) for text in texts]
        more = {"words": words, "golds": [tuple(rng.integers(0, 2, len(own)).tolist()) for own in words]}
    elif kind == "question_answering":
        contexts = [f"{TEXTS[60 + at]} {TEXTS[61 + at]}" for at in range(48)]
        more = {"pairs": contexts, "golds": [tuple(find_word_spans(one)[1].tolist()) for one in contexts]}
        texts = [" ".join(text.split()[:3]) for text in texts]
    elif kind == "ranking":
        counts = [2 + at % 4 for at in range(48)]
        more = {
            "candidates": [tuple(TEXTS[at : at + count]) for at, count in enumerate(counts)],
            "values": [(1.0, *[0.0] * (count - 1)) for count in counts],
        }
    else:
        more = {"pairs": [TEXTS[60 + at] if at % 3 else "" for at in range(48)]}
    languages = rng.choice(["en", "zh", "fr"], size=48)
    ids, labels_B = tuple(map(str, range(48))), np.zeros(48, np.int64)
    return Rows(ids, tuple(texts), tuple(map(str, languages)), labels_B, **more)  # type: ignore[arg-type]


def build(config: RunConfig, **options: Any) -> TrainingLoop:
    rows = make_rows(config.task.kind)
    tokenizer = config.student.fit_tokenizer(TEXTS)
    prepared = prepare_rows(config, rows, rows, tokenizer)
    return TrainingLoop(config, prepared, make_task_model(config, tokenizer), None, **options)


def weights(loop: TrainingLoop) -> dict[str, torch.Tensor]:
    found = loop.engine.weights()
    assert found is not None
    return found


def read_rows(
    loop: TrainingLoop, model: Any, rows: list[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vectors, the row of each, and the task's answers, of rows that run together."""
    encoded, read = loop.trainer.task.collate(loop.trainer.tokens, rows), []
    hook = None
    if not loop.trainer.task.vectors:
        hook = find_head(model).register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    outputs = encoded.run(model)
    row_F, sequence_F, token_F = loop.trainer.task.locate_features(encoded)
    found = read[0] if read else outputs.logits
    if hook is not None:
        hook.remove()
    features_FD = found[sequence_F] if token_F is None else found[sequence_F, token_F]
    return features_FD, row_F, loop.trainer.task.gather(outputs, encoded)


@pytest.mark.parametrize("kind", HEADS)
def test_what_is_aligned_is_what_the_head_answers_by(kind: str) -> None:
    loop = build(make_config(kind, alignment={}))
    model: Any = loop.student.model.eval()
    for row in range(12):
        features_FD, row_F, answers_NC = read_rows(loop, model, [row])
        logits_FC = find_head(model)(features_FD)
        assert not row_F.any() and len(row_F)
        if kind == "token_classification":
            seen = loop.trainer.task.collate(loop.trainer.tokens, [row]).find_seen()
            assert torch.allclose(logits_FC, answers_NC[torch.from_numpy(seen)], atol=1e-6)
        elif kind == "ranking":
            assert torch.allclose(logits_FC[:, 0], answers_NC[0, : len(logits_FC)], atol=1e-6)
        else:
            begins_W = loop.trainer.task.collate(loop.trainer.tokens, [row]).extra["read_X4"]
            for side in (0, 1):
                mine = begins_W[:, 2] == side
                for word in begins_W[mine, 3].unique().tolist():
                    places = mine & (begins_W[:, 3] == word)
                    best = logits_FC[places, side].max()
                    assert torch.allclose(answers_NC[side, word], best, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_has_the_gradients_of_the_formula_row_by_row(kind: str) -> None:
    """By hand each row runs alone, without padding, and counts as the mean over its vectors."""
    descent = {"optimizer": {"kind": "sgd", "momentum": 0.0}, "learning_rate": 1.0, "weight_decay": 0.0}
    loop = build(make_config(kind, alignment={"weight": 0.5, "hidden": 8}, **descent))
    plain = build(make_config(kind, **descent))
    model: Any = copy.deepcopy(loop.student.model)
    before, plain_before = weights(loop), weights(plain)
    rows = np.arange(12)
    for each in (plain, loop):
        each.step(StepWork(0, [rows], None, 0.0))
    _, codes_B = loop.trainer.rows.code_languages()
    loss = torch.zeros(())
    for row in rows.tolist():
        features_FD, _, _ = read_rows(loop, model, [row])
        gold_F = torch.full((len(features_FD),), int(codes_B[row]))
        loss = loss + functional.cross_entropy(getattr(model, DISCRIMINATOR)(features_FD), gold_F) / 12
    loss.backward()
    moved, plain_moved = (before, weights(loop)), (plain_before, weights(plain))
    most = assert_reversed(model, moved, plain_moved, discriminator_atol=2e-6, atol=5e-6)
    assert most > 1e-4, "the case moves nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_with_weight_0_the_student_is_bit_for_bit_the_plain_one(kind: str) -> None:
    points: list[Any] = []
    still = {"steps": 3, "weight_decay": 0.1}
    loop = build(make_config(kind, alignment={"weight": 0.0}, **still), publish=points.append)
    plain = build(make_config(kind, **still))
    loop.run()
    plain.run()
    own = weights(loop)
    assert all(torch.equal(own[name], value) for name, value in weights(plain).items())
    logged = [p.values["train/alignment"] for p in points if "train/alignment" in p.values]
    assert logged[0] == pytest.approx(np.log(3), abs=0.2)


@pytest.mark.parametrize("crf", [False, True])
def test_an_lstm_tagger_is_aligned_too_with_a_chain_or_without(crf: bool) -> None:
    student = {"kind": "lstm", "embedding": 8, "hidden": 8, "vocab_size": 150, "crf": crf, "dropout": 0.0}
    loop = build(make_config("token_classification", student, alignment={"weight": 0.5}))
    alone = [read_rows(loop, loop.student.model, [row])[0] for row in range(12)]
    assert torch.allclose(
        torch.cat(alone), read_rows(loop, loop.student.model, list(range(12)))[0], atol=1e-6
    )
    loop.run()


def test_texts_of_another_language_than_the_rows_are_refused() -> None:
    tree = make_config("embedding", alignment={}).model_dump()
    read_first = {**tree, "task": {**tree["task"], "teachers_read": "first"}}
    with pytest.raises(ConfigError, match="cannot align the student") as error:
        check_combinations(RunConfig.model_validate(read_first))
    assert "teachers_read: first" in str(error.value)
    by_group = {"column": "group"}
    check_combinations(
        RunConfig.model_validate({**read_first, "train": {**tree["train"], "alignment": by_group}})
    )
    language_model = {
        "task": {"kind": "masked_lm", "max_length": 16},
        "train": {**tree["train"], "metric": None},
    }
    with pytest.raises(ConfigError, match="cannot align the student") as error:
        check_combinations(RunConfig.model_validate({**tree, **language_model}))
    assert "a language model" in str(error.value)
