"""Train what back_translation_en.yaml reads: python examples/back_translation.py (needs ../shared/data beside the project).

The rows of the review sentences have the same ids in all languages, so those without labels are pairs for one model
that translates from English into French and back (runs/translator), and their English texts teach a masked language
model (runs/masked). Both are from scratch and small; models of the hub write better copies.
"""

import json
import sys
from pathlib import Path

import raykd

DATA = Path(__file__).parents[2] / "shared" / "data"
FOLDER = Path("runs")


def read_rows(language: str, kind: str, split: str) -> dict[str, str]:
    """Return the texts of a file by their ids."""
    lines = (DATA / kind / language / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row["text"] for row in map(json.loads, lines)}


def write_pairs(path: Path, kind: str, split: str) -> None:
    """Write the pairs of both ways."""
    english, french = read_rows("en", kind, split), read_rows("fr", kind, split)
    with path.open("w", encoding="utf-8") as file:
        for name in sorted(english.keys() & french.keys()):
            for src, tgt, lang in (
                (english[name], french[name], "fr"),
                (french[name], english[name], "en"),
            ):
                file.write(json.dumps({"src": src, "tgt": tgt, "tgt_lang": lang}) + "\n")


FOLDER.mkdir(exist_ok=True)
write_pairs(FOLDER / "pairs.jsonl", "unlabeled", "train")
write_pairs(FOLDER / "pairs_validation.jsonl", "sentiment", "validation")
train = {"epochs": 12, "batch_size": 32, "learning_rate": 0.002, "evaluations": 6}
translator = {
    "name": "translator",
    "task": {"kind": "seq2seq", "max_length": 48, "max_target_length": 48},
    "data": {
        "languages": ["en", "fr"],
        "train": {"kind": "files", "paths": [str(FOLDER / "pairs.jsonl")]},
        "validation": {
            "kind": "files",
            "paths": [str(FOLDER / "pairs_validation.jsonl")],
            "rows_per_language": 100,
        },
    },
    "student": {"kind": "encoder_decoder", "layers": 1, "hidden": 128, "heads": 4, "vocab_size": 3000},
    "objective": {"alpha": 1.0},
    "train": train,
}
masked = {
    "name": "masked",
    "task": {"kind": "masked_lm", "max_length": 48},
    "data": {
        "languages": ["en"],
        "train": {"kind": "files", "paths": [str(DATA / "unlabeled/en/train.jsonl")]},
        "validation": {"kind": "files", "paths": [str(DATA / "sentiment/en/validation.jsonl")]},
    },
    "student": {
        "kind": "transformer",
        "layers": 2,
        "hidden": 128,
        "heads": 4,
        "vocab_size": 3000,
        "max_positions": 48,
    },
    "objective": {"alpha": 1.0},
    "train": train,
}
for config in (translator, masked):
    raykd.train({**config, "output": str(FOLDER)}, sys.argv[1:], resume=True)
