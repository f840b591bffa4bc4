"""The plain arm of the sweep: trials one after the other in one process, teachers beside the student on the same GPU.

Usage: python -m benchmarks.gpu_parts.plain_sweep FOLDER TRIALS STEPS DEVICE

Decision record: what a careful user writes. Texts are tokenised once, teachers are loaded once and answer in bfloat16,
batches are padded to their longest text, the student trains under autocast with fused AdamW. What is plain: every
trial asks every teacher again. It must not import raykd.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

BATCH = 32


def train_trial(folder: Path, trial: int, steps: int, device: torch.device, shared: dict[str, Any]) -> None:
    """Train one student, as every trial does."""
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(trial)
    student = AutoModelForSequenceClassification.from_pretrained(folder / "student").to(device).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    alpha, temperature = 0.1 + 0.1 * (trial % 8), 1.0 + trial % 4
    texts, labels = shared["texts"], shared["labels"]
    for step in range(steps):
        picked = [(step * BATCH + i) % len(texts) for i in range(BATCH)]
        inputs = shared["tokenizer"].pad([texts[i] for i in picked], return_tensors="pt").to(device)
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                answers = [teacher(**inputs).logits.float() for teacher in shared["teachers"]]
            logits = student(**inputs).logits.float()
            hard = F.cross_entropy(logits, labels[picked].to(device))
            own = F.log_softmax(logits / temperature, dim=-1)
            soft = sum(
                F.kl_div(own, F.softmax(each / temperature, dim=-1), reduction="batchmean")
                for each in answers
            )
            loss = alpha * hard + (1 - alpha) * temperature**2 * soft / len(answers)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize()


def load_shared(folder: Path, device: torch.device) -> dict[str, Any]:
    """Return teachers, tokenizer and tokens, loaded once for all trials."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=128)
    names = sorted({row["label"] for row in rows})
    teachers = [
        AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.bfloat16).to(device).eval()
        for path in sorted(folder.glob("teacher-*"))
    ]
    return {
        "tokenizer": tokenizer,
        "texts": [{name: values[i] for name, values in encoded.items()} for i in range(len(rows))],
        "labels": torch.tensor([names.index(row["label"]) for row in rows]),
        "teachers": teachers,
    }


def main() -> None:
    """Run the trials."""
    folder, trials, steps, device = (
        Path(sys.argv[1]),
        int(sys.argv[2]),
        int(sys.argv[3]),
        torch.device(sys.argv[4]),
    )
    shared = load_shared(folder, device)
    for trial in range(trials):
        train_trial(folder, trial, steps, device, shared)


if __name__ == "__main__":
    main()
