"""Write a comparison as tables: for the terminal, for Markdown and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raykd.report.comparisons.costs import summarize_costs
from raykd.report.comparisons.differences import MACRO, PEER, PairedDifference, find_scale
from raykd.report.comparisons.left_out import (
    LEFT_OUT_TITLE,
    list_left_out_cells,
    measure_left_out,
)
from raykd.report.comparisons.results import ArmScore, ComparisonReport, ReferenceSystem
from raykd.report.comparisons.statistics import Interval
from raykd.report.fitted_table import FittedTable, build_form
from raykd.report.formats import (
    ABSENT,
    format_metric_name,
    render_markdown_table,
    use_minus_sign,
)
from raykd.report.sizes import RATIO_HEADS, RATIO_REMARK, SIZE_HEADS, format_ratios, format_size
from raykd.tasks.scores.metrics import find_metric_title

WITH = "compared with"
"""Heading of the column that names an arm's partner."""
GROUPS_REMARK = "Means over languages on the rows of each value of data.columns.group"
Cells = tuple[list[str], list[list[str]]]
"""Headings and lines of a table."""


@dataclass(frozen=True)
class ComparisonTables:
    """The tables of a comparison.

    Attributes:
        report: The comparison.
    """

    report: ComparisonReport

    def describe(self) -> str:
        """Return what the comparison says, in one or two sentences."""
        head, *parts = self.conclusions()
        return f"{head}: {'; '.join(parts)}." if parts else head

    def conclusions(self) -> list[str]:
        """Return what was compared, then which arms are better, worse, or not shown to differ."""
        report, found = self.report, self.report.main_differences
        if not report.compared:
            return ["No arm is compared with another one."]
        if not found:
            return [f"There is no seed for which two arms were measured on {report.metric}."]
        if len(found) == 1:
            return [_describe_one(found[0])]
        where = f"{report.split} {format_metric_name(report.metric)}, mean over languages"
        if any(d.p is None for d in found):
            return [f"{len(found)} comparisons by {where}; an interval needs at least two seeds."]
        sure = [d for d in found if d.is_significant]
        groups = {
            "better": [_name_difference(d) for d in sure if d.is_better],
            "worse": [_name_difference(d) for d in sure if not d.is_better],
            "not shown to differ": [d.arm for d in found if d not in sure],
        }
        head = f"{len(found)} comparisons by {where}, corrected for their number (Holm)"
        return [head, *(f"{what}: {', '.join(names)}" for what, names in groups.items() if names)]

    def main_cells(self) -> Cells:
        """Return every arm with its mean, its difference to its partner, and how sure that is."""
        report, differences = self.report, self._by_arm()
        partners = {d.against for d in differences.values()}
        one = next(iter(partners)) if len(partners) == 1 else None
        how = ["difference", WITH] if one is None else [f"− {one}"]
        heads = [
            "arm", find_metric_title(report.metric), *how, "t interval", "p (Holm)", "wins", "bootstrap",
            "arm's interval",
        ]  # fmt: skip
        lines = []
        for arm in report.arms:
            d, (mean, interval) = differences.get(arm.name), self._score(report.average(arm))
            cells = _difference_cells(d)
            lines.append([arm.name, mean, cells[0], *([] if one else [cells[1]]), *cells[2:], interval])
        dashes = [ABSENT] * (len(heads) - 2)
        return heads, [*lines, *([one.name, self._reference_mean(one), *dashes] for one in report.references)]

    def _reference_mean(self, one: ReferenceSystem) -> str:
        """Return a reference's score, with its languages behind it where it is measured on some alone."""
        report, found = self.report, one.scores.get(self.report.main_name)
        if found is None:
            return ABSENT
        measured = [x for x in report.languages if f"{report.split}/{x}/{report.metric}" in one.scores]
        mark = "" if measured == report.languages else f" ({','.join(measured)})"
        return f"{format_score(report.metric, found)}{mark}"

    def language_cells(self) -> Cells:
        """Return every arm's mean in each language, with its difference to its partner."""
        return self._grid(
            [f"{self.report.split}/{language}/{self.report.metric}" for language in self.report.languages],
            self.report.languages,
            {(d.arm, d.language): d for d in self.report.language_differences},
            [self.report.metric] * len(self.report.languages),
        )

    def group_cells(self) -> Cells:
        """Return every arm's mean on the rows of each group, with its difference to its partner."""
        report = self.report
        return self._grid(
            [report.name_group(group) for group in report.groups],
            report.groups,
            {(d.arm, d.language): d for d in report.group_differences},
            [report.metric] * len(report.groups),
        )

    def metric_cells(self) -> Cells:
        """Return every arm's mean by the other metrics, over languages, with its difference to its partner.

        These differences are not corrected for their number, so none is marked. Behind them the score of peers.
        """
        report, metrics = self.report, self.report.other_metrics
        heads, peers = [find_metric_title(metric) for metric in metrics], f"{PEER}/{self.report.main_name}"
        found = {
            (d.arm, find_metric_title(d.metric)): d
            for d in report.all_differences
            if d.split == report.split and d.language == MACRO
        }
        names = [f"{report.split}/{MACRO}/{metric}" for metric in metrics]
        if any(report.average(arm, peers) for arm in report.arms):
            names, metrics = [*names, peers], [*metrics, report.metric]
            heads.append(f"its peer's {find_metric_title(report.metric)}")
        return self._grid(names, heads, found, metrics)

    def class_cells(self) -> Cells:
        """Return every arm's F1 of each class, with its difference to its partner."""
        return self._grid(
            [f"class/{label}" for label in self.report.classes],
            [f"{label} F1 %" for label in self.report.classes],
            {(d.arm, f"{d.language} F1 %"): d for d in self.report.class_differences},
            ["f1"] * len(self.report.classes),
        )

    def _grid(
        self,
        names: Sequence[str],
        heads: Sequence[str],
        differences: dict[tuple[str, str], PairedDifference],
        metrics: Sequence[str],
    ) -> Cells:
        lines = []
        for arm in self.report.arms:
            line = [arm.name]
            for name, head, metric in zip(names, heads, metrics, strict=True):
                score, d = self.report.average(arm, name), differences.get((arm.name, head))
                cell = ABSENT if score is None else format_score(metric, score.mean)
                if d is not None:
                    cell += f" ({d.format(d.mean)}{'*' if d.is_significant else ''})"
                line.append(cell)
            lines.append(line)
        for one in self.report.references:
            scores = [one.scores.get(name) for name in names]
            cells = [
                ABSENT if score is None else format_score(metric, score)
                for metric, score in zip(metrics, scores, strict=True)
            ]
            if any(score is not None for score in scores):
                lines.append([one.name, *cells])
        return ["arm", *heads], lines

    def cost_cells(self) -> Cells:
        """Return what each arm's student costs beside its score, and how much smaller and faster it is."""
        report, costs = self.report, summarize_costs(self.report)
        heads = ["arm", find_metric_title(report.metric), *SIZE_HEADS, "training CPU s"]
        together = report.together
        ratios = [] if together is None else RATIO_HEADS
        lines = []
        for arm in report.arms:
            score, cost = report.average(arm), costs.get(arm.name)
            mean = ABSENT if score is None else format_score(report.metric, score.mean)
            size = None if cost is None else cost.size
            cpu_s = f"{cost.cpu_s:.1f}" if cost is not None and cost.cpu_s else ABSENT
            times = format_ratios(together, size) if together is not None else []
            lines.append([arm.name, mean, *format_size(size), cpu_s, *times])
        for one in report.references:
            times = format_ratios(together, one.size) if together is not None else []
            lines.append([one.name, self._reference_mean(one), *format_size(one.size), ABSENT, *times])
        return [*heads, *ratios], lines

    def all_cells(self) -> Cells:
        """Return every paired difference: splits, languages and metrics."""
        heads = ["arm", WITH, "split", "language", "metric", "arm's mean", "partner's mean",
                 "difference", "t interval", "wins"]  # fmt: skip
        return heads, [
            [
                d.arm, d.against, d.split, "mean" if d.language == MACRO else d.language,
                find_metric_title(d.metric), *(format_score(d.metric, mean) for mean in d.means),
                d.format(d.mean), d.format_interval(d.interval) or ABSENT, d.score_of_wins,
            ]
            for d in self.report.all_differences
        ]  # fmt: skip

    def arm_cells(self) -> Cells:
        """Return what differs between the arms."""
        arms = self.report.arms
        return ["arm", WITH, "what differs from the base"], [
            [arm.name, arm.against or ABSENT, arm.changes or ABSENT] for arm in arms
        ]

    def _by_arm(self) -> dict[str, PairedDifference]:
        return {d.arm: d for d in self.report.main_differences}

    def _score(self, score: ArmScore | None) -> list[str]:
        if score is None:
            return [ABSENT, ABSENT]
        metric = self.report.metric
        return [format_score(metric, score.mean), _format_ends(metric, score.interval)]

    def to_rich(self) -> tuple[FittedTable, ...]:
        """Return the tables for the terminal: how good each arm is, then where and what it costs."""
        baseline = frozenset(
            at for at, arm in enumerate(self.report.arms) if arm.name == self.report.baseline
        )
        remarks = (self.describe(),)
        tables = [_fit(self.main_cells(), baseline, remarks, droppable=3)]
        if len(self.report.languages) > 1:
            note = "In brackets the difference to the arm's partner; * is below 0.05 by Holm over this table."
            tables.append(_fit(self.language_cells(), baseline, (note,)))
        if lines := measure_left_out(self.report):
            cells = list_left_out_cells(lines)
            tables.append(_fit(cells, frozenset(), (f"{LEFT_OUT_TITLE}.",), left=2, droppable=1))
        elif self.report.groups:
            tables.append(_fit(self.group_cells(), baseline, (f"{GROUPS_REMARK}.",)))
        if self.report.other_metrics:
            tables.append(
                _fit(self.metric_cells(), baseline, ("Means over languages, as in the first table.",))
            )
        beside = () if self.report.together is None else (RATIO_REMARK,)
        tables.append(_fit(self.cost_cells(), baseline, beside))
        return tuple(tables)

    def to_markdown(self) -> str:
        """Return the tables as GitHub Markdown."""
        parts = [self.describe(), render_markdown_table(*self.main_cells())]
        if len(self.report.languages) > 1:
            parts.append(render_markdown_table(*self.language_cells()))
        if lines := measure_left_out(self.report):
            parts += [f"{LEFT_OUT_TITLE}:", render_markdown_table(*list_left_out_cells(lines))]
        if self.report.groups:
            parts += [f"{GROUPS_REMARK}:", render_markdown_table(*self.group_cells())]
        if self.report.other_metrics:
            parts.append(render_markdown_table(*self.metric_cells()))
        if self.report.classes:
            parts.append(render_markdown_table(*self.class_cells()))
        parts.append(render_markdown_table(*self.cost_cells()))
        parts += [] if self.report.together is None else [RATIO_REMARK]
        return "\n\n".join(parts) + "\n"


def format_score(metric: str, value: float) -> str:
    """Return a mean over seeds: rates in per cent with two decimals, others with three."""
    scale = find_scale(metric)
    return use_minus_sign(f"{scale * value:.{2 if scale == 100 else 3}f}")


def _format_ends(metric: str, interval: Interval | None) -> str:
    if interval is None:
        return ABSENT
    return " to ".join(format_score(metric, end) for end in interval)


def _difference_cells(d: PairedDifference | None) -> list[str]:
    if d is None:
        return [ABSENT] * 6
    p = ABSENT if d.corrected_p is None else f"{d.corrected_p:.3f}" if d.corrected_p >= 0.001 else "<0.001"
    return [
        d.format(d.mean), d.against, d.format_interval(d.interval) or ABSENT, p, d.score_of_wins,
        d.format_interval(d.bootstrap) or ABSENT,
    ]  # fmt: skip


def _name_difference(d: PairedDifference) -> str:
    return f"{d.arm} ({d.format(d.mean)})"


def _describe_one(d: PairedDifference) -> str:
    """Return what a single comparison says."""
    mean = f"{d.format(d.mean)} {d.unit}".rstrip()
    name = format_metric_name(d.metric)
    head = f"{d.arm} − {d.against}, {d.split} {name}, mean over languages: {mean}"
    interval = d.format_interval(d.interval)
    if interval is None:
        return f"{head}, from {d.seeds} seed; an interval needs at least two."
    conclusion = (
        f"excludes 0: {d.arm} is {'better' if d.is_better else 'worse'} than {d.against}"
        if d.excludes_zero
        else "includes 0: these seeds do not show a difference"
    )
    wins = f"{d.arm} wins {d.score_of_wins}"
    return f"{head} (95 % interval {interval}, {d.seeds} seeds, {wins}). The interval {conclusion}."


def _fit(
    cells: Cells, bold: frozenset[int], remarks: tuple[str, ...], droppable: int = 0, left: int = 1
) -> FittedTable:
    """Return a table for the terminal.

    Args:
        cells: Headings and lines.
        bold: Numbers of the lines that stand out.
        remarks: Lines below the table.
        droppable: How many of the last columns a narrow terminal may do without, one after the other.
        left: Number of columns with texts.
    """
    heads, lines = cells
    forms = [
        build_form(heads[:count], [line[:count] for line in lines], left=left, bold=bold, remarks=remarks)
        for count in range(len(heads), len(heads) - droppable - 1, -1)
    ]
    for form in forms:
        if WITH in heads:
            form.columns[heads.index(WITH)].justify = "left"
    return FittedTable(tuple(forms), heads, lines, bold=bold, remarks=remarks)
