"""Masked language models: places that teacher and student agree on, the union's answers, a small distillation."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raykd import models
from raykd.answers.answer import SampledAnswer
from raykd.answers.codec import decode_answers
from raykd.answers.layout import StudentUnits, lay_out_answers
from raykd.answers.servable import find_support
from raykd.answers.source import AnswerSlots
from raykd.answers.tensors import to_vocabulary_signal
from raykd.answers.vocabularies import TeacherVocabulary, VocabularyMatch
from raykd.config import DataConfig, RunConfig
from raykd.data.embedded.rows import load_embedded_rows
from raykd.data.rows import Rows
from raykd.distill.chunks import evaluate_hidden
from raykd.distill.objective import Objective
from raykd.distill.vocabulary_signals import IdMap
from raykd.driver.loop import make_task_model
from raykd.errors import ConfigError, DataError, ModelError
from raykd.models import DecoderStudent, PretrainedStudent, TransformerStudent
from raykd.models.identity import describe_tokenizer
from raykd.models.lm import Headless
from raykd.student.loop import TrainingLoop
from raykd.student.matching.vocabularies import match_vocabularies
from raykd.student.prepare import fit_tokenizer, prepare_rows
from raykd.tasks import CausalLM, Classification, MaskedLM
from raykd.tasks.answer_forms import HiddenAnswers, SampledAnswers, TopKAnswers
from raykd.teachers.source import LocalSource
from raykd.teachers.teacher import Teacher
from raykd.text.batch import TextBatch
from raykd.tokenizers.union import UnionTokenizer
from tests.fakes import model_spec
from tests.kept_answers import answer_rows

TEXTS = {
    "en": ("The cat sat on the mat.", "Hello world, how are you today?", "We like the small grey cat."),
    "zh": ("我们喜欢猫。今天天气很好。", "你好，世界！the cat", "今天我们去看世界。"),
}
ORDER = [("en", 0), ("zh", 0), ("zh", 1), ("en", 1), ("en", 2), ("zh", 2)]


def batch() -> TextBatch:
    texts = tuple(TEXTS[language][i] for language, i in ORDER)
    ids = tuple(f"{language}{i}" for language, i in ORDER)
    return TextBatch(ids, texts, tuple(language for language, _ in ORDER), np.zeros(len(ORDER), np.int64))


def spoken(language: str) -> list[int]:
    return [i for i, (lang, _) in enumerate(ORDER) if lang == language]


@cache
def teacher(language: str) -> tuple[Any, Any]:
    """Tokenizer and model."""
    spec = TransformerStudent(layers=1, hidden=16, heads=2, vocab_size=150, dropout=0.0, max_positions=64)
    tokenizer = spec.fit_tokenizer(TEXTS[language] * 2)
    return tokenizer, spec.build(tokenizer, (), 3, "masked_lm").eval()


@cache
def union() -> UnionTokenizer:
    return UnionTokenizer([teacher("en")[0], teacher("zh")[0]], {"en": 0, "zh": 1})


@pytest.mark.parametrize(("limit", "views"), [(64, 1), (64, 3), (7, 2)])
def test_teacher_and_student_hide_the_same_places(limit: int, views: int) -> None:
    task = MaskedLM(share=0.3, views=views)
    own = task.model_copy(update={"max_length": limit}).encode(union(), batch())
    for k, language in enumerate(("en", "zh")):
        theirs = task.encode(teacher(language)[0], batch().take(spoken(language)))
        for at, row in enumerate(spoken(language)):
            mine, other = own.find_units([row]), theirs.find_units([at])
            places = [tuple(p) for p in theirs.places_N2[other].tolist()]  # type: ignore[index]
            # What lies beyond the student's limit is the end of each view.
            inside = [i for i, (_, token) in enumerate(places) if token < limit - 1]
            assert own.places_N2 is not None
            assert [tuple(p) for p in own.places_N2[mine].tolist()] == [places[i] for i in inside]
            labels = union().maps[k][theirs.labels_N[other]]
            np.testing.assert_array_equal(own.labels_N[mine], labels[inside])
            offsets = theirs.extra["offsets_N"][other]
            np.testing.assert_array_equal(own.extra["offsets_N"][mine], offsets[inside])
            assert (np.diff(offsets) > 0).all()
    assert own.long_B is not None and own.long_B.any() == (limit == 7)
    assert own.coverage is not None and (own.coverage < 1.0) == own.long_B.any()


def test_what_is_hidden_is_masked_and_the_rest_decodes_to_the_text() -> None:
    task = MaskedLM(share=0.3, views=2)
    rows = task.encode(union(), batch())
    encoded = task.collate(rows, [1, 0])
    assert encoded.inputs["input_ids"].shape[0] == 4 and encoded.places_N2 is not None
    shown = encoded.inputs["input_ids"][encoded.places_N2[:, 0], encoded.places_N2[:, 1]]
    assert (shown == union().mask_token_id).all()
    assert int((encoded.inputs["input_ids"] == union().mask_token_id).sum()) == len(encoded.labels_N)
    full = encoded.inputs["input_ids"].clone()
    full[encoded.places_N2[:, 0], encoded.places_N2[:, 1]] = encoded.labels_N
    for sequence, row in enumerate((1, 1, 0, 0)):
        language, text = batch().languages[row], batch().texts[row]
        ids = full[sequence][encoded.inputs["attention_mask"][sequence].bool()].tolist()
        tokenizer = teacher(language)[0]
        assert union().decode(ids, language) == tokenizer.decode(tokenizer(text)["input_ids"])
    with pytest.raises(DataError, match="does not have"):
        union().decode([len(union()) - 1], "en")


def test_the_likelihood_is_that_of_transformers() -> None:
    tokenizer, model = teacher("en")
    task = MaskedLM(share=0.4)
    encoded = task.collate(task.encode(tokenizer, batch().take(spoken("en"))), [0, 1, 2])
    assert encoded.places_N2 is not None
    labels = torch.full_like(encoded.inputs["input_ids"], -100)
    labels[encoded.places_N2[:, 0], encoded.places_N2[:, 1]] = encoded.labels_N
    with torch.no_grad():
        out = model(**encoded.inputs, labels=labels)
    said = task.evaluate_batch(Headless(model), encoded)
    found = task.compute_metrics(said, batch().take(spoken("en")), ())
    hits = (out.logits.argmax(-1) == labels)[labels >= 0].float().mean()
    assert found["nll"] == pytest.approx(float(out.loss), rel=1e-5)
    assert found["accuracy"] == pytest.approx(float(hits)) and found["perplexity"] == pytest.approx(
        np.exp(found["nll"])
    )
    assert task.compute_metrics(said.take([2]), batch().take([4]), ())["nll"] == pytest.approx(
        float(said.nll_B[2] / said.tokens_B[2])  # type: ignore[index]
    )


def test_a_text_with_nothing_to_hide_has_no_unit() -> None:
    tokenizer, model = teacher("en")
    task = MaskedLM()
    unknown = replace(batch().take([0, 0]), texts=("☃", "The cat"))
    encoded = task.collate(task.encode(tokenizer, unknown), [0, 1])
    assert encoded.counts_B.tolist() == [0, 1]
    with torch.no_grad():
        assert decode_answers(answer_rows(task, Headless(model), encoded, ()))[1].tolist() == [0, 1]


# --- how the union's student reads its teachers


def run_config(folder: Path | None = None, **changes: Any) -> RunConfig:
    files = {"kind": "files", "paths": ["unused.jsonl"]}
    tree: dict[str, Any] = {
        "task": {"kind": "masked_lm", "max_length": 64, "share": 0.3, "answers": {"kind": "top_k", "k": 500}},
        "data": {"train": files, "validation": files, "languages": ["en", "zh"]},
        "student": {
            "kind": "transformer", "vocabulary": "union", "layers": 1, "hidden": 16, "heads": 2, "dropout": 0.0,
        },
        "teachers": [
            {"name": lang, "languages": [lang], "path": str((folder or Path("t")) / lang)} for lang in ("en", "zh")
        ],
        "objective": {"alpha": 0.0, "temperature": 1.0, "weighting": {"kind": "by_language"}},
        "train": {"steps": 20, "batch_size": 6, "learning_rate": 0.02, "evaluations": 2},
    }  # fmt: skip
    return RunConfig.model_validate(tree | changes)


def matches(config: RunConfig, tokenizer: Any, *languages: str) -> list[VocabularyMatch]:
    vocabularies = [TeacherVocabulary(teacher(language)[0]) for language in languages]
    return match_vocabularies(config, languages, vocabularies, tokenizer, torch.device("cpu"))


def laid(form: Any, picked: list[int]) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """Signals of the picked rows, their units, and each teacher's logits of its units."""
    config = run_config()
    task = config.task.model_copy(update={"answers": form})
    rows = task.encode(union(), batch())
    signals, logits = [], {}
    found = matches(config, union(), "en", "zh")
    for m, language in enumerate(("en", "zh")):
        tokenizer, model = teacher(language)
        mine = [i for i in picked if i in spoken(language)]
        encoded = task.collate(task.encode(tokenizer, batch()), mine)
        head = Headless(model)
        with torch.no_grad():
            said = dict(zip(mine, answer_rows(task, head, encoded, ()), strict=True))
            hidden = task.gather(head(**encoded.inputs), encoded)
            logits[language] = head.head.logits(hidden)
        signals.append(AnswerSlots(language, [said.get(i) for i in picked]))
        if form.kind == "hidden":
            found[m] = replace(found[m], weight_VD=head.head.weight_VD, bias_V=head.head.bias_V)
    encoded = task.collate(rows, picked)
    names = tuple(batch().languages[i] for i in picked)
    offsets = rows.extra["offsets_N"][rows.find_units(picked)]
    units = StudentUnits(encoded.labels_N, encoded.counts_B, names, offsets_N=offsets)
    spoken_by = [frozenset({"en"}), frozenset({"zh"})]
    return lay_out_answers(signals, spoken_by, units, found), encoded, logits


FORMS = [TopKAnswers(k=500), HiddenAnswers(), SampledAnswers(draws=200)]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
def test_each_teacher_covers_all_of_its_languages_units(form: Any) -> None:
    signals, encoded, _ = laid(form, [0, 1, 3, 5])
    language_N = np.asarray(signals.languages)
    for m, language in enumerate(("en", "zh")):
        assert (signals.covered_MN[m].numpy() == (language_N == language)).all()
    assert bool(signals.covered_MN.any(dim=0).all()) and len(encoded.labels_N) > 6


@pytest.mark.parametrize("form", FORMS[:2], ids=lambda form: form.kind)
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_loss_is_the_divergence_computed_by_hand(form: Any, alpha: float) -> None:
    signals, encoded, logits = laid(form, [0, 1, 3, 5])
    objective = Objective.model_validate(
        {"alpha": alpha, "temperature": 2.0, "weighting": {"kind": "by_language"}}
    )
    n = len(encoded.labels_N)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, 8, generator=generator)
    weight = torch.randn(len(union()), 8, generator=generator, requires_grad=True)
    counts = objective.counts(encoded.labels_N, signals)
    found = evaluate_hidden(objective, hidden, weight, None, encoded.labels_N, signals, 0.0, counts, chunk=3)

    student = hidden @ weight.T
    soft = torch.zeros(n)
    for k, language in enumerate(("en", "zh")):
        at = torch.from_numpy(np.flatnonzero(np.asarray(signals.languages) == language))
        theirs = (logits[language] / 2.0).log_softmax(-1)
        own = (student[at] / 2.0).log_softmax(-1)[:, torch.from_numpy(union().maps[k].astype(np.int64))]
        soft[at] = 4.0 * (theirs.exp() * (theirs - own)).sum(-1)
    hard = torch.nn.functional.cross_entropy(student, encoded.labels_N)
    expected = alpha * hard + (1 - alpha) * soft.mean()
    assert found.loss.item() == pytest.approx(expected.item(), rel=2e-3)
    found.loss.backward()
    assert weight.grad is not None
    (wanted,) = torch.autograd.grad(expected, weight)
    torch.testing.assert_close(weight.grad, wanted, rtol=0.02, atol=2e-4)


def test_draws_are_the_students_tokens() -> None:
    signals, _, _ = laid(FORMS[2], [0, 1])
    for k, answer in enumerate(signals.vocabulary_M):
        assert answer is not None and answer.support == "draws" and answer.vocab == len(union())
        p, _ = answer.target(1.0)
        covered = signals.covered_MN[k]
        torch.testing.assert_close(p[covered].sum(-1), torch.ones(int(covered.sum())))
        drawn = answer.ids_NK[covered]
        assert set(drawn[drawn >= 0].tolist()) <= set(union().maps[k].tolist())


def test_draws_are_translated_by_a_total_map_only() -> None:
    assert find_support("sampled", "inside") == "draws" and find_support("top_k", "inside") == "tail"
    with pytest.raises(ConfigError, match="sampled"):
        find_support("sampled", "overlap")
    draw = SampledAnswer(
        covered_N=np.ones(1, bool),
        ids_NJ=np.asarray([[2, 0]], np.int32),
        counts_NJ=np.asarray([[3, 1]], np.uint8),
        draws=4,
        temperature=1.0,
        vocab=3,
    )
    answer = to_vocabulary_signal(draw, ids=IdMap.of(np.asarray([4, 2, 0]), 6))
    assert answer.ids_NK.tolist() == [[0, 4]] and answer.vocab == 6  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="bias"):
        to_vocabulary_signal(draw, ids=IdMap.of(np.asarray([4, -1, 0]), 6))


def test_a_teacher_that_cuts_texts_otherwise_is_refused() -> None:
    assert [match.vocabulary for match in matches(run_config(), union(), "en", "zh")] == ["inside", "inside"]
    both = [
        {"name": "en", "languages": "all", "path": "t/en"},
        {"name": "zh", "languages": ["zh"], "path": "t/zh"},
    ]
    with pytest.raises(ConfigError, match=r"teacher en cuts(.|\n)*for zh"):
        matches(run_config(teachers=both), union(), "en")
    with pytest.raises(ConfigError, match="vocabulary: union"):
        matches(run_config(), teacher("zh")[0], "en")
    assert matches(run_config(), teacher("en")[0], "en")[0].vocabulary == "same"


# --- configuration and rows


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"student": {"kind": "transformer", "vocabulary": "union", "vocab_size": 500}}, "plays no part"),
        ({"student": {"kind": "linear"}}, "cannot learn masked_lm"),
        ({"task": {"kind": "masked_lm", "written": ["chrf"]}}, "writes nothing"),
        ({"teachers": [{"name": "en", "languages": ["en"], "path": "t"}]}, "no teacher speaks zh"),
        (
            {"task": {"kind": "causal_lm"}, "student": {"kind": "transformer", "vocabulary": "union"}},
            "causal_lm",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes: Any, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        run_config(**changes)


def test_rows_are_texts_that_are_their_own_gold() -> None:
    config = run_config()
    assert config.form == "plain" and config.metric == "nll"
    source = {"kind": "embedded", "split": "unlabeled", "rows_per_language": 4}
    data = DataConfig.model_validate({"train": source, "validation": source, "languages": ["en", "zh"]})
    rows = load_embedded_rows(data.train, data, "plain", True)  # type: ignore[arg-type]
    assert rows.pairs is None and rows.labelled.all() and len(rows) == 8


def test_tokenizers_that_cannot_be_masked_or_joined_are_refused() -> None:
    decoder = DecoderStudent(vocab_size=600).fit_tokenizer(TEXTS["en"])
    with pytest.raises(ConfigError, match="masked language model"):
        MaskedLM().encode(decoder, batch())
    assert CausalLM.form != MaskedLM.form
    student = run_config().student
    with pytest.raises(ModelError, match="not learnt"):
        student.fit_tokenizer(["a"])
    with pytest.raises(ConfigError, match="teacher for each language"):
        fit_tokenizer(student, [(MaskedLM(), rows_of(2))], None)


# --- a run


def rows_of(copies: int) -> Rows:
    fields = {name: getattr(batch(), name) for name in ("ids", "texts", "languages", "labels_B")}
    return Rows.concat([Rows(pairs=None, **fields)] * copies)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_monolingual_teachers_teach_one_student(precision: str, tmp_path: Path) -> None:
    config = run_config(tmp_path)
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})
    teachers = []
    for language in ("en", "zh"):
        tokenizer, model = teacher(language)
        built = models.TextModel(model, tokenizer, (), kind="transformer", task="masked_lm", max_length=32)
        models.save_model(built, tmp_path / language)
        spec = model_spec(
            language,
            str(tmp_path / language),
            (),
            config.task,
            languages=frozenset({language}),
            dtype="float32",
        )
        teachers.append(Teacher(spec))
    source = LocalSource(teachers, config.objective.weighting)
    joined = fit_tokenizer(config.student, [(config.task, rows_of(1))], source)
    assert isinstance(joined, UnionTokenizer) and joined.digest() == union().digest()
    points: list[Any] = []
    loop = TrainingLoop(
        config,
        prepare_rows(config, rows_of(2), rows_of(1), joined),
        make_task_model(config, joined),
        source,
        publish=points.append,
    )
    loop.run()
    losses = [p.values["train/loss"] for p in points if "train/loss" in p.values]
    covered = [p.values["train/coverage"] for p in points if "train/coverage" in p.values]
    assert losses[-1] < 0.5 * losses[0] and covered == [1.0]
    assert {"eval/en/accuracy", "eval/zh/perplexity", "eval/mean/nll"} <= set(points[-1].values)

    student = loop.best_student()
    assert isinstance(student, models.TextModel)
    models.save_model(student, tmp_path / "student")
    again = models.load_model(tmp_path / "student", head="masked_lm")
    assert (
        isinstance(again.tokenizer, UnionTokenizer)
        and models.inspect_directory(tmp_path / "student").problems == ()
    )
    assert describe_tokenizer(again.tokenizer) == describe_tokenizer(joined)
    assert models.fingerprint(again) == models.fingerprint(tmp_path / "student")


def test_a_student_of_a_union_is_fine_tuned_with_its_languages(tmp_path: Path) -> None:
    spec = TransformerStudent(layers=1, hidden=16, heads=2, vocabulary="union")
    built = models.TextModel(spec.build(union(), (), 0, "masked_lm"), union(), (), task="masked_lm")
    models.save_model(built, tmp_path / "student")
    student = PretrainedStudent(path=str(tmp_path / "student"))
    tokenizer = student.fit_tokenizer([])
    whole = union()(batch().texts, languages=list(batch().languages))["input_ids"]
    limit = sorted(map(len, whole))[2]
    task = Classification(max_length=limit)
    rows = task.encode(tokenizer, batch())
    told = union()(batch().texts, languages=list(batch().languages), max_length=limit)
    assert [row.tolist() for row in rows.fields["input_ids"]] == told["input_ids"]
    assert rows.long_B is not None and rows.long_B.tolist() == [len(ids) > limit for ids in whole]
    assert 0 < rows.long_B.sum() < len(batch())
    model = student.build(tokenizer, ("a", "b"), 0)
    encoded = task.collate(rows, [0, 1])
    assert task.gather(model(**encoded.inputs), encoded).shape == (2, 2)
    with pytest.raises(DataError, match="no language"):
        task.encode(tokenizer, replace(batch(), languages=("",) * len(batch())))
