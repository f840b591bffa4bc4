"""Refuse a sweep that cannot work when its file is read: keys, pairs of searcher and scheduler, invalid trials.

Decision record: all trials of a grid or a random search are known before the start, so each of them is made into a run
here (a few milliseconds per trial). For a search that learns, draws of its space are checked. A setting that it chooses
later and that cannot be run fails alone, before it takes a process (see `raykd.tuning.suggest`). Trials with equal
settings have equal results, so a space with fewer settings than trials is refused too.
"""

from __future__ import annotations

import difflib
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from raykd.config.explain import explain_unknown_keys
from raykd.config.kinds.pretraining import READ
from raykd.errors import ConfigError, RaykdError
from raykd.spaces.domains import ChoiceDomain, GridDomain, Scalar
from raykd.spaces.foreign import KINDS
from raykd.spaces.search import PIP_PACKAGES, REQUIRED_MODULES, GridSearch, OptunaSearch, TuneSearch
from raykd.spaces.space import TRIAL_MARK, Sample, Space, encode_sample, format_sample
from raykd.student.overrides import find_overruled_keys

if TYPE_CHECKING:
    from raykd.tuning.config import Sweep

MAX_CHECKED_TRIALS = 1000
"""Most known trials that are made into runs when a sweep is read. Later ones are checked at their turn."""
DRAWS = 64
"""Number of drawn samples that are made into runs where trials are not known."""
HIGH_LEARNING_RATE = 1.0
"""Learning rate above which a note warns."""
MAX_REASONS = 3
"""Most reasons that a message names."""

NOT_SEARCHABLE = {
    "name": "a trial is named by the sweep",
    "output": "all trials stand in the sweep's folder",
    "ray": "all trials share one cluster",
    "tracking": "all trials are recorded in one place",
    "serving": "all trials share the teachers",
    "workers": "all trials have the same workers",
    "teachers": "all trials share the teachers; search select_teachers to choose among them",
    "teacher_defaults": "all trials share the teachers",
    "baseline": "the baseline is no trial",
    "pretraining": "all trials share it; `raykd compare` has arms with one of their own",
    "train.metric": "trials are compared by one metric, the sweep's `metric`",
    "task.tasks.*.metric": "trials are compared by one metric, the mean of the tasks'",
    "train.evaluations": "trials are compared at the same evaluations; write it under `set`",
}
"""Keys of a run that no space may mention, with the reason."""

NEEDS_ON_DEMAND = ("data", "task", "task.tasks.*.data", "task.tasks.*.task")
"""Keys that change which texts the teachers read. With them, texts cannot be answered ahead."""
SHARED_BY_TASKS = re.compile(r"task(\.power|\.tasks(\.[^.]+(\.objective(\..*)?)?)?)?$")
"""Matches keys of a run of several tasks that change no text."""


def refuse_sweep(sweep: Sweep, origin: str) -> None:
    """Refuse a sweep that cannot work, before a cluster is asked.

    Raises:
        ConfigError: Names the key, and what is possible instead.
    """
    _check_keys(sweep, origin)
    if getattr(sweep.base.student, "teacher", None) is not None:
        raise ConfigError(
            f"{origin}: the student of a sweep cannot start from a teacher that the sweep trains",
            got=f"student.path {getattr(sweep.base.student, 'path')}",  # noqa: B009
            wanted="a folder",
            next_step="train the base once (raykd train) and name the teacher's folder, output/teachers/NAME-...",
        )
    _check_packages(sweep, origin)
    _check_pairs(sweep, origin)
    sweep.config.scheduler.check(sweep.base, sweep.space, sweep.config.search.kind, sweep.trials, origin)
    _check_number(sweep, origin)
    check_known_samples(sweep, origin)


def list_doubts(space: Space) -> tuple[str, ...]:
    """Return notes about settings that are allowed and hardly ever meant."""
    found = []
    for one in space.domains:
        ends = one.domain.labels if isinstance(one.domain, ChoiceDomain) else (one.domain.high,)
        high = max((float(end) for end in ends if isinstance(end, int | float)), default=0.0)
        if one.key == "train.learning_rate" and high > HIGH_LEARNING_RATE:
            found.append(
                f"train.learning_rate is searched up to {high:g}: above {HIGH_LEARNING_RATE:g} training nearly always "
                "diverges, and a trial that diverged has no score: lower the domain's upper end"
            )
    return tuple(found)


def check_known_samples(sweep: Sweep, origin: str) -> None:
    """Make every known trial into a run. For a search that learns, its first settings and draws of its space.

    Raises:
        ConfigError: Some cannot be run, or some are equal.
    """
    samples = sweep.known_samples(MAX_CHECKED_TRIALS)
    looked = samples if samples is not None else [*_first(sweep), *sweep.space.draw_covering(DRAWS)]
    bad = [(sample, error) for sample in looked if (error := _error_of(sweep.space, sample)) is not None]
    if bad:
        refuse_trials(bad, origin, drawn=len(looked) if samples is None else None, trials=sweep.trials)
    if samples is not None and not sweep.config.scheduler.needs_population:
        _check_different(samples, sweep, origin)
        _check_options(sweep.space, samples)


def refuse_trials(
    bad: Sequence[tuple[Sample, RaykdError]], origin: str, *, drawn: int | None, trials: int
) -> None:
    """Raise ConfigError with the settings that cannot be run, each reason once.

    Args:
        bad: Samples and their errors.
        origin: What errors call the sweep.
        drawn: Number of drawn settings that were checked; None if the trials themselves were.
        trials: Number of trials of the sweep.
    """
    reasons: dict[str, tuple[str, list[Sample]]] = {}
    for sample, error in bad:
        reason = extract_reason(error, sample)
        same = re.sub(r"\d[\d.e+-]*|got: .*", "", reason)  # the values do not matter
        reasons.setdefault(same, (reason, []))[1].append(sample)
    lines = [
        f"{origin}: {len(bad)} of {trials} trials cannot be run"
        if drawn is None
        else f"{origin}: {len(bad)} of {drawn} settings that were looked at cannot be run"
    ]
    for reason, samples in list(reasons.values())[:MAX_REASONS]:
        more = f", and {len(samples) - 1} more" if len(samples) > 1 else ""
        lines.append(f"  with {format_sample(samples[0])}{more}")
        lines += [f"    {line}" for line in reason.splitlines()]
    if len(reasons) > MAX_REASONS:
        lines.append(f"  and {len(reasons) - MAX_REASONS} other reasons")
    raise ConfigError("\n".join(lines), next_step=_next_step("\n".join(lines)))


def _next_step(text: str) -> str | None:
    if "a whole number" in text:
        return "search a whole number by randint, or by a choice"
    # The reason of a single wrong value says what to do. A key may be unknown only to the kind that a trial chose.
    if "next:" in text or ("wanted:" in text and "unknown key" not in text):
        return None
    return (
        "leave out values that do not go together, or nest one key in a choice of the other: "
        "train: {choice: [{batch_size: ..., gradient_accumulation: ...}, ...]}"
    )


def extract_reason(error: RaykdError, sample: Mapping[str, Scalar]) -> str:
    """Return a trial's error without the values of the trial, which the message begins with."""
    text, values = str(error), f"{TRIAL_MARK}{format_sample(sample)}: "
    if values in text:
        text = text.partition(values)[2]
    first, _, rest = text.partition("\n")
    return textwrap.dedent(rest) if rest and re.fullmatch(r"\d+ keys? (is|are) wrong", first) else text


def _error_of(space: Space, sample: Mapping[str, Scalar]) -> RaykdError | None:
    try:
        space.build_run(sample)
    except RaykdError as error:
        return error
    return None


def _first(sweep: Sweep) -> Iterator[Sample]:
    """Yield the settings to try first. Keys that they leave open are drawn."""
    for at, point in enumerate(sweep.known.first):
        yield sweep.space.draw(0, at, point)


def _check_number(sweep: Sweep, origin: str) -> None:
    """Refuse more trials than there are settings. A population changes its settings, so it may have more."""
    config, size = sweep.config, sweep.space.size
    asked = len(sweep.known.first)
    if asked > sweep.trials:
        raise ConfigError(
            f"{origin}: more settings are tried first than there are trials",
            got=f"{asked} settings, num_samples {config.num_samples}",
            wanted=f"num_samples of {asked} at least",
        )
    if sweep.trials <= size or config.scheduler.needs_population:
        return
    grid = isinstance(config.search, GridSearch)
    raise ConfigError(
        f"{origin}: the space has {size:g} different runs, and equal ones have equal results",
        got=f"{sweep.trials} trials" + ("" if grid else f", num_samples {config.num_samples}"),
        wanted=f"num_samples: {size // sweep.space.grid_size:g}"
        if grid
        else f"num_samples: {size:g} at most",
        next_step=("" if grid else "to try each once: search: {kind: grid} with grid in place of choice; ")
        + "to see the spread over seeds, search seed too: seed: {"
        + ("grid" if grid else "choice")
        + ": [0, 1, 2]}",
    )


def _check_different(samples: Sequence[Sample], sweep: Sweep, origin: str) -> None:
    different = {encode_sample(sample) for sample in samples}
    if len(different) < len(samples):
        raise ConfigError(
            f"{origin}: {len(samples) - len(different)} of the {sweep.trials} trials would be equal to "
            "another one, with equal results",
            got=f"num_samples {sweep.config.num_samples}, {len(different)} different runs",
            wanted="fewer num_samples",
            next_step="to see the spread over seeds, search seed too",
        )


def _check_options(space: Space, samples: Sequence[Sample]) -> None:
    """Check options that no trial has too. A misspelt one would show only with more trials."""
    for one in space.domains:
        labels = one.domain.labels if isinstance(one.domain, ChoiceDomain) else ()
        tried = {json.dumps(sample[one.path]) for sample in samples if one.path in sample}
        for label in labels:
            if json.dumps(label) in tried:
                continue
            fixed = {**dict(one.condition), one.path: label}
            errors = [_error_of(space, space.draw(0, at, fixed)) for at in range(4)]
            if None not in errors and errors[0] is not None:
                raise errors[0]


def _check_packages(sweep: Sweep, origin: str) -> None:
    """Refuse an unknown searcher, and a searcher or scheduler whose package is missing."""
    search = sweep.config.search
    needed: tuple[tuple[str, ...], str, str] = ((), "", "")
    if isinstance(search, TuneSearch):
        name = search.name.lower()
        if name not in PIP_PACKAGES:
            near = next(iter(difflib.get_close_matches(name, PIP_PACKAGES, n=1)), None)
            raise ConfigError(
                f"{origin}: search.name is no searcher of Tune",
                got=search.name,
                wanted=", ".join(sorted(PIP_PACKAGES)),
                next_step=None if near is None else f"did you mean {near!r}?",
            )
        needed = REQUIRED_MODULES[name], f"search {name}", PIP_PACKAGES[name]
    elif isinstance(search, OptunaSearch):
        needed = ("optuna",), "search optuna", "optuna"
    elif sweep.config.scheduler.kind == "pb2":
        needed = ("sklearn",), "scheduler pb2", "scikit-learn"
    modules, what, packages = needed
    if any(find_spec(module) is None for module in modules):
        raise ConfigError(
            f"{origin}: {what} needs a package", got="not installed", next_step=f"pip install {packages}"
        )


def _check_pairs(sweep: Sweep, origin: str) -> None:
    """Refuse a grid without grid search and the reverse, and a limit that a scheduler cannot keep."""
    config, space = sweep.config, sweep.space
    grids = [one.path for one in space.domains if isinstance(one.domain, GridDomain)]
    if isinstance(config.search, GridSearch):
        if not grids:
            raise ConfigError(
                f"{origin}: search grid needs a grid", got="none", wanted="a domain {grid: [...]}"
            )
        if len(grids) == len(space.domains) and sweep.trials > space.grid_size:
            raise ConfigError(
                f"{origin}: the grid would be trained {config.num_samples} times with equal results",
                got=f"num_samples {config.num_samples}, and nothing is drawn",
                wanted="num_samples: 1",
                next_step="to see the spread over seeds, search seed: {grid: [0, 1, 2]}",
            )
    elif grids:
        raise ConfigError(
            f"{origin}: space.{grids[0]} is a grid, and the search is {config.search.kind}",
            got=config.search.kind,
            wanted="search: {kind: grid}, or a choice in place of the grid",
        )
    kind, limit = config.scheduler.kind, config.max_concurrent_trials
    if config.scheduler.pauses and limit is not None:
        raise ConfigError(
            f"{origin}: max_concurrent_trials does not go with scheduler {kind}, whose paused trials would count",
            got=limit,
            wanted="null: the cluster's resources limit the trials that run at once",
        )


def has_features(sweep: Sweep) -> bool:
    """Return whether trials of a sweep may have feature terms."""
    return _mentions(sweep.space.keys, "objective.features") or any(
        member.objective.features for member in sweep.base.members.values()
    )


def _check_keys(sweep: Sweep, origin: str) -> None:
    space = sweep.space
    if not space.domains:
        raise ConfigError(
            f"{origin}: the space has no domain, so all trials would be the same run",
            got=json.dumps(sweep.config.space, default=str),
            wanted=f"at least one of {', '.join(KINDS)}; a list is one value: to try each, {{choice: [...]}}",
            next_step="to see the spread over seeds, search seed: {grid: [0, 1, 2]} with search: {kind: grid}",
        )
    if unknown := explain_unknown_keys(type(sweep.base), sorted(space.keys), origin, "space."):
        raise ConfigError("\n".join(unknown))
    for refused, why in NOT_SEARCHABLE.items():
        if _mentions(space.keys, refused):
            raise ConfigError(f"{origin}: space.{refused} cannot be searched", got=refused, wanted=why)
    _check_pretraining(sweep, origin)
    for key, by in find_overruled_keys(sweep.base.train).items():
        if _mentions(space.searched, key):
            raise ConfigError(
                f"{origin}: space.{key} would have no effect, since {by} sets it",
                got=f"both {key} in the space and {by}",
                wanted="one of them",
                next_step=f"set {by.rpartition('.')[2]} to auto, or leave it out of the DeepSpeed configuration",
            )
    several = list(sweep.base.members) != [""]
    for key in NEEDS_ON_DEMAND:
        keys = {one for one in space.keys if not (several and SHARED_BY_TASKS.match(one))}
        if sweep.config.label == "ahead" and _mentions(keys, key):
            raise ConfigError(
                f"{origin}: space.{key} changes the texts, so teachers cannot answer them ahead",
                got="label: ahead",
                wanted="label: on_demand",
            )
    if sweep.config.label == "ahead" and has_features(sweep):
        raise ConfigError(
            f"{origin}: objective.features asks teachers for states while students train, and here they answer ahead",
            got="label: ahead",
            wanted="label: on_demand",
        )
    own = [t.name for t in sweep.base.trained_teachers if t.training.labelled == "student"]
    if own and _mentions(space.keys, "data"):
        raise ConfigError(
            f"{origin}: space.data changes the labelled rows, from which teacher {own[0]} learns once for all trials",
            got=f"training.labelled: student of teacher {own[0]}",
            wanted="a comparison with generate: [{self_training: [...]}], where each number of rows has its teacher",
        )
    if sweep.base.select_teachers is not None and "select_teachers" in space.keys:
        raise ConfigError(
            f"{origin}: the base leaves out teachers, and the space chooses among all",
            got=f"select_teachers {list(sweep.base.select_teachers)}",
            wanted="set: {select_teachers: null}",
        )
    if sweep.base.teachers and sweep.base.serving.store is None:
        raise ConfigError(
            f"{origin}: a sweep keeps the teachers' answers, so that each text is answered once for all trials",
            got="serving.store: null",
            wanted="a folder on a local disk",
            next_step="set: {serving: {store: store}}",
        )


def _check_pretraining(sweep: Sweep, origin: str) -> None:
    """Refuse to search what would change the pretraining that all trials share."""
    fixed = [] if sweep.base.pretraining is None else ["student", *(f"data.{key}" for key in READ)]
    if changed := [key for key in fixed if _mentions(sweep.space.keys, key)]:
        raise ConfigError(
            f"{origin}: space.{changed[0]} changes what is pretrained, once for all trials",
            got=f"both {changed[0]} in the space and pretraining",
            wanted="one of them",
            next_step="raykd compare, whose arms have pretrainings of their own",
        )


def _mentions(keys: Iterable[str], key: str) -> bool:
    wanted = re.compile(re.escape(key).replace(r"\*", "[^.]+") + r"(\.|$)")
    return any(wanted.match(one) for one in keys)
