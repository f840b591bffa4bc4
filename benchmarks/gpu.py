"""What distillation costs on an accelerator; and, without one, what a CPU can count of it.

Usage: python -m benchmarks.gpu --count [--only texts,taught,none,top_k,hidden,shapes] [--json FILE]

--count runs on a CPU, in about three minutes and 3 GB. Models are narrow, but as deep, long and rich in words as those
of the table; nothing that is counted depends on width.

operators     Of a bfloat16 step of a student alone, views left out, over those of a plain step (autocast, fused AdamW).
              An operator that is no view is about a kernel.
host syncs    Waits for the device in a step: values read, results whose size is a value, blocking copies.
chunks        Products with the output head, 16 x 512 tokens over 50,000.
shapes        Padded shapes (rows, tokens) that a model's forward meets.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure import show


def print_counts(only: str | None, file: Path | None) -> None:
    """Count, print the table, and write it where a file is given."""
    from benchmarks.gpu_parts.count import count_parts

    found = list(count_parts(only))
    lines = [
        [
            each.what,
            f"{each.value:.2f}".removesuffix(".00"),
            f"{each.goal:g}",
            "met" if each.met else "MISSED",
            each.detail,
        ]
        for each in found
    ]
    show("a step, counted on a CPU", ["", "counted", "at most", "", "of these"], lines)
    if file is not None:
        file.write_text(
            json.dumps([{**asdict(each), "met": each.met} for each in found], indent=2), encoding="utf-8"
        )


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", action="store_true", help="count on a CPU")
    parser.add_argument("--only", default=None, help="parts, comma between")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    if options.count:
        print_counts(options.only, options.json)
    else:
        parser.error("nothing to do: give --count")


if __name__ == "__main__":
    main()
