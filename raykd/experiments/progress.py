"""Show an experiment while it runs: a table of arms and seeds that fills up, and the bars of what trains now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raykd.report.formats import ABSENT, format_metric, format_metric_name
from raykd.report.sweeps.trials import TrialRow
from raykd.tuning.progress import SweepProgress

MOST_SEEDS = 8
"""Seeds that have a column; of more the last ones are shown."""


class ArmProgress(SweepProgress):
    """A table of validation scores, arm by seed. Without a terminal a line per finished training.

    Args:
        console: Where to show it.
        metric: Name of the score.
        total: Number of trainings.
        names: As for `SweepProgress`.
        arms: Names of the arms.
        seeds: The seeds; of trials their numbers.
        key: What a column stands for: a seed, or a trial among which an arm chooses.
    """

    def __init__(
        self,
        console: Console,
        metric: str,
        total: int,
        names: Mapping[str, str],
        *,
        arms: Sequence[str],
        seeds: Sequence[int],
        key: Literal["seed", "trial"] = "seed",
    ) -> None:
        # Not of all trials: the journal may hold trainings of seeds that are not asked for any more.
        super().__init__(console, metric, min(total, len(arms) * len(seeds)), names)
        self._arms, self._seeds, self._key = arms, seeds, key
        self._rows: dict[tuple[str, int], TrialRow] = {}

    @contextlib.contextmanager
    def show(self) -> Iterator[None]:
        """Show table and bars while the body runs."""
        live = Live(get_renderable=self.draw, console=self._console, refresh_per_second=4)
        with live if self._console.is_terminal else contextlib.nullcontext():
            yield

    def add_earlier(self, row: TrialRow) -> None:
        """Count a training that ended in an earlier start, and show its score, if it is one of the table."""
        if self._keep(row):
            super().add_earlier(row)

    def update_trial(self, row: TrialRow) -> None:
        """Show an evaluation of a training."""
        self._keep(row)
        super().update_trial(row)

    def finish_trial(self, row: TrialRow) -> None:
        """Show the result of a training."""
        self._keep(row)
        super().finish_trial(row)

    def draw(self) -> RenderableType:
        """Return the table and the bars."""
        seeds = self._seeds[-MOST_SEEDS:]
        table = Table(
            box=SIMPLE_HEAD,
            pad_edge=False,
            title=f"validation {format_metric_name(self._metric)}, best so far",
        )
        table.add_column("arm", no_wrap=True)
        for head in [*(f"{self._key} {seed}" for seed in seeds), "mean"]:
            table.add_column(head, justify="right", no_wrap=True)
        for arm in self._arms:
            found = [self._rows.get((arm, seed)) for seed in self._seeds]
            ended = [row for row in found if row is not None and row.status == "finished"]
            scores = [row.score for row in ended if row.score is not None]
            mean = format_metric(self._metric, sum(scores) / len(scores), compared=True) if scores else ABSENT
            table.add_row(arm, *(self._cell(row) for row in found[-len(seeds) :]), mean)
        return Group(table, self._bars.get_renderable())

    def _cell(self, row: TrialRow | None) -> Text:
        if row is None:
            return Text("·", style="dim")
        if row.status in ("failed", "diverged"):
            return Text(row.status, style="red")
        score = format_metric(self._metric, row.score, compared=True)
        return Text(score, style="" if row.status == "finished" else "dim italic")

    def _keep(self, row: TrialRow) -> bool:
        """Keep a training for the table; return False for one that has no place in it."""
        if ("trial" in row.sample) != (self._key == "trial"):
            return False
        place = str(row.sample["arm"]), int(str(row.sample[self._key]))
        if place[0] not in self._arms or place[1] not in self._seeds:
            return False
        self._rows[place] = row
        return True

    def _values(self, row: TrialRow) -> str:
        return ""  # the name says arm and seed
