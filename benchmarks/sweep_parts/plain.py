"""The plain arm: a sweep as one writes it without raykd, a Ray Tune function that loads its own teachers.

Decision record: nothing is made slow on purpose. Teachers are in `eval` mode under `no_grad`, texts are tokenised
once a trial, the process has as many threads as CPUs, two trials run at once. What is plain: every trial loads three
teachers and asks them at every step in float32, and every text is padded to the longest that is allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.sweep_parts.setting import (
    ALPHA,
    LABELS,
    MAX_LENGTH,
    TEMPERATURE,
    Setting,
    read_lines,
)


def tokenized(folder: Path, texts: list[str]) -> dict[str, Any]:
    """All texts, padded to the longest that is allowed."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    return dict(
        tokenizer(texts, truncation=True, max_length=MAX_LENGTH, padding="max_length", return_tensors="pt")
    )


def kd_loss(logits: Any, labels: Any, answers: list[Any], alpha: float, temperature: float) -> Any:
    """alpha CE + (1 - alpha) T^2 mean over teachers of KL(teacher || student)."""
    from torch.nn import functional

    student = functional.log_softmax(logits / temperature, dim=-1)
    soft = sum(
        functional.kl_div(
            student, functional.log_softmax(a / temperature, dim=-1), log_target=True, reduction="batchmean"
        )
        for a in answers
    ) / len(answers)
    return alpha * functional.cross_entropy(logits, labels) + (1 - alpha) * temperature**2 * soft


def accuracy(student: Any, encoded: dict[str, Any], labels: Any) -> float:
    """Of all rows, in batches of 32."""
    import torch

    student.eval()
    right = 0
    with torch.no_grad():
        for begin in range(0, len(labels), 32):
            part = slice(begin, begin + 32)
            logits = student(**{k: v[part] for k, v in encoded.items()}).logits
            right += int((logits.argmax(-1) == labels[part]).sum())
    student.train()
    return right / len(labels)


def train_student(config: dict[str, float], setting: Setting) -> None:
    """One trial."""
    import torch
    from ray import tune
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = read_lines(setting.work / "train.jsonl")
    held_out = read_lines(setting.work / "validation.jsonl")
    texts, held_out_texts = [r["text"] for r in rows], [r["text"] for r in held_out]
    labels = torch.tensor([LABELS.index(r["label"]) for r in rows])
    held_out_labels = torch.tensor([LABELS.index(r["label"]) for r in held_out])
    teachers = [AutoModelForSequenceClassification.from_pretrained(f).eval() for f in setting.teachers]
    student = AutoModelForSequenceClassification.from_pretrained(setting.student).train()
    for_teachers = [tokenized(folder, texts) for folder in setting.teachers]
    for_student, for_scores = tokenized(setting.student, texts), tokenized(setting.student, held_out_texts)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.01)
    scored = {setting.steps * (i + 1) // setting.evaluations for i in range(setting.evaluations)}
    step = 0
    while step < setting.steps:
        for picked in torch.randperm(len(texts)).split(setting.batch):
            with torch.no_grad():
                answers = [
                    teacher(**{k: v[picked] for k, v in encoded.items()}).logits
                    for teacher, encoded in zip(teachers, for_teachers, strict=True)
                ]
            logits = student(**{k: v[picked] for k, v in for_student.items()}).logits
            loss = kd_loss(logits, labels[picked], answers, config["alpha"], config["temperature"])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step in scored:
                tune.report({"accuracy": accuracy(student, for_scores, held_out_labels), "step": step})


def main(setting: Setting, trials: int) -> None:
    """The whole sweep, as many trials at once as there are cores."""
    import logging

    import ray
    from ray import tune

    ray.init(
        address="local",
        num_cpus=setting.cores,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(train_student, setting=setting), {"cpu": 1}),
        param_space={"alpha": tune.uniform(*ALPHA), "temperature": tune.uniform(*TEMPERATURE)},
        tune_config=tune.TuneConfig(num_samples=trials, metric="accuracy", mode="max"),
        run_config=tune.RunConfig(
            name=f"plain-{trials}", storage_path=str(setting.work.resolve() / "plain"), verbose=0
        ),
    )
    results = tuner.fit()
    if results.errors:
        raise SystemExit(f"{len(results.errors)} trials failed: {results.errors[0]}")
    best: Any = results.get_best_result()
    print(f"best accuracy {best.metrics['accuracy']:.3f} with {best.config}")
