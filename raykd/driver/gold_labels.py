"""Check that a run has the gold labels that it needs, and say where teachers take their place.

Decision record: rows without any gold label are training rows of the teachers alone, and held-out rows on which a
student is scored by its agreement with the teachers. What reads gold labels beside that is refused by the name of its
key and never switched off silently: alpha above 0, weightings that ask which teacher is right, the baseline.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from raykd.config import RunConfig
from raykd.config.multi import SCORE
from raykd.data.load import Dataset
from raykd.distill.weightings.bandit import Bandit
from raykd.distill.weightings.policy import Policy
from raykd.errors import ConfigError, DataError
from raykd.models.tuning import is_by_language
from raykd.point import Point
from raykd.tasks.scores.metrics import name_agreement


def check_gold_labels(config: RunConfig, data: Dataset, *, judged_elsewhere: bool = False) -> None:
    """Check that what reads gold labels finds some.

    Args:
        config: The run of one task.
        data: Its rows.
        judged_elsewhere: Whether the teachers of another run give the missing labels of the held-out rows, as for
            an arm without teachers.

    Raises:
        DataError: A run without teachers has no labelled training or held-out rows; or the adapter of a language has
            no training row.
        ConfigError: A key reads gold labels, and no training row has one, or too few validation rows.
    """
    _check_adapters(config, data)
    if config.plain:
        without = [] if data.train.labelled.any() else ["train"]
        without += () if judged_elsewhere else data.judged
        if without:
            raise DataError(
                f"no row of data.{without[0]} has a gold label",
                got=f"{len(getattr(data, without[0]))} rows, all without, in a run without teachers",
                wanted="rows with labels, or teachers whose answers take their place",
                next_step="leave data.test out, or add teachers"
                if without == ["test"]
                else "add labels or teachers; in an experiment leave the arms without teachers out",
            )
        return
    _check_held_out(config, data)
    _check_rounds(config)
    _check_episodes(config, data)
    if data.train.labelled.any():
        return
    phases = [config.at_progress(at) for at in (0.0, *(phase.at for phase in config.phases))]
    wrong = []
    if highest := max(run.objective.alpha.bounds()[1] for run in phases):
        wrong.append((f"objective.alpha up to {highest:g}, the weight of gold labels", "objective.alpha=0"))
    if config.objective.weighting.inner.reads_gold:
        kind = config.objective.weighting.kind
        wrong.append(
            (f"objective.weighting {kind}, which reads gold labels", "objective.weighting=by_language")
        )
    if config.baseline:
        wrong.append(("baseline: true, a student of gold labels alone", "baseline=false"))
    if wrong:
        raise ConfigError(
            "no training row has a gold label",
            got="; ".join(what for what, _ in wrong),
            wanted="settings that read none: the teachers' answers are all there is to learn from",
            next_step=f"set {' '.join(key for _, key in wrong)}, or add labelled rows to data.train",
        )


def _check_held_out(config: RunConfig, data: Dataset) -> None:
    """Refuse a weighting that would learn from too few gold labels of validation rows, or from the teachers' own."""
    weighting = config.objective.weighting
    needed = weighting.inner.count_needed(len(config.active_teachers))
    needed = needed if config.smoke is None else min(needed, 1)
    spoken = [teacher.language_set for teacher in config.active_teachers]
    languages = data.validation.list_languages()
    asked = [code for code in languages if any(own is None or code in own for own in spoken)]
    asked_B = np.any([data.validation.is_in_language(code) for code in asked], axis=0)
    found = 0 if "validation" in data.judged else int((data.validation.labelled & asked_B).sum())
    if found < needed:
        raise ConfigError(
            f"objective.weighting {weighting.inner.kind} reads the gold labels of the validation rows",
            got=f"{found} labelled rows of data.validation in a language of some teacher",
            wanted=f"{needed} or more for {len(config.active_teachers)} teachers",
            next_step="label more of them, or set objective.weighting=by_language",
        )


def _check_adapters(config: RunConfig, data: Dataset) -> None:
    """Refuse languages whose adapter would have no training row."""
    if not is_by_language(config.student):
        return
    learnt = data.train.select(data.train.labelled) if config.plain else data.train
    for name in ("train", "validation", "test"):
        rows = getattr(data, name)
        lost = sorted(set(() if rows is None else rows.list_languages()) - set(learnt.list_languages()))
        if lost:
            raise DataError(
                "student.tuning.by: each language has an adapter of its own, and one would learn nothing",
                got=f"rows of {', '.join(lost)} in data.{name}, and no training row "
                + ("with a gold label" if config.plain else "of it"),
                wanted="training rows of each language",
                next_step="add some, or leave the language out (data.select_languages)",
            )


def _check_rounds(config: RunConfig) -> None:
    """Refuse a bandit whose run has too few rounds, or no loss to reward them by."""
    bandit = config.objective.weighting.inner
    if not isinstance(bandit, Bandit) or config.smoke is not None:
        return
    if "nll" not in config.task.metric_names:
        raise ConfigError(
            "objective.weighting bandit is rewarded by the NLL of the validation rows",
            got=f"task {config.task.kind}, which is scored by {', '.join(config.task.metric_names)}",
            wanted="a task that is scored by nll too",
            next_step="set objective.weighting=by_language",
        )
    needed = bandit.count_evaluations(len(config.active_teachers))
    if config.train.evaluations < needed:
        raise ConfigError(
            "objective.weighting bandit draws teachers anew at each evaluation, and this run has too few of them",
            got=f"train.evaluations {config.train.evaluations}",
            wanted=f"{needed} or more for {len(config.active_teachers)} teachers, and several times that to learn from",
            next_step=f"set train.evaluations={5 * needed}, or objective.weighting=by_language",
        )


def _check_episodes(config: RunConfig, data: Dataset) -> None:
    """Refuse a policy of too few labelled rows, or whose episodes are shorter than it takes to read them once."""
    policy, labelled = config.objective.weighting.inner, int(data.train.labelled.sum())
    if not isinstance(policy, Policy) or config.smoke is not None or not labelled:
        return
    needed = policy.count_labelled(len(config.active_teachers))
    if labelled < needed:
        raise ConfigError(
            "objective.weighting policy is rewarded at the labelled training rows",
            got=f"{labelled} of them",
            wanted=f"{needed} or more for {len(config.active_teachers)} teachers",
            next_step="label more, or set objective.weighting=by_language",
        )
    size, share = config.train.batch_size, config.data.labelled_share
    share = labelled / len(data.train) if share is None or labelled == len(data.train) else share
    times = config.train.total_steps(max(1, len(data.train) // size)) * size * share / labelled
    if times < policy.episodes:
        raise ConfigError(
            "objective.weighting policy is rewarded in each episode, at the labelled training rows that it draws for",
            got=f"{policy.episodes} episodes in a run that reads each of {labelled} labelled rows {times:.1f} times",
            wanted="each read once an episode or more",
            next_step=f"set objective.weighting.episodes={int(times)}"
            if times >= 3.0
            else "train for longer, or set objective.weighting=by_language",
        )


def describe_judged(data: Dataset) -> str | None:
    """Return which held-out rows are scored by agreement with the teachers, in a sentence; None where all have gold."""
    if not data.judged:
        return None
    where = " and ".join(data.judged)
    text = f"no row of {where} has a gold label: scores there are agreement with the teachers together"
    if "validation" in data.judged:
        text += ", which also chooses the best step"
    return text


def name_point(point: Point, data: Mapping[str, Dataset]) -> Point:
    """Return a point of a student with its scores against the teachers' labels named as agreement.

    Args:
        point: Validation scores under the names of the tasks' metrics.
        data: The rows by task; the only task of a run has an empty name.
    """
    places = [f"{task}/eval/".lstrip("/") for task, rows in data.items() if "validation" in rows.judged]
    if not places:
        return point
    values = {}
    for name, value in point.values.items():
        place, _, metric = name.rpartition("/")
        judged = name.startswith(tuple(places)) and metric != SCORE
        values[f"{place}/{name_agreement(metric)}" if judged else name] = value
    return Point(point.step, values, point.time_ms)


def name_metric(metric: str, data: Mapping[str, Dataset]) -> str:
    """Return the name of the metric by which a run chooses its best step.

    Args:
        metric: As in the configuration.
        data: The rows by task.
    """
    judged = metric != SCORE and any("validation" in rows.judged for rows in data.values())
    return name_agreement(metric) if judged else metric


def share_labels(data: Dataset, base: Dataset) -> Dataset:
    """Return rows of a trial with the labels that the teachers gave those of the base.

    Args:
        data: The trial's rows, read anew.
        base: The rows of the base run, with the teachers' labels.

    Raises:
        DataError: The trial has other held-out rows without gold labels.
    """
    filled = {}
    for name in data.judged:
        rows, given = getattr(data, name), getattr(base, name)
        if given is None or rows.without_labels().fingerprint() != given.without_labels().fingerprint():
            raise DataError(
                f"no row of data.{name} has a gold label, and the teachers gave labels to other rows",
                got="other held-out rows than those of the base",
                wanted="the same held-out rows in all trials and arms, so that one set of labels judges all",
                next_step=f"leave data.{name} and data.select_languages as they are in the base",
            )
        filled[name] = given
    return data.replace_held_out(filled)
