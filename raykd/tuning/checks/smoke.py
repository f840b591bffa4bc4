"""`raykd sweep --smoke`: a few short trials over a few rows, before a long sweep."""

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
"""Trials, and those of a scheduler that compares members of a population."""
DRAWS = 8
"""Samples whose batches are looked at, beside one for each option."""
BUDGET_S = 20.0
"""Where a grid has more points than that, no further trial starts after so many seconds."""


def shorten_sweep(sweep: Sweep) -> Sweep:
    """Return the short copy of a sweep: the same search, scheduler and space.

    Raises:
        ConfigError: Its folder holds something else than an earlier short copy.
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
    """Rows a step of the base and of some trials."""
    found = [sweep.base.train.batch_size]
    for sample in sweep.space.draw_covering(DRAWS):
        with contextlib.suppress(ConfigError):  # a setting that cannot be run is drawn anew
            found.append(sweep.space.build_run(sample).train.batch_size)
    return found
