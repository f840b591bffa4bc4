"""Ranking: rows of queries and candidates, listwise losses over padded candidates, cross-encoders, nDCG and MRR."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from torch.nn import functional as F

import raykd
from raykd import models
from raykd.answers.layout import StudentUnits, lay_out_answers, read_unit_logits
from raykd.config import RunConfig
from raykd.config.loading import validate_run
from raykd.data.files.candidates import limit_candidates
from raykd.data.load import load_data
from raykd.data.rows import Rows
from raykd.distill.losses import LogitMSE, compute_gold_losses
from raykd.distill.objective import Objective
from raykd.distill.signals import MASKED, UNLABELLED
from raykd.distill.targets import combine_logits
from raykd.driver.loop import make_task_model
from raykd.errors import ConfigError, DataError, ModelError
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from raykd.tasks import Ranking, SystemAnswers
from raykd.tasks.kinds.ranking import PASS_TOKENS
from raykd.tasks.scores.candidates import score_queries
from raykd.teachers.source import LocalSource
from raykd.teachers.store import make_text_keys
from raykd.teachers.teacher import Teacher
from tests.fakes import model_spec
from tests.made_models import made_texts, make_config, make_tokenizer

TEXTS, _ = made_texts(120, 3)
SOURCE = {"kind": "files", "paths": ["rows.jsonl"]}
COUNTS = (3, 5, 2, 4)
"""Candidates of the queries of `rows_of`."""


def rows_of(counts: tuple[int, ...] = COUNTS, seed: int = 0, *, labelled: bool = True) -> Rows:
    """Queries with so many candidates; relevances of 0 to 2, the second query has no relevant candidate."""
    rng = np.random.default_rng(seed)
    texts = itertools.cycle(TEXTS)
    candidates = tuple(tuple(next(texts) for _ in range(count)) for count in counts)
    values = [tuple(map(float, rng.integers(0, 3, count))) for count in counts]
    values[0] = (0.0, 2.0, 1.0)[: counts[0]] + (0.0,) * (counts[0] - 3)
    if len(values) > 1:
        values[1] = (0.0,) * counts[1]
    return Rows(
        ids=tuple(map(str, range(len(counts)))),
        texts=tuple(TEXTS[60 + i % 60] for i in range(len(counts))),
        languages=("en",) * len(counts),
        labels_B=np.full(len(counts), 0 if labelled else UNLABELLED),
        values=tuple(values) if labelled else ((),) * len(counts),
        candidates=candidates,
    )


def save_cross_encoder(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """A cross-encoder as the hub holds it: `AutoModelForSequenceClassification`, one output, no problem_type."""
    from transformers import AutoModelForSequenceClassification

    tokenizer = make_tokenizer("wordpiece", TEXTS)
    torch.manual_seed(seed)
    config = make_config("bert", tokenizer, num_labels=1, initializer_range=0.3, **settings)
    config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0"}
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plain_scores(folder: Path, rows: Rows) -> list[np.ndarray]:
    """What plain transformers says of each query's candidates, pair by pair."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    with torch.no_grad():
        for query, own in zip(rows.texts, rows.candidates or (), strict=True):
            pairs = [
                tokenizer(query, one, return_tensors="pt", truncation=True, max_length=32) for one in own
            ]
            found.append(np.asarray([float(model(**pair).logits) for pair in pairs]))
    return found


def tree(folder: Path | str = "t", **changes: Any) -> dict[str, Any]:
    return {
        "task": {"kind": "ranking", "max_length": 32},
        "data": {"train": SOURCE, "validation": SOURCE, "languages": ["en"]},
        "student": {
            "kind": "transformer", "layers": 1, "hidden": 16, "heads": 2, "vocab_size": 150, "max_positions": 40,
            "dropout": 0.0,
        },
        "teachers": [{"name": "t", "languages": "all", "path": str(folder)}],
        "objective": {"alpha": 0.0, "temperature": 1.0},
        "train": {"steps": 16, "batch_size": 8, "learning_rate": 0.01, "evaluations": 2},
        **changes,
    }  # fmt: skip


def read(
    folder: Path, lines: dict[str, list[dict[str, Any]]] | None = None, form: str = "jsonl", **data: Any
) -> Any:
    """What a run reads of these parts."""
    for name, rows in (lines or {}).items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = {name: {"kind": "files", "paths": [f"{name}.{form}"]} for name in ("train", "validation")}
    if lines and "unlabeled" in lines:
        parts["unlabeled"] = {"kind": "files", "paths": ["unlabeled.jsonl"]}
    own = {"data": {**parts, "languages": ["en"], **data}}
    return load_data(validate_run(tree() | own, "test").data, folder, "candidates")


# --- rows -----------------------------------------------------------------------------------------------------------


def test_rows_are_one_a_query_with_relevances_or_the_place_of_the_right_one(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "train": [
                {"query": "a", "candidates": ["x", "y", "z"], "relevances": [0, 2.5, 1]},
                {"query": "b", "candidates": ["x", "y"], "relevances": [0, 0]},
            ],
            "validation": [{"query": "c", "candidates": ["x", "y", "z"], "label": 2}],
            "unlabeled": [{"query": "d", "candidates": ["u", "v"]}, {"query": "C", "candidates": ["u", "v"]}],
        },
    )
    assert tuple(found.train.texts) == ("a", "b", "d")  # C is a query of validation
    assert tuple(found.train.candidates) == (("x", "y", "z"), ("x", "y"), ("u", "v"))
    assert tuple(found.train.values) == ((0.0, 2.5, 1.0), (0.0, 0.0), ())
    assert found.train.labels_B.tolist() == [0, 0, UNLABELLED]
    assert tuple(found.validation.values) == ((0.0, 0.0, 1.0),)
    assert any(
        "1 row: train: queries of" in note and "no relevant candidate" in note for note in found.remarks()
    )
    counts = found.summary()["train"]["languages"]["en"]
    assert counts["candidates"] == 7 and counts["relevant"] == 2 and counts["without a relevant one"] == 1


def test_rows_of_one_candidate_and_triples_are_put_together(tmp_path: Path) -> None:
    long = [
        {"query": "a", "candidate": "x", "relevance": 1},
        {"query": "b", "candidate": "u", "relevance": 0},
        {"query": "a", "candidate": "y", "relevance": "0"},
        {"query": "b", "candidate": "v", "relevance": 3},
        {"query": "a", "candidate": "x", "relevance": 2},
    ]
    triples = [
        {"query": "a", "positive": "x", "negative": "y"},
        {"query": "b", "positive": ["u", "w"], "negative_1": "v", "negative_2": "x"},
        {"query": "a", "positive": "x", "negative": "z"},
    ]
    found = read(tmp_path, {"train": long, "validation": triples})
    assert tuple(found.train.texts) == ("a", "b")
    assert tuple(found.train.candidates) == (("x", "y"), ("u", "v"))
    assert tuple(found.train.values) == ((2.0, 0.0), (0.0, 3.0))
    assert tuple(found.validation.candidates) == (("x", "y", "z"), ("u", "w", "v", "x"))
    assert tuple(found.validation.values) == ((1.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0))
    ids = [{"query_id": i % 2, "query": "same", "candidate": f"c{i}", "relevance": i} for i in range(4)]
    assert tuple(read(tmp_path, {"train": ids, "validation": triples}).train.candidates) == (
        ("c0", "c2"),
        ("c1", "c3"),
    )
    bare = [{"query": "n", "candidate": text} for text in "pq"]
    both = {"train": long, "validation": triples, "unlabeled": bare}
    assert tuple(read(tmp_path, both).train.candidates)[-1] == ("p", "q")


def test_csv_and_parquet_hold_lists(tmp_path: Path) -> None:
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = (("a, b", "c"), ("d", "e", "f")), ((1.0, 0.0), (0.0, 0.5, 2.0))
    for name in ("train", "validation"):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["query", "candidates", "relevances"])
            for query, own, gains in zip(name, *wanted, strict=False):
                writer.writerow([f"{name} {query}", json.dumps(own), json.dumps(gains)])
        table = {"query": [f"{name} 1", f"{name} 2"], "candidates": wanted[0], "relevances": wanted[1]}
        pq.write_table(pa.table({key: list(map(list, v)) if key != "query" else v for key, v in table.items()}),
                       tmp_path / f"{name}.parquet")  # fmt: skip
    for form in ("csv", "parquet"):
        found = read(tmp_path, form=form)
        assert (tuple(found.train.candidates), tuple(found.train.values)) == wanted


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"candidates": ["x"], "relevances": [1]}, "got 1 of 'q', wanted 2 to 1,000"),
        ({"candidates": ["x"] * 1001, "relevances": [1] * 1001}, "got 1001 of 'q'"),
        (
            {"candidates": ["x", " "], "relevances": [1, 0]},
            r"an empty text ' ', wanted words \(text 2 of 2\)",
        ),
        ({"candidates": ["x", "y"], "relevances": [1]}, "got 1 numbers for 2 candidates"),
        ({"candidates": ["x", "y"], "relevances": [1, -1]}, "wanted relevances of 0 or more"),
        ({"candidates": ["x", "y"], "relevances": [1, None]}, "got None, wanted a number"),
        ({"candidates": ["x", "y"], "relevances": None}, "wanted how relevant each candidate is"),
        ({"candidates": ["x", "y"], "label": 2}, "wanted a place from 0 to 1"),
        ({"candidates": ["x", "y"], "label": True}, "wanted a number"),
        ({"candidates": "x y", "relevances": [1, 0]}, "wanted a list of texts"),
        ({"passages": ["x"]}, "no column 'candidates'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], match: str) -> None:
    good = {"query": "v", "candidates": ["x", "y"], "label": 0}
    with pytest.raises(DataError, match=match):
        read(tmp_path, {"train": [{"query": "q", **row}], "validation": [good]})


def test_candidates_are_drawn_where_there_are_too_few_or_too_many(tmp_path: Path) -> None:
    pairs = [{"query": f"q{i}", "positive": f"p{i}"} for i in range(30)]
    many = [{"query": "m", "candidates": [f"c{i}" for i in range(20)], "relevances": [0] * 16 + [1, 0, 3, 2]}]
    found = read(tmp_path, {"train": pairs, "validation": many}, min_candidates=5, max_candidates=4)
    assert {len(own) for own in found.train.candidates} == {4}
    assert all(f"p{q[1:]}" in own for q, own in zip(found.train.texts, found.train.candidates, strict=True))
    assert len(set(found.train.candidates)) == 30 and set(map(sum, found.train.values)) == {1.0}
    assert tuple(map(len, found.validation.candidates)) == (20,)  # what is scored keeps all
    alone = read(tmp_path, {"train": pairs, "validation": many[:1]}, min_candidates=5)
    assert set(map(len, alone.train.candidates)) == {5}
    cut, count = limit_candidates(alone.train, 4)
    assert count == 30 and tuple(cut.candidates) == tuple(found.train.candidates)
    few, _ = limit_candidates(found.validation, 3)
    assert sorted(few.values[0]) == [0.0, 2.0, 3.0]  # the best, and one to tell them from
    again, _ = limit_candidates(found.validation.select([0]), 3)
    assert tuple(again.candidates) == tuple(few.candidates)


def test_all_candidates_in_their_order_are_part_of_a_stored_answers_key() -> None:
    rows = rows_of()
    batch = rows.take(range(len(rows)))
    first = batch.candidates[0]
    others = [(first[1], first[0], *first[2:]), first[:2], (first[0] + first[1], first[2]), (*first, "")]
    keys = {
        make_text_keys(replace(batch, candidates=(own, *batch.candidates[1:])))[0] for own in [first, *others]
    }
    assert len(keys) == 5 and len(set(make_text_keys(batch))) == len(batch)
    assert rows.fingerprint() != replace(rows, candidates=tuple(reversed(rows.candidates))).fingerprint()


# --- scores ---------------------------------------------------------------------------------------------------------


def test_ndcg_is_that_of_scikit_learn_also_with_ties() -> None:
    rng = np.random.default_rng(5)
    for count in (2, 7, 30):
        scores = rng.integers(0, 6, size=(40, count)).astype(np.float64)
        gains = rng.integers(0, 4, size=(40, count)).astype(np.float64)
        gains[:, 0] += gains.sum(axis=1) == 0
        found = score_queries(scores, gains.tolist()).ndcg_Q
        wanted = [ndcg_score(g[None], s[None], k=10) for g, s in zip(gains, scores, strict=True)]
        assert found == pytest.approx(wanted, abs=1e-12)


def test_reciprocal_ranks_and_nll_by_hand() -> None:
    scores = np.asarray([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 1.0, 1.0], [2.0, 5.0, MASKED]])
    gains = [(0, 1, 2), (0, 0, 0.5), (0, 1, 0), (0, 1)]
    found = score_queries(scores, gains)
    assert found.reciprocal_Q.tolist() == [1 / 2, 1 / 3, 1 / 2, 1.0]
    logp = torch.log_softmax(torch.tensor([3.0, 2.0, 1.0]), 0)
    assert found.nll_Q[0] == pytest.approx(float(-(logp[1] + 2 * logp[2]) / 3))
    assert found.nll_Q[3] == pytest.approx(float(np.log1p(np.exp(-3.0))))


def test_a_query_without_a_relevant_candidate_is_left_out_of_the_scores() -> None:
    rows = rows_of((12, 5, 2))
    rows = replace(rows, values=((0.0,) * 11 + (1.0,), (0.0,) * 5, (1.0, 0.0)))
    logits = np.tile(-np.arange(12.0), (3, 1)).astype(np.float32)
    answers = SystemAnswers(logits, np.ones(3, np.int64), np.ones(3, bool))
    found = Ranking().compute_metrics(answers, rows, ())
    assert found["mrr"] == pytest.approx((1 / 12 + 1) / 2) and found["mrr_at_10"] == 0.5
    assert found["ndcg_at_10"] == 0.5  # the relevant one of the first query stands behind the tenth place
    shares = Ranking().compute_row_shares(answers, rows, ())
    assert shares.numerator_B.tolist() == [0.0, 0.0, 1.0] and shares.denominator_B.tolist() == [1.0, 0.0, 1.0]
    none = Ranking().compute_metrics(answers.take([1]), rows.take([1]), ())
    assert np.isnan(list(none.values())).all()


# --- losses ---------------------------------------------------------------------------------------------------------


def test_margin_mse_is_a_multiple_of_the_centred_logit_mse() -> None:
    """MarginMSE of (query, positive, negative) is 4 times it; over all pairs of K candidates 2 K / (K - 1) times."""
    generator = torch.Generator().manual_seed(1)
    for count, padded in ((2, 2), (2, 6), (5, 9)):
        student = torch.randn(7, count, generator=generator, dtype=torch.float64)
        teacher = 3 * torch.randn(7, count, generator=generator, dtype=torch.float64)
        pairs = list(itertools.combinations(range(count), 2))
        wanted = sum(
            ((student[:, i] - student[:, j]) - (teacher[:, i] - teacher[:, j])).square() for i, j in pairs
        ) / len(pairs)
        wide = [F.pad(x.float(), (0, padded - count), value=MASKED) for x in (student, teacher)]
        target = combine_logits(wide[1][None], torch.ones(1, 7), 1.0, "arithmetic")
        got = LogitMSE().per_unit(wide[0], target, 1.0)
        torch.testing.assert_close(2 * count / (count - 1) * got, wanted.float(), rtol=1e-4, atol=1e-5)
        if count == 2:
            margins = (student[:, 0] - student[:, 1], teacher[:, 0] - teacher[:, 1])
            assert float(4 * got.mean()) == pytest.approx(float(F.mse_loss(*margins)), rel=1e-5)


def test_the_listwise_losses_are_plain_ones_over_each_query_s_own_candidates(tmp_path: Path) -> None:
    """Teachers and student of unequal numbers of candidates in one batch against query by query in plain torch."""
    folder, rows = save_cross_encoder(tmp_path / "m"), rows_of()
    task, batch = Ranking(max_length=32), rows.take(range(len(rows)))
    teacher = Teacher(model_spec("t", str(folder), (), task, dtype="float32"))
    slots = teacher.answer(batch)
    config = validate_run(tree(folder), "test")
    student = make_task_model(config, config.student.fit_tokenizer(TEXTS))
    student.model.eval()
    encoded = task.collate(task.encode(student.tokenizer, batch), range(len(rows)))
    assert encoded.choices == 5 and encoded.labels_N.tolist()[:2] == [1, UNLABELLED]
    logits_NC = task.gather(encoded.run(student.model), encoded)
    assert (logits_NC == MASKED).sum(dim=1).tolist() == [5 - count for count in COUNTS]
    units = StudentUnits(encoded.labels_N, encoded.counts_B, rows.languages, encoded.choices or 0)
    signals = lay_out_answers([slots], [None], units)
    wanted_logits = plain_scores(folder, rows)
    hard = kl = torch.zeros(())
    for i, count in enumerate(COUNTS):
        own, teachers = logits_NC[i, :count], torch.tensor(wanted_logits[i]).float()
        kl = kl + 4.0 * F.kl_div((own / 2).log_softmax(0), (teachers / 2).softmax(0), reduction="sum")
        gains = torch.tensor(rows.values[i])
        if gains.any():
            hard = hard - (gains / gains.sum() * own.log_softmax(0)).sum()
    objective = Objective.model_validate({"alpha": 0.25, "temperature": 2.0})
    counts = objective.counts(encoded.labels_N, signals)
    assert (counts.hard, counts.soft) == (sum(any(v) for v in rows.values), 4)
    got = objective.evaluate(
        logits_NC, encoded.labels_N, signals, 0.0, counts, values_N=encoded.extra["values_N"]
    ).loss
    wanted = 0.25 * hard / counts.hard + 0.75 * kl / 4
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    losses = compute_gold_losses(logits_NC, encoded.labels_N, encoded.extra["values_N"])
    assert losses[1].item() == 0.0 and losses.sum().item() == pytest.approx(hard.item(), rel=1e-5)


# --- models ---------------------------------------------------------------------------------------------------------


def test_a_cross_encoder_that_transformers_saved_teaches_as_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_cross_encoder(tmp_path / "m")
    rows = rows_of((3, 9, 2, 4, 6))
    wanted = plain_scores(folder, rows)
    task = Ranking(max_length=32)
    for limit in (PASS_TOKENS, 96):  # many candidates take several passes
        monkeypatch.setattr("raykd.tasks.kinds.ranking.PASS_TOKENS", limit)
        slots = Teacher(model_spec("t", str(folder), (), task, dtype="float32")).answer(rows.take(range(5)))
        got, covered = read_unit_logits(slots, task.count_units(rows), 9)
        assert covered.all() and (got[0, 3:] == MASKED).all()
        for row, own in zip(got, wanted, strict=True):
            assert row[: len(own)] == pytest.approx(own, abs=2e-5)
    assert task.compute_mean_logits(rows, 0) == 24 / 5


def test_a_plain_cross_encoder_ranks_where_rows_have_candidates(tmp_path: Path) -> None:
    """It does not say that it ranks: one output is a number. `raykd predict` and `raykd evaluate` see the candidates."""
    from raykd.scoring.evaluation.evaluate import evaluate_model
    from raykd.scoring.evaluation.labelled_file import FileOptions

    folder, rows = save_cross_encoder(tmp_path / "m"), rows_of()
    scores = plain_scores(folder, rows)
    names = ("query", "candidates", "relevances")
    lines = [
        dict(zip(names, row, strict=True))
        for row in zip(rows.texts, rows.candidates, rows.values, strict=True)
    ]
    found = raykd.predict(folder, lines)
    assert [[c["place"] for c in row["ranked"]] for row in found] == [
        np.argsort(-own).tolist() for own in scores
    ]
    assert raykd.load(folder).list_answer_keys(ranks=True) == ("ranked",)
    assert raykd.predict(folder, ["a"], ["b"])[0].keys() == {"text", "text_pair", "value"}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = evaluate_model(models.load_model(folder), "m", file, FileOptions())
    told = [i for i, own in enumerate(rows.values) if any(own)]
    wanted = np.mean([ndcg_score([rows.values[i]], [scores[i]], k=10) for i in told])
    assert result.task == "ranking" and result.metric == "ndcg_at_10"
    assert result.overall.metrics["ndcg_at_10"] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("kind", ["transformer", "lstm", "linear", "pretrained"])
def test_students_of_every_kind_rank_and_predict_as_plain_transformers_reads_them(
    tmp_path: Path, kind: str
) -> None:
    own = {
        "transformer": tree()["student"],
        "lstm": {"kind": "lstm", "embedding": 8, "hidden": 8, "vocab_size": 150},
        "linear": {"kind": "linear", "buckets": 512},
        "pretrained": {"kind": "pretrained", "path": str(tmp_path / "m")},
    }
    if kind == "pretrained":
        save_cross_encoder(tmp_path / "m")
    config = validate_run(tree(student=own[kind]), "test")
    made = make_task_model(config, config.student.fit_tokenizer(TEXTS))
    made.model.eval()
    folder = models.save_model(made, tmp_path / "student")
    rows = rows_of()
    asked = [
        {"query": q, "candidates": list(c)} for q, c in zip(rows.texts, rows.candidates or (), strict=True)
    ]
    found = raykd.predict(folder, asked)
    if kind in ("transformer", "pretrained"):
        written = json.loads((folder / "config.json").read_text())
        # As sentence-transformers' CrossEncoder reads them: the raw output is the score.
        assert written["sentence_transformers"]["activation_fn"].endswith(".Identity")
        assert written["architectures"][0].endswith("ForSequenceClassification") and list(
            written["id2label"]
        ) == ["0"]
        for row, scores in zip(found, plain_scores(folder, rows), strict=True):
            assert [c["place"] for c in row["ranked"]] == np.argsort(-scores, kind="stable").tolist()
            assert [c["score"] for c in row["ranked"]] == pytest.approx(np.sort(scores)[::-1], abs=2e-5)
    for row, given in zip(found, asked, strict=True):
        assert row["query"] == given["query"]
        assert sorted(c["text"] for c in row["ranked"]) == sorted(given["candidates"])
        assert [given["candidates"][c["place"]] for c in row["ranked"]] == [c["text"] for c in row["ranked"]]
    with pytest.raises(DataError, match="ranks candidates for a query"):
        raykd.predict(folder, ["a query alone"])


def test_a_student_learns_the_order_of_a_cross_encoder_without_gold(tmp_path: Path) -> None:
    folder = save_cross_encoder(tmp_path / "m")
    config: RunConfig = validate_run(  # type: ignore[assignment]
        tree(folder, train={"steps": 60, "batch_size": 12, "learning_rate": 0.01, "evaluations": 2}), "test"
    )
    every = rows_of((4, 6, 3) * 16, labelled=False)
    scores = plain_scores(folder, every)
    best = [tuple(float(at == own.argmax()) for at in range(len(own))) for own in scores]
    rows, held = every.select(np.arange(36)), every.select(np.arange(36, 48))
    held = replace(held, values=tuple(best[36:]), labels_B=np.zeros(12, np.int64))
    tokenizer = config.student.fit_tokenizer(TEXTS)
    teacher = Teacher(model_spec("t", str(folder), (), config.task, dtype="float32"))
    student = make_task_model(config, tokenizer)
    points: list[Any] = []
    loop = TrainingLoop(
        config, prepare_rows(config, rows, held, tokenizer), student, LocalSource([teacher], config.objective.weighting),
        rank=0, world=1, device="cpu", publish=points.append,
    )  # fmt: skip
    loop.run()
    losses = [p.values["train/soft/forward_kl"] for p in points if "train/soft/forward_kl" in p.values]
    assert losses[-1] < 0.5 * losses[0]
    reached = [p.values["eval/en/ndcg_at_10"] for p in points if "eval/en/ndcg_at_10" in p.values]
    # A guess reaches 0.62 with 3, 4 and 6 candidates.
    assert reached[-1] > 0.75


def test_what_cannot_be_right_is_refused_by_name() -> None:
    for kind in ("standardised_kl", "dist", "relational_distance"):
        with pytest.raises(ConfigError, match=f"{kind} averages over choices"):
            validate_run(tree(objective={"terms": [{"divergence": {"kind": kind}}]}), "test")
    for key, value in {"label_smoothing": 0.1, "focal_gamma": 2.0}.items():
        with pytest.raises(ConfigError, match=key):
            validate_run(tree(objective={key: value}), "test")
    with pytest.raises(ConfigError, match="max_candidates 4 plays no part"):
        validate_run(tree(task={"kind": "regression"}, data={**tree()["data"], "max_candidates": 4}), "test")
    validate_run(tree(objective={"terms": [{"divergence": {"kind": "logit_mse"}}]}), "test")


def test_the_columns_of_the_served_model() -> None:
    rows = rows_of((3, 2))
    answers = SystemAnswers(
        np.asarray([[1, 3, 2], [0, -1, MASKED]], np.float32), np.ones(2, np.int64), np.ones(2, bool)
    )
    columns = Ranking().to_columns(Ranking().build_predictions(answers, rows, ()), ())
    assert list(columns) == [column.name for column in Ranking.build_signature(()).outputs]
    assert [[c["place"] for c in row] for row in columns["ranked"]] == [[1, 2, 0], [0, 1]]  # type: ignore[attr-defined]


def test_a_function_scores_pairs_of_query_and_candidate(tmp_path: Path) -> None:
    from raykd.config import CallableTeacher
    from raykd.teachers.spec import TeacherSpec

    file = tmp_path / "rule.py"
    file.write_text(
        "def share(queries, candidates):\n    return [len(set(q) & set(c)) for q, c in zip(queries, candidates)]\n"
        "def wrong(queries, candidates):\n    return [[1.0, 2.0]] * len(queries)\n"
    )
    rows = rows_of()
    batch = rows.take(range(len(rows)))
    wanted = [
        [len(set(q) & set(c)) for c in own] for q, own in zip(batch.texts, batch.candidates, strict=True)
    ]
    task = Ranking(max_length=32)

    def ask(name: str) -> Any:
        teacher = CallableTeacher(name="f", languages="all", function=f"{file}:{name}")
        return Teacher(TeacherSpec(teacher, (), task)).answer(batch)

    got, _ = read_unit_logits(ask("share"), task.count_units(batch), 5)
    assert [row[row > MASKED / 2].tolist() for row in got] == wanted
    with pytest.raises(ModelError, match="a score for each query and candidate"):
        ask("wrong")
