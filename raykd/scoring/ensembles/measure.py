"""Make the ensemble report of a task from its teachers' answers to the validation rows.

Decision record: the validation rows are used, never the test rows, because advice is a choice. What a task does not
have (labels, one distribution of all teachers) is left out and said.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.distill.signals import Signals
from raykd.ensemble.advice import advise
from raykd.ensemble.agreement import compare_pairs
from raykd.ensemble.calibration import Calibration, measure_calibration
from raykd.ensemble.contributions import compute_contributions
from raykd.ensemble.expected_changes import estimate_changes
from raykd.ensemble.mixing import Combined, mix_coalition
from raykd.ensemble.shapley import plan_game
from raykd.ensemble.units import LabelledUnits
from raykd.report.ensembles.advice_lines import make_advice_line
from raykd.report.ensembles.report import EnsembleReport
from raykd.scoring.ensembles.inputs import ENSEMBLE, STUDENT, EnsembleInputs
from raykd.scoring.ensembles.language import measure_language_models
from raykd.scoring.ensembles.views import find_departures, find_hardest
from raykd.scoring.score import stack_signals

STEPS_SHOWN = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the training at which weights are shown."""


def make_ensemble_report(inputs: EnsembleInputs) -> EnsembleReport:
    """Measure contributions, agreement, calibration, departures and hard rows, and advise."""
    config, rows = inputs.config, inputs.rows
    report = EnsembleReport(
        run=config.name,
        task=config.task.kind,
        metric=_name_metric(config),
        rows=len(rows),
        labelled=bool(rows.labelled.any()),
        languages=tuple(dict.fromkeys(rows.languages)),
        teachers=tuple(slots.teacher for slots in inputs.answers),
        weighting=config.objective.weighting.kind,
        weights=_sample_weights(inputs),
        sizes=inputs.sizes,
        missing=inputs.missing,
        created=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    )
    if not config.task.labelled:
        return _measure_unlabelled_task(report, inputs)
    weighting = config.objective.weighting
    reads_held_out = weighting.inner.count_needed(len(inputs.answers)) > 0
    if weighting.inner.reads_gold or weighting.inner.reads_student or reads_held_out:
        what = "the student" if weighting.inner.reads_student else "gold labels"
        evenly = (
            f"the weighting {weighting.kind} reads {what}; here, as in the table of results, teachers are combined "
            "evenly, since an ensemble must not know more than its teachers"
        )
        report = replace(report, missing=(*report.missing, evenly))
    signals = stack_signals(config, inputs.answers, inputs.languages, rows)
    if not bool(signals.covered_MN.any()):
        nobody = "no teacher answered a validation row, so nothing is measured on them"
        return replace(report, missing=(*report.missing, nobody))
    return _measure(report, inputs, signals)


def _name_metric(config: RunConfig) -> str:
    """Return the score by which teachers are compared: that of single units, where a task judges runs by another."""
    if config.task.form == "labels":
        return "accuracy"
    return config.task.metric_names[0]


def _measure_unlabelled_task(report: EnsembleReport, inputs: EnsembleInputs) -> EnsembleReport:
    """Measure what language models add to the mixture's NLL, where that can be; say what is not shown, and why."""
    config, found = inputs.config, None
    if config.task.language and config.objective.mixture == "arithmetic":
        weighting = config.objective.weighting
        found = measure_language_models(
            report, inputs.answers, inputs.languages, inputs.rows.languages, weighting
        )
    if found is None:
        return replace(report, missing=(*report.missing, _explain_unlabelled_task(config)))
    rest = (
        "language models have no classes, and their answers hold a few tokens of each distribution: agreement, "
        "calibration, departures, hard rows and advice are not computed; contributions are in nats of NLL per token"
    )
    return replace(found, missing=(*report.missing, rest))


def _explain_unlabelled_task(config: RunConfig) -> str:
    if config.task.language and config.objective.mixture != "arithmetic":
        why = "their answers hold a few tokens of each distribution, which is not enough for a geometric mixture"
    elif config.task.language:
        why = (
            "its teachers cut a text into other tokens, so their answers have no common distribution to score"
        )
    elif config.task.has_scale:
        why = "an answer is a number, of which there is no share that is right"
    elif config.task.vectors:
        why = "a vector chooses no class, and ranks have no parts that add up over teachers"
    elif config.task.form == "candidates":
        why = "an answer is an order of candidates, and scores of orders have no parts that add up over teachers"
    else:
        why = "an answer is a span with a begin and an end, and scores of spans have no parts that add up over teachers"
    return (
        f"contributions, agreement, calibration, departures, hard rows and advice are not computed for "
        f"{config.task.kind}: {why}. The table of results scores each teacher by itself; raykd compare "
        "RUN.yaml --preset ensemble measures what each adds"
    )


def _measure(report: EnsembleReport, inputs: EnsembleInputs, signals: Signals) -> EnsembleReport:
    config, objective = inputs.config, inputs.config.objective
    weighting, mixture, count = objective.weighting, objective.mixture, len(signals.teachers)
    everyone = mix_coalition(signals, weighting, mixture, np.ones(count, dtype=bool))
    units = _make_units(config, inputs.rows, everyone, labelled=report.labelled)
    game = plan_game(count)
    scored = [mix_coalition(signals, weighting, mixture, members_M) for members_M in game.members_SM]
    parts = units.score_choices(scored)
    chosen = {
        name: units.choose(mix_coalition(signals, weighting, mixture, np.arange(count) == m))
        for m, name in enumerate(signals.teachers)
    }
    covered_MN = signals.covered_MN.numpy()
    silent = units.scheme.outside if units.tagging else None
    pairs = compare_pairs(
        signals.teachers, np.stack(list(chosen.values())), covered_MN, units.gold_N, len(units.labels), silent
    )
    if config.task.form == "labels":
        decisions = (
            "a unit is a text and a label, so scores here are shares of right decisions, no or yes, and classes are no "
            "and yes; the table of results has F1, and F1 by label"
        )
        report = replace(report, missing=(*report.missing, decisions))
    report = replace(
        report,
        coalitions=len(game.members_SM),
        exact=game.exact,
        base=float(parts.score_mean()[-1, 0]),
        guess=float(parts.score_mean()[0, 0]),
        contributions=compute_contributions(
            game, parts, signals.teachers, units.class_names, _find_answered(units, covered_MN)
        ),
        agreement=pairs,
        hardest=find_hardest(inputs, units, signals, everyone, chosen),
    )
    if silent_in := _find_silent_languages(units, covered_MN):
        guessed = f"nobody answers in {', '.join(silent_in)}: a guess stands for the teachers' answers there"
        report = replace(report, missing=(*report.missing, guessed))
    if not report.labelled:
        unlabelled = (
            "no validation row has a gold label: contributions are agreement with all teachers together, and there "
            "are no calibration and no advice. Label some rows (data.validation) and run raykd explain again"
        )
        return replace(report, missing=(*report.missing, unlabelled))
    # Of two copies the larger one goes. Times would decide by their noise where both are of one size.
    sizes = {size.system: float(size.parameters) for size in report.sizes}
    changes = estimate_changes(units, signals, weighting, mixture)
    known = all(name in sizes for name in signals.teachers)
    advice = advise(
        signals.teachers, changes, pairs, [sizes[name] for name in signals.teachers] if known else None
    )
    return replace(
        report,
        advice=tuple(make_advice_line(one, report.metric) for one in advice),
        comparisons=changes.comparisons,
        calibration=_measure_calibration(inputs, units, signals, everyone),
        departures=find_departures(inputs, units, everyone),
    )


def _make_units(config: RunConfig, rows: Rows, everyone: Combined, *, labelled: bool) -> LabelledUnits:
    """Return the units; where no row has a gold label, with what all teachers together answer in its place."""
    batch = rows.take(range(len(rows)))
    tagging = config.task.form == "words"
    units = LabelledUnits(
        config.task.list_unit_labels(batch),
        config.task.count_units(batch),
        tuple(rows.languages),
        config.task.name_choices(config.data.labels),
        tagging,
    )
    return units if labelled else replace(units, gold_N=units.choose(everyone))


def _find_answered(units: LabelledUnits, covered_MN: NDArray[np.bool_]) -> dict[str, list[bool]]:
    """Return for each language whether each teacher answers any of its units."""
    codes = [units.languages_B[row] for row in units.row_N.tolist()]
    spoken = [{code for code, there in zip(codes, row, strict=True) if there} for row in covered_MN.tolist()]
    return {x: [x in own for own in spoken] for x in dict.fromkeys(units.languages_B)}


def _find_silent_languages(units: LabelledUnits, covered_MN: NDArray[np.bool_]) -> list[str]:
    """Return the languages in which no teacher answers."""
    return [x for x, there in _find_answered(units, covered_MN).items() if not any(there)]


def _measure_calibration(
    inputs: EnsembleInputs, units: LabelledUnits, signals: Signals, everyone: Combined
) -> tuple[Calibration, ...]:
    """Measure each teacher, all together, and the student, on the units that each covers and whose label it knows."""
    covered_MN, logits_MNC = signals.covered_MN.numpy(), signals.logits_MNC.numpy()
    found = []
    for m, name in enumerate(signals.teachers):
        columns = signals.columns(m)
        known_N = covered_MN[m] if columns is None else covered_MN[m] & np.isin(units.gold_N, columns)
        logits_NC, gold_N = logits_MNC[m][known_N], units.gold_N[known_N]
        if columns is not None:
            logits_NC = logits_NC[:, list(columns)]
            gold_N = np.searchsorted(np.asarray(columns), gold_N)
        found.append(measure_calibration(name, logits_NC, gold_N))
    there_N = everyone.covered_N & everyone.find_known(units.gold_N)
    found.append(measure_calibration(ENSEMBLE, everyone.logp_NC[there_N], units.gold_N[there_N]))
    if inputs.student is not None:
        seen_N = inputs.student.covered_N
        found.append(measure_calibration(STUDENT, inputs.student.logits_NC[seen_N], units.gold_N[seen_N]))
    return tuple(one for one in found if one is not None)


def _sample_weights(inputs: EnsembleInputs) -> dict[str, tuple[tuple[float, float], ...]] | None:
    """Return each teacher's mean weight at some points of the training; None where no curve is known."""
    found = {}
    for slots in inputs.answers:
        curve = (inputs.history or {}).get(f"teacher/{slots.teacher}/weight", ())
        if curve:
            steps, weights = np.asarray(curve, dtype=np.float64).T
            at = [int(np.abs(steps - share * steps[-1]).argmin()) for share in STEPS_SHOWN]
            found[slots.teacher] = tuple(zip(STEPS_SHOWN, weights[at].tolist(), strict=True))
    return found or None
