"""Rows, tokenizers and runs of `benchmarks.gpu`, made here: no file is read and nothing is downloaded.

Decision record: texts are drawn from a list of made words, so that as many different ones as a section needs are there
at once, and lengths are known: reviews have about 22 tokens, spread as those of real reviews are; long texts fill 128.
Language models read words that are tokens, so a row has exactly the tokens that are said. Times do not depend on what
the words mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raykd import models
from raykd.config import ModelTeacher, RunConfig
from raykd.data.rows import Rows
from raykd.driver.loop import make_task_model
from raykd.student.prepare import PreparedRows, prepare_rows
from raykd.teachers.spec import TeacherSpec
from raykd.text.tokens import Tokenizer

LABELS = ("negative", "neutral", "positive")
SYLLABLES = (
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ka",
    "le",
    "mi",
    "no",
    "pu",
    "ra",
    "se",
    "ti",
    "vo",
    "wu",
    "xa",
    "ye",
    "zi",
)
TEMPERATURES = (1.0, 2.0)
Answers = Literal["none", "top_k", "hidden"]


@dataclass(frozen=True)
class Shape:
    """Layers, width and attention heads of a model."""

    layers: int
    hidden: int
    heads: int

    def as_settings(self) -> dict[str, int]:
        """As keys of a student."""
        return {"layers": self.layers, "hidden": self.hidden, "heads": self.heads}


@dataclass(frozen=True)
class Size:
    """How large everything is. FULL is the table's; TOY proves on a CPU that each arm runs.

    Attributes:
        name: As tables say it.
        base: The teacher of texts (BERT base).
        classifier: The student of texts.
        wordpieces: Largest vocabulary of both.
        teacher: The language model that teaches.
        student: The one that learns.
        vocabulary: Of both.
        rows: Rows of a batch of a language model.
        tokens: Of a row.
        texts: Texts in a teacher's batch.
    """

    name: str
    base: Shape = Shape(12, 768, 12)
    classifier: Shape = Shape(6, 384, 6)
    wordpieces: int = 20_000
    teacher: Shape = Shape(16, 2048, 16)
    student: Shape = Shape(10, 768, 12)
    vocabulary: int = 50_000
    rows: int = 16
    tokens: int = 512
    texts: int = 256


FULL = Size("full")
TOY = Size(
    "toy",
    base=Shape(2, 64, 2),
    classifier=Shape(2, 32, 2),
    wordpieces=600,
    teacher=Shape(2, 64, 2),
    student=Shape(2, 32, 2),
    vocabulary=600,
    rows=4,
    tokens=32,
    texts=16,
)


@dataclass(frozen=True)
class World:
    """Rows and tokens of a run, and the student's tokenizer."""

    config: RunConfig
    tokenizer: Tokenizer
    prepared: PreparedRows
    extra: Mapping[str, Any] = field(default_factory=dict)

    def build_student(self) -> models.TextModel:
        """Return the student at its seeded start."""
        model = make_task_model(self.config, self.tokenizer)
        assert isinstance(model, models.TextModel)
        return model


def make_words(count: int) -> list[str]:
    """Return so many different words, common ones short."""
    words: list[str] = []
    for number in range(count):
        rest, word = number + len(SYLLABLES), ""
        while rest:
            rest, at = divmod(rest, len(SYLLABLES))
            word = SYLLABLES[at] + word
        words.append(word)
    return words


def make_texts(count: int, *, mean: float, longest: int, seed: int, even: bool = False) -> tuple[str, ...]:
    """Return texts of made words.

    Args:
        count: How many.
        mean: Words of a text, on average.
        longest: Words of a text, at most.
        seed: Of the draw.
        even: Whether all texts have `longest` words.
    """
    rng, words = np.random.default_rng(seed), np.asarray(make_words(3000))
    lengths = np.clip(rng.lognormal(np.log(mean) - 0.125, 0.5, count).round(), 3, longest).astype(int)
    if even:
        lengths[:] = longest
    # As in texts, a few words are most of what is said.
    drawn = (len(words) * rng.random(int(lengths.sum())) ** 3).astype(int)
    parts = np.split(words[drawn], np.cumsum(lengths)[:-1])
    return tuple(" ".join(part) for part in parts)


def make_language_texts(size: Size, count: int, seed: int) -> tuple[str, ...]:
    """Return texts that are `size.tokens` tokens, begin and end included, of a tokenizer of whole words."""
    rng, words = np.random.default_rng(seed), np.asarray(make_words(size.vocabulary - 3))
    drawn = words[rng.integers(len(words), size=(count, size.tokens - 2))]
    return tuple(" ".join(row) for row in drawn)


def make_rows(texts: tuple[str, ...], targets: bool = False, labels: int = len(LABELS)) -> Rows:
    """Return texts as rows, labelled in turn; as targets after an empty prompt where a language model reads them."""
    return Rows(
        ids=tuple(f"r{i}" for i in range(len(texts))),
        texts=("",) * len(texts) if targets else texts,
        pairs=texts if targets else None,
        languages=("en",) * len(texts),
        labels_B=np.arange(len(texts), dtype=np.int64) % (1 if targets else labels),
    )


def make_word_tokenizer(vocabulary: int, tokens: int) -> Tokenizer:
    """Return a tokenizer of so many whole words, `<pad>`, `<s>` and `</s>` among them."""
    import tokenizers as tk
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    names = {name: at for at, name in enumerate(special + make_words(vocabulary - len(special)))}
    core = tk.Tokenizer(tk.models.WordLevel(names, unk_token="<pad>"))
    core.pre_tokenizer = tk.pre_tokenizers.Whitespace()
    core.add_special_tokens(special)
    found: Any = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<pad>", bos_token="<s>", eos_token="</s>",
        model_max_length=tokens,
    )  # fmt: skip
    return found  # type: ignore[no-any-return]


def _tree(name: str, student: Mapping[str, Any], task: Mapping[str, Any], teachers: int) -> dict[str, Any]:
    files = {"kind": "files", "paths": ["made here"]}
    return {
        "name": name,
        "data": {"train": files, "validation": files, "languages": ["en"]},
        "student": dict(student),
        "task": dict(task),
        "teachers": [{"name": f"t{i}", "languages": "all", "path": "made here"} for i in range(teachers)],
        "objective": {
            "alpha": 0.5 if teachers else 1.0,
            "weighting": {"kind": "uniform"},
            "temperature": 2.0,
        },
    }


def build_texts_world(size: Size, *, teachers: int, count: int, batch: int = 32, **train: Any) -> World:
    """Return reviews for a student that classifies; the last 8 of them are its validation rows."""
    texts = make_texts(count + 8, mean=16, longest=60, seed=1)
    tree = _tree(
        "texts",
        {
            "kind": "transformer",
            **size.classifier.as_settings(),
            "vocab_size": size.wordpieces,
            "dropout": 0.0,
        },
        {"kind": "classification", "max_length": 128},
        teachers,
    )
    tree["data"]["labels"] = list(LABELS)
    tree["train"] = {"steps": 1_000_000, "batch_size": batch, "evaluations": 1, **train}
    return _build(tree, texts, count, None)


def build_language_world(size: Size, answers: Answers, *, count: int, seed: int = 1, **train: Any) -> World:
    """Return rows of exactly `size.tokens` tokens for a causal language model."""
    texts = make_language_texts(size, count + 2, seed)
    task: dict[str, Any] = {
        "kind": "causal_lm",
        "max_length": size.tokens,
        "max_target_length": size.tokens - 1,
    }
    if answers != "none":
        kept = {"k": 64, "temperatures": TEMPERATURES} if answers == "top_k" else {}
        task["answers"] = {"kind": answers, **kept}
    tree = _tree("language", _decoder(size.student, size), task, int(answers != "none"))
    tree["train"] = {"steps": 1_000_000, "batch_size": size.rows, "evaluations": 1, **train}
    return _build(tree, texts, count, make_word_tokenizer(size.vocabulary, size.tokens))


def _decoder(shape: Shape, size: Size) -> dict[str, Any]:
    return {
        "kind": "decoder", "architecture": "gpt2", **shape.as_settings(), "dropout": 0.0,
        "max_positions": size.tokens, "vocab_size": size.vocabulary,
    }  # fmt: skip


def _build(tree: dict[str, Any], texts: tuple[str, ...], count: int, tokenizer: Tokenizer | None) -> World:
    config = RunConfig.model_validate(tree)
    rows = make_rows(texts, targets=tokenizer is not None)
    train, validation = rows.select(range(count)), rows.select(range(count, len(rows)))
    tokenizer = config.student.fit_tokenizer(texts) if tokenizer is None else tokenizer
    return World(config, tokenizer, prepare_rows(config, train, validation, tokenizer))


def save_teacher(world: World, shape: Shape, size: Size, folder: Path, seed: int = 0) -> TeacherSpec:
    """Write a teacher with random weights as a user would have it; return how it answers the world's run.

    Args:
        world: Whose tokenizer and task it has.
        shape: Of the teacher.
        size: For its vocabulary and positions.
        folder: Where it goes.
        seed: Of its weights.
    """
    config, language = world.config, world.config.task.language
    kind = {"kind": "transformer", **shape.as_settings(), "vocab_size": size.wordpieces, "dropout": 0.0}
    student = {**config.model_dump()["student"], **(_decoder(shape, size) if language else kind)}
    made = RunConfig.model_validate({**config.model_dump(), "student": student, "seed": seed})
    models.save_model(make_task_model(made, world.tokenizer), folder)
    labels = () if language else config.data.labels
    return TeacherSpec(
        ModelTeacher(name=config.teachers[seed].name, languages="all", path=str(folder)), labels, config.task
    )
