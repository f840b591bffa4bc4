"""Read what a sweep knows before its first trial: settings to try first, and trials of an earlier sweep.

Decision record: an earlier trial is turned into its run by the earlier space and read back by this one, so the two
spaces may be written differently. A trial whose setting this space does not have is left out and named. The runs may
differ in keys that neither space searches, such as epochs. Their scores then only guide the search, and a note names
the keys. The observations are kept in the sweep's own folder, so that a resume needs no other folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.config import Run
from raykd.errors import ConfigError, RaykdError
from raykd.spaces.domains import GridDomain
from raykd.spaces.points import MAX_KEYS_SHOWN, list_differing_keys, read_point, read_run_sample
from raykd.spaces.search import Observation, PriorTrials, Search, WarmStart
from raykd.spaces.space import Sample, Space, encode_sample, format_sample
from raykd.tasks.scores.ranking import round_score

if TYPE_CHECKING:
    from raykd.tuning.config import Sweep
    from raykd.tuning.journal import Journal

BEST_FIRST = 3
"""Number of best earlier settings that a search tries first if it cannot learn from scores of others."""
IGNORED_KEYS = (
    "name",
    "output",
    "ray.",
    "tracking.",
    "serving.",
    "workers.",
    "baseline",
    "train.max_failures",
)
"""Keys, or beginnings of keys, that do not change what a run learns."""


def read_prior_trials(
    search: Search, base: Run, space: Space, path: Path, origin: str
) -> tuple[Search, PriorTrials, tuple[str, ...]]:
    """Read the settings and observations that a search begins with.

    Args:
        search: The search as its file says it.
        base: The run that every trial begins with.
        space: The searched space.
        path: The sweep's file. The folder of an earlier sweep is relative to it.
        origin: Name of the file, for errors.

    Returns:
        The search as the sweep's folder keeps it, the prior trials, and notes for a reader.

    Raises:
        ConfigError: A setting is outside the space, or the earlier sweep cannot be used.
    """
    notes: tuple[str, ...] = ()
    warm = search.warm_start
    asked = [key for key in ("base_first", "points_to_evaluate", "warm_start") if getattr(search, key)]
    if asked and any(isinstance(one.domain, GridDomain) for one in space.domains):
        raise ConfigError(
            f"{origin}: search.{asked[0]} does not go with a grid, whose points are all tried",
            got=f"search {search.kind} with {asked[0]}",
            wanted="the values in the grid itself, or search random or optuna with choice in place of grid",
        )
    if warm is not None and warm.observations is None:
        warm, notes = _read_warm_start(warm, base, space, path, origin)
        search = search.model_copy(update={"warm_start": warm})
    observed = () if warm is None or warm.observations is None else warm.observations
    first = _read_first(search, base, space, origin) + _choose_best(warm, observed, search)
    unique = {encode_sample(sample): sample for sample in first}  # each setting at its first place
    return search, PriorTrials(tuple(unique.values()), observed if search.observes else ()), notes


def _read_first(search: Search, base: Run, space: Space, origin: str) -> list[Sample]:
    first = [_read_base_sample(base, space, f"{origin}: search.base_first")] if search.base_first else []
    points: list[Sample] = []
    for at, point in enumerate(search.points_to_evaluate):
        where = f"{origin}: search.points_to_evaluate.{at}"
        sample = read_point(space, point, where)
        if sample in points:
            raise ConfigError(f"{where} stands there twice", got=format_sample(sample), wanted="each once")
        points.append(sample)
    return first + points


def _read_base_sample(base: Run, space: Space, where: str) -> Sample:
    """Return the base as a sample. The sample must give the base back unchanged."""
    try:
        sample = read_run_sample(space, base, where)
        apart = list_differing_keys(base, space.build_run(sample))
    except ConfigError as error:
        raise ConfigError(
            error.what,
            got=f"the base's {error.got}",
            wanted=error.wanted,
            next_step="widen the domain so that it has the base's value, or leave base_first out",
        ) from None
    if apart:
        raise ConfigError(
            f"{where}: no trial of this space is the base",
            got="; ".join(apart[:MAX_KEYS_SHOWN]),
            wanted="a space whose fixed keys have the base's values",
            next_step="write what all trials share under set, or leave base_first out",
        )
    return sample


def _choose_best(warm: WarmStart | None, observed: Sequence[Observation], search: Search) -> list[Sample]:
    if warm is None:
        return []
    count = (0 if search.observes else BEST_FIRST) if warm.best_first is None else warm.best_first
    return [dict(one.sample) for one in observed[:count]]


def _read_warm_start(
    warm: WarmStart, base: Run, space: Space, path: Path, origin: str
) -> tuple[WarmStart, tuple[str, ...]]:
    from raykd.tuning.config import load_sweep
    from raykd.tuning.journal import JOURNAL, Journal

    where = f"{origin}: search.warm_start"
    named = Path(warm.sweep).expanduser()
    # Relative to the file, as paths of a run are; to the working directory, as `output` is; or a name in `output`.
    places = [(place / named).resolve() for place in (path.resolve().parent, Path.cwd(), Path(base.output))]
    wanted = ("space.yaml", JOURNAL)
    folder = next((p for p in places if all((p / name).is_file() for name in wanted)), None)
    if folder is None:
        raise ConfigError(
            f"{where}: {named} holds no sweep",
            got=f"no {' and '.join(wanted)} in {' or '.join(map(str, dict.fromkeys(places)))}",
            wanted="the folder of an earlier sweep, output/name, from this file or from here",
        )
    earlier = load_sweep(folder / "space.yaml", check=False)
    if earlier.metric != base.metric:
        raise ConfigError(
            f"{where}: {folder} was judged by another metric",
            got=earlier.metric,
            wanted=base.metric,
            next_step=f"metric: {earlier.metric}, or another earlier sweep",
        )
    taken, left = _translate(earlier, Journal(folder / JOURNAL), space)
    if not taken:
        raise ConfigError(
            f"{where}: nothing of {folder} can be used",
            got="; ".join(left[:MAX_KEYS_SHOWN]) or "no trial with a score",
            wanted="trials with a score, whose searched values are in this space",
            next_step="widen the space, or leave warm_start out",
        )
    (best, run), *_ = taken
    notes = [
        f"warm start: trials of {folder} that are known: {len(taken)}, the best {base.metric} {best.score:.4f}"
    ]
    if left:
        more = f"; and {len(left) - MAX_KEYS_SHOWN} more" if len(left) > MAX_KEYS_SHOWN else ""
        notes.append(
            f"warm start: trials that are left out: {len(left)}: {'; '.join(left[:MAX_KEYS_SHOWN])}{more}"
        )
    if apart := list_differing_keys(run, space.build_run(dict(best.sample)), IGNORED_KEYS):
        notes.append(
            f"warm start: its runs differ from these, so its scores only guide: {'; '.join(apart[:MAX_KEYS_SHOWN])}"
            + (f"; and {len(apart) - MAX_KEYS_SHOWN} more keys" if len(apart) > MAX_KEYS_SHOWN else "")
        )
    observations = tuple(one for one, _ in taken)
    return warm.model_copy(update={"observations": observations}), tuple(notes)


def _translate(
    earlier: Sweep, journal: Journal, space: Space
) -> tuple[list[tuple[Observation, Run]], list[str]]:
    """Return the scored trials of an earlier sweep in this space with their runs, best first, and why others are
    left out.
    """
    taken: list[tuple[Observation, Run]] = []
    left: list[str] = []
    rows = [(trial.row(earlier.mode == "max"), trial) for trial in journal.trials.values()]
    for row, trial in sorted(rows, key=lambda pair: pair[0].order):
        if not row.is_eligible or row.score is None:
            continue
        if len(trial.segments) > 1:
            left.append(f"{row.name} changed its setting on its way")
            continue
        try:
            run = earlier.space.build_run(trial.sample)
            sample = read_run_sample(space, run, row.name)
            space.build_run(sample)
        except RaykdError as error:
            left.append(f"{error.what} ({error.got}, wanted {error.wanted})")
            continue
        taken.append((Observation(sample=sample, score=round_score(row.score)), run))
    return taken, left
