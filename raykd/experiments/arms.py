"""What a confirmation trains: a sweep's winner and its default, with seeds that no trial has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.config import Run
from raykd.config.loading import load_any_run
from raykd.distill.weighting import Weighting
from raykd.errors import ConfigError
from raykd.tuning.config import Sweep, load_sweep
from raykd.tuning.driver import TaskWeightings
from raykd.tuning.journal import JOURNAL, Journal
from raykd.tuning.outcome import BEST

ARMS = ("winner", "default")
FIRST_SEED = 1001
"""Where fresh seeds begin; those that a trial had are passed over."""


@dataclass(frozen=True)
class Arms:
    """Winner and default with each seed: what a confirmation trains."""

    winner: Run
    default: Run
    seeds: tuple[int, ...]
    name: str
    output: str

    def build_run(self, sample: Mapping[str, Any]) -> Run:
        """Return the run of an arm with a seed."""
        run: Run = getattr(self, sample["arm"])
        return run.model_copy(update={"seed": int(sample["seed"])})

    def fingerprint(self) -> str:
        """Of both runs; more seeds may be added on a resume."""
        return hashlib.sha256((self.winner.fingerprint() + self.default.fingerprint()).encode()).hexdigest()

    def weightings(self) -> TaskWeightings:
        """Return the weightings of both arms, of each task; None where they choose other teachers."""
        differs = self.winner.select_teachers != self.default.select_teachers
        found: dict[str, list[Weighting | None]] = {}
        for task, default in self.default.members.items():
            one, other = self.winner.members[task].objective.weighting, default.objective.weighting
            found[task] = [None] if differs else [one] if one == other else [one, other]
        return found

    @property
    def trials(self) -> int:
        """Number of runs to train."""
        return len(ARMS) * len(self.seeds)

    # as a sampler: both arms of a seed after one another

    def ask(self, index: int) -> dict[str, Any] | None:
        """Sample ``index``."""
        if index >= self.trials:
            return None
        return {"arm": ARMS[index % len(ARMS)], "seed": self.seeds[index // len(ARMS)]}

    def report(self, index: int, evaluation: int, score: float) -> None:
        """Nothing is learnt on the way."""

    def tell(self, index: int, score: float | None) -> None:
        """Nothing is learnt at the end."""

    def restore(self, index: int, sample: Mapping[str, Any], score: float | None, finished: bool) -> None:
        """Nothing is learnt from before."""


def read_arms(folder: Path, count: int) -> tuple[Sweep, Arms]:
    """Read a finished sweep and choose the seeds.

    Args:
        folder: Of the sweep.
        count: Number of seeds.

    Raises:
        ConfigError: The folder holds no finished sweep.
    """
    space, best = folder / "space.yaml", folder / BEST
    if not space.is_file() or not best.is_file():
        raise ConfigError(
            f"{folder} holds no finished sweep",
            got=f"no {(space if not space.is_file() else best).name}",
            wanted="the folder of a sweep, output/name",
            next_step="raykd sweep SPACE.yaml, or raykd sweep --resume NAME",
        )
    plan, winner = load_sweep(space, check=False), load_any_run(best)
    used = {plan.base.seed, *(t.sample.get("seed") for t in Journal(folder / JOURNAL).trials.values())}
    seeds: list[int] = []
    seed = FIRST_SEED
    while len(seeds) < count:
        if seed not in used:
            seeds.append(seed)
        seed += 1
    return plan, Arms(winner, plan.base, tuple(seeds), "confirm", str(folder))
