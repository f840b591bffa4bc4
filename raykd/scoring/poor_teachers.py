"""Describe a teacher that is not good enough to teach, and a language that is routed to the weaker of its teachers.

Decision record: `by_language` asks the monolingual teacher of a language and nobody else. Where that one is the weaker
of those that speak it, the student learns from it all the same, and its table shows a loss that looks like
distillation's. The validation scores of all teachers are known before, so this is said then. A difference counts if it
is more than two standard errors of the difference of two shares of as many rows, so that a small validation set does
not warn by luck.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raykd.config import RunConfig
from raykd.report.results import Score
from raykd.tasks.scores.chance import Comparison, Swap
from raykd.tasks.scores.metrics import find_metric_title, is_rate
from raykd.tasks.scores.values import compute_value_metrics, fit_line
from raykd.teachers.spec import TeacherInfo, TeacherSpec

LEAST = 0.02
"""Least difference of two rates that is worth a change."""
LEAST_PEARSON = 0.2
"""Correlation from which on a teacher's values seem to be gold's on another scale."""
ERRORS = 2.0
"""Standard errors that the difference must exceed."""
NAMED = 12
"""Most labels of a map that a message shows."""


@dataclass(frozen=True)
class Complaint:
    """What is wrong with a teacher, in the parts of an error message.

    Attributes:
        teacher: Its name.
        what: What is wrong.
        got: Its score.
        wanted: The score that would do.
        cause: The likely cause, and where to look.
        stops: Whether the run may not go on with it.
    """

    teacher: str
    what: str
    got: str
    wanted: str
    cause: str
    stops: bool

    @property
    def line(self) -> str:
        """All of it as one line, for a warning."""
        return f"{self.what}: {self.got}; {self.cause}"


def make_complaint(
    config: RunConfig, spec: TeacherSpec, info: TeacherInfo, found: Comparison, scored: Score, *, on_poor: str
) -> Complaint | None:
    """Return what is wrong with a teacher; None if nothing is.

    Two cases never stop the run: a teacher that is no better than one label but not surely worse, and a tagger whose
    tags fit better in another order, since tag schemes overlap.

    Args:
        config: The run of one task.
        spec: What the teacher was asked to be.
        info: What the teacher says of itself.
        found: Its comparison with one label for everything.
        scored: Its scores on the validation rows.
        on_poor: What a poor teacher does to the run: "stop" or "warn".
    """
    if not found.is_no_better and found.swap is None:
        return None
    labels, tagging = config.data.labels, config.task.form == "words"
    most, units = labels[found.label], "words" if tagging else "texts"
    always = f"{most} everywhere" if tagging else f"always {most}, the most frequent label,"
    what = f"teacher {spec.name} is no better on the validation rows than one label for everything"
    if found.is_poor:
        what = f"teacher {spec.name} is worse on the validation rows than one label for everything"
    if found.swap is not None and not found.is_poor:
        what = f"teacher {spec.name} answers the validation rows as if its labels were others"
    by_language = {lang: m["accuracy"] for lang, m in scored.by_language.items()}
    each = ", ".join(f"{lang} {100 * share:.1f} %" for lang, share in by_language.items())
    return Complaint(
        spec.name,
        what,
        got=f"accuracy {_percent(found.accuracy)} (95 % interval {100 * found.low:.1f} to {100 * found.high:.1f}) of "
        f"{found.units:,} labelled {units}"
        + (f" ({each})" if len(by_language) > 1 else f" in {', '.join(by_language)}")
        + f"; {always} would be right in {_percent(found.share)}",
        wanted="labels that fit its answers"
        if found.swap is not None and not found.is_poor
        else f"an accuracy whose interval reaches {_percent(found.share)}",
        cause=_describe_cause(config, spec, info, found.swap),
        stops=on_poor == "stop" and (found.is_poor or (found.swap is not None and not tagging)),
    )


def find_wrong_scale(
    name: str, values_X: NDArray[np.floating], gold_X: NDArray[np.floating], *, on_poor: str
) -> Complaint | None:
    """Return what is wrong with a teacher of numbers that is farther from gold than one number for everything.

    Args:
        name: The teacher's.
        values_X: Its answers to labelled validation rows.
        gold_X: Their gold values.
        on_poor: What a poor teacher does to the run: "stop" or "warn".

    Returns:
        None where it is nearer, or not farther by more than `ERRORS` standard errors.
    """
    worse_X = np.square(values_X - gold_X) - np.square(gold_X.mean() - gold_X)
    if worse_X.mean() <= ERRORS * worse_X.std() / max(1, len(worse_X)) ** 0.5:
        return None
    found, line = compute_value_metrics(values_X, gold_X), fit_line(values_X, gold_X)
    cause = f"its values do not go with gold: is it a model of this task and of teachers.{name}.languages"
    if line is not None and found["pearson"] >= LEAST_PEARSON:
        fitted = gold_X.var() * (1.0 - found["pearson"] ** 2)
        cause = (
            f"it seems to have another scale: teachers.{name}.scale: {{factor: {line[0]:.4g}, offset: {line[1]:.4g}}} "
            f"(least squares on these rows) would leave an MSE of {fitted:.3g}"
        )
    return Complaint(
        name,
        f"teacher {name} is farther from the gold values of the validation rows than their mean is",
        got=f"MSE {found['mse']:.3g} over {len(gold_X):,} rows, Pearson {found['pearson']:.2f}; their mean alone has "
        f"{gold_X.var():.3g}",
        wanted="values on the scale of the run's, nearer than one value for everything",
        cause=cause,
        stops=on_poor == "stop",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _describe_cause(config: RunConfig, spec: TeacherSpec, info: TeacherInfo, swap: Swap | None) -> str:
    key, labels = f"teachers.{spec.name}", config.data.labels
    if swap is None and spec.name in [t.name for t in config.trained_teachers]:
        return f"the run trained it so: more steps, more rows, or another learning rate ({key}.training)"
    path = spec.teacher.model_path
    if swap is None and path is None:
        return f"no other order of its labels fits either: are its answers meant for this task and for {key}.languages"
    if swap is None:
        return (
            f"no other order of its labels fits either: is {path} a model of this task and of the languages in "
            f"{key}.languages, and does {key}.max_length ({info.max_length} tokens) hold the texts"
        )
    wanted = suggest_label_map(info, swap, labels)
    dropped = (
        {own: "null" for own, label in spec.teacher.label_map.items() if label is None} if wanted else {}
    )
    wanted = {**wanted, **dropped}
    shown = ", ".join(f"{own}: {label}" for own, label in list(wanted.items())[:NAMED])
    more = ", ..." if len(wanted) > NAMED else ""
    how = f"with label_map {{{shown}{more}}}" if wanted else "without a label_map"
    return (
        f"its labels look swapped: {how} it would reach {_percent(swap.accuracy)}: check {key}.label_map"
        + ("" if path is None else f" and id2label in its config.json ({path})")
    )


def suggest_label_map(info: TeacherInfo, swap: Swap, labels: tuple[str, ...]) -> dict[str, str]:
    """Return the `label_map` under which the teacher's answers would fit the gold labels best.

    It names only labels of the model that differ from the run's.
    """
    own = info.labels
    found = {}
    for at, wanted in enumerate(swap.assignment):
        columns = info.columns[at] if at < len(info.columns) else ()
        names = [own[c] for c in columns if c < len(own)] or [labels[at]]
        found.update({name: labels[wanted] for name in names if name != labels[wanted]})
    return found


def find_poor_routes(config: RunConfig, scores: Mapping[str, Score], languages: set[str]) -> list[str]:
    """Return a warning for each language in which a teacher that is not asked scores better than those that are.

    Args:
        config: The run of one task.
        scores: Of each teacher on the validation rows.
        languages: Of the training rows.
    """
    metric, weighting = config.task.metric_names[0], config.objective.weighting
    if weighting.kind != "by_language" or not is_rate(metric):
        return []
    teachers = config.active_teachers
    names, spoken = [t.name for t in teachers], [t.language_set for t in teachers]
    found = []
    for language in sorted(languages):
        asked = weighting.may_need(language, names, spoken)
        known = [
            (scores[name].by_language[language][metric], name, is_asked)
            for name, is_asked in zip(names, asked, strict=True)
            if metric in scores[name].by_language.get(language, {})
        ]
        own = max((one for one in known if one[2]), default=None)
        other = max((one for one in known if not one[2]), default=None)
        if own is None or other is None:
            continue
        rows = min(scores[name].rows[language] for _, name, _ in (own, other))
        error = sum(rate * (1 - rate) / max(1, rows) for rate, _, _ in (own, other)) ** 0.5
        if other[0] - own[0] > max(LEAST, ERRORS * error):
            found.append(_describe_route(config, language, own, other, metric))
    return found


def _describe_route(
    config: RunConfig,
    language: str,
    own: tuple[float, str, bool],
    other: tuple[float, str, bool],
    metric: str,
) -> str:
    title = find_metric_title(metric).removesuffix(" %")
    rest = [t.name for t in config.active_teachers if t.name != own[1]]
    mine = next(t.language_set for t in config.active_teachers if t.name == own[1])
    only = mine is not None and len(mine) == 1  # else other languages would lose it too
    alone = f"select_teachers=[{', '.join(rest)}] leaves {own[1]} out, " if only else ""
    return (
        f"{language} is taught by {own[1]}, although {other[1]}, which speaks it too, is better there: validation "
        f"{title} {100 * own[0]:.1f} against {100 * other[0]:.1f} %. {alone}"
        "objective.weighting={kind: uniform} asks both, "
        "objective.weighting.chain=[multilingual, monolingual, any] asks multilingual teachers first in every language"
    )
