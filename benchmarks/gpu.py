"""What distillation costs on an accelerator; and, without one, what a CPU can count of it.

Usage: python -m benchmarks.gpu [--only NAMES] [--skip sweep] [--budget-s 420] [--out DIR] [--toy]
       python -m benchmarks.gpu --count [--only NAMES] [--out DIR]

Without --count it fills the table of a GPU, in at most 8 minutes; without CUDA, or with --toy, at a toy size, which
proves that each arm runs and measures nothing. Every ratio is of one run: arms alternate, medians of rounds, the plain
arm with the same kernels and the same bfloat16. Models have random weights and are made here; nothing is downloaded.
Sections, the most important first; one that fails is named and the others go on, one that no longer fits is not begun:

wide         losses and answers over a vocabulary by kernels: difference from torch's own operators, and time
lm_student   a language model's student (109 M, 16 x 512 tokens, 50,000 words) alone / a plain torch step
kernels      kernels, host syncs and time of a classifier's bfloat16 step / plain autocast
lm_top_k     the same student taught by a served teacher (910 M), and by stored answers / dense KL in one process
teachers     GPU busy / wall while a teacher answers: reviews, 128 tokens, top-k, hidden states
mfu          floating-point operations of labelling / the card's measured rate
steady       slow steps and batches, padded shapes
lm_hidden    the student taught by hidden states / dense KL in one process
memory       peak of the student's side / that of the plain loop without its teacher's weights
idle         share of time in which a student waits for a teacher of its own size
sweep        8 trials in shares of the GPU / plain loops one after the other; the command from its start to its end

--count runs on a CPU, in about three minutes and 3 GB. Models are narrow, but as deep, long and rich in words as those
of the table; nothing that is counted depends on width. Parts: texts, taught, none, top_k, hidden, shapes.

operators    Of a bfloat16 step of a student alone, views left out, over those of a plain step (autocast, fused AdamW).
             An operator that is no view is about a kernel.
host syncs   Waits for the device in a step: values read, results whose size is a value, blocking copies.
chunks       Products with the output head, 16 x 512 tokens over 50,000.
shapes       Padded shapes (rows, tokens) that a model's forward meets.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import show

if TYPE_CHECKING:
    from benchmarks.gpu_parts.table import Outcome, Section

ORDER = "wide lm_student kernels lm_top_k teachers mfu steady lm_hidden memory idle sweep".split()  # noqa: SIM905


def list_sections() -> dict[str, Section]:
    """Return all sections by name. Seconds are estimates for one H100, not measured."""
    from benchmarks.gpu_parts import language, serving, sweeping, texts, wide
    from benchmarks.gpu_parts.table import Section

    found = {
        "wide": (wide.measure_wide, 10),
        "lm_student": (language.measure_student, 25),
        "kernels": (texts.measure_kernels, 20),
        "lm_top_k": (language.measure_top_k, 90),
        "teachers": (serving.measure_teachers, 45),
        "mfu": (serving.measure_utilisation, 30),
        "steady": (texts.measure_steadiness, 25),
        "lm_hidden": (language.measure_hidden, 45),
        "memory": (language.measure_memory, 25),
        "idle": (language.measure_idle, 35),
        "sweep": (sweeping.measure_sweep, 150),
    }
    return {name: Section(name, *found[name]) for name in ORDER}


def choose_sections(only: str | None, skip: str) -> list[Section]:
    """Return the sections asked for, in the order of the table.

    Raises:
        SystemExit: There is no such section.
    """
    sections, left_out = list_sections(), set(filter(None, skip.split(",")))
    wanted = set(sections) if only is None else set(only.split(","))
    if unknown := (wanted | left_out) - set(sections):
        raise SystemExit(f"no section {', '.join(sorted(unknown))}; there are {', '.join(sections)}")
    return [section for name, section in sections.items() if name in wanted - left_out]


def fill_table(options: argparse.Namespace) -> bool:
    """Run the sections and print the table; return whether all ran."""
    import torch

    from benchmarks.gpu_parts.context import Context, describe_device
    from benchmarks.gpu_parts.serving import close_ray
    from benchmarks.gpu_parts.table import run_sections
    from benchmarks.gpu_parts.worlds import FULL, TOY
    from raykd.teachers.actor import set_tokenizer_threads

    toy = options.toy or not torch.cuda.is_available()
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    set_tokenizer_threads(is_gpu=device.type == "cuda")  # as in a teacher's actor
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        rounds, steps = (2, 2) if toy else (5, 8)
        context = Context(TOY if toy else FULL, device, Path(folder), rounds, steps)
        for outcome in run_sections(choose_sections(options.only, options.skip), context, options.budget_s):
            outcomes.append(outcome)
            print(f"{outcome.name}: {outcome.failure or 'done'}, {outcome.seconds:.0f} s", flush=True)
            if outcome.trace:
                print(outcome.trace, flush=True)
            # After each section, so that a run that is cut off leaves what it has.
            _write(options.out, "gpu.json", _as_tree(context.size.name, describe_device(device), outcomes))
        close_ray()
        title = f"{describe_device(device)}; {context.size.name} size"
    _print_table(
        title + (": proves that each arm runs, measures nothing" if toy else ""), outcomes, judged=not toy
    )
    return not any(outcome.failure for outcome in outcomes)


def _print_table(title: str, outcomes: list[Outcome], *, judged: bool) -> None:
    """Print the table; a toy size is held against no goal."""
    lines: list[list[str]] = []
    for outcome in outcomes:
        lines += [[f.what, f.shown, f.goal, f.verdict if judged else "", f.detail] for f in outcome.figures]
        if outcome.failure:
            lines.append(
                [
                    outcome.name,
                    "-",
                    "",
                    "FAILED" if outcome.trace else "",
                    outcome.failure.partition("\n")[0][:200],
                ]
            )
    show(title, ["", "measured", "goal", "", "of these"], lines)


def _as_tree(size: str, device: str, outcomes: list[Outcome]) -> dict[str, Any]:
    return {"size": size, "device": device, "sections": [asdict(outcome) for outcome in outcomes]}


def _write(folder: Path | None, name: str, tree: object) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(tree, indent=2), encoding="utf-8")


def print_counts(only: str | None, out: Path | None) -> None:
    """Count, print the table, and write it where a folder is given."""
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
    _write(out, "count.json", [{**asdict(each), "met": each.met} for each in found])


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", action="store_true", help="count on a CPU instead of measuring")
    parser.add_argument("--toy", action="store_true", help="the toy size also where there is a GPU")
    parser.add_argument("--only", default=None, help="sections, or parts of --count, comma between")
    parser.add_argument("--skip", default="", help="sections to leave out, comma between")
    parser.add_argument("--budget-s", type=float, default=420.0, help="seconds for all sections")
    parser.add_argument("--out", type=Path, default=None, help="folder for the figures as JSON")
    options = parser.parse_args()
    if options.count:
        print_counts(options.only, options.out)
    elif not fill_table(options):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
