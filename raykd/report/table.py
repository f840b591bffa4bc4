"""The result table: one row a system, for the terminal, for Markdown, for HTML and as JSON.

Decision record: a monolingual teacher's mean is over its own languages, which makes it look better or worse
than a system that is measured on all of them. It is shown with these languages behind it (``87.1 (zh)``),
never beside the others unmarked and never averaged over languages it does not know.

Rates are shown in per cent, differences of rates in percentage points; NLL is in nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from raykd.report.fitted_table import FittedTable
from raykd.report.results import ROLES, Predictions, Role, Score
from raykd.tasks.scores.metrics import find_metric_title, is_higher_better, is_out_of_hundred, is_rate

ABSENT = "–"
ROLE_TITLES: Mapping[Role, str] = {
    "teacher": "teacher", "ensemble": "teachers' ensemble", "baseline": "undistilled student",
    "student": "distilled student",
}  # fmt: skip
_NARROW = {
    "languages": "langs",
    "parameters": "params",
    "ms / 1,000 texts": "ms per\n1,000",
    "macro-F1 %": "macro\nF1 %",
}
"""Headings that a terminal has no room for."""
CONSTANT_MARK = "(!)"
"""Mark of a system that answers alike to every row."""


@dataclass(frozen=True)
class Gap:
    """What distillation gained.

    metric: what is compared, the one that the run is judged by. points: how much better the distilled student's
        mean is, below 0 where it is worse: in percentage points of a rate, else in the metric's own unit.
    closed: that as a share of the ensemble's lead over the undistilled student; None where there is no such
        lead, or the ensemble is measured on other languages.
    before, after: the two means, as the metric comes. besides: of a metric of written texts that went the other way,
        its name and how much better it became, below 0.
    """

    points: float
    closed: float | None
    metric: str = "accuracy"
    before: float = 0.0
    after: float = 0.0
    besides: tuple[str, float] | None = None

    @property
    def change(self) -> str:
        """The difference of the means, as the metric comes, with its sign and unit: ``−0.037 nats``."""
        raw = self.points if is_higher_better(self.metric) else -self.points
        unit = choose_unit(self.metric)
        return f"{format_signed(raw, 1 if unit == 'points' else 3)} {unit}".rstrip()

    @property
    def verdict(self) -> str:
        """What the sign means, where less is better; empty elsewhere."""
        if is_higher_better(self.metric) or not self.points:
            return ""
        return f"{'better' if self.points > 0 else 'worse'}: lower is better"

    def __str__(self) -> str:
        title = find_metric_title(self.metric).split(" ")[0]
        two = f"{format_metric(self.metric, self.before)} to {format_metric(self.metric, self.after)}"
        text = f"distilled − undistilled: {self.change} of mean {title}, {two}"
        if self.verdict:
            text += f" ({self.verdict})"
        if self.besides is not None:
            name, points = self.besides
            text += f"; {find_metric_title(name)} {format_signed(points, 1)} points (worse)"
        return (
            text if self.closed is None else f"{text}; {self.closed:.0%} of the gap to the ensemble is closed"
        )


def choose_unit(metric: str) -> str:
    """What a difference of a metric is counted in."""
    if is_rate(metric) or is_out_of_hundred(metric):
        return "points"
    return "nats" if metric == "nll" else ""


def format_signed(value: float, digits: int) -> str:
    """A difference with its sign, with more digits where these would show a zero that is none."""
    while digits < 5 and value and float(f"{value:.{digits}f}") == 0.0:
        digits += 1
    return f"{value:+.{digits}f}".replace("-", "−")


@dataclass(frozen=True)
class ResultTable:
    """Systems and their scores; `systems` in the order of roles, as given inside a role.

    metric: what the run is judged by, shown first; None is the first that the task gives.
    """

    systems: tuple[tuple[Predictions, Score], ...]
    metric: str | None = None

    def __post_init__(self) -> None:
        ordered = sorted(self.systems, key=lambda pair: ROLES.index(pair[0].role))
        object.__setattr__(self, "systems", tuple(ordered))

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that any system is measured on, in the order of the rows."""
        seen = dict.fromkeys(x for p, s in self.systems for x in (*p.languages, *s.by_language))
        return tuple(x for x in seen if any(x in s.by_language for _, s in self.systems))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, that which the run is judged by first, then in the order the task gives them."""
        there = dict.fromkeys(m for _, s in self.systems for values in s.by_language.values() for m in values)
        return tuple(sorted(there, key=lambda m: m != self.metric))

    @property
    def remarks(self) -> list[str]:
        """What a reader must know of marked systems, a line each."""
        return [
            f"{CONSTANT_MARK} {format_system(p).removesuffix(f' {CONSTANT_MARK}')} answers alike to every row: "
            f"{p.constant}"
            for p, _ in self.systems
            if p.constant is not None
        ]

    @property
    def gap(self) -> Gap | None:
        """What distillation gained; None unless baseline and student are measured on the same languages."""
        by_role = {p.role: s for p, s in self.systems}
        student, baseline, ensemble = by_role.get("student"), by_role.get("baseline"), by_role.get("ensemble")
        if student is None or baseline is None or not self.metrics:
            return None
        metric = self.metrics[0]
        gained = _lead(student, baseline, metric)
        if gained is None:
            return None
        lead = None if ensemble is None else _lead(ensemble, baseline, metric)
        unit = 100 if is_rate(metric) else 1
        ours, theirs = student.macro or {}, baseline.macro or {}
        worse = [
            (m, ours[m] - theirs[m])
            for m in ours
            if is_out_of_hundred(m) and m in theirs and ours[m] < theirs[m]
        ]
        return Gap(
            points=unit * gained,
            closed=gained / lead if lead is not None and lead > 0 else None,
            metric=metric,
            before=theirs[metric],
            after=ours[metric],
            besides=worse[0] if worse and gained > 0 and worse[0][0] != metric else None,
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat, JSON-able row for each system and language, and one with language ``macro``."""
        flat: list[dict[str, object]] = []
        for p, s in self.systems:
            head = {"system": p.name, "role": p.role}
            flat += [
                {**head, "language": x, "rows": s.rows[x], **values} for x, values in s.by_language.items()
            ]
            if s.macro is not None:
                cost = {"parameters": p.parameters, "ms_per_1000": p.ms_per_1000}
                covers = ",".join(s.by_language)
                flat.append(
                    {
                        **head,
                        "language": "macro",
                        "covers": covers,
                        "rows": sum(s.rows.values()),
                        **s.macro,
                        **cost,
                    }
                )
        return flat

    def to_cells(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows of the main table as texts, the same for Markdown, HTML and the terminal."""
        first, *others = self.metrics or ("accuracy",)
        title = find_metric_title(first).split()[0]
        heads = ["system", "languages", *(f"{title} {x}" for x in self.languages)]
        heads += [
            f"mean {find_metric_title(m)}" if m == first else find_metric_title(m) for m in (first, *others)
        ]
        heads += ["parameters", "ms / 1,000 texts"]
        return heads, [self._line(p, s, (first, *others)) for p, s in self.systems]

    def _line(self, p: Predictions, s: Score, metrics: Sequence[str]) -> list[str]:
        measured = [x for x in self.languages if x in s.by_language]
        mark = "" if measured == list(self.languages) or not measured else f" ({','.join(measured)})"
        per_language = [
            format_metric(metrics[0], s.by_language.get(x, {}).get(metrics[0])) for x in self.languages
        ]
        means = [format_metric(m, None if s.macro is None else s.macro.get(m)) for m in metrics]
        speed = ABSENT if p.ms_per_1000 is None else f"{p.ms_per_1000:,.0f}"
        return [
            format_system(p), " ".join(measured) or ABSENT, *per_language, means[0] + mark, *means[1:],
            format_count(p.parameters), speed,
        ]  # fmt: skip

    def language_cells(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows of the second table: every metric in every language."""
        heads = ["system", "language", "rows", *(find_metric_title(m) for m in self.metrics)]
        lines = [
            [format_system(p), x, f"{s.rows[x]:,}", *(format_metric(m, values.get(m)) for m in self.metrics)]
            for p, s in self.systems
            for x, values in s.by_language.items()
        ]
        return heads, lines

    def to_rich(self) -> FittedTable:
        """The main table: a column for each language where the terminal is wide enough, else a row for each,
        else a record for each system."""
        heads, lines = self.to_cells()
        return FittedTable(
            (self._wide(), self._tall()),
            heads,
            lines,
            bold=frozenset(at for at, (p, _) in enumerate(self.systems) if p.role == "student"),
            title="Results on the held-out rows",
            remarks=self._below(),
        )

    def _below(self) -> tuple[str, ...]:
        return (*([str(self.gap)] if self.gap else []), *self.remarks)

    def _frame(self, title: str) -> Table:
        caption = "\n".join(self._below()) or None
        return Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)

    def _wide(self) -> Table:
        """A row for each system."""
        heads, lines = self.to_cells()
        of = find_metric_title(self.metrics[0]) if self.metrics else "accuracy"
        table = self._frame(f"Results on the held-out rows; the columns of languages hold {of}")
        for at, head in enumerate(heads):
            language = 2 <= at < 2 + len(self.languages)
            short = self.languages[at - 2] if language else _NARROW.get(head) or head.replace(" ", "\n", 1)
            table.add_column(Text(short), justify="left" if at < 2 else "right", no_wrap=True)
        for (p, _), line in zip(self.systems, lines, strict=True):
            table.add_row(*(Text(cell) for cell in line), style="bold" if p.role == "student" else "")
        return table

    def _tall(self) -> Table:
        """A row for each system and language, then its mean over them."""
        table = self._frame("Results on the held-out rows, by language")
        metrics = self.metrics or ("accuracy",)
        titles = [find_metric_title(m).replace(" ", "\n", 1) for m in metrics]
        for at, head in enumerate(["system", "language", *titles, "params", "ms per\n1,000"]):
            table.add_column(Text(head), justify="left" if at < 2 else "right", no_wrap=True)
        for p, s in self.systems:
            style, name = "bold" if p.role == "student" else "", format_system(p)
            for language, values in s.by_language.items():
                cells = [name, language, *(format_metric(m, values.get(m)) for m in metrics), "", ""]
                table.add_row(*(Text(cell) for cell in cells), style=style)
                name = ""
            means = [format_metric(m, None if s.macro is None else s.macro.get(m)) for m in metrics]
            speed = ABSENT if p.ms_per_1000 is None else f"{p.ms_per_1000:,.0f}"
            cells = [name, "mean", *means, format_count(p.parameters), speed]
            table.add_row(*(Text(cell) for cell in cells), style=style, end_section=True)
        return table

    def to_markdown(self) -> str:
        """Both tables and the gap as GitHub Markdown."""
        parts = [
            render_markdown_table(*self.to_cells()),
            "\n\n".join(self._below()),
            render_markdown_table(*self.language_cells()),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"


def _lead(one: Score, other: Score, metric: str) -> float | None:
    """How much better one is, in the metric's own unit; None unless both are measured on the same languages."""
    if set(one.by_language) != set(other.by_language) or one.macro is None or other.macro is None:
        return None
    if metric not in one.macro or metric not in other.macro:
        return None
    sign = 1.0 if is_higher_better(metric) else -1.0
    return sign * (one.macro[metric] - other.macro[metric])


def format_system(p: Predictions) -> str:
    """How a system is called in tables: a teacher by its name, the others by their role."""
    title = p.name if p.role == "teacher" else "student" if p.plain else ROLE_TITLES[p.role]
    return title if p.constant is None else f"{title} {CONSTANT_MARK}"


def format_metric(metric: str, value: float | None, *, compared: bool = False) -> str:
    """A metric as text: rates in per cent with one decimal, others with three; a dash if not measured.

    Args:
        compared: With one decimal more, in which scores are compared (see `raykd.tasks.scores.ranking`).
    """
    if value is None:
        return ABSENT
    return f"{100 * value:.{1 + compared}f}" if is_rate(metric) else f"{value:.{3 + compared}f}"


def format_count(number: int) -> str:
    """A number of parameters as 1.2 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def render_markdown_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table as GitHub Markdown; the first two columns are texts."""

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = "|" + "|".join(" --- " if at < 2 else " ---: " for at in range(len(heads))) + "|"
    return "\n".join([row(heads), rule, *map(row, lines)])
