"""Write the corpora that ship: `python -m tools.embedded_corpora [FOLDER]`, by default raykd/data/embedded.

One file of JSON lines for each corpus, language and split, packed with xz. The rows depend on nothing but the words in
`lexicons` and `worlds` and on `SIZES`: the first rows of a file stay what they are when more are asked for.
"""

from __future__ import annotations

import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tools.embedded_corpora.answers import write_question
from tools.embedded_corpora.lexicon import available
from tools.embedded_corpora.reviews import write_review
from tools.embedded_corpora.summaries import write_summary
from tools.embedded_corpora.tags import write_names
from tools.embedded_corpora.targets import write_reply, write_translation
from tools.embedded_corpora.world import SPLITS, distinct

Write = Callable[[str, Random], tuple[str, list[Any]] | None]

CORPORA: dict[str, tuple[str, Write]] = {
    "reviews": ("text", write_review),
    "tags": ("tags", write_names),
    "answers": ("answers", write_question),
    "dialogue": ("dialogue", write_reply),
    "translation": ("translation", write_translation),
    "summaries": ("summaries", write_summary),
}
"""For each corpus its name in the seed and what draws its rows."""
SIZES: dict[str, tuple[int, int, int, int]] = {
    "reviews": (5000, 2000, 2000, 5000),
    "tags": (3000, 1000, 1000, 1000),
    "answers": (2000, 1000, 1000, 1000),
    "dialogue": (2000, 1000, 1000, 1000),
    "translation": (2500, 1000, 1000, 1000),
    "summaries": (2000, 500, 500, 500),
}
"""Rows for each language of train, validation, test and unlabeled."""
TARGET = Path(__file__).parents[2] / "raykd" / "data" / "embedded"


def draw_lines(corpus: str, language: str, split: str, count: int) -> list[str]:
    """Draw the first rows of a file, one JSON line each."""
    what, write = CORPORA[corpus]
    rows = distinct(language, split, count, what, write)
    return [json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows]


def write_corpora(folder: Path) -> int:
    """Write all files below the folder.

    Returns:
        Bytes written.
    """
    written = 0
    for corpus, counts in SIZES.items():
        (folder / corpus).mkdir(parents=True, exist_ok=True)
        for language in available():
            for split, count in zip(SPLITS, counts, strict=True):
                lines = "".join(draw_lines(corpus, language, split, count))
                packed = lzma.compress(lines.encode(), preset=9 | lzma.PRESET_EXTREME)
                (folder / corpus / f"{language}-{split}.jsonl.xz").write_bytes(packed)
                written += len(packed)
    return written


if __name__ == "__main__":
    print(f"{write_corpora(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET):,} bytes")
