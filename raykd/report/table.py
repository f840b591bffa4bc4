"""Compare systems in one table, for the terminal, Markdown, HTML and JSON.

Decision record: a monolingual teacher's mean is over its own languages, which makes it look better or worse than a
system that is measured on all of them. It is shown with these languages behind it (``87.1 (zh)``), never beside the
others unmarked and never averaged over languages it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.table import Table

from raykd.report.fitted_table import FittedTable, add_row, build_form
from raykd.report.formats import (
    ABSENT,
    choose_unit,
    format_metric,
    format_metric_name,
    format_signed,
    render_markdown_table,
)
from raykd.report.results import ROLES, Predictions, Role, Score
from raykd.report.sizes import (
    NARROW_HEADS,
    RATIO_HEADS,
    RATIO_REMARK,
    SIZE_HEADS,
    Size,
    format_ratios,
    format_size,
)
from raykd.tasks.scores.metrics import find_metric_title, is_higher_better, is_out_of_hundred, is_rate

ROLE_TITLES: Mapping[Role, str] = {
    "teacher": "teacher", "ensemble": "teachers' ensemble", "baseline": "undistilled student",
    "peer": "the student's peer", "student": "distilled student",
}  # fmt: skip
_NARROW_HEADS = {**NARROW_HEADS, "languages": "langs", "macro-F1 %": "macro\nF1 %"}
"""Headings that are too wide for a terminal."""
MACRO = "macro"
"""Language of a row of results that holds the mean over languages."""
COST_KEYS = ("parameters", "megabytes", "ms_per_1000")
"""Keys of such a row that say what the system costs."""
CONSTANT_MARK = "(!)"
"""Mark of a system that gives the same answer to every row."""
Row = dict[str, object]
"""One flat row of a table, ready for JSON."""


@dataclass(frozen=True)
class Gap:
    """What distillation gained: the distilled student's mean beside the undistilled student's.

    Attributes:
        points: How much better the distilled student is, below 0 where it is worse. In percentage points of a rate,
            else in the metric's own unit.
        closed: The same as a share of the ensemble's lead over the undistilled student. None where the ensemble does
            not lead or is measured on other languages, and where the student is worse.
        metric: The metric that is compared, by which the run is judged.
        before, after: The two means as the metric gives them.
        besides: A metric of written texts that became worse meanwhile, and by how much (below 0).
    """

    points: float
    closed: float | None
    metric: str = "accuracy"
    before: float = 0.0
    after: float = 0.0
    besides: tuple[str, float] | None = None

    @property
    def change(self) -> str:
        """The difference of the means as the metric gives it, with sign and unit: ``−0.037 nats``."""
        raw = self.points if is_higher_better(self.metric) else -self.points
        unit = choose_unit(self.metric)
        return f"{format_signed(raw, 1 if unit == 'points' else 3)} {unit}".rstrip()

    @property
    def verdict(self) -> str:
        """What the sign means where lower is better; empty elsewhere."""
        if is_higher_better(self.metric) or not self.points:
            return ""
        return f"{'better' if self.points > 0 else 'worse'}: lower is better"

    def __str__(self) -> str:
        two = f"{format_metric(self.metric, self.before)} to {format_metric(self.metric, self.after)}"
        text = f"distilled − undistilled: {self.change} of mean {format_metric_name(self.metric)}, {two}"
        if self.verdict:
            text += f" ({self.verdict})"
        if self.besides is not None:
            name, points = self.besides
            text += f"; {find_metric_title(name)} {format_signed(points, 1)} points (worse)"
        return (
            text if self.closed is None else f"{text}; {self.closed:.0%} of the gap to the ensemble is closed"
        )


@dataclass(frozen=True)
class ResultTable:
    """Systems and their scores.

    Attributes:
        systems: Sorted by role; within a role in the order given.
        metric: The metric by which the run is judged, shown first. None is the first that the task gives.
        together: The teachers as one system, in a run that has no line for it; None is not known.
    """

    systems: tuple[tuple[Predictions, Score], ...]
    metric: str | None = None
    together: Size | None = None

    def __post_init__(self) -> None:
        ordered = sorted(self.systems, key=lambda pair: ROLES.index(pair[0].role))
        object.__setattr__(self, "systems", tuple(ordered))

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that any system is measured on, in the order of the rows."""
        seen = dict.fromkeys(x for p, s in self.systems for x in (*p.languages, *s.by_language))
        return tuple(x for x in seen if any(x in s.by_language for _, s in self.systems))

    @property
    def roles(self) -> list[Role]:
        """The role of each row."""
        return [p.role for p, _ in self.systems]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics: first the one by which the run is judged, then in the order the task gives them."""
        there = dict.fromkeys(m for _, s in self.systems for values in s.by_language.values() for m in values)
        return tuple(sorted(there, key=lambda m: m != self.metric))

    @property
    def remarks(self) -> list[str]:
        """A line for each system that carries `CONSTANT_MARK`, then what ratios of size and speed are beside."""
        marked = [
            f"{CONSTANT_MARK} {_name_system(p)} answers alike to every row: {p.constant}"
            for p, _ in self.systems
            if p.constant is not None
        ]
        return marked if self.reference is None else [*marked, RATIO_REMARK]

    @property
    def reference(self) -> Size | None:
        """What sizes and speeds are set beside: the teachers together; None without teachers that have any."""
        size = next((p.size for p, _ in self.systems if p.role == "ensemble"), self.together)
        return size if size is not None and size.is_known else None

    @property
    def gap(self) -> Gap | None:
        """What distillation gained; None unless baseline and student are measured on the same languages."""
        by_role = {p.role: s for p, s in self.systems}
        student, baseline, ensemble = by_role.get("student"), by_role.get("baseline"), by_role.get("ensemble")
        if student is None or baseline is None or not self.metrics:
            return None
        metric = self.metrics[0]
        gained = _compute_lead(student, baseline, metric)
        if gained is None:
            return None
        lead = None if ensemble is None else _compute_lead(ensemble, baseline, metric)
        ours, theirs = student.macro or {}, baseline.macro or {}
        worse = [
            (m, ours[m] - theirs[m])
            for m in ours
            if is_out_of_hundred(m) and m in theirs and ours[m] < theirs[m]
        ]
        return Gap(
            points=gained * (100 if is_rate(metric) else 1),
            closed=gained / lead if lead is not None and lead > 0 and gained >= 0 else None,
            metric=metric,
            before=theirs[metric],
            after=ours[metric],
            besides=worse[0] if worse and gained > 0 and worse[0][0] != metric else None,
        )

    def to_rows(self) -> list[Row]:
        """Return a flat row for each system and language, and one for its mean with the language ``macro``."""
        flat: list[Row] = []
        for p, s in self.systems:
            head = {"system": p.name, "role": p.role}
            flat += [
                {**head, "language": x, "rows": s.rows[x], **values} for x, values in s.by_language.items()
            ]
            if s.macro is not None:
                mean = {"language": MACRO, "covers": ",".join(s.by_language), "rows": sum(s.rows.values())}
                cost = {key: getattr(p, key) for key in COST_KEYS}
                flat.append({**head, **mean, **s.macro, **cost})
        return flat

    def to_cells(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows of the main table as texts, one row for each system."""
        first, *others = self._metrics
        heads = ["system", "languages", *(f"{format_metric_name(first)} {x}" for x in self.languages)]
        heads += [
            f"mean {find_metric_title(first)}",
            *map(find_metric_title, others),
            *SIZE_HEADS,
            *([] if self.reference is None else RATIO_HEADS),
        ]
        return heads, [self._line(p, s) for p, s in self.systems]

    @property
    def _metrics(self) -> tuple[str, ...]:
        """`metrics`, and a name for the heading where nothing was measured."""
        return self.metrics or ("accuracy",)

    def _line(self, p: Predictions, s: Score) -> list[str]:
        first = self._metrics[0]
        measured = [x for x in self.languages if x in s.by_language]
        mark = "" if measured == list(self.languages) or not measured else f" ({','.join(measured)})"
        by_language = [format_metric(first, s.by_language.get(x, {}).get(first)) for x in self.languages]
        mean, *others = self._means(s)
        return [
            format_system(p), " ".join(measured) or ABSENT, *by_language, mean + mark, *others,
            *format_size(p.size), *self._ratios(p),
        ]  # fmt: skip

    def _ratios(self, p: Predictions) -> list[str]:
        """Return how many times a system is smaller and faster than the teachers together."""
        if self.reference is None:
            return []
        return format_ratios(self.reference, p.size)

    def _means(self, s: Score) -> list[str]:
        return [format_metric(m, None if s.macro is None else s.macro.get(m)) for m in self._metrics]

    def language_cells(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows of the second table: every metric in every language."""
        heads = ["system", "language", "rows", *map(find_metric_title, self.metrics)]
        lines = [
            [format_system(p), x, f"{s.rows[x]:,}", *(format_metric(m, values.get(m)) for m in self.metrics)]
            for p, s in self.systems
            for x, values in s.by_language.items()
        ]
        return heads, lines

    @property
    def groups(self) -> list[str]:
        """Values of `data.columns.group` among the held-out rows, such as domains."""
        return list(dict.fromkeys(group for _, s in self.systems for group in s.by_group))

    def group_cells(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows of the table by group: the first metric, mean over languages."""
        first = self._metrics[0]
        lines = [
            [format_system(p), *(format_metric(first, s.by_group.get(g, {}).get(first)) for g in self.groups)]
            for p, s in self.systems
        ]
        return ["system", *self.groups], lines

    @property
    def groups_title(self) -> str:
        """What the table by group shows."""
        return f"By data.columns.group: {find_metric_title(self._metrics[0])}, mean over languages"

    def groups_to_rich(self) -> FittedTable:
        """Return the table by group for the terminal."""
        heads, lines = self.group_cells()
        students = frozenset(at for at, role in enumerate(self.roles) if role == "student")
        form = build_form(heads, lines, left=1, bold=students, title=self.groups_title)
        return FittedTable((form,), heads, lines, bold=students, title=self.groups_title)

    def to_rich(self) -> FittedTable:
        """Return the main table for the terminal.

        A language has a column where the terminal is wide enough, else a row; else each system is a record.
        """
        heads, lines = self.to_cells()
        students = frozenset(at for at, role in enumerate(self.roles) if role == "student")
        return FittedTable(
            (self._wide_form(students, whole=True), self._wide_form(students), self._tall_form()), heads, lines,
            bold=students, title="Results on the held-out rows", remarks=self._remarks_below(),
        )  # fmt: skip

    def _remarks_below(self) -> tuple[str, ...]:
        return (*([str(self.gap)] if self.gap else []), *self.remarks)

    def _wide_form(self, students: frozenset[int], *, whole: bool = False) -> Table:
        """A row for each system."""
        heads, lines = self.to_cells()
        # The table below this one has the sizes on disk and ratios, and most terminals have no room for them here.
        kept = [at for at, head in enumerate(heads) if whole or head not in ("MB", *RATIO_HEADS)]
        heads, lines = [heads[at] for at in kept], [[line[at] for at in kept] for line in lines]
        heads = [_NARROW_HEADS.get(head) or head.replace(" ", "\n", 1) for head in heads]
        heads[2 : 2 + len(self.languages)] = self.languages
        title = f"Results on the held-out rows; the columns of languages hold {find_metric_title(self._metrics[0])}"
        return build_form(heads, lines, bold=students, title=title, remarks=self._remarks_below())

    def _tall_form(self) -> Table:
        """A row for each system and language, then its mean over them."""
        titles = [find_metric_title(m).replace(" ", "\n", 1) for m in self._metrics]
        table = build_form(
            ["system", "language", *titles, "params", "texts/s"], [],
            title="Results on the held-out rows, by language", remarks=self._remarks_below(),
        )  # fmt: skip
        for p, s in self.systems:
            lines = [
                [x, *(format_metric(m, values.get(m)) for m in self._metrics), "", ""]
                for x, values in s.by_language.items()
            ]
            lines.append(["mean", *self._means(s), *format_size(p.size)[::2]])
            for at, line in enumerate(lines):
                name = "" if at else format_system(p)
                add_row(table, [name, *line], bold=p.role == "student", end=at == len(lines) - 1)
        return table

    def to_markdown(self) -> str:
        """Return both tables and the remarks as GitHub Markdown."""
        parts = [
            render_markdown_table(*self.to_cells()),
            "\n\n".join(self._remarks_below()),
            render_markdown_table(*self.language_cells()),
            *([f"{self.groups_title}:", render_markdown_table(*self.group_cells())] if self.groups else []),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"


def _compute_lead(one: Score, other: Score, metric: str) -> float | None:
    """How much better one is, in the metric's own unit; None unless both are measured on the same languages."""
    if set(one.by_language) != set(other.by_language) or one.macro is None or other.macro is None:
        return None
    if metric not in one.macro or metric not in other.macro:
        return None
    sign = 1.0 if is_higher_better(metric) else -1.0
    return sign * (one.macro[metric] - other.macro[metric])


def _name_system(p: Predictions) -> str:
    return p.name if p.role == "teacher" else "student" if p.plain else ROLE_TITLES[p.role]


def format_system(p: Predictions) -> str:
    """Return how tables call a system: a teacher by its name, the others by their role."""
    return _name_system(p) if p.constant is None else f"{_name_system(p)} {CONSTANT_MARK}"
