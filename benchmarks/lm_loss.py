"""What a distillation loss over a vocabulary costs the student, from the last hidden states on: time and peak memory.

Usage: python -m benchmarks.lm_loss [--rounds 9] [--threads 1] [--hidden 256] [--k 64] [--json FILE]

Forward and backward through head and loss, float32, temperature 2, for 2,048 units of 30,522 tokens and 512 of 119,547.
"dense" is plain torch on a whole batch: a KL of fp16 teacher logits, nothing else. Each arm has a process of its own,
all alive, and steps alternate between them; times are medians, ratios are taken round by round. With one thread
time is the processor's, which other work on the machine distorts less; with several it is the clock's. Memory is the peak of
the resident set in the first step, above what it was before the answer arrived and above the gradients of head and
hidden states, which models hold in any case. The teacher's output head counts as the models'.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.measure import Rounds, alternate, show
from raykd.answers.answer import Answer, DenseAnswer, join_answers
from raykd.answers.compress import compute_draws, compute_hidden, compute_top_k, draw_uniforms
from raykd.answers.tensors import to_vocabulary_signal
from raykd.distill.chunks import evaluate_hidden
from raykd.distill.objective import Objective
from raykd.distill.signals import Signals

SIZES = ((2048, 30_522), (512, 119_547))
ARMS = {
    "dense": "dense fp16, not chunked",
    "top_k": "top-k with tail, chunked",
    "sampled": "sampled, 50 draws, chunked",
    "hidden": "hidden states, chunked",
    "dense_chunked": "dense fp32, chunked",
    "ce": "cross entropy alone, not chunked",
    "ce_chunked": "cross entropy alone, chunked",
}
TEMPERATURE, DRAWS = 2.0, 50
GOAL_TIME, GOAL_MEMORY = 0.45, 0.15


class Work:
    """One arm's student, teacher's answer and step."""

    def __init__(self, arm: str, units: int, vocab: int, width: int, k: int, chunk: int | None) -> None:
        self.arm, self.chunk = arm, chunk
        torch.manual_seed(0)
        self.states = torch.randn(units, width, requires_grad=True)
        self.weight = (0.1 * torch.randn(vocab, width)).requires_grad_()
        self.head = 0.2 * torch.randn(vocab, width)
        self.labels = torch.randint(0, vocab, (units,))
        teacher = torch.randn(units, width)
        self.objective = Objective.model_validate(
            {
                "alpha": float(arm.startswith("ce")),
                "temperature": TEMPERATURE,
                "weighting": {"kind": "uniform"},
            }
        )
        self.sent = self._answer(teacher, k)

    def _answer(self, teacher: torch.Tensor, k: int) -> Any:
        """What arrives with a batch, made a few units at a time so that the peak is not the making's."""
        kind = self.arm.removesuffix("_chunked")
        if kind == "ce":
            return None
        if kind == "hidden":
            return compute_hidden(teacher).fetch()
        parts: list[Any] = []
        for at in range(0, len(teacher), 64):
            logits = teacher[at : at + 64] @ self.head.T
            if self.arm == "dense":
                parts.append(logits.half().numpy())
            elif kind == "dense":
                parts.append(DenseAnswer(logits_NC=logits.numpy(), covered_N=np.ones(len(logits), bool)))
            elif kind == "top_k":
                parts.append(compute_top_k(logits, k, (1.0, TEMPERATURE)).fetch())
            else:
                uniforms = torch.from_numpy(draw_uniforms(at, len(logits), DRAWS))
                parts.append(compute_draws(logits, uniforms, TEMPERATURE).fetch())
        return np.concatenate(parts) if self.arm == "dense" else join_answers(parts)

    def step(self) -> None:
        """From an answer's arrival to the gradients."""
        self.states.grad = self.weight.grad = None
        if self.arm == "dense":
            loss = self._dense(torch.from_numpy(self.sent.copy()))
        elif self.arm == "ce":
            loss = F.cross_entropy(F.linear(self.states, self.weight), self.labels)
        else:
            loss = self._chunked()
        loss.backward()

    def _dense(self, teacher_NV: torch.Tensor) -> torch.Tensor:
        logits_NV = F.linear(self.states, self.weight)
        with torch.no_grad():
            p_NV = F.softmax(teacher_NV.float() / TEMPERATURE, dim=-1)
        logq_NV = F.log_softmax(logits_NV / TEMPERATURE, dim=-1)
        return TEMPERATURE**2 * F.kl_div(logq_NV, p_NV, reduction="batchmean")

    def _chunked(self) -> torch.Tensor:
        signals = None
        n = len(self.labels)
        if self.sent is not None:
            payload: Answer = self.sent.take(np.arange(n))
            head = self.head if self.arm == "hidden" else None
            answer = to_vocabulary_signal(payload, weight_VD=head)
            covered = torch.from_numpy(payload.covered_N).unsqueeze(0)
            logits = torch.zeros(1, n, 0)
            signals = Signals(
                ("t",), (None,), logits, covered, self.labels, ("de",) * n, vocabulary_M=(answer,)
            )
        counts = self.objective.counts(self.labels, signals)
        return evaluate_hidden(
            self.objective,
            self.states,
            self.weight,
            None,
            self.labels,
            signals,
            0.5,
            counts,
            chunk=self.chunk,
        ).loss


def resident(field: str) -> int:
    """A size of this process in bytes: VmRSS now, or VmHWM at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"no {field} in /proc/self/status: memory can be measured on Linux only")


def serve(options: argparse.Namespace) -> None:
    """An arm's process: the peak of its first step, then the seconds of one step for each line it is sent."""
    torch.set_num_threads(options.threads)
    Work(options.arm, 8, 100, 16, 8, None).step()  # what libraries set up once
    work = Work(options.arm, options.units, options.vocab, options.hidden, options.k, options.chunk)
    ctypes.CDLL(None).malloc_trim(0)  # else the step would be served from what making the answer left behind
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is held now
    work.step()
    assert work.weight.grad is not None and work.states.grad is not None
    gradients = work.weight.grad.nbytes + work.states.grad.nbytes
    print(json.dumps(resident("VmHWM") - before - gradients), flush=True)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    for _ in sys.stdin:
        begun = clock()
        work.step()
        print(json.dumps(clock() - begun), flush=True)


class Arm:
    """The parent's end of an arm's process."""

    def __init__(self, name: str, units: int, vocab: int, options: argparse.Namespace) -> None:
        command = [sys.executable, "-m", "benchmarks.lm_loss", "--arm", name, "--units", str(units)]
        command += ["--vocab", str(vocab), "--threads", str(options.threads), "--hidden", str(options.hidden)]
        command += ["--k", str(options.k)] + (["--chunk", str(options.chunk)] if options.chunk else [])
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.peak = self._read()

    def _read(self) -> float:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"an arm's process ended with {self.process.wait()}; its error stands above")
        return float(json.loads(line))

    def __call__(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measured(units: int, vocab: int, options: argparse.Namespace) -> dict[str, Any]:
    """All arms of one size."""
    arms: dict[str, Arm] = {}
    try:
        for name in ARMS:
            arms[name] = Arm(name, units, vocab, options)
        blocks: dict[str, Callable[[], float]] = dict(arms)
        rounds = alternate(blocks, options.rounds)
    finally:
        for arm in arms.values():
            arm.close()
    return {"units": units, "vocab": vocab, "arms": {n: figures(n, arms, rounds) for n in arms}}


def figures(name: str, arms: dict[str, Arm], rounds: Rounds) -> dict[str, float]:
    """One arm's line: seconds, bytes, and both against the dense loss."""
    middle, low, high = rounds.ratio(name, "dense")
    return {
        "ms": rounds.median_ms(name),
        "time_ratio": middle,
        "time_ratio_low": low,
        "time_ratio_high": high,
        "peak_bytes": arms[name].peak,
        "memory_ratio": arms[name].peak / arms["dense"].peak,
    }


def report(result: dict[str, Any], options: argparse.Namespace) -> None:
    """The table of one size."""
    lines = []
    for name, title in ARMS.items():
        line = result["arms"][name]
        goal = f"{GOAL_TIME} / {GOAL_MEMORY}" if name == "top_k" else ""
        quartiles = f"{line['time_ratio_low']:.2f}-{line['time_ratio_high']:.2f}"
        lines.append(
            [title, f"{line['ms']:.0f} ms", f"{line['time_ratio']:.2f}", quartiles,
             f"{line['peak_bytes'] / 1e6:.0f} MB", f"{line['memory_ratio']:.2f}", goal]
        )  # fmt: skip
    show(
        f"head and loss, {result['units']} units x {result['vocab']} tokens, hidden {options.hidden}, "
        f"k = {options.k}, {options.threads} thread",
        ["arm", "median step", "x dense", "quartiles", "peak above models", "x dense", "at most"],
        lines,
    )


def main() -> None:
    """Runs the benchmark and prints its tables; with --arm it is one arm's process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--chunk", type=int, default=None, help="units at once; default: raykd's own choice")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--arm", choices=ARMS, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--units", type=int, default=None, help="only this many units (with --vocab)")
    parser.add_argument("--vocab", type=int, default=None, help="only this vocabulary (with --units)")
    options = parser.parse_args()
    if options.arm is not None:
        serve(options)
        return
    sizes = SIZES if options.vocab is None else ((options.units or 512, options.vocab),)
    results = []
    for units, vocab in sizes:
        results.append(measured(units, vocab, options))
        report(results[-1], options)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
