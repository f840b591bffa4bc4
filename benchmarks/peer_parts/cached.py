"""The peer: transformers' Trainer over a data set that was mapped once to the teachers' logits.

    python -m benchmarks.peer_parts.cached WORK {cached,online}

Decision record: this is what a careful user writes in an afternoon, and nothing is made slow on purpose. `datasets`
keeps the mapped rows under a fingerprint of the code and its arguments, so a second run loads no teacher. Texts are
padded to the longest of their batch, for teachers and student alike. The loss is raykd's: alpha times cross-entropy,
plus (1 - alpha) T^2 times the mean over teachers of KL(teacher || student). ``online`` asks the teachers at each step.

Prints one line of JSON: the clock at the end of each epoch's evaluation.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.peer_parts.setting import (
    ALPHA,
    BATCH,
    EPOCHS,
    LABELS,
    LEARNING_RATE,
    MAX_LENGTH,
    TEMPERATURE,
    Setting,
    read_setting,
)

_LOADED: dict[str, Any] = {}


def ask_teachers(texts: list[str], folders: list[str]) -> torch.Tensor:
    """Return the teachers' logits, [rows, teachers, labels]; a teacher is loaded when it is first asked."""
    answers = []
    for folder in folders:
        if folder not in _LOADED:
            model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
            _LOADED[folder] = (AutoTokenizer.from_pretrained(folder), model)
        tokenizer, model = _LOADED[folder]
        inputs = tokenizer(texts, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")
        with torch.no_grad():
            answers.append(model(**inputs).logits)
    return torch.stack(answers, dim=1)


def answer_rows(rows: dict[str, list[Any]], folders: list[str]) -> dict[str, Any]:
    """Return the column of logits that is kept."""
    return {"teacher_logits": ask_teachers(rows["text"], folders).numpy()}


class Collator(DataCollatorWithPadding):
    """Pads the student's inputs; what is of a teacher passes through."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        kept = {
            name: [feature.pop(name) for feature in features]
            for name in ("teacher_logits", "text")
            if name in features[0]
        }
        batch = super().__call__(features)
        if "teacher_logits" in kept:
            batch["teacher_logits"] = torch.tensor(kept["teacher_logits"])
        if "text" in kept:
            batch["text"] = kept["text"]
        return batch


class DistillationTrainer(Trainer):
    """A Trainer with the loss of several teachers."""

    folders: list[str]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """alpha CE + (1 - alpha) T^2 mean KL."""
        labels = inputs.pop("labels")
        answers, texts = inputs.pop("teacher_logits", None), inputs.pop("text", None)
        outputs = model(**inputs)
        loss = functional.cross_entropy(outputs.logits, labels)
        if answers is None and texts is not None and model.training:
            answers = ask_teachers(texts, self.folders)
        if answers is not None:
            student = functional.log_softmax(outputs.logits / TEMPERATURE, dim=-1)
            teachers = functional.log_softmax(answers / TEMPERATURE, dim=-1)
            soft = sum(
                functional.kl_div(student, teachers[:, m], log_target=True, reduction="batchmean")
                for m in range(teachers.shape[1])
            )
            loss = ALPHA * loss + (1 - ALPHA) * TEMPERATURE**2 * soft / teachers.shape[1]
        return (loss, outputs) if return_outputs else loss


class EvaluationTimes(TrainerCallback):
    """The clock at the end of each evaluation, seconds since 1970."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Takes the time."""
        self.seconds.append(time.time())


def read_data(setting: Setting, split: str, tokenizer: Any) -> Dataset:
    """Return the rows of a split, tokenised for the student."""
    file = str(setting.folder / f"{split}.jsonl")
    rows: Any = load_dataset("json", data_files=file, split="train", cache_dir=str(setting.folder / "cache"))
    return rows.map(
        lambda part: {
            **tokenizer(part["text"], truncation=True, max_length=MAX_LENGTH),
            "labels": [LABELS.index(label) for label in part["label"]],
        },
        batched=True,
    )


def main(work: Path, mode: str) -> None:
    """Map, train, save."""
    setting = read_setting(work)
    torch.set_num_threads(setting.cores)
    folders = [str(folder) for folder in setting.teachers]
    tokenizer = AutoTokenizer.from_pretrained(setting.student)
    train = read_data(setting, "train", tokenizer)
    if mode == "cached":
        train = train.map(answer_rows, batched=True, batch_size=BATCH, fn_kwargs={"folders": folders})
    kept = {"input_ids", "attention_mask", "token_type_ids", "labels", "teacher_logits"}
    kept |= {"text"} if mode == "online" else set()
    held_out = read_data(setting, "validation", tokenizer)
    times = EvaluationTimes()
    trainer = DistillationTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(setting.student),
        args=TrainingArguments(
            output_dir=str(work / "trainer"), num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH, learning_rate=LEARNING_RATE, eval_strategy="epoch",
            save_strategy="epoch", save_total_limit=1, report_to="none", use_cpu=True, remove_unused_columns=False,
            weight_decay=0.01, logging_steps=50, seed=0, disable_tqdm=True, label_names=["labels"],
        ),
        train_dataset=train.select_columns([c for c in train.column_names if c in kept]),
        eval_dataset=held_out.select_columns([c for c in held_out.column_names if c in kept - {"text"}]),
        data_collator=Collator(tokenizer),
        callbacks=[times],
    )  # fmt: skip
    trainer.folders = folders
    trainer.train()
    trainer.save_model(str(work / "trainer" / "student"))
    print(json.dumps({"evaluated": times.seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
