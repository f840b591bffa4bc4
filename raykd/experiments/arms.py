"""Choose what a confirmation trains: a sweep's winner and its default, with seeds that no trial has used."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raykd.config import Run
from raykd.config.loading import load_any_run
from raykd.distill.weighting import Weighting
from raykd.errors import ConfigError
from raykd.spaces.domains import Scalar
from raykd.spaces.search import Sampler
from raykd.spaces.space import Sample
from raykd.tuning.config import Sweep, load_sweep
from raykd.tuning.driver import TaskWeightings
from raykd.tuning.journal import JOURNAL, Journal
from raykd.tuning.outcome import BEST

ARMS = ("winner", "default")
FIRST_SEED = 1001
"""First fresh seed. Seeds that a trial has used are skipped."""


@dataclass(frozen=True)
class Arms(Sampler):
    """Winner and default, each trained with every seed. Samples both arms of a seed in turn.

    Attributes:
        winner: The best run of the sweep.
        default: The base of the sweep.
        seeds: Seeds that no trial has used.
        name: Name of the confirmation's folder.
        output: The sweep's folder, which holds it.
    """

    winner: Run
    default: Run
    seeds: tuple[int, ...]
    name: str
    output: str

    def build_run(self, sample: Mapping[str, Scalar]) -> Run:
        """Return the run of an arm with a seed."""
        run = self.winner if sample["arm"] == "winner" else self.default
        return run.model_copy(update={"seed": sample["seed"]})

    def fingerprint(self) -> str:
        """Return the sha256 of both runs. The seeds are left out, so that a resume may add some."""
        return hashlib.sha256((self.winner.fingerprint() + self.default.fingerprint()).encode()).hexdigest()

    def weightings(self) -> TaskWeightings:
        """Return the weightings of both arms by task; None if the arms choose different teachers."""
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

    def ask(self, index: int) -> Sample | None:
        """Return sample ``index``."""
        if index >= self.trials:
            return None
        return {"arm": ARMS[index % len(ARMS)], "seed": self.seeds[index // len(ARMS)]}


def read_arms(folder: Path, count: int) -> tuple[Sweep, Arms]:
    """Read a finished sweep and choose the seeds.

    Args:
        folder: The sweep's folder.
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
    fresh = (seed for seed in itertools.count(FIRST_SEED) if seed not in used)
    return plan, Arms(winner, plan.base, tuple(itertools.islice(fresh, count)), "confirm", str(folder))
