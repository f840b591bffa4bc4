"""Taggers with a CRF: marginals, likelihood and best rows against all rows of tags, one by one; saving, learning."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from raykd import models
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.distill.signals import MASKED, UNLABELLED
from raykd.driver.loop import make_task_model
from raykd.errors import ConfigError
from raykd.models.bases import build_student
from raykd.models.identity import fingerprint
from raykd.networks.crf import add_crf, build_like, find_crf
from raykd.prediction.predictor import Predictor, build_unlabelled_rows
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from raykd.tasks import TokenClassification
from raykd.tasks.chains import compute_marginals, condition_on_gold, estimate_scores, follow_best_row
from raykd.tasks.schemes import parse_scheme
from raykd.tasks.scores.entities import decode_tags
from tests.unit.test_linear_tagger import ROWS, TAGS, batch

COUNTS = np.asarray([3, 0, 1, 4])
C = 3
TASK = TokenClassification(max_length=16)


def draw(*shape: int, seed: int) -> torch.Tensor:
    return 2.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


EMISSIONS, SCORES = draw(8, C, seed=1), draw(C + 2, C, seed=2)
LABELS = torch.tensor([2, 1, 0, 1, 0, UNLABELLED, 2, 2])


def score_rows(
    begin: int, count: int, scores_XC: torch.Tensor = SCORES
) -> dict[tuple[int, ...], torch.Tensor]:
    """The score of each of ``C ** count`` rows of tags."""
    found = {}
    for tags in itertools.product(range(C), repeat=count):
        score = scores_XC[C, tags[0]] + scores_XC[C + 1, tags[-1]]
        score = score + sum(EMISSIONS[begin + n, tag] for n, tag in enumerate(tags))
        found[tags] = score + sum(scores_XC[a, b] for a, b in itertools.pairwise(tags))
    return found


def list_rows() -> list[tuple[int, int]]:
    starts = np.cumsum(COUNTS) - COUNTS
    return [(int(begin), int(count)) for begin, count in zip(starts, COUNTS, strict=True) if count]


def test_marginals_are_sums_over_all_rows_of_tags() -> None:
    found = compute_marginals(EMISSIONS, COUNTS, SCORES)
    for begin, count in list_rows():
        rows = score_rows(begin, count)
        for n, tag in itertools.product(range(count), range(C)):
            wanted = torch.stack([s for tags, s in rows.items() if tags[n] == tag]).logsumexp(0)
            torch.testing.assert_close(found[begin + n, tag], wanted)


def test_cross_entropies_given_the_tags_before_add_up_to_the_likelihood_of_what_is_labelled() -> None:
    marginals, given = condition_on_gold(EMISSIONS, COUNTS, SCORES, LABELS)
    torch.testing.assert_close(marginals, compute_marginals(EMISSIONS, COUNTS, SCORES))
    losses = F.cross_entropy(given, LABELS, reduction="none")
    for begin, count in list_rows():
        gold, rows = LABELS[begin : begin + count].tolist(), score_rows(begin, count)
        fits = [
            s
            for tags, s in rows.items()
            if all(g in (t, UNLABELLED) for g, t in zip(gold, tags, strict=True))
        ]
        wanted = torch.stack(list(rows.values())).logsumexp(0) - torch.stack(fits).logsumexp(0)
        torch.testing.assert_close(losses[begin : begin + count].sum(), wanted)


def test_the_gradient_is_that_of_the_likelihood() -> None:
    leaves = [EMISSIONS.clone().requires_grad_(), SCORES.clone().requires_grad_()]
    gold = torch.tensor([2, 1, 0, 1, 0, 1, 2, 2])
    loss = F.cross_entropy(condition_on_gold(leaves[0], COUNTS, leaves[1], gold)[1], gold, reduction="sum")
    by_emission, by_score = torch.autograd.grad(loss, leaves)
    # d(-log p)/d e = p(tag) - [tag is gold]; of transitions, expected minus counted ones: each pair once.
    p_NC = compute_marginals(EMISSIONS, COUNTS, SCORES).softmax(1)
    torch.testing.assert_close(by_emission, p_NC - F.one_hot(gold, C))
    assert by_score[:C].sum().item() == pytest.approx(0.0, abs=1e-9)
    first = p_NC[[0, 3, 4]].sum(0) - F.one_hot(gold[[0, 3, 4]], C).sum(0)
    torch.testing.assert_close(by_score[C], first)


def test_the_most_probable_tags_become_those_of_the_best_row_and_nothing_else_changes() -> None:
    differ = 0
    for seed in range(20):
        scores = draw(C + 2, C, seed=seed)
        logits = compute_marginals(EMISSIONS, COUNTS, scores)
        found = follow_best_row(logits, EMISSIONS, COUNTS, scores)
        for begin, count in list_rows():
            rows = score_rows(begin, count, scores)
            assert tuple(found[begin : begin + count].argmax(1).tolist()) == max(
                rows, key=lambda tags: rows[tags]
            )
        torch.testing.assert_close(found.sort(dim=1).values, logits.sort(dim=1).values)
        same = found.argmax(1) == logits.argmax(1)
        assert torch.equal(found[same], logits[same])
        differ += int((~same).sum())
    assert differ > 0, "the case is not in the drawn ones"


def test_scores_of_zero_are_no_chain_and_rows_without_words_are_no_trouble() -> None:
    none = torch.zeros(C + 2, C, dtype=torch.float64)
    marginals, given = condition_on_gold(EMISSIONS, COUNTS, none, LABELS)
    for found in (marginals, given):
        torch.testing.assert_close(found.log_softmax(1), EMISSIONS.log_softmax(1))
    empty = compute_marginals(EMISSIONS[:0], np.asarray([0, 0]), SCORES.requires_grad_())
    assert empty.shape == (0, C) and empty.requires_grad
    SCORES.requires_grad_(False)


def test_a_chain_begins_with_how_often_tags_follow_each_other() -> None:
    labels = np.asarray([0, 1, 2, 0, UNLABELLED, UNLABELLED, 0, 0])
    found = estimate_scores(labels, np.asarray([4, 2, 0, 2]), C)
    # Pairs, one more of each; the last row is that of a row's begin, the last column that of its end.
    pairs = np.asarray([[2, 2, 1, 3], [1, 1, 2, 1], [2, 1, 1, 1], [3, 1, 1, 0]], dtype=float)
    told = np.log(pairs / pairs.sum(axis=1, keepdims=True), where=pairs > 0, out=np.zeros_like(pairs))
    np.testing.assert_allclose(found, [*told[:, :C], told[:C, C]], rtol=1e-6)


def test_of_words_that_tell_nothing_such_a_chain_knows_how_often_tags_are_there() -> None:
    labels = np.asarray([0, 0, 1, 2, 0, 0] * 400)
    counts = np.full(400, 6)
    scores = torch.from_numpy(estimate_scores(labels, counts, C))
    found = compute_marginals(torch.zeros(6, C), np.asarray([6]), scores).softmax(1).mean(0)
    np.testing.assert_allclose(found, [4 / 6, 1 / 6, 1 / 6], atol=0.05)


STUDENTS: dict[str, Any] = {
    "linear": models.LinearStudent(buckets=4096, crf=True),
    "lstm": models.LSTMStudent(crf=True, embedding=8, hidden=8, vocab_size=300, dropout=0.0),
    "transformer": models.TransformerStudent(
        crf=True, layers=1, hidden=16, heads=2, vocab_size=300, dropout=0.0
    ),
}


def build(kind: str) -> tuple[Any, Any]:
    student = STUDENTS[kind]
    tokenizer = student.fit_tokenizer(batch().texts * 3)
    return build_student(student, tokenizer, TAGS, 0, TASK), tokenizer


@pytest.mark.parametrize("kind", STUDENTS)
def test_it_learns_rows_of_tags_and_a_saved_one_answers_alike(kind: str, tmp_path: Path) -> None:
    model, tokenizer = build(kind)
    collated = TASK.collate(TASK.encode(tokenizer, batch()), [0, 1, 2])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        _, gold = TASK.gather_taught(collated.run(model.train()), collated)
        assert gold is not None
        F.cross_entropy(gold, collated.labels_N).backward()
        optimizer.step()
    crf = find_crf(model)
    assert crf is not None and crf.scores_XC.any()
    with torch.no_grad():
        before = TASK.gather(collated.run(model.eval()), collated)
    assert before.argmax(-1).tolist() == collated.labels_N.tolist()
    made = models.TextModel(model, tokenizer, TAGS, kind=kind, task="token_classification", max_length=16)
    loaded = models.load_model(models.save_model(made, tmp_path / "tagger"))
    assert fingerprint(loaded) == fingerprint(tmp_path / "tagger")
    with torch.no_grad():
        torch.testing.assert_close(TASK.gather(collated.run(loaded.model), collated), before)
    predicted = Predictor.of(loaded).predict(build_unlabelled_rows("words", list(batch().texts), None))
    entities = [[entity["text"] for entity in row["entities"]] for row in predicted]  # type: ignore[attr-defined, index]
    assert entities == [["Lee"], ["Ana Roy"], []]
    # A student that starts from it keeps its chain for the same tags, and begins a new one for others.
    again = models.PretrainedStudent(path=str(tmp_path / "tagger"))
    same = find_crf(again.build(tokenizer, TAGS, 0, "token_classification"))
    other = (
        find_crf(again.build(tokenizer, ("O", "B-LOC", "I-LOC"), 0, "token_classification"))
        if kind != "linear"
        else None
    )
    assert same is not None and torch.equal(same.scores_XC, crf.scores_XC)
    assert other is None or not other.scores_XC.any()


def test_rows_that_the_scheme_forbids_are_never_answered_and_can_be_taught() -> None:
    model, tokenizer = build("linear")
    collated = TASK.collate(TASK.encode(tokenizer, batch()), [0, 1, 2])
    with torch.no_grad():
        model.bias.copy_(torch.tensor([0.0, -1.0, 3.0]))  # I-PER everywhere
        trained = TASK.gather_taught(collated.run(model.train()), collated)[0]
        answered = TASK.gather(collated.run(model.eval()), collated)
    torch.testing.assert_close(trained.softmax(1)[0, 2], torch.tensor([0.0, -1.0, 3.0]).softmax(0)[2])
    first = np.cumsum([0, *(len(row) for row, _ in ROWS)])[:-1]
    assert (answered[first, 2] < answered[first, 0] + MASKED / 2).all(), "no row begins with I-PER"
    counts = np.asarray([len(row) for row, _ in ROWS])
    tags = answered.argmax(1).numpy()
    assert (tags == decode_tags(answered.numpy(), counts, parse_scheme(TAGS))).all(), (
        "it is allowed as it stands"
    )


def test_words_that_the_model_does_not_see_change_nothing_before_them_but_what_follows_tells() -> None:
    model, tokenizer = build("linear")
    short = TokenClassification(max_length=3)
    collated = short.collate(short.encode(tokenizer, batch()), [0])
    with torch.no_grad():
        torch.nn.init.normal_(model.weights.weight, generator=torch.Generator().manual_seed(1))
        emissions = model(**collated.inputs).logits[0]
        found = short.gather(collated.run(model.train()), collated)
    assert collated.seen_N is not None and collated.seen_N.tolist() == [True] * 3 + [False]
    place = collated.places_N2[:, 1] if collated.places_N2 is not None else None
    torch.testing.assert_close(found[:3].log_softmax(1), emissions[place][:3].log_softmax(1))
    torch.testing.assert_close(found[3].softmax(0), torch.full((3,), 1 / 3))


def test_a_copy_of_the_same_configuration_has_a_chain_where_the_model_has_one() -> None:
    model, _ = build("linear")
    assert find_crf(build_like(model)) is not None
    student = models.LinearStudent(buckets=64)
    plain = student.build(student.fit_tokenizer(()), TAGS, 0, "token_classification")
    assert find_crf(build_like(plain)) is None and find_crf(add_crf(plain)) is not None


def run_config(task: str = "token_classification", **keys: Any) -> RunConfig:
    tags = task == "token_classification"
    tree: dict[str, Any] = {
        "task": {"kind": task, "max_length": 16},
        "data": {
            "labels": TAGS,
            "languages": ["en"],
            "columns": {"tokens": "t", "tags": "g"} if tags else {"text": "t", "label": "g"},
            **{part: {"kind": "files", "paths": ["x.jsonl"]} for part in ("train", "validation", "test")},
        },
        "objective": {"alpha": 1.0},
        "train": {"steps": 60, "batch_size": 3, "learning_rate": 0.05, "evaluations": 2},
    }
    return RunConfig.model_validate({**tree, **keys})


def test_a_run_begins_at_the_counts_and_keeps_the_chain_of_its_best_student(tmp_path: Path) -> None:
    config, one = run_config(student={"kind": "linear", "buckets": 4096, "crf": True}), batch()
    rows = Rows(one.ids, one.texts, one.languages, np.zeros(3, np.int64), words=one.words, golds=one.golds)
    tokenizer = config.student.fit_tokenizer(rows.texts)
    loop = TrainingLoop(
        config, prepare_rows(config, rows, rows, tokenizer), make_task_model(config, tokenizer), None
    )
    crf = find_crf(loop.engine.module)
    labels_N, counts_B = TASK.list_unit_labels(one), TASK.count_units(one)
    assert crf is not None
    np.testing.assert_allclose(crf.scores_XC.detach(), estimate_scores(labels_N, counts_B, C), rtol=1e-6)
    # The loss is the mean over words of the negative log-likelihood of rows.
    micro = loop.trainer.make_micro_batch(np.arange(3), None)
    outputs = micro.encoded.run(loop.engine.module)
    found = loop.trainer.evaluate(loop.engine, outputs, micro, 0.0, micro.counts)
    given = TASK.gather_taught(outputs, micro.encoded)[1]
    assert given is not None
    torch.testing.assert_close(found.loss, F.cross_entropy(given, micro.encoded.labels_N))
    loop.run()
    assert loop.state.best == 1.0, "entity F1 of what it was trained on"
    saved = models.load_model(models.save_model(loop.best_student(), tmp_path / "student"))  # type: ignore[arg-type]
    kept, told = find_crf(saved.model), loop.best_weights
    assert kept is not None and told is not None
    assert torch.equal(kept.scores_XC, told["crf.scores_XC"])
    loop.engine.close()


@pytest.mark.parametrize(
    ("student", "task", "objective", "said"),
    [
        ({"crf": True}, "classification", {}, "classification has no tags"),
        (
            {"crf": True},
            "token_classification",
            {"label_smoothing": 0.5},
            "label_smoothing plays no part in a tagger",
        ),
        (
            {"crf": True},
            "token_classification",
            {"focal_gamma": 0.5},
            "focal_gamma plays no part in a tagger",
        ),
        ({"crf": True}, "token_classification", {}, None),
        ({}, "token_classification", {"label_smoothing": 0.5}, None),
    ],
)
def test_a_chain_without_tags_and_what_weighs_single_words_are_refused(
    student: dict[str, Any], task: str, objective: dict[str, Any], said: str | None
) -> None:
    keys = {"student": {"kind": "linear", **student}, "objective": {"alpha": 1.0, **objective}}
    if said is None:
        run_config(task, **keys)
    else:
        with pytest.raises(ConfigError, match=said):
            run_config(task, **keys)


def test_a_chain_beside_adapters_is_refused() -> None:
    with pytest.raises(ValidationError, match="no place for the scores of a chain"):
        models.PretrainedStudent.model_validate({"path": "x", "crf": True, "tuning": {"kind": "lora"}})
