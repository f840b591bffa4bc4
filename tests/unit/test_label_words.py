"""A language model is read at words that name the labels: its numbers are those of plain transformers calls."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raykd.config import LabelWordsTeacher, RunConfig
from raykd.config.loading import validate_run
from raykd.data.rows import Rows
from raykd.driver.pool import make_teacher_spec
from raykd.errors import ConfigError, DataError, LabelMismatchError, ModelError
from raykd.preflight.selftests import check_answers
from raykd.preflight.teacher_check import check_teacher
from raykd.teachers.teacher import Teacher
from raykd.text.batch import TextBatch
from tests.fakes import LABELS, logits_of, text_batch
from tests.made_models import ARCHITECTURES, FILLER, made_texts, make_config, make_tokenizer, save_classifier

TEXTS = ["the room was good", "bad", "food, and place!  naïve", "so {label} quite " * 3]
TEMPLATE = "{text} It was {label}."
WORDS = {"negative": "bad", "positive": ["good", "very good", "very fine"]}
CAUSAL = ("bytes",)
MASKED = ("wordpiece", "bytes_with_blank", "unigram")


def save_language_model(directory: Path, family: str, seed: int = 0) -> Path:
    """A tiny language model of a family with random weights, as plain transformers saves it."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    texts = [*made_texts(200)[0], *("It was good. It was very bad. Ce fut bon." for _ in range(20))]
    tokenizer = make_tokenizer(family, texts, size=400)
    config = make_config(ARCHITECTURES[family], tokenizer, initializer_range=0.5)
    torch.manual_seed(seed)
    auto: Any = AutoModelForCausalLM if family in CAUSAL else AutoModelForMaskedLM
    auto.from_config(config).eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("language_models")
    return {family: save_language_model(root / family, family) for family in (*CAUSAL, *MASKED)}


def config_of(
    path: Path, *, columns: dict[str, str] | None = None, task: str = "classification", **keys: Any
) -> RunConfig:
    rows = {"kind": "files", "paths": ["x.jsonl"]}
    data = {
        "train": rows,
        "validation": rows,
        "labels": list(LABELS) if task == "classification" else ["O", "B-X", "I-X"],
        "languages": ["en", "fr"],
    }
    teacher = {
        "name": "t",
        "languages": "all",
        "path": str(path),
        "template": TEMPLATE,
        "words": WORDS,
        **keys,
    }
    config = validate_run(
        {
            "data": data | ({"columns": columns} if columns else {}),
            "task": {"kind": task},
            "teachers": [teacher],
            "student": {"kind": "lstm"},
            "serving": {"store": None, "dtype": "float32"},
        },
        "test",
    )
    assert isinstance(config, RunConfig)
    assert isinstance(config.teachers[0], LabelWordsTeacher)
    return config


def teacher_of(path: Path, store: Path | None = None, **keys: Any) -> Teacher:
    config = config_of(path, **keys)
    spec = make_teacher_spec(config, config.teachers[0], {})
    return Teacher(type(spec)(**{**vars(spec), "store": None if store is None else str(store)}))


def pairs_batch(texts: list[str], pairs: list[str]) -> TextBatch:
    return TextBatch(**{**vars(text_batch(texts)), "pairs": tuple(pairs)})


@lru_cache
def load_plainly(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    causal = AutoConfig.from_pretrained(folder).model_type == "gpt2"
    auto: Any = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    return auto.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def score_plainly(folder: Path, prompt: str, word: str, rest: str = ".") -> tuple[float, int]:
    """The log-probability of a word behind a prompt by plain calls of transformers, and its number of tokens."""
    model, tokenizer = load_plainly(folder)
    if tokenizer.mask_token_id is None:
        whole, before = tokenizer(f"{prompt} {word}")["input_ids"], tokenizer(prompt)["input_ids"]
        assert whole[: len(before)] == before
        logp = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        places = range(len(before), len(whole))
        return sum(float(logp[i - 1, whole[i]]) for i in places), len(places)
    before = tokenizer(prompt)["input_ids"][:-1]
    after = tokenizer(f"{prompt} {word}{rest}")["input_ids"][-2:]  # the full stop and the end
    ids = tokenizer(f"{prompt} {word}")["input_ids"][len(before) : -1]
    total = 0.0
    for i, token in enumerate(ids):
        shown = [*before, *ids[:i], *[tokenizer.mask_token_id] * (len(ids) - i), *after]
        total += float(
            model(torch.tensor([shown])).logits[0, len(before) + i].double().log_softmax(-1)[token]
        )
    return total, len(ids)


def expect(
    folder: Path, prompts: list[str], words: dict[str, list[str]], normalise: bool = False
) -> np.ndarray:
    rows = []
    with torch.inference_mode():
        for prompt in prompts:
            scores = {
                label: [score_plainly(folder, prompt, word) for word in own] for label, own in words.items()
            }
            rows.append(
                [np.logaddexp.reduce([s / n if normalise else s for s, n in own]) for own in scores.values()]
            )
    return np.asarray(rows)


@pytest.mark.parametrize("family", [*CAUSAL, *MASKED])
def test_its_logits_are_the_words_log_probabilities(folders: dict[str, Path], family: str) -> None:
    """Of words of one and of several tokens, which begin alike, in one batch of long and short texts."""
    found = logits_of(teacher_of(folders[family]).answer(text_batch(TEXTS)))
    wanted = expect(
        folders[family],
        [f"{text} It was" for text in TEXTS],
        {"n": ["bad"], "p": ["good", "very good", "very fine"]},
    )
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert np.abs(wanted[:, 0] - wanted[:, 1]).std() > 0.1  # the texts do not all get one answer


@pytest.mark.parametrize("family", ["bytes", "wordpiece"])
def test_long_words_may_be_normalised(folders: dict[str, Path], family: str) -> None:
    words = {"negative": "very bad", "positive": "good"}
    found = logits_of(
        teacher_of(folders[family], words=words, length_normalise=True).answer(text_batch(TEXTS))
    )
    prompts = [f"{text} It was" for text in TEXTS]
    wanted = expect(folders[family], prompts, {"n": ["very bad"], "p": ["good"]}, normalise=True)
    np.testing.assert_allclose(found, wanted, atol=2e-4)


@pytest.mark.parametrize("family", ["bytes", "wordpiece"])
def test_the_priors_of_the_template_are_divided_out(folders: dict[str, Path], family: str) -> None:
    folder, words = folders[family], {"n": ["bad"], "p": ["good", "very good", "very fine"]}
    plain = logits_of(teacher_of(folder).answer(text_batch(TEXTS)))
    texts = ["the room", "we said"]
    keys = {"calibrate": "texts", "calibration_texts": texts}
    found = logits_of(teacher_of(folder, **keys).answer(text_batch(TEXTS)))
    scores = expect(folder, [f"{text} It was" for text in texts], words)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, plain - np.log(shares.mean(axis=0)), atol=3e-4)
    free = logits_of(teacher_of(folder, calibrate="content_free").answer(text_batch(["N/A", "", "[MASK]"])))
    # A text that says nothing has on average no label.
    bare = logits_of(teacher_of(folder).answer(text_batch(["N/A", "", "[MASK]"])))
    prior = np.mean(np.exp(bare) / np.exp(bare).sum(axis=1, keepdims=True), axis=0)
    np.testing.assert_allclose(free, bare - np.log(prior), atol=3e-4)


@pytest.mark.parametrize("family", ["bytes", "wordpiece", "unigram"])
def test_a_text_is_cut_and_the_template_is_not(folders: dict[str, Path], family: str) -> None:
    from transformers import AutoTokenizer

    folder, long = folders[family], " ".join([*FILLER[:6]] * 60)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    kept = 9
    ends = [
        end
        for begin, end in tokenizer(long, return_offsets_mapping=True, add_special_tokens=False)[
            "offset_mapping"
        ]
    ]
    short = long[: ends[kept - 1]]
    teacher = teacher_of(folder, max_length=kept)
    np.testing.assert_allclose(
        logits_of(teacher.answer(text_batch([long]))),
        logits_of(teacher.answer(text_batch([short]))),
        atol=1e-5,
    )
    # Without a length of its own it reads as much as its positions leave beside the template.
    whole = teacher_of(folder)
    assert 90 < whole.open().max_length < 128
    assert np.isfinite(logits_of(whole.answer(text_batch([long])))).all()
    with pytest.raises(
        ConfigError, match=r"teachers\.t\.max_length is more than teacher t has positions for"
    ):
        teacher_of(folder, max_length=127).open()


@pytest.mark.parametrize("family", ["bytes", "wordpiece"])
def test_pairs_have_two_places_and_the_longer_text_is_cut(folders: dict[str, Path], family: str) -> None:
    keys = {"columns": {"text": "a", "text_pair": "b"}, "template": "{text_pair}? {text} It was {label}."}
    teacher = teacher_of(folders[family], max_length=12, **keys)
    long = " ".join(["the"] * 40)
    both = logits_of(teacher.answer(pairs_batch(["good food", long], [long, "bad"])))
    tokenizer = load_plainly(folders[family])[1]

    def cut(beside: str, template: str) -> str:
        """The first words of the long text whose tokens, those of the other text included, are 12 at most."""
        other = len(tokenizer(template + beside, add_special_tokens=False)["input_ids"]) - len(
            tokenizer(template, add_special_tokens=False)["input_ids"] if template else []
        )
        return " ".join(["the"] * (12 - other))

    same = logits_of(
        teacher.answer(pairs_batch(["good food", cut("bad", "")], [cut(" good food", "?"), "bad"]))
    )
    np.testing.assert_allclose(both, same, atol=1e-5)
    plain = teacher_of(folders[family], **keys)
    found = logits_of(plain.answer(pairs_batch(["good food"], ["we"])))
    words = {"n": ["bad"], "p": ["good", "very good", "very fine"]}
    np.testing.assert_allclose(found, expect(folders[family], ["we? good food It was"], words), atol=2e-4)
    with pytest.raises(DataError, match=r"reads two texts, and the rows have one"):
        plain.answer(text_batch(["good food"]))


def test_each_language_has_its_template_and_words(folders: dict[str, Path]) -> None:
    folder = folders["bytes"]
    keys = {
        "template": {"en": TEMPLATE, "fr": "{text} Ce fut {label}."},
        "words": {
            "en": {"negative": "bad", "positive": "good"},
            "fr": {"negative": "mal", "positive": ["bon", "fin"]},
        },
    }
    found = logits_of(teacher_of(folder, **keys).answer(text_batch(TEXTS[:3], ["fr", "en", "fr"])))
    fr = expect(folder, [f"{TEXTS[i]} Ce fut" for i in (0, 2)], {"n": ["mal"], "p": ["bon", "fin"]})
    en = expect(folder, [f"{TEXTS[1]} It was"], {"n": ["bad"], "p": ["good"]})
    np.testing.assert_allclose(found, np.stack([fr[0], en[0], fr[1]]), atol=2e-4)
    with pytest.raises(DataError, match="no template for a row's language"):
        teacher_of(folder, **keys).answer(text_batch(["x"], ["de"]))


def test_labels_are_mapped_by_name_and_merged(folders: dict[str, Path]) -> None:
    words = {"great": "good", "awful": "bad", "fine": "fine"}
    keys = {"words": words, "label_map": {"great": "positive", "fine": "positive", "awful": "negative"}}
    found = logits_of(teacher_of(folders["wordpiece"], **keys).answer(text_batch(TEXTS)))
    prompts = [f"{text} It was" for text in TEXTS]
    wanted = expect(folders["wordpiece"], prompts, {"n": ["bad"], "p": ["good", "fine"]})
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    with pytest.raises(LabelMismatchError, match="great"):
        teacher_of(folders["wordpiece"], words=words).open()


def test_answers_are_stored_under_all_that_changes_them(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["wordpiece"]
    first = teacher_of(folder, tmp_path)
    first.answer(text_batch(TEXTS))
    first.close()
    assert teacher_of(folder, tmp_path).answer(text_batch(TEXTS)).forwarded == 0
    base = first.open().answers
    for keys in (
        {"template": "{text} It is {label}."},
        {"words": {**WORDS, "positive": "good"}},
        {"calibrate": "content_free"},
        {"length_normalise": True},
        {"max_length": 20},
    ):
        assert teacher_of(folder, **keys).open().answers != base, keys


def test_bfloat16_moves_an_answer_little(folders: dict[str, Path]) -> None:
    """The words' own logits are computed in float32 of the model's states."""
    config = config_of(folders["bytes"])
    spec = make_teacher_spec(config, config.teachers[0], {})
    half = Teacher(type(spec)(**{**vars(spec), "dtype": "bfloat16"}))
    exact = logits_of(teacher_of(folders["bytes"]).answer(text_batch(TEXTS)))
    found = logits_of(half.answer(text_batch(TEXTS)))
    assert half.open().dtype == "bfloat16"
    np.testing.assert_allclose(found[:, 0] - found[:, 1], exact[:, 0] - exact[:, 1], atol=0.15)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"template": "It was {label}."}, r"the template has no \{text\}"),
        ({"template": "{text} It was."}, r"the template has no \{label\}"),
        ({"template": "{text} {text} {label}"}, r"has \{text\} twice"),
        ({"words": {"negative": "bad"}}, "fewer than two labels"),
        ({"words": {"negative": "bad", "positive": []}}, "label positive has no word"),
        ({"words": {"negative": "bad", "positive": ["good", "bad"]}}, "the word 'bad' stands twice"),
        ({"words": {"en": {"a": "x", "b": "y"}, "fr": {"a": "x", "c": "y"}}}, "words differ in their labels"),
        ({"words": {"en": {"a": "x", "b": "y"}, "b": "y"}}, "for each label, or for each language and label"),
        ({"template": {"en": TEMPLATE}, "words": {"de": WORDS}}, "must name the same languages"),
        ({"calibrate": "texts"}, "go together"),
        ({"template": "{text}{label}"}, "nothing between a text and"),
        ({"kind": "model"}, "a teacher of kind model has no words"),
    ],
)
def test_keys_are_refused_by_name(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(Path("x"), **keys)


@pytest.mark.parametrize(
    ("family", "keys", "error", "said"),
    [
        (
            "wordpiece",
            {"words": {"negative": "bad", "positive": "✗✗"}},
            ConfigError,
            "'✗✗' of positive is unknown",
        ),
        (
            "wordpiece",
            {"words": {"negative": "Good", "positive": "good"}},
            ConfigError,
            "is the same tokens as 'Good'",
        ),
        (
            "bytes",
            {"words": {"negative": "not", "positive": "not good"}},
            ConfigError,
            "begins like 'not' of negative",
        ),
        ("bytes", {"template": "{label}: {text}"}, ConfigError, r"reads nothing behind \{label\}"),
        (
            "bytes",
            {"template": "{text} " + "It was " * 80 + "{label}"},
            ConfigError,
            "leaves no room for a text",
        ),
        ("bytes", {"task": "token_classification"}, ConfigError, "teaches no token_classification"),
        ("bytes", {"words": {"en": WORDS}}, ConfigError, "no template or words for fr"),
        ("bytes", {"columns": {"text_pair": "b"}}, ConfigError, "reads one text, and a row has two"),
        ("bytes", {"words": {"yes": "bad", "no": "good"}}, LabelMismatchError, "label_map"),
    ],
)
def test_a_check_refuses_by_name(
    folders: dict[str, Path], family: str, keys: dict[str, Any], error: type[Exception], said: str
) -> None:
    config = config_of(folders[family], **keys)
    with pytest.raises(error, match=said):
        check_teacher(config.teachers[0], config)


def test_a_model_without_an_output_head_is_refused(tmp_path: Path) -> None:
    config = config_of(save_classifier(tmp_path / "classifier", "wordpiece", steps=1))
    with pytest.raises(ModelError, match=r"no causal or masked language model[\s\S]*kind: model"):
        check_teacher(config.teachers[0], config)
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(tmp_path / "classifier").save_pretrained(tmp_path / "encoder")
    AutoTokenizer.from_pretrained(tmp_path / "classifier").save_pretrained(tmp_path / "encoder")
    config = config_of(tmp_path / "encoder")
    with pytest.raises(ModelError, match="not a complete masked_lm model"):
        check_teacher(config.teachers[0], config)


def test_a_check_describes_and_tries_it(folders: dict[str, Path]) -> None:
    config = config_of(
        folders["bytes"],
        words={"bad": "bad", "good": "good"},
        label_map={"bad": "negative", "good": "positive"},
    )
    teacher = config.teachers[0]
    assert isinstance(teacher, LabelWordsTeacher)
    assert check_teacher(teacher, config).startswith(
        "gpt2 read at words; labels bad, good; negative is bad, positive is good"
    )
    texts = text_batch(TEXTS)
    rows = Rows(
        ids=list(texts.ids), texts=list(texts.texts), languages=list(texts.languages), labels_B=texts.labels_B
    )
    assert "do not depend on the texts beside them" in check_answers(teacher, config, rows)
