"""Ask the teachers about the validation rows, and let a weighting learn from their answers.

Decision record: teachers are asked as the run's weighting asks them about training rows, once, before the first step.
What was learned is in the run's checkpoints, so a run that goes on does not ask again.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch

from raykd.answers.layout import StudentUnits, lay_out_answers
from raykd.answers.source import AnswerSlots, SignalSource
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.distill.adapting.adaptation import name_weighting, read_weighting
from raykd.distill.adapting.softening import TargetEntropy
from raykd.distill.signals import UNLABELLED, Signals
from raykd.distill.weightings.bandit import Bandit
from raykd.distill.weightings.base import LearnedWeighting, speaks
from raykd.distill.weightings.scored import ScoredWeighting
from raykd.keys import make_key_part

log = logging.getLogger("raykd.student")
_ASKED_ROWS = 256
_SEEN = "held_out"
"""Stands among the states of a run whose validation rows were asked about."""


def ask_held_out(config: RunConfig, rows: Rows, source: SignalSource) -> tuple[list[AnswerSlots], Signals]:
    """Return each teacher's answers to the validation rows, and the same beside the gold labels.

    Args:
        config: The run of one task.
        rows: Its validation rows.
        source: Its teachers.
    """
    waiting = [
        source.submit(rows.take(range(begin, min(begin + _ASKED_ROWS, len(rows)))).as_asked())
        for begin in range(0, len(rows), _ASKED_ROWS)
    ]
    parts = [pending.result() for pending in waiting]
    slots = [AnswerSlots.concat([part[m] for part in parts]) for m in range(len(source.teachers))]
    batch = rows.take(range(len(rows)))
    labels_N = torch.from_numpy(config.task.list_unit_labels(batch))
    choices = config.task.count_choices(batch, config.data.labels)
    counts_B = config.task.count_units(batch)
    units = StudentUnits(labels_N, counts_B, rows.languages, choices, groups=batch.groups or ())
    return slots, lay_out_answers(slots, source.teacher_languages, units)


def learn_from_held_out(
    states: dict[str, tuple[float, ...]], config: RunConfig, rows: Rows, source: SignalSource | None
) -> dict[str, float]:
    """Add to a run's states what its weighting learns from the validation rows, and say what teachers' answers bring.

    Does nothing where that is known, or where neither the weighting nor the temperature follows from answers.

    Args:
        states: Of the run's learned values.
        config: The run of one task.
        rows: Its validation rows.
        source: Its teachers; None in plain training.

    Returns:
        Means on the validation rows, for the curves: ``teacher/<name>/weight/<language>`` and ``.../label/<label>``,
        ``temperature/<language>`` and ``.../label/<label>``; and a gate's coefficients, ``weighting/<feature>``.
    """
    weighting, temperature = config.objective.weighting, config.objective.temperature
    learns = isinstance(weighting.inner, LearnedWeighting) and weighting.inner.learns_from_answers
    by_unit = isinstance(temperature, TargetEntropy)
    if source is None or not (learns or by_unit) or _SEEN in states:
        return {}
    _, signals = ask_held_out(config, rows, source)
    found = weighting.fit(signals)
    states |= name_weighting(found) | {_SEEN: (1.0,)}
    values = measure_weights(states, config, signals, logging.INFO) if learns else {}
    if isinstance(temperature, TargetEntropy):
        weights_MN = weighting.with_states(found).weights(signals)
        temperature_N = temperature.find(signals, weights_MN)
        values |= _average("temperature", temperature_N, weights_MN, signals, config, logging.INFO)
    return values


def measure_weights(
    states: Mapping[str, tuple[float, ...]], config: RunConfig, held_out: Signals, level: int = logging.DEBUG
) -> dict[str, float]:
    """Return what teachers weigh on the validation rows by what a weighting has learned, for the curves.

    Args:
        states: Of the run's learned values.
        config: The run of one task.
        held_out: The teachers' answers to the validation rows.
        level: At which they are logged.
    """
    weighting = config.objective.weighting.with_states(read_weighting(states))
    weights_MN, values = weighting.weights(held_out), dict[str, float]()
    if isinstance(weighting.inner, ScoredWeighting):
        values = {f"weighting/{name}": value for name, value in weighting.inner.list_coefficients().items()}
    for name, weights_N in zip(held_out.teachers, weights_MN, strict=True):
        values |= _average(f"teacher/{name}/weight", weights_N, weights_MN, held_out, config, level)
    return values


def draw_teachers(
    states: dict[str, tuple[float, ...]],
    config: RunConfig,
    history: Sequence[Mapping[str, float]],
    source: SignalSource | None,
) -> dict[str, float]:
    """Add to a run's states which teacher a bandit has drawn for each language, by the losses of all evaluations.

    Args:
        states: Of the run's learned values.
        config: The run of one task.
        history: Scores of each evaluation: ``eval/<language>/nll``.
        source: Its teachers; None in plain training.

    Returns:
        Probabilities, for the curves: ``teacher/<name>/weight/<language>``.
    """
    bandit = config.objective.weighting.inner
    if source is None or not isinstance(bandit, Bandit):
        return {}
    languages = config.data.select_languages or config.data.languages
    names = {language: f"eval/{make_key_part(language)}/nll" for language in languages}
    losses = [{code: scores[name] for code, name in names.items() if name in scores} for scores in history]
    spoken = list(zip(source.teachers, source.teacher_languages, strict=True))
    anchor = getattr(config.objective.weighting, "teacher", None)
    arms = {
        code: [name for name, own in spoken if speaks(own, code) and name != anchor] for code in languages
    }
    found = bandit.follow(losses, arms, config.seed)
    states |= name_weighting(found)
    values: dict[str, float] = {}
    for pair, (is_drawn, probability) in found.items():
        code, name = pair.split("/", 1)
        values[f"teacher/{name}/weight/{make_key_part(code)}"] = probability
        if is_drawn:
            log.info("bandit: %s teaches %s up to the next evaluation", name, code)
    return values


def _average(
    name: str,
    number_N: torch.Tensor,
    weights_MN: torch.Tensor,
    signals: Signals,
    config: RunConfig,
    level: int,
) -> dict[str, float]:
    """Return the mean of a number of the covered units in each language and of each gold label, and log it."""
    covered_N, labels = weights_MN.any(dim=0).tolist(), config.task.name_choices(config.data.labels)
    at: dict[str, list[float]] = defaultdict(list)
    units = zip(number_N.tolist(), covered_N, signals.languages, signals.labels_N.tolist(), strict=True)
    for number, is_covered, language, label in units:
        if is_covered:
            at[make_key_part(language)].append(number)
        if is_covered and label != UNLABELLED:
            at[f"label/{make_key_part(labels[label])}"].append(number)
    means = {part: fmean(at[part]) for part in sorted(at)}
    log.log(level, "%s on the validation rows: %s", name, ", ".join(f"{k} {v:.3g}" for k, v in means.items()))
    return {f"{name}/{part}": value for part, value in means.items()}
