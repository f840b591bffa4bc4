"""Shorten a sweep for `raykd sweep --smoke`: a few short trials over a few rows."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from raykd.config import TrainedTeacher
from raykd.config.smoke import ROWS, name_smoke_copy, shorten_run
from raykd.driver.smoke import check_smoke_folder, mark_as_smoke
from raykd.errors import ConfigError
from raykd.spaces.space import Space
from raykd.tuning.config import Sweep

TRIALS, POPULATION = 2, 4
"""Number of trials, and with a scheduler that needs a population."""
DRAWS = 8
"""Number of drawn samples whose batch size is looked at, beside one per option of a choice."""
BUDGET_S = 20.0
"""Seconds after which a grid with more points starts no further trial."""


def shorten_sweep(sweep: Sweep) -> Sweep:
    """Return a short copy of a sweep with the same search, scheduler and space.

    Raises:
        ConfigError: The folder of the copy holds something else.
    """
    config = sweep.config
    check_smoke_folder(sweep.output, sweep.name)
    taught = [t.training.train.batch_size for t in sweep.base.teachers if isinstance(t, TrainedTeacher)]
    rows = max(ROWS, *_batches(sweep), *taught)
    # Its own name: the base has one, and only the sweep's folder is used.
    base = mark_as_smoke(sweep.base, sweep.name).model_copy(update={"name": sweep.base.name})
    base = shorten_run(base, rows=rows, evaluations=None)
    most = POPULATION if config.scheduler.needs_population else TRIALS
    budget = (
        {}
        if sweep.space.grid_size <= most
        else {"time_budget_s": min(config.time_budget_s or BUDGET_S, BUDGET_S)}
    )
    config = config.model_copy(
        update={
            "name": name_smoke_copy(sweep.name),
            "num_samples": min(config.num_samples or most, 1 if sweep.space.grid_size > 1 else most),
            "checkpoint_s": 0.0,
            **budget,
        }
    )
    folder = Path(config.base_dir or ".")
    space = Space(config.space, base.model_dump(mode="json"), folder, sweep.space.origin)
    return replace(sweep, config=config, base=base, space=space)


def _batches(sweep: Sweep) -> list[int]:
    """Return the batch sizes of the base and of some trials, in rows."""
    found = [sweep.base.train.batch_size]
    for sample in sweep.space.draw_covering(DRAWS):
        with contextlib.suppress(ConfigError):  # a setting that cannot be run is drawn anew
            found.append(sweep.space.build_run(sample).train.batch_size)
    return found
