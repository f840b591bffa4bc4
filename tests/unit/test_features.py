"""Feature terms through the whole path: states of real encoders, teachers' answers, the training loop, checkpoints."""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raykd import models
from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import encode_answer
from raykd.answers.features import encode_features, lay_out_states, split_features
from raykd.answers.source import AnswerSlots
from raykd.config import RunConfig
from raykd.distill.features.states import FeatureRequest, Source, State
from raykd.distill.features.terms import relate
from raykd.errors import ConfigError, ModelError
from raykd.networks.states import read_encoder_shape, read_sources, record_states
from raykd.preflight.features_check import check_encoders, describe_state_bytes, say_states
from raykd.student.loop import TrainingLoop
from raykd.student.matching.features import PROJECTIONS
from raykd.student.prepare import prepare_rows
from raykd.tasks import Classification, TokenClassification
from raykd.teachers.actor import TeacherActor
from raykd.teachers.source import LocalSource
from raykd.teachers.teacher import Teacher
from raykd.teachers.wire import GroupRequest
from tests.fakes import LABELS, model_spec, save_transformer, text_batch, texts_and_labels
from tests.made_models import made_texts, make_config, make_tokenizer
from tests.worlds import rows

FAMILIES = {"bert": "wordpiece", "roberta": "bytes_with_blank", "xlm-roberta": "unigram", "electra": "characters",
            "distilbert": "wordpiece"}  # fmt: skip


def make_classifier(architecture: str, **settings: Any) -> tuple[Any, Any]:
    """A random classifier of a family as plain transformers makes it, and its tokenizer."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    tokenizer = make_tokenizer(FAMILIES[architecture], made_texts(100)[0])
    if architecture == "distilbert":
        config = AutoConfig.for_model(
            "distilbert",
            dim=32,
            n_layers=2,
            n_heads=4,
            hidden_dim=64,
            vocab_size=len(tokenizer),
            pad_token_id=0,
        )
    else:
        config = make_config(architecture, tokenizer, num_hidden_layers=2, num_attention_heads=4, **settings)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    return model.eval(), tokenizer


@pytest.mark.parametrize("architecture", sorted(FAMILIES))
def test_states_are_what_transformers_gives(architecture: str) -> None:
    own = {"embedding_size": 16} if architecture == "electra" else {}
    model, tokenizer = make_classifier(architecture, **own)
    inputs = tokenizer(made_texts(4, 3)[0], padding=True, return_tensors="pt")
    if architecture == "distilbert":
        inputs.pop("token_type_ids", None)
    shape = read_encoder_shape(model.config.to_dict(), "it")
    assert (shape.family, shape.layers, shape.width, shape.heads) == (architecture, 2, 32, 4)
    wanted = [State("hidden", layer) for layer in range(3)]
    wanted += [State(part, layer) for part in ("query", "key", "value") for layer in (1, 2)]
    with torch.no_grad(), record_states(model, wanted) as found:
        outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert set(found) == set(wanted)
    for layer, states in enumerate(outputs.hidden_states):
        torch.testing.assert_close(found[State("hidden", layer)], states)
    hidden = inputs["attention_mask"][:, None, None, :] == 0
    for layer, attention in enumerate(outputs.attentions, 1):
        scores = relate(found[State("query", layer)], found[State("key", layer)], 4)
        torch.testing.assert_close(scores.masked_fill(hidden, -torch.inf).softmax(-1), attention)
    kept = dict(found)
    with torch.no_grad():
        model(**{name: values[:1] for name, values in inputs.items()})
    assert found == kept, "nothing is recorded after the body"


def test_a_copy_that_is_made_meanwhile_is_not_recorded() -> None:
    model, tokenizer = make_classifier("bert")
    one, two = (
        tokenizer(texts, padding=True, return_tensors="pt") for texts in (["good"], ["a good place we said"])
    )
    states = [State("hidden", 0), State("hidden", 1), State("query", 2)]
    with torch.no_grad(), record_states(model, states) as found:
        model(**one)
        twin = copy.deepcopy(model)
        with record_states(twin, states) as others:
            twin(**two)
    assert one["input_ids"].shape != two["input_ids"].shape
    for inputs, recorded in ((one, found), (two, others)):
        assert {value.shape[1] for value in recorded.values()} == {inputs["input_ids"].shape[1]}


def test_a_family_whose_states_are_not_known_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="teacher t: hidden states"):
        read_encoder_shape({"model_type": "deberta-v2", "num_hidden_layers": 2}, "teacher t")


REQUEST: FeatureRequest = tuple(
    sorted(
        Source(position, State("hidden", layer))  # type: ignore[arg-type]
        for position in ("cls", "mean", "sequence")
        for layer in (0, 1)
    )
)


def test_states_travel_with_the_answers_and_are_those_of_the_text_alone(tmp_path: Path) -> None:
    folder = save_transformer(tmp_path / "t")
    texts = texts_and_labels(7, 5)[0]
    spec = model_spec("t", str(folder), LABELS, Classification(max_length=64), dtype="float32", max_tokens=40)
    teacher = Teacher(spec)
    bare, states = split_features(teacher.answer(text_batch(texts), features=REQUEST))
    assert bare.bodies == teacher.answer(text_batch(texts)).bodies
    loaded = models.load_model(folder)
    alone = [loaded.tokenizer([text], return_tensors="pt") for text in texts]
    lengths_B = np.asarray([inputs["input_ids"].shape[1] for inputs in alone])
    ones_B = np.ones(len(texts), dtype=np.int64)
    laid = lay_out_states(states, REQUEST, 16, lengths_B, ones_B, 40)
    assert laid is not None and all(bool(seen.all()) for seen in laid.covered.values())
    for row, inputs in enumerate(alone):
        with torch.no_grad(), record_states(loaded.model, [source.state for source in REQUEST]) as found:
            loaded.model(**inputs)
        for source, own in read_sources(found, REQUEST, inputs["attention_mask"], None).items():
            taught = laid.vectors[source][row]
            if source.position == "sequence":
                assert not taught[lengths_B[row] :].any()
                taught = taught[: lengths_B[row]]
            torch.testing.assert_close(taught, own[0], atol=2e-3, rtol=2e-3)  # float16


def test_a_text_that_teacher_and_student_cut_elsewhere_is_not_covered_token_by_token() -> None:
    answer = DenseAnswer(logits_NC=np.zeros((1, 2), np.float32), covered_N=np.ones(1, bool))
    request: FeatureRequest = (Source("mean", State("hidden", 1)), Source("sequence", State("hidden", 1)))
    vectors = {request[0]: np.ones((1, 4), np.float16), request[1]: np.ones((1, 3, 4), np.float16)}
    mask_BL, one_B = np.asarray([[True, True, False]]), np.ones(1, np.int64)
    (body,) = encode_features([encode_answer(answer)], vectors, request, mask_BL, one_B)
    _, states = split_features(AnswerSlots("t", [body]))
    covered = {}
    for length in (2, 3):
        laid = lay_out_states(states, request, 4, np.asarray([length]), one_B, 3)
        assert laid is not None
        covered[length] = {position: seen.tolist() for position, seen in laid.covered.items()}
    assert covered == {2: {"mean": [True], "sequence": [True]}, 3: {"mean": [True], "sequence": [False]}}
    with pytest.raises(ValueError, match="end before"):
        lay_out_states([(states[0] or b"")[:-1]], request, 4, np.asarray([2]), one_B, 3)
    vectors[request[0]][0, 0] = np.nan
    assert encode_features([encode_answer(answer)], vectors, request, mask_BL, one_B) == [None]


def test_kept_states_are_not_computed_again_and_never_taken_for_bare_answers(tmp_path: Path) -> None:
    folder = save_transformer(tmp_path / "t")
    batch = text_batch(texts_and_labels(5, 5)[0])

    def ask(features: FeatureRequest, **settings: Any) -> AnswerSlots:
        spec = model_spec("t", str(folder), LABELS, Classification(max_length=64), dtype="float32",
                          store=str(tmp_path / "store"), **settings)  # fmt: skip
        teacher = Teacher(spec)
        slots = teacher.answer(batch, features=features)
        teacher.close()
        return slots

    assert ask(()).forwarded == 5 and ask(()).forwarded == 0
    assert ask(REQUEST).forwarded == 5 and ask(REQUEST).forwarded == 5, "states are not kept unless asked"
    kept = ask(REQUEST, store_features=True)
    again = ask(REQUEST, store_features=True)
    assert kept.forwarded == 5 and again.forwarded == 0 and again.bodies == kept.bodies
    assert ask(REQUEST[:2], store_features=True).forwarded == 5, "other states are another store"


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("teachers")
    return {
        "narrow": save_transformer(root / "narrow", hidden=16, layers=2, seed=1),
        "wide": save_transformer(root / "wide", hidden=24, layers=3, seed=2),
    }


def test_a_process_answers_each_teacher_with_its_own_states(teachers: dict[str, Path]) -> None:
    task, texts = Classification(max_length=64), texts_and_labels(5, 5)[0]
    specs = [model_spec(name, str(path), LABELS, task, dtype="float32") for name, path in teachers.items()]
    asked = ((), (Source("mean", State("hidden", 3)),))
    request = GroupRequest(text_batch(texts), np.ones((2, 5), dtype=bool), features=asked)
    actor = TeacherActor(specs, torch.get_num_threads())
    bare, states = zip(*map(split_features, actor.answer(pickle.loads(pickle.dumps(request)))), strict=True)
    for spec, own, wanted, slots in zip(specs, states, asked, bare, strict=True):
        alone = Teacher(spec).answer(text_batch(texts), features=wanted)
        assert (slots.bodies, own) == (split_features(alone)[0].bodies, split_features(alone)[1])
    assert states[0] == [None] * 5 and None not in states[1]


def make_config_of(folders: dict[str, Path], features: list[dict[str, Any]], **student: Any) -> RunConfig:
    files = {"kind": "files", "paths": ["unused.jsonl"]}
    return RunConfig.model_validate(
        {
            "data": {"train": files, "validation": files, "labels": LABELS, "languages": ["en", "zh", "fr"]},
            "student": {"kind": "transformer", "layers": 1, "hidden": 12, "heads": 2, "dropout": 0.1,
                        "vocab_size": 120, "max_positions": 64, **student},
            "task": {"kind": "classification", "max_length": 64},
            "teachers": [
                {"name": name, "languages": "all", "path": str(folder)} for name, folder in folders.items()
            ],
            "objective": {"alpha": 0.2, "weighting": {"kind": "uniform"}, "features": features},
            "serving": {"dtype": "float32"},
            "train": {"steps": 6, "batch_size": 24, "learning_rate": 0.01, "evaluations": 3, "lr_schedule": 1.0},
        }
    )  # fmt: skip


def build_loop(config: RunConfig, **options: Any) -> TrainingLoop:
    """A loop over a small world, with the run's saved teachers in this process."""
    train = rows(96, 1)
    tokenizer = config.student.fit_tokenizer(train.texts)
    built = config.student.build(tokenizer, LABELS, config.seed)
    student = models.TextModel(built, tokenizer, LABELS, max_length=64)
    specs = [
        model_spec(t.name, str(t.path), LABELS, config.task, dtype="float32")  # type: ignore[union-attr]
        for t in config.teachers
    ]
    source = LocalSource([Teacher(spec) for spec in specs], config.objective.weighting)
    prepared = prepare_rows(config, train, rows(30, 2, unlabelled=0.0), tokenizer)
    return TrainingLoop(config, prepared, student, source, **options)


POOLED = [
    {"kind": "hidden_mse", "layers": "uniform", "position": "mean"},
    {"kind": "hidden_cosine", "layers": [[0, 0], [1, 2]], "position": "cls", "lambda_schedule": 0.5},
]
"""What teachers of another tokenizer can teach."""


def test_several_teachers_of_other_widths_teach_their_states(teachers: dict[str, Path]) -> None:
    points: list[Any] = []
    loop = build_loop(make_config_of(teachers, POOLED), publish=points.append)
    projections = getattr(loop.engine.module, PROJECTIONS)
    shapes = {name: tuple(layer.weight.shape) for name, layer in projections.items()}
    assert shapes == {
        "hidden_mse_0_1_2": (16, 12), "hidden_mse_1_1_3": (24, 12),
        "hidden_cosine_0_0_0": (16, 12), "hidden_cosine_0_1_2": (16, 12),
        "hidden_cosine_1_0_0": (24, 12), "hidden_cosine_1_1_2": (24, 12),
    }  # fmt: skip
    before = {name: layer.weight.detach().clone() for name, layer in projections.items()}
    state = loop.run()
    assert state.step == 6 and all(
        (layer.weight != before[name]).any() for name, layer in projections.items()
    )
    curve = [p.values["train/soft/hidden_mse"] for p in points if "train/soft/hidden_mse" in p.values]
    assert curve[-1] < 0.9 * curve[0]
    assert {f"train/lambda/{term['kind']}" for term in POOLED} <= set(points[0].values)
    student = loop.best_student()
    assert isinstance(student, models.TextModel)
    assert not any(PROJECTIONS in name for name in student.model.state_dict())


def test_a_resumed_run_goes_on_with_its_projections(teachers: dict[str, Path], tmp_path: Path) -> None:
    config = make_config_of(teachers, POOLED)
    whole = build_loop(config)
    whole.run()
    first = build_loop(config)
    first.advance()
    first.save(tmp_path)
    second = build_loop(config)
    second.load(tmp_path)
    second.run()
    for name, weight in whole.engine.module.state_dict().items():
        assert torch.equal(weight, second.engine.module.state_dict()[name]), name


def test_a_student_that_is_its_teacher_has_no_loss(teachers: dict[str, Path]) -> None:
    terms = [
        {"kind": "hidden_mse", "layers": "uniform", "position": "sequence"},
        {"kind": "hidden_cosine", "layers": [[0, 0], [2, 2]], "position": "mean"},
        {"kind": "attention_mse"},
        {"kind": "relation_kl", "heads": 4},
    ]
    config = make_config_of({"narrow": teachers["narrow"]}, terms)
    student = models.PretrainedStudent(path=str(teachers["narrow"]))
    loop = build_loop(config.model_copy(update={"student": student}))
    loop.engine.engine.eval()  # no dropout
    trainer = loop.trainer
    asked = trainer.ask(0, 0, 1)
    assert asked.batches is not None
    micro = trainer.make_micro_batch(asked.rows[0], asked.batches[0].result(), 0.0)
    outputs, features = trainer.forward(loop.engine, micro)
    found = trainer.evaluate(loop.engine, outputs, micro, 0.0, micro.counts, features).sums
    sums = {str(term["kind"]): float(found[f"soft/{term['kind']}"]) for term in terms}
    assert sums == pytest.approx(dict.fromkeys(sums, 0.0), abs=1e-3)


def test_a_split_step_has_the_loss_and_the_gradient_of_a_whole_one(teachers: dict[str, Path]) -> None:
    terms = [*POOLED, {"kind": "relation_kl", "heads": 4}]
    reached = []
    for pieces in (1, 3):
        config = make_config_of({"wide": teachers["wide"]}, terms)
        student = models.PretrainedStudent(path=str(teachers["narrow"]))  # made without dropout
        train = config.train.model_copy(
            update={"steps": 1, "gradient_accumulation": pieces, "evaluations": 1}
        )
        points: list[Any] = []
        changed = config.model_copy(update={"train": train, "student": student})
        loop = build_loop(changed, publish=points.append)
        loop.run()
        values = {k: v for point in points for k, v in point.values.items() if k.startswith("train/soft")}
        reached.append((values, {n: w.clone() for n, w in loop.engine.module.state_dict().items()}))
    (one, weights), (three, others) = reached
    assert set(one) >= {f"train/soft/{term['kind']}" for term in terms} and all(one.values())
    assert one == pytest.approx(three, rel=1e-4)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], atol=2e-4, rtol=1e-3, msg=name)


def test_words_are_compared_where_each_tagger_reads_them(tmp_path: Path) -> None:
    labels, texts = ("O", "B-X", "I-X"), ["anna saw rome", "a lovely quiet room here"]
    spec = models.TransformerStudent(layers=1, hidden=16, heads=2, vocab_size=100, max_positions=64)
    tokenizer = spec.fit_tokenizer(["ann na sa ro me love ly qui et"] * 3)
    built = spec.build(tokenizer, labels, 0, "token_classification").eval()
    models.save_model(models.TextModel(built, tokenizer, labels, task="token_classification"), tmp_path / "t")
    words = [[(m.start(), m.end()) for m in re.finditer(r"\w+", text)] for text in texts]
    batch = replace(text_batch(texts), words=tuple(tuple(row) for row in words), golds=((),) * 2)
    request: FeatureRequest = (Source("words", State("hidden", 1)),)
    task = TokenClassification(max_length=64)
    teacher = Teacher(model_spec("t", str(tmp_path / "t"), labels, task, dtype="float32"))
    _, states = split_features(teacher.answer(batch, features=request))
    laid = lay_out_states(states, request, 16, np.asarray([0, 0]), np.asarray([3, 5]), 9)
    assert laid is not None and laid.covered["words"].tolist() == [True] * 8
    at = 0
    for text, row in zip(texts, words, strict=True):
        inputs = tokenizer([text], return_tensors="pt", return_offsets_mapping=True)
        begins = [begin for begin, end in inputs.pop("offset_mapping")[0].tolist()]
        with torch.no_grad():
            hidden_LD = built.bert(**inputs)[0][0]
        for begin, _ in row:
            first = max(i for i, own in enumerate(begins[:-1]) if own == begin)
            torch.testing.assert_close(laid.vectors[request[0]][at], hidden_LD[first], atol=2e-3, rtol=2e-3)
            at += 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"features": [{"kind": "hidden_mse", "position": "words"}]},
            "position words is none of this task's",
        ),
        (
            {"features": [{"kind": "hidden_mse", "teachers": ["x"]}]},
            "teachers names x, which is none of narrow",
        ),
        (
            {"features": [{"kind": "hidden_mse"}, {"kind": "hidden_mse"}]},
            "each kind may stand in one term only",
        ),
        ({"features": [{"kind": "hidden_mse", "lambda_schedule": -1.0}]}, "lambda must stay in"),
    ],
)
def test_features_that_a_run_cannot_have_are_refused(
    teachers: dict[str, Path], changes: dict[str, Any], said: str
) -> None:
    tree = make_config_of(teachers, []).model_dump(mode="json")
    with pytest.raises(ValueError, match=said):
        RunConfig.model_validate({**tree, "objective": {**tree["objective"], **changes}})


def test_a_teacher_without_an_encoder_is_left_out_by_name(teachers: dict[str, Path]) -> None:
    tree = make_config_of(teachers, [{"kind": "hidden_mse"}]).model_dump(mode="json", exclude_unset=True)
    tree["teachers"].append({"name": "f", "kind": "callable", "languages": "all", "function": "math:sqrt"})
    with pytest.raises(ValueError, match="teacher f of kind callable has none"):
        RunConfig.model_validate(tree)
    tree["objective"]["features"][0]["teachers"] = ["narrow", "wide"]
    assert RunConfig.model_validate(tree).objective.features[0].uses("narrow")


def test_what_is_known_before_the_start_is_refused_there(teachers: dict[str, Path]) -> None:
    config = make_config_of(teachers, [{"kind": "hidden_mse", "position": "sequence"}])
    check_encoders(config)
    other = models.PretrainedStudent(path=str(teachers["narrow"]))
    lstm = config.model_copy(update={"student": models.LSTMStudent()})
    with pytest.raises(ModelError, match="the student: hidden states"):
        check_encoders(lstm)
    zero = config.train.model_copy(update={"deepspeed": {"zero_optimization": {"stage": 3}}})
    with pytest.raises(ConfigError, match="split over the workers"):
        check_encoders(config.model_copy(update={"train": zero}))
    check_encoders(config.model_copy(update={"student": other}))
    told = describe_state_bytes(config, rows(200, 3))
    sizes = [len(text.encode()) for text in rows(200, 3).texts]
    about = 2 * 16 * np.mean([min(64, size / 3 + 2) for size in sizes])
    assert f"about {about:,.0f} bytes" in told["narrow"] and "computed again in every epoch" in told["narrow"]
    many = config.train.model_copy(update={"batch_size": 2**20})
    with pytest.raises(ConfigError, match="teacher narrow would send"):
        describe_state_bytes(config.model_copy(update={"train": many}), rows(200, 3))
    serving = config.serving.model_copy(update={"store_features": True, "store_limit_gb": 1e-4})
    with pytest.raises(ConfigError, match="the store would keep"):
        describe_state_bytes(config.model_copy(update={"serving": serving}), rows(200, 3))


def test_tokenizers_that_differ_are_refused_where_tokens_are_compared(teachers: dict[str, Path]) -> None:
    config = make_config_of(teachers, [{"kind": "hidden_mse", "position": "sequence"}])
    with pytest.raises(ConfigError, match="narrow, wide cuts texts into other tokens"):
        build_loop(config)
    with pytest.raises(ConfigError, match="narrow, wide cuts texts into other tokens"):
        say_states(config, rows(160, 1))
