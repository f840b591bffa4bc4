"""Read a finished sweep as an experiment of two arms: `raykd confirm`.

Decision record: the winner was chosen by its validation score, so that score is too high by the luck of the search.
Winner and default are trained again with the same fresh seeds, as a comparison of two arms. Then each student reads the
test rows once, and the report shows the paired differences. A sweep whose best trial is its base has no winner: the
default is trained alone, and the report says so.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from raykd.config.home import find_folder
from raykd.config.loading import load_any_run
from raykd.errors import ConfigError
from raykd.experiments.arms import Arm, ExperimentPlan
from raykd.tuning.config import load_sweep
from raykd.tuning.journal import JOURNAL, Journal
from raykd.tuning.outcome import BEST

WINNER, DEFAULT = "winner", "default"
FIRST_SEED = 1001
"""First fresh seed. Seeds that a trial has used are skipped."""


def read_confirmation(sweep_folder: Path, count: int) -> ExperimentPlan:
    """Read a finished sweep and choose the seeds.

    Raises:
        ConfigError: The folder holds no finished sweep.
    """
    folder = find_folder(sweep_folder).resolve()
    space, best = folder / "space.yaml", folder / BEST
    if not space.is_file() or not best.is_file():
        raise ConfigError(
            f"{folder} holds no finished sweep",
            got=f"no {(space if not space.is_file() else best).name}",
            wanted="the folder of a sweep, output/name",
            next_step="raykd sweep SPACE.yaml, or raykd sweep NAME --resume",
        )
    plan, winner = load_sweep(space, check=False), load_any_run(best)
    used = {plan.base.seed, *(t.sample.get("seed") for t in Journal(folder / JOURNAL).trials.values())}
    arms = [Arm(DEFAULT, plan.base, "the base of the sweep")]
    if winner.fingerprint() == plan.base.fingerprint():
        arms = [Arm(DEFAULT, plan.base, "the base of the sweep, which no other trial was better than")]
    else:
        arms.insert(0, Arm(WINNER, winner, "the best run of the sweep"))
    fresh = (seed for seed in itertools.count(FIRST_SEED) if seed not in used)
    return ExperimentPlan(
        name="confirm",
        output=str(folder),
        base=plan.base,
        arms=tuple(arms),
        seeds=tuple(itertools.islice(fresh, count)),
        baseline=DEFAULT,
        label=plan.config.label,
        max_concurrent_trials=plan.config.max_concurrent_trials,
        max_failures=plan.config.max_failures,
        checkpoint_s=plan.config.checkpoint_s,
        role="confirmation",
        title=f"{plan.name}: winner against default" if len(arms) > 1 else f"{plan.name}: the default won",
    )
