"""Sentence vectors: models of sentence-transformers, cosines of a micro-batch as logits, retrieval, saved students."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import raykd
from raykd import models
from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import encode_answer
from raykd.answers.layout import StudentUnits, lay_out_answers
from raykd.answers.source import AnswerSlots
from raykd.config.loading import validate_run
from raykd.data.load import load_data
from raykd.data.rows import Rows
from raykd.distill.objective import Objective
from raykd.distill.signals import MASKED, UNLABELLED
from raykd.driver.loop import make_task_model
from raykd.errors import ConfigError, ModelError
from raykd.pretrained.sentences.modules import read_sentence_modules
from raykd.scoring.ensembles.vectors import join_vectors
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from raykd.tasks import Embedding, SystemAnswers
from raykd.tasks.scores.retrieval import compute_spearman, rank_pairs
from raykd.teachers.source import LocalSource
from raykd.teachers.teacher import Teacher
from tests.fake_hub import serve_hub
from tests.fakes import model_spec
from tests.made_models import made_texts, make_config, make_tokenizer

TEXTS, _ = made_texts(120, 3)
SOURCE = {"kind": "files", "paths": ["rows.jsonl"]}
OLD = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}


def save_encoder(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """A BERT that plain transformers saved."""
    from transformers import AutoModel

    tokenizer = make_tokenizer("wordpiece", TEXTS)
    torch.manual_seed(seed)
    AutoModel.from_config(make_config("bert", tokenizer, **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def add_modules(folder: Path, pooling: dict[str, Any], *kinds: str, package: str = "models") -> Path:
    """The files of sentence-transformers beside an encoder; a Dense halves the width."""
    from safetensors.torch import save_file

    listed = [{"idx": 0, "name": "0", "path": "", "type": f"sentence_transformers.{package}.Transformer"}]
    for at, kind in enumerate(("Pooling", *kinds), 1):
        path = folder / f"{at}_{kind}"
        path.mkdir()
        listed.append(
            {"idx": at, "name": str(at), "path": path.name, "type": f"sentence_transformers.{package}.{kind}"}
        )
        if kind == "Pooling":
            (path / "config.json").write_text(json.dumps(pooling))
        if kind == "Dense":
            dense = {"in_features": 32, "out_features": 16, "bias": True,
                     "activation_function": "torch.nn.modules.activation.Tanh"}  # fmt: skip
            (path / "config.json").write_text(json.dumps(dense))
            torch.manual_seed(5)
            weights = {"linear.weight": torch.randn(16, 32), "linear.bias": torch.randn(16)}
            save_file(weights, path / "model.safetensors")
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


def plain_states(folder: Path, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """What plain transformers gives for texts: hidden states, and the mask."""
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state
    return states.numpy(), tokens["attention_mask"].numpy()


def mean_pool(states: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return (states * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)


def rows_of(
    texts: list[str], pairs: list[str], scores: list[float] | None = None, languages: Any = None
) -> Rows:
    return Rows(
        ids=tuple(map(str, range(len(texts)))),
        texts=tuple(texts),
        languages=tuple(languages or ["en"] * len(texts)),
        labels_B=np.asarray([0 if pair else UNLABELLED for pair in pairs]),
        pairs=tuple(pairs),
        values=tuple((score,) for score in scores) if scores else ((),) * len(texts),
    )


def answered(folder: Path, rows: Rows, **settings: Any) -> np.ndarray:
    """A teacher's vectors, as the student's side reads them."""
    spec = model_spec("t", str(folder), (), Embedding(max_length=32, **settings), dtype="float32")
    slots = Teacher(spec).answer(rows.take(range(len(rows))))
    from raykd.answers.layout import read_unit_logits

    return read_unit_logits(slots, Embedding().count_units(rows), None)[0]


@pytest.mark.parametrize(
    "pooling", [OLD, {"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True}]
)
def test_a_saved_model_of_sentence_vectors_answers_as_its_modules_say(
    tmp_path: Path, pooling: dict[str, Any]
) -> None:
    folder = add_modules(save_encoder(tmp_path / "m"), pooling, "Dense", "Normalize")
    states, _ = plain_states(folder, TEXTS[:6])
    torch.manual_seed(5)
    weight, bias = torch.randn(16, 32).numpy(), torch.randn(16).numpy()
    wanted = np.tanh(states[:, 0] @ weight.T + bias)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    got = answered(folder, rows_of(TEXTS[:6], [""] * 6))
    assert got.shape == (6, 16) and np.abs(got - wanted).max() < 1e-5


def test_a_plain_encoder_is_pooled_by_mean_and_one_with_another_head_is_refused(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    folder = save_encoder(tmp_path / "m")
    wanted = mean_pool(*plain_states(folder, [TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[3]]))
    got = answered(folder, rows_of([TEXTS[0], TEXTS[2]], [TEXTS[1], TEXTS[3]]))
    assert np.abs(got - wanted).max() < 1e-5
    AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(ModelError, match="made for another task"):
        models.inspect_model(folder, "embedding")
    add_modules(folder, OLD)  # all-mpnet-base-v2 names a masked LM in its config.json
    assert models.inspect_model(folder, None).head == "embedding"


def test_what_would_give_other_vectors_is_refused_by_name(tmp_path: Path) -> None:
    def refused(name: str, match: str, change: Any) -> None:
        folder = add_modules(save_encoder(tmp_path / name), dict(OLD), "Dense")
        change(folder)
        with pytest.raises(ModelError, match=match):
            read_sentence_modules(folder)

    def write(path: str, **changes: Any) -> Any:
        def change(folder: Path) -> None:
            file = folder / path
            known = json.loads(file.read_text()) if file.exists() else {}
            file.write_text(json.dumps({**known, **changes}))

        return change

    def rename(folder: Path) -> None:
        file = folder / "modules.json"
        file.write_text(file.read_text().replace("models.Dense", "models.LayerNorm"))

    refused(
        "max", "does not compute this pooling", write("1_Pooling/config.json", pooling_mode_max_tokens=True)
    )
    refused("last", "lasttoken", write("1_Pooling/config.json", pooling_mode="lasttoken"))
    refused("relu", "dense layer", write("2_Dense/config.json", activation_function="torch.nn.ReLU"))
    refused("wide", "dense layer", write("2_Dense/config.json", in_features=64))
    refused("prompt", "prompt", write("config_sentence_transformers.json", default_prompt_name="query"))
    refused("lower", "lowercases", write("sentence_bert_config.json", do_lower_case=True))
    refused("norm", "LayerNorm", rename)
    refused("pickle", "model.safetensors", lambda folder: (folder / "2_Dense" / "model.safetensors").unlink())


def test_the_modules_are_part_of_a_model_s_content(tmp_path: Path) -> None:
    from raykd.pretrained.stamp import stamp_model

    folder = add_modules(save_encoder(tmp_path / "m"), dict(OLD), "Dense")
    seen = {(models.fingerprint(folder), stamp_model(folder))}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    seen.add((models.fingerprint(folder), stamp_model(folder)))
    from safetensors.torch import save_file

    file = folder / "2_Dense" / "model.safetensors"
    save_file({"linear.weight": torch.zeros(16, 32), "linear.bias": torch.zeros(16)}, file)
    seen.add((models.fingerprint(folder), stamp_model(folder)))
    assert len({one for one, _ in seen}) == len({two for _, two in seen}) == 3


def tree(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "task": {"kind": "embedding", "max_length": 32, **changes.pop("task", {})},
        "data": {"train": SOURCE, "validation": SOURCE, "languages": ["en", "fr"]},
        "student": {
            "kind": "transformer", "layers": 1, "hidden": 16, "heads": 2, "vocab_size": 150, "max_positions": 40,
            "dropout": 0.0,
        },
        "teachers": [{"name": "t", "languages": "all", "path": str(folder)}],
        "objective": {"alpha": 0.0, "temperature": 1.0},
        "train": {"steps": 16, "batch_size": 16, "learning_rate": 0.01, "evaluations": 2},
        **changes,
    }  # fmt: skip


def test_a_student_is_read_by_plain_transformers_and_predicts(tmp_path: Path) -> None:
    """With modules.json as sentence-transformers writes it: mean pooling, a dense layer, length 1."""
    from safetensors.numpy import load_file

    config = validate_run(tree(tmp_path, task={"dimension": 12}), "test")
    made = make_task_model(config, config.student.fit_tokenizer(TEXTS))
    folder = models.save_model(made, tmp_path / "student")
    kinds = [each["type"] for each in json.loads((folder / "modules.json").read_text())]
    assert kinds == [
        f"sentence_transformers.models.{x}" for x in ("Transformer", "Pooling", "Dense", "Normalize")
    ]
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 32
    wanted = (
        mean_pool(*plain_states(folder, TEXTS[:5]))
        @ load_file(folder / "2_Dense/model.safetensors")["linear.weight"].T
    )
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    answers = raykd.predict(folder, TEXTS[:5])
    assert np.abs(np.asarray([each["vector"] for each in answers]) - wanted).max() < 1e-5
    (both,) = raykd.predict(folder, TEXTS[:1], [TEXTS[1]])
    assert (
        both["cosine"] == pytest.approx(float(wanted[0] @ wanted[1]), abs=1e-5)
        and both["text_pair"] == TEXTS[1]
    )
    again = models.load_model(folder)
    assert models.fingerprint(folder) == models.fingerprint(again) == models.fingerprint(made)
    rebuilt = type(again.model)(again.model.config)  # as the best weights of a run are kept
    rebuilt.load_state_dict(again.model.state_dict())
    assert models.count_parameters(rebuilt) == sum(w.numel() for w in made.model.parameters())


def relate(vectors: np.ndarray, scale: float = 20.0) -> np.ndarray:
    """Cosines by a formula of their own, without the diagonal, ``[N, N - 1]``."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    keep = ~np.eye(len(unit), dtype=bool)
    return (scale * unit @ unit.T)[keep].reshape(len(unit), -1)


def softmax(logits: np.ndarray) -> np.ndarray:
    mass = np.exp(logits - logits.max(axis=1, keepdims=True))
    return mass / mass.sum(axis=1, keepdims=True)


def lay_out(task: Embedding, vectors: list[np.ndarray], counts: list[int], asked: list[list[bool]]) -> Any:
    """Signals of teachers with vectors of different widths, some not asked for some rows."""
    starts = np.concatenate([[0], np.cumsum(counts)])
    slots = []
    for m, own in enumerate(vectors):
        bodies = [
            encode_answer(DenseAnswer(logits_NC=own[a:b].astype(np.float32), covered_N=np.ones(b - a, bool)))
            if asked[m][row]
            else None
            for row, (a, b) in enumerate(itertools.pairwise(starts))
        ]
        slots.append(AnswerSlots(f"t{m}", bodies))
    units = StudentUnits(
        torch.full((sum(counts),), UNLABELLED), np.asarray(counts), ["en"] * len(counts),
        choices=sum(counts), place=task.place_answers,
    )  # fmt: skip
    return lay_out_answers(slots, [None] * len(slots), units)


def loss_of(objective: dict[str, Any], student: np.ndarray, signals: Any) -> float:
    made = Objective.model_validate({"alpha": 0.0, "temperature": 1.0, **objective})
    signals = made.prepare(signals)
    logits = Embedding().relate_units(torch.from_numpy(student.astype(np.float32)))
    counts = made.counts(signals.labels_N, signals)
    return float(made.evaluate(logits, signals.labels_N, signals, 0.0, counts).loss)


def test_losses_are_those_of_the_neighbours_by_an_independent_formula() -> None:
    rng = np.random.default_rng(0)
    student, one, two = rng.normal(size=(6, 4)), rng.normal(size=(6, 5)), rng.normal(size=(6, 8))
    everyone = [[True] * 4] * 2
    signals = lay_out(Embedding(), [one, two], [2, 1, 2, 1], everyone)
    p = (softmax(relate(one)) + softmax(relate(two))) / 2
    q = softmax(relate(student))
    uniform = {"weighting": {"kind": "uniform"}}
    assert loss_of(uniform, student, signals) == pytest.approx(
        (p * np.log(p / q)).sum(axis=1).mean(), rel=1e-5
    )
    # Relational: squared differences of cosines, each row without its mean; the diagonal is no choice.
    gap = relate(student) - (relate(one) + relate(two)) / 2
    wanted = np.square(gap - gap.mean(axis=1, keepdims=True)).mean()
    mse = {**uniform, "terms": [{"divergence": {"kind": "logit_mse"}}]}
    assert loss_of(mse, student, signals) == pytest.approx(wanted, rel=1e-4)


def test_a_text_that_a_teacher_was_not_asked_for_is_no_neighbour_of_its_texts() -> None:
    rng = np.random.default_rng(1)
    student, one = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
    signals = lay_out(Embedding(), [one], [1] * 5, [[True, False, True, True, False]])
    kept = [0, 2, 3]
    p, q = softmax(relate(one[kept])), softmax(relate(student[kept]))
    assert signals.covered_MN.tolist() == [[True, False, True, True, False]]
    assert loss_of({}, student, signals) == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-5)


def test_the_vector_of_a_source_may_stand_for_its_translation() -> None:
    vectors = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
    signals = lay_out(Embedding(teachers_read="first"), [vectors], [2, 1, 2], [[True] * 3])
    both = lay_out(Embedding(), [vectors[[0, 0, 2, 3, 3]]], [2, 1, 2], [[True] * 3])
    assert torch.equal(signals.logits_MNC, both.logits_MNC)
    assert signals.logits_MNC[0, 0, 1] == pytest.approx(20.0, rel=1e-5)  # a cosine of 1
    assert (signals.logits_MNC[0].diagonal() == MASKED).all()


def test_the_gold_label_of_a_text_is_the_place_of_its_pair() -> None:
    """And the hard term is the cross-entropy of that place among all other texts (InfoNCE)."""
    config = validate_run(tree(Path("t"), task={"positive_score": 3.0}), "test")
    made = make_task_model(config, config.student.fit_tokenizer(TEXTS))
    rows = rows_of(TEXTS[:4], [TEXTS[10], "", TEXTS[11], TEXTS[12]], [5.0, 0.0, 3.0, 2.9])
    task = config.task
    encoded = task.encode(made.tokenizer, rows)
    batch = task.collate(encoded, [2, 1, 0, 3])
    assert batch.labels_N.tolist() == [1, 0, UNLABELLED, 4, 3, UNLABELLED, UNLABELLED]
    assert task.list_unit_labels(rows.select([2, 1, 0, 3])).tolist() == batch.labels_N.tolist()
    with torch.no_grad():
        vectors = task.gather(batch.run(made.model.eval()), batch)
    alone = task.collate(encoded, [0])
    with torch.no_grad():
        assert torch.allclose(task.gather(alone.run(made.model), alone), vectors[3:5], atol=1e-6)
    hard = Objective.model_validate({"alpha": 1.0})
    counts = hard.counts(batch.labels_N, None)
    got = hard.evaluate(task.relate_units(vectors), batch.labels_N, None, 0.0, counts).loss
    logp = np.log(softmax(relate(vectors.double().numpy())))
    wanted = -np.mean([logp[0, 0], logp[1, 0], logp[3, 3], logp[4, 3]])
    assert counts.hard == 4 and float(got) == pytest.approx(wanted, rel=1e-5)


def test_ranks_and_correlations_by_hand() -> None:
    axes = np.eye(3, dtype=np.float32)
    queries = np.asarray([[1, 0.1, 0], [0.1, 1, 0.2], [1, 0, 0.9]], dtype=np.float32)
    found = rank_pairs(queries, axes, np.asarray([0, 2, 2]), 1.0)
    assert found.reciprocal_Q.tolist() == [1.0, 1 / 2, 1 / 2]
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    logp = np.log(softmax(unit.astype(np.float64)))
    assert found.nll_Q == pytest.approx([-logp[0, 0], -logp[1, 2], -logp[2, 2]], rel=1e-6)
    # One vector for every text is a guess: in the middle of three.
    same = rank_pairs(np.ones((1, 2), np.float32), np.ones((3, 2), np.float32), np.asarray([1]), 1.0)
    assert same.reciprocal_Q.tolist() == [1 / 2]
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=40), np.round(rng.normal(size=40))
    assert compute_spearman(one, other) == pytest.approx(spearmanr(one, other).statistic, abs=1e-12)
    assert np.isnan(compute_spearman(np.ones(4), other[:4]))


def test_metrics_search_the_pairs_that_mean_the_same_among_all_pairs() -> None:
    vectors = np.asarray([[1, 0], [0.9, 0.1], [0, 1], [1, 0.2], [1, 1]], dtype=np.float32)
    rows = rows_of(["a", "b", "c"], ["A", "B", ""], [5.0, 1.0, 0.0])
    answers = SystemAnswers(vectors, np.asarray([2, 2, 1]), np.ones(5, bool))
    found = Embedding().compute_metrics(answers, rows, ())
    # "a" finds A (cosine 0.994) before B (0.981); b's pair means something else.
    assert found["mrr"] == found["recall_at_1"] == 1.0
    assert Embedding(positive_score=1.0).compute_metrics(answers, rows, ())["mrr"] == (1.0 + 1.0) / 2
    shares = Embedding().compute_row_shares(answers, rows, ())
    assert shares.numerator_B.tolist() == shares.denominator_B.tolist() == [1.0, 0.0, 0.0]
    assert "spearman" not in Embedding().compute_metrics(answers, replace(rows, values=None), ())


def test_rows_are_texts_with_or_without_pairs_and_scores(tmp_path: Path) -> None:
    lines = {
        "train": [{"text": "one", "lang": "en"}, {"text": "two", "text_pair": "deux", "lang": "en"}],
        "validation": [{"text": "x", "text_pair": "y", "score": 4, "lang": "en"}, {"text": "z", "text_pair": "w", "score": None, "lang": "en"}],
        "more": [{"text": "Y", "lang": "en"}, {"text": "new", "lang": "en"}],
    }  # fmt: skip
    for name, rows in lines.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def read(train: str) -> Any:
        data = {
            "train": {"kind": "files", "paths": [f"{train}.jsonl"]},
            "validation": {"kind": "files", "paths": ["validation.jsonl"]},
            "unlabeled": {"kind": "files", "paths": ["more.jsonl"]},
            "languages": ["en"],
        }
        return load_data(validate_run(tree(tmp_path) | {"data": data}, "test").data, tmp_path, "sentences")

    found = read("train")
    assert tuple(found.train.texts) == ("two", "one", "new")  # Y is the second text of a validation row
    assert tuple(found.train.pairs) == ("deux", "", "") and found.train.labelled.tolist() == [
        True,
        False,
        False,
    ]
    assert tuple(found.validation.values) == ((4.0,), ())
    assert read("more").train.labels_B.tolist() == [UNLABELLED] * 2  # texts need no gold


def test_wrong_combinations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kind lstm cannot learn embedding"):
        validate_run(tree(tmp_path) | {"student": {"kind": "lstm"}}, "test")
    for divergence in ({"kind": "logit_mse", "centre": False}, {"kind": "standardised_kl"}):
        with pytest.raises(ConfigError, match="itself is masked"):
            validate_run(tree(tmp_path) | {"objective": {"terms": [{"divergence": divergence}]}}, "test")


def test_an_ensemble_s_cosine_is_the_mean_of_its_teachers() -> None:
    rng = np.random.default_rng(4)
    one, two = rng.normal(size=(4, 3)), rng.normal(size=(4, 6))
    config = validate_run(
        tree(Path("t")) | {"objective": {"weighting": {"kind": "fixed", "by_teacher": {"a": 1.0, "b": 3.0}}}, "teachers": [
            {"name": name, "languages": "all", "path": "t"} for name in ("a", "b")
        ]}, "test",
    )  # fmt: skip
    rows = rows_of(["a", "b"], ["A", "B"])
    slots = [
        AnswerSlots(name, [encode_answer(DenseAnswer(logits_NC=v[i : i + 2].astype(np.float32), covered_N=np.ones(2, bool))) for i in (0, 2)])
        for name, v in (("a", one), ("b", two))
    ]  # fmt: skip
    joined = join_vectors(config, slots, [None, None], rows).logits_NC.astype(np.float64)
    keep = ~np.eye(4, dtype=bool)
    wanted = (0.25 * relate(one, 1.0) + 0.75 * relate(two, 1.0)).ravel()
    assert (joined @ joined.T)[keep] == pytest.approx(wanted, abs=1e-6)
    assert (joined @ joined.T).diagonal() == pytest.approx(np.ones(4), abs=1e-6)


def test_a_student_learns_the_neighbours_of_an_encoder_that_transformers_saved(tmp_path: Path) -> None:
    """Without gold, in the loop: Spearman of student and teacher over all pairs of texts rises."""
    folder = save_encoder(tmp_path / "m", initializer_range=0.3)
    config = validate_run(tree(folder, train={"steps": 40, "batch_size": 16, "learning_rate": 0.01}), "test")
    rows = rows_of(TEXTS[:96], [""] * 96)
    held = rows_of(TEXTS[96:107], TEXTS[108:119])
    tokenizer = config.student.fit_tokenizer(TEXTS)
    teacher = Teacher(model_spec("t", str(folder), (), config.task, dtype="float32"))
    student = make_task_model(config, tokenizer)

    def agree(model: Any) -> float:
        saved = models.save_model(model, tmp_path / "s")
        vectors = answered(saved, held)
        shutil.rmtree(saved)
        return compute_spearman(relate(vectors).ravel(), relate(answered(folder, held)).ravel())

    before = agree(student)
    points: list[Any] = []
    loop = TrainingLoop(
        config, prepare_rows(config, rows, held, tokenizer), student, LocalSource([teacher], config.objective.weighting),
        rank=0, world=1, device="cpu", publish=points.append,
    )  # fmt: skip
    loop.run()
    losses = [p.values["train/soft/forward_kl"] for p in points if "train/soft/forward_kl" in p.values]
    assert losses[-1] < 0.7 * losses[0]

    assert agree(student) > before + 0.1


def test_the_command_and_the_served_model_show_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person sees how the vector begins; MLflow's columns hold all of it."""
    from raykd.cli import main

    folder = add_modules(save_encoder(tmp_path / "m"), OLD, "Dense")
    (vector,) = answered(folder, rows_of(TEXTS[:1], [""]))
    monkeypatch.setattr("sys.argv", ["raykd", "predict", str(folder), TEXTS[0]])
    with pytest.raises(SystemExit):
        main()
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(f"16 numbers: {vector[0]:.3f} {vector[1]:.3f}")
    answers = raykd.predict(folder, TEXTS[:2], TEXTS[2:4])
    columns = Embedding().to_columns(answers, ())
    assert list(columns) == [column.name for column in Embedding.build_signature(()).outputs]
    assert np.abs(np.asarray(columns["vector"][0]) - vector).max() < 1e-5
    assert list(Embedding().to_columns(raykd.predict(folder, TEXTS[0]), ())) == ["vector"]


def test_a_hub_name_brings_the_folders_of_its_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no other folder; a check downloads no weights of the encoder."""
    folder = add_modules(save_encoder(tmp_path / "m"), OLD, "Dense")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    with serve_hub(tmp_path / "cache", monkeypatch) as hub:
        hub.add("acme/sentences", folder)
        looked = models.inspect_model(models.preview_model("acme/sentences"), "embedding")
        assert looked.head == "embedding" and hub.count_whole("/model.safetensors") == 1  # the dense layer's
        found = models.resolve_model("acme/sentences")
        assert not (found / "onnx").exists()
        rows = rows_of(TEXTS[:3], [""] * 3)
        assert np.array_equal(answered(found, rows), answered(folder, rows))
