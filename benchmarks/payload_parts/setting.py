"""What `benchmarks.payload` compares: rows, models, and the forms of an answer.

Decision record: a causal language model of the targets alone, since what is compared is what a teacher's distribution
loses on its way, and a source would only add an encoder to every step. The teacher learns from all training rows, the
students see a part of them, so that what a student can gain from its teacher is much larger than what differs between
seeds. Teacher and students share one tokenizer. Students learn from the teacher alone (alpha 0): a gold label in the
loss would hide what a form loses.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.payload_parts.fitting import data_of
from raykd.config import ModelTeacher, RunConfig
from raykd.data.load import Dataset
from raykd.teachers.source import LocalSource
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.teacher import Teacher

TASK = {"kind": "causal_lm", "max_length": 65, "max_target_length": 64}
GOAL_BYTES = 40.0
"""Bytes a token of random sampling, at most."""
FEWER_DRAWS = (50, 45, 40, 36, 32, 28, 25, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4)


@dataclass(frozen=True)
class Scale:
    """How large everything is. rows: training rows that students see. steps: of a student."""

    vocab: int = 4000
    teacher: Mapping[str, Any] = field(default_factory=lambda: {"layers": 2, "hidden": 128, "heads": 4})
    teacher_steps: int = 300
    student: Mapping[str, Any] = field(
        default_factory=lambda: {"layers": 1, "hidden": 96, "heads": 4, "dropout": 0.0}
    )
    steps: int = 160
    rows: int = 400
    batch: int = 16
    evaluations: int = 8


QUICK = Scale(
    vocab=1000,
    teacher={"layers": 1, "hidden": 64, "heads": 4},
    teacher_steps=60,
    student={"layers": 1, "hidden": 32, "heads": 4, "dropout": 0.0},
    steps=20,
    rows=128,
    evaluations=2,
)


@dataclass(frozen=True)
class Form:
    """How the teacher answers, and at which temperature a student reads it."""

    name: str
    answers: Mapping[str, Any]
    temperature: float = 1.0


PLAIN = "no distillation"
DENSE = {"kind": "hidden"}
"""Every logit, exactly but for float16 of the hidden states."""


def top(k: int) -> dict[str, Any]:
    """The k largest logits, with the default grid of temperatures."""
    return {"kind": "top_k", "k": k}


def forms(draws: int) -> list[Form]:
    """All that students are trained with; ``draws`` is what stays below `GOAL_BYTES`."""
    found = [Form(f"{name}, T = {t:g}", answers, t) for t in (1.0, 2.0) for name, answers in _temperate()]
    for number in dict.fromkeys((50, draws)):
        found.append(Form(sampled_name(number), {"kind": "sampled", "draws": number}))
    return found


def sampled_name(draws: int) -> str:
    """As tables say it."""
    return f"sampled, {draws} draws, T = 1"


def _temperate() -> list[tuple[str, dict[str, Any]]]:
    return [("dense", DENSE), *((f"top-{k}", top(k)) for k in (8, 16, 64))]


@dataclass(frozen=True)
class Setting:
    """Where the rows are (None: the generated corpus), and how large everything is. work: models and answers."""

    data: Path | None
    scale: Scale
    work: Path

    def config(self, model: str, form: Form | None = None, seed: int = 0) -> RunConfig:
        """A run of the ``teacher`` or a ``student``, with the form it is distilled by."""
        scale = self.scale
        shape = scale.teacher if model == "teacher" else scale.student
        answers = {} if form is None else {"answers": form.answers}
        objective: dict[str, Any] = {"alpha": 1.0}
        if form is not None:
            objective = {"alpha": 0.0, "temperature": form.temperature}
        steps = scale.teacher_steps if model == "teacher" else scale.steps
        batch = 32 if model == "teacher" else scale.batch
        train = {"steps": steps, "batch_size": batch, "evaluations": scale.evaluations}
        return RunConfig.model_validate(
            {
                "name": "payload",
                "seed": seed,
                "task": {**TASK, **answers},
                "data": self._rows(),
                "student": {"kind": "decoder", "vocab_size": scale.vocab, **shape},
                "teachers": [{"name": "t", "languages": "all", "path": "trained first"}] if form else [],
                "objective": objective,
                "train": {**train, "learning_rate": 0.003},
            }
        )

    def _rows(self) -> dict[str, Any]:
        if self.data is None:
            sizes = {"train": 2500, "validation": 300, "test": 500}
            return {
                "languages": ["fr"],
                **{
                    split: {"kind": "embedded", "split": split, "rows_per_language": n}
                    for split, n in sizes.items()
                },
            }
        splits = ("train", "validation", "test")
        sources = {s: {"kind": "files", "paths": [str(self.data / f"{s}.jsonl")]} for s in splits}
        language = self.data.name.rpartition("-")[2]
        return {
            "languages": [language],
            "columns": {"source": None},
            "on_long_row": "truncate",
            **sources,
        }

    def rows(self) -> Dataset:
        """All rows."""
        return data_of(self.config("teacher"))

    def student_rows(self) -> Dataset:
        """What students train on: the first of the training rows."""
        everything = self.rows()
        return replace(everything, train=everything.train.select(range(self.scale.rows)))

    def tokenizer(self) -> Any:
        """Learnt from all training targets."""
        return _tokenizer(self.scale.vocab, self.rows().train.pairs or ())

    @property
    def teacher(self) -> Path:
        """The trained teacher's directory."""
        return self.work / "teacher"

    def spec(self, config: RunConfig, store: Path | None) -> TeacherSpec:
        """The teacher as it answers for a run."""
        kept = None if store is None else str(store)
        teacher = ModelTeacher(name="t", languages="all", path=str(self.teacher))
        return TeacherSpec(teacher, (), config.task, dtype="float32", store=kept)

    def source(self, config: RunConfig) -> LocalSource:
        """The teacher in this process, with the answers that it gave before."""
        return LocalSource([Teacher(self.spec(config, self.work / "answers"))])


@functools.lru_cache(maxsize=1)
def _tokenizer(vocab: int, texts: tuple[str, ...]) -> Any:
    from raykd.tokenizers.bytepair import train_bytepair

    return train_bytepair(texts, vocab_size=vocab, max_length=512, closed=False)
