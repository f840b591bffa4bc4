"""Describe a teacher that is not good enough to teach: its score, that of one label for everything, and the cause."""

from __future__ import annotations

from dataclasses import dataclass

from raykd.config import RunConfig
from raykd.report.results import Score
from raykd.tasks.scores.chance import Comparison, Swap
from raykd.teachers.spec import TeacherInfo, TeacherSpec

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
