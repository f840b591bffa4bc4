"""Pretraining of a teacher or the student as a language model on texts of the domain, before it learns the run's task.

Decision record: it is a stage with a folder of its own, named by its settings and texts, so a run, a sweep, another
arm or teacher that wants the same finds it done. Its head is thrown away: the model starts from encoder and tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from raykd.config.data import DataConfig, Source
from raykd.config.train import TrainConfig
from raykd.models import PretrainedStudent, Student
from raykd.parse import JsonObject
from raykd.spec import Spec
from raykd.tasks import TaskBase

_SHARED = ("languages", "select_languages", "select_groups", "leave_out_groups", "on_bad_row", "max_bad_rows",
           "language_temperature", "length_grouping")  # fmt: skip
"""Keys of the run's `data` that hold for the texts, too."""
READ = (*_SHARED, "columns", "train", "validation", "test", "unlabeled")
"""Keys of the run's `data` that decide what is read."""
FOLDER = "pretraining-"
"""How the folder of a stage begins, behind which its content is named."""


class Pretraining(Spec):
    """A language model of the domain, which the model starts from (in-domain pretraining, arXiv:2004.10964)."""

    objective: Literal["masked_lm", "causal_lm"] = "masked_lm"
    """What is learnt: hidden tokens (BERT, arXiv:1810.04805), or the next token, for a `model` that is a decoder."""
    texts: Literal["unlabeled", "train"] | Source = "unlabeled"
    """What it is learnt from: `data.unlabeled`, the texts of `data.train`, or a source of its own. Texts of validation
    and test are left out. Languages and domains are those that the model learns from."""
    validation: Source | None = None
    """Texts that choose the best step; None takes those of `data.validation`."""
    share: float = Field(0.15, gt=0.0, le=1.0)
    """Share of tokens that is hidden: 80 of 100 become the mask token, 10 another token, 10 stay. Of `masked_lm`."""
    views: int = Field(1, ge=1)
    """Maskings of each text in a batch. A text is masked alike in every epoch, so several take the place of epochs. Of
    `masked_lm`."""
    max_length: int = Field(128, ge=3)
    """Longest text in tokens, special tokens included."""
    train: TrainConfig = TrainConfig()
    """As of a student: steps or epochs, batch size, learning rate."""

    @model_validator(mode="after")
    def _of_its_objective(self) -> Pretraining:
        idle = [n for n in ("share", "views") if getattr(self, n) != Pretraining.model_fields[n].default]
        if self.objective == "causal_lm" and idle:
            raise ValueError(f"{idle[0]} plays no part in causal_lm, which hides no token")
        return self

    def build_task(self) -> JsonObject:
        """Return the task of this stage, as a run file has it."""
        if self.objective == "causal_lm":
            # A text is a target without a prompt, whose place takes one token.
            return {
                "kind": "causal_lm",
                "max_length": self.max_length,
                "max_target_length": self.max_length - 1,
            }
        hidden = {"share": self.share, "views": self.views, "replacement": "mixed"}
        return {"kind": "masked_lm", "max_length": self.max_length, **hidden}

    def choose_data(self, data: JsonObject) -> JsonObject:
        """Return what of a run's `data` this stage reads: texts, their languages and domains.

        Args:
            data: The tree, with this stage's own `train` and `validation`.
        """
        named, target = data["columns"], self.objective == "causal_lm"
        kept = ("language", "group", "id", *(() if target else ("tokens", "context")))
        shared: JsonObject = {key: named[key] for key in kept}
        columns = shared | ({"source": None, "target": named["text"]} if target else {"text": named["text"]})
        chosen: JsonObject = {key: data[key] for key in _SHARED} | {"columns": columns}
        for part in ("train", "validation", "test"):
            source = data[part] and dict(data[part])
            if source and "columns" in source:
                own = {key: name for key, name in source["columns"].items() if key in ("text", *shared)}
                text = own.pop("text", None) if target else None
                source["columns"] = own | ({"target": text} if text else {})
            chosen[part] = source
        return chosen


def start_from_pretraining(model: Student, folder: Path) -> PretrainedStudent:
    """Return what learns the task: the pretrained checkpoint, with what `model` says of training it.

    Args:
        model: What was pretrained; layers and pieces that it leaves out are left out already.
        folder: Where the checkpoint is.
    """
    kept = ("dropout", "tuning", "language_codes") if isinstance(model, PretrainedStudent) else ()
    return PretrainedStudent(path=str(folder), crf=model.crf, **{key: getattr(model, key) for key in kept})


def strip_for_pretraining(model: Student) -> Student:
    """Return what learns the language stage: all its weights, and no chain of tags, which are of the task."""
    return model.model_copy(update={"crf": False} | ({"tuning": None} if hasattr(model, "tuning") else {}))


def check_pretraining(key: str, stage: Pretraining, model: Student, task: TaskBase, data: DataConfig) -> None:
    """Check that a model can learn the language stage, and that there are texts.

    Args:
        key: Of the stage, for messages.
        stage: The stage.
        model: What learns it.
        task: The run's, which comes after it.
        data: The run's.

    Raises:
        ValueError: Names the key.
    """
    if stage.objective not in model.tasks:
        raise ValueError(
            f"{key}: a model of kind {model.kind} cannot learn {stage.objective}; wanted "
            + (
                "transformer, lstm or pretrained"
                if stage.objective == "masked_lm"
                else "decoder or pretrained"
            )
        )
    if task.language:
        raise ValueError(
            f"{key} plays no part in {task.kind}, which is a language model itself; leave it out"
        )
    if stage.texts == "unlabeled" and data.unlabeled is None:
        raise ValueError(f"{key}.texts: unlabeled needs data.unlabeled; name a source, or texts: train")
    if stage.max_length > (most := getattr(model, "max_positions", stage.max_length)):
        raise ValueError(f"{key}.max_length {stage.max_length} is larger than model.max_positions {most}")
