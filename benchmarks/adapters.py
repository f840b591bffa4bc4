"""What an adapter for each language costs beside one for all, and beside a run for each language.

Usage: python -m benchmarks.adapters [--layers 4] [--hidden 256] [--steps 8]

LoRA adapters (rank 8) of a random BERT with a multilingual table (120,000 rows), trained from gold labels on the embedded
corpus in zh, en and fr, 32 rows a step. Each arm is a process of its own. Its memory is what it holds more after the
steps than before the model was built. A run for each language (`raykd train --each-language`) is measured as the run of
one of them, and counted three times.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.measure import show
from raykd.config import RunConfig
from raykd.data.load import load_data
from raykd.driver.loop import make_task_model
from raykd.student.loop import TrainingLoop
from raykd.student.prefetch import Prefetcher
from raykd.student.prepare import fit_tokenizer, prepare_rows

LANGUAGES = ("zh", "en", "fr")
ARMS = {
    "one for all languages": None,
    "one a language, one run": "language",
    "a run a language, at once": "alone",
}
ROWS, WARM = 120_000, 3


def make_config(base: Path, arm: str) -> RunConfig:
    """The run of an arm; of a run for each language the first of them."""
    source = {"kind": "embedded", "rows_per_language": 400}
    by = "language" if ARMS[arm] == "language" else None
    return RunConfig.model_validate(
        {
            "data": {
                "train": source, "validation": {**source, "split": "validation", "rows_per_language": 20},
                "labels": ["negative", "positive"], "languages": LANGUAGES,
                "select_languages": LANGUAGES[:1] if ARMS[arm] == "alone" else None,
            },
            "task": {"kind": "classification", "max_length": 64},
            "student": {"kind": "pretrained", "path": str(base), "tuning": {"kind": "lora", "by": by}},
            "objective": {"alpha": 1},
            "train": {"steps": 1000, "batch_size": 32},
        }
    )  # fmt: skip


def save_base(folder: Path, layers: int, hidden: int) -> None:
    """Save an encoder with random weights, and a tokenizer of the corpus."""
    from transformers import BertConfig, BertModel

    from raykd.models import TransformerStudent

    config = make_config(folder, "one for all languages")
    texts = load_data(config.data, Path.cwd(), config.form).train.texts
    TransformerStudent(vocab_size=3000).fit_tokenizer(texts).save_pretrained(str(folder))
    shape = BertConfig(
        vocab_size=ROWS, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // 32,
        intermediate_size=4 * hidden, max_position_embeddings=128,
    )  # fmt: skip
    BertModel(shape).save_pretrained(str(folder))


def read_memory() -> float:
    """Megabytes that this process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(base: Path, arm: str, steps: int) -> dict[str, float]:
    """Train an arm for some steps in this process."""
    config = make_config(base, arm)
    data = load_data(config.data, Path.cwd(), config.form)
    tokenizer = fit_tokenizer(config.student, [(config.task, data.train)])
    prepared = prepare_rows(config, data.train, data.validation, tokenizer)
    before = read_memory()
    loop = TrainingLoop(config, prepared, make_task_model(config, tokenizer), None)
    works = Prefetcher(loop.ask, 1).steps(0, WARM + steps)
    begun = 0.0
    for number, work in enumerate(works):
        if number == WARM:
            begun = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        loop.step(work)
    spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - begun
    weights = list(loop.engine.module.parameters())
    return {
        "frozen": sum(p.numel() for p in weights if not p.requires_grad),
        "trained": sum(p.numel() for p in weights if p.requires_grad),
        "mb": read_memory() - before,
        "ms": 1e3 * spent / steps,
    }


def main() -> None:
    """Measure every arm in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--arm", nargs=2, metavar=("NAME", "BASE"), help="one arm, in this process, as JSON")
    given = parser.parse_args()
    if given.arm is not None:
        torch.set_num_threads(1)
        print(json.dumps(measure(Path(given.arm[1]), given.arm[0], given.steps)))
        return
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        save_base(Path(folder), given.layers, given.hidden)
        for arm in ARMS:
            command = [
                sys.executable,
                "-m",
                "benchmarks.adapters",
                "--steps",
                str(given.steps),
                "--arm",
                arm,
                folder,
            ]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found, times = json.loads(out.splitlines()[-1]), len(LANGUAGES) if ARMS[arm] == "alone" else 1
            counts = [f"{times * int(found[key]):,}" for key in ("frozen", "trained")]
            lines.append([arm, *counts, f"{times * found['mb']:,.0f}", f"{found['ms']:,.0f}"])
    heads = ["adapters of three languages", "frozen weights", "trained", "MB", "CPU ms a step of 32 rows"]
    show("Adapters of one base", heads, lines)


if __name__ == "__main__":
    main()
