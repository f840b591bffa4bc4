"""Timing that can be trusted on a shared machine: strictly alternating blocks, medians of per-round ratios."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Rounds:
    """Seconds a step of each arm in each round."""

    seconds: Mapping[str, list[float]]

    def median_ms(self, arm: str) -> float:
        """Median over rounds, milliseconds."""
        return 1e3 * float(np.median(self.seconds[arm]))

    def ratio(self, above: str, below: str) -> tuple[float, float, float]:
        """Median and quartiles of the per-round ratios."""
        ratios = np.asarray(self.seconds[above]) / np.asarray(self.seconds[below])
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        return float(middle), float(low), float(high)


def alternate(arms: Mapping[str, Callable[[], float]], rounds: int) -> Rounds:
    """Runs every arm once a round, in turn. An arm runs a block of steps and returns seconds a step."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, run in arms.items():
            value = run()
            if number:  # the first round warms up
                seconds[name].append(value)
    return Rounds(seconds)


def timed(run: Callable[[], object], steps: int) -> float:
    """Seconds a step of a block."""
    begun = time.perf_counter()
    for _ in range(steps):
        run()
    return (time.perf_counter() - begun) / steps


def show(title: str, heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Prints one table and the state of the machine."""
    table = Table(title=title)
    for at, head in enumerate(heads):
        table.add_column(head, justify="left" if at == 0 else "right")
    for line in lines:
        table.add_row(*line)
    console = Console(width=118)
    console.print(table)
    load = os.getloadavg()[0]
    noisy = "  [yellow]noisy: other work ran beside[/yellow]" if load > (os.cpu_count() or 1) + 1.5 else ""
    console.print(f"cores {os.cpu_count()}, load {load:.1f}{noisy}", highlight=False)
