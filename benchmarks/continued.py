"""Measure what keeps a student that goes on learning from forgetting: replay, the anchor, both or neither.

    python -m benchmarks.continued                # 5 seeds; review sentences of ../shared/data
    python -m benchmarks.continued --seeds 10 --output FOLDER

A student learns English and French reviews (examples/sentiment_small_en_fr_de.yaml). Then it goes on with German ones
(examples/continued_de.yaml, `--from`). All arms start from this one student, take equally many steps, and are tested
in all three languages: what falls in English and French was forgotten. `all_at_once` is no continued student: it
learns the three languages together from the start, in as many steps as both trainings, and bounds what can be reached.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import raykd

EXAMPLES = Path(__file__).parents[1] / "examples"
FIRST, NEXT = EXAMPLES / "sentiment_small_en_fr_de.yaml", EXAMPLES / "continued_de.yaml"
DATA = EXAMPLES.parent.parent / "shared" / "data" / "sentiment"
OLD, LANGUAGES = ("en", "fr"), ("en", "fr", "de")
NO_ANCHOR = {"objective": {"weighting": {"kind": "by_language"}}, "select_teachers": ["de"]}
NO_REPLAY = {"data": {"replay": {"share": 0.0}}}
ARMS: dict[str, dict[str, Any]] = {
    "replay_and_anchor": {},
    "replay": NO_ANCHOR,
    "anchor": NO_REPLAY,
    "neither": {**NO_ANCHOR, **NO_REPLAY},
    "replay_half": {"data": {"replay": {"share": 0.5}}},
}


def main() -> None:
    """Train the first student and compare the ways to go on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each arm (default 5)")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of runs (default runs)")
    given = parser.parse_args()
    chosen = {"data.select_languages": list(OLD), "select_teachers": list(OLD)}
    first = raykd.train(FIRST, chosen, name="en_fr", output=str(given.output), resume=True)
    held_out = {
        part: {"kind": "files", "paths": [str(DATA / lang / f"{part}.jsonl") for lang in LANGUAGES]}
        for part in ("validation", "test")
    }
    result = raykd.compare(
        {
            "name": "continued",
            "base": str(NEXT),
            "set": {"from_run": str(first.folder), "output": str(given.output), "data": held_out},
            "arms": ARMS,
            "baseline": "neither",
            "seeds": given.seeds,
        },
        resume=True,
    )
    print((result.folder / "results.md").read_text(encoding="utf-8"))
    whole = raykd.train(
        FIRST, name="all_at_once", output=str(given.output), resume=True, **{"train.steps": 600}
    )
    print((whole.folder / "results.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
