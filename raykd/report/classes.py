"""Lay out scores by class and confusions, the same for a run's page, a comparison's and `raykd evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raykd.report.charts import Spec, encode, list_tips, name_rows, round_number
from raykd.report.formats import ABSENT, format_metric
from raykd.tasks.scores.classes import NO_ENTITY, ClassScores

MOST_CLASSES = 10
"""Classes whose confusion table a terminal shows whole; of more the most frequent confusions are shown."""
MOST_DRAWN = 24
"""Classes whose confusions are drawn."""
MOST_CONFUSIONS = 10
Cells = tuple[list[str], list[list[str]]]


def name_classes(scores: ClassScores) -> str:
    """Return what the classes are: labels of texts, or types of entities."""
    return "entity type" if NO_ENTITY in scores.names else "label"


def list_class_cells(scores: ClassScores, others: Mapping[str, ClassScores] | None = None) -> Cells:
    """Return precision, recall, F1 and support of each class and their averages.

    Args:
        scores: Of the system in question.
        others: Other systems by name, whose F1 stands beside it.
    """
    rates, others = ("precision", "recall", "f1"), others or {}
    heads = [name_classes(scores), "precision %", "recall %", "F1 %", "support", "predicted"]
    known = {
        name: {one.name: one for one in (*other.classes, *other.averages)} for name, other in others.items()
    }
    lines = [
        [
            one.name,
            *(format_metric(rate, getattr(one, rate)) for rate in rates),
            f"{one.support:,}",
            f"{one.predicted:,}",
            *(format_metric("f1", by[one.name].f1) if one.name in by else ABSENT for by in known.values()),
        ]
        for one in (*scores.classes, *scores.averages)
    ]
    return [*heads, *(f"{name} F1 %" for name in others)], lines


def list_confusion_cells(scores: ClassScores) -> Cells:
    """Return how often each class of gold (a row) is taken for each class (a column)."""
    names = scores.names
    lines = [[name, *(f"{n:,}" for n in row)] for name, row in zip(names, scores.confusion, strict=True)]
    if names[-1] == NO_ENTITY:
        lines[-1][-1] = ABSENT  # what is no entity on both sides is not counted
    return ["gold", *(f"as {name}" for name in names)], lines


def list_frequent_confusions(scores: ClassScores) -> tuple[int, Cells]:
    """Return the number of pairs of classes that are confused, and the most frequent of them."""
    found = [
        (n, gold, predicted)
        for gold, row in zip(scores.names, scores.confusion, strict=True)
        for predicted, n in zip(scores.names, row, strict=True)
        if n and gold != predicted
    ]
    found.sort(key=lambda one: -one[0])
    lines = [[gold, predicted, f"{n:,}"] for n, gold, predicted in found[:MOST_CONFUSIONS]]
    return len(found), (["gold", "predicted", "count"], lines)


def draw_confusions(scores: ClassScores | None) -> Spec | None:
    """Draw the confusion table, coloured by the share of each class of gold; None with more than `MOST_DRAWN`."""
    if scores is None or len(scores.names) > MOST_DRAWN:
        return None
    rows = []
    uncounted = scores.names[-1] == NO_ENTITY
    for gold, line in zip(scores.names, scores.confusion, strict=True):
        for predicted, count in zip(scores.names, line, strict=True):
            if not (uncounted and gold == predicted == scores.names[-1]):
                share = 100 * count / max(1, sum(line))
                rows.append({"gold": gold, "predicted": predicted, "count": count, "share": round_number(share),
                             "shown": f"{share:.1f} %"})  # fmt: skip
    tips = list_tips(gold="gold", predicted="predicted", count="count", shown="of this gold")
    return draw_heat_map(
        rows, ("gold", "predicted"), scores.names, shown="count", domain=(0.0, 100.0), tips=tips
    )


def draw_heat_map(
    rows: Sequence[Spec],
    axes: tuple[str, str],
    names: Sequence[str],
    *,
    shown: str,
    domain: tuple[float, float],
    tips: list[Spec],
    titled: bool = True,
) -> Spec:
    """Draw a square of numbers, coloured by their `share`.

    Args:
        rows: The cells.
        axes: Fields of the rows: down, and across.
        names: The order of both axes.
        shown: Field that is written in the cells.
        domain: Shares of the darkest and of the brightest colour.
        tips: What is shown on hover.
        titled: Whether the axes carry the names of their fields.
    """
    down, across = axes
    middle = round_number(sum(domain) / 2)
    dark = {
        "test": {"and": [{"field": "share", "valid": True}, {"field": "share", "lt": middle}]},
        "value": "white",
    }
    bright = {"test": {"field": "share", "gte": middle}, "value": "black"}
    return {
        "data": {"values": list(rows)},
        "width": {"step": 62},
        "height": {"step": 34},
        "encoding": {
            "y": name_rows(down, names, down if titled else None),
            "x": encode(across, across if titled else None, "nominal", sort=list(names),
                        axis={"grid": False, "domain": False, "ticks": False, "labelAngle": -35}),
            "tooltip": tips,
        },
        "layer": [
            {"mark": {"type": "rect"}, "transform": [{"filter": {"field": "share", "valid": True}}],
             "encoding": {"color": encode("share", None, legend=None, scale={
                 "scheme": "cividis", "domain": [round_number(end) for end in domain]})}},
            {"mark": {"type": "text"}, "encoding": {
                "text": encode(shown, None, "nominal"),
                "color": {"condition": [dark, bright], "value": "currentColor"}}},
        ],
    }  # fmt: skip
