"""Map a teacher's labels onto the run's by name: renamed, merged, dropped, or missing.

Decision record: labels are never matched by order or number, because no loss curve shows that a list was permuted.
Several labels of the teacher may lead to one of the run: their probabilities are added, as logsumexp of raw logits
before any temperature. A label that leads to null is dropped, and a softmax over the others renormalises the rest. A
label of the run that no label of the teacher leads to must be written down (`missing`): the teacher's distribution is
over the labels that it knows, and the student's is conditioned on them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import MASKED
from raykd.errors import LabelMismatchError


@dataclass(frozen=True)
class ColumnMap:
    """How a teacher's columns become the run's. Made by a task's `map_columns`, read where teachers answer.

    Attributes:
        columns: For each of the run's labels the teacher's columns whose probabilities are added; empty where unknown.
    """

    columns: tuple[tuple[int, ...], ...]

    @property
    def unknown(self) -> tuple[int, ...]:
        """The run's columns that the teacher does not know."""
        return tuple(i for i, own in enumerate(self.columns) if not own)

    def apply(self, logits_NC: NDArray[np.float32], unknown: float = MASKED) -> NDArray[np.float32]:
        """Return the teacher's raw logits ``[N, own C]`` in the run's columns ``[N, C]``.

        Args:
            logits_NC: The teacher's.
            unknown: The logit of a label that the teacher does not know. Answers hold -inf there.
        """
        out = np.full((len(logits_NC), len(self.columns)), unknown, dtype=np.float32)
        for i, own in enumerate(self.columns):
            if len(own) == 1:
                out[:, i] = logits_NC[:, own[0]]
            elif own:
                out[:, i] = np.logaddexp.reduce(logits_NC[:, list(own)].astype(np.float64), axis=1)
        return out


def map_label_columns(
    own: Sequence[str],
    wanted: Sequence[str],
    label_map: Mapping[str, str | None],
    name: str,
    missing: Sequence[str] = (),
    *,
    least: int = 2,
) -> ColumnMap:
    """Return the teacher's columns behind each of the run's labels.

    Args:
        own: The teacher's labels, in the order of its columns.
        wanted: The run's labels.
        label_map: The teacher's labels to the run's, many to one; None drops a label.
        name: The teacher, for messages.
        missing: The run's labels that the teacher does not know.
        least: How many of the run's labels a teacher must know to have something to say.

    Raises:
        LabelMismatchError: A name stands in neither list, a label of one list has no counterpart in the other, or the
            teacher knows too few of the run's labels; names both lists.
    """
    key = f"teachers.{name}"
    if strange := sorted(set(label_map) - set(own)):
        raise LabelMismatchError(
            f"{key}.label_map names labels that the teacher does not have",
            got=", ".join(strange),
            wanted=f"names among {list(own)}",
            next_step=f"correct it ({{its label: the run's label}}); the run's labels are {list(wanted)}",
        )
    targets = {to for to in label_map.values() if to is not None} | set(missing)
    if strange := sorted(targets - set(wanted)):
        which = "missing" if set(strange) & set(missing) else "label_map"
        raise LabelMismatchError(
            f"{key}.{which} names labels that the run does not have",
            got=", ".join(strange),
            wanted=f"names among {list(wanted)}",
            next_step=f"correct it; the teacher's labels are {list(own)}",
        )
    renamed = [label_map.get(label, label) for label in own]
    found = ColumnMap(tuple(tuple(i for i, to in enumerate(renamed) if to == label) for label in wanted))
    unknown = [wanted[i] for i in found.unknown]
    _check_gaps(own, wanted, renamed, name, missing, unknown)
    if len(wanted) - len(unknown) < least:
        few = "fewer than two" if least == 2 else "none"
        raise LabelMismatchError(
            f"teacher {name} knows {few} of the run's labels, so it has nothing to teach",
            got=f"{list(own)}, mapped to {renamed}",
            wanted=f"{'two' if least == 2 else 'one'} at least of {list(wanted)}",
            next_step="leave the teacher out, or name one with more of the run's labels",
        )
    return found


def _check_gaps(
    own: Sequence[str],
    wanted: Sequence[str],
    renamed: Sequence[str | None],
    name: str,
    missing: Sequence[str],
    unknown: Sequence[str],
) -> None:
    """Refuse labels that nobody wrote down: of the teacher without a place in the run, and the other way round."""
    key = f"teachers.{name}"
    lost = [label for label, to in zip(own, renamed, strict=True) if to is not None and to not in wanted]
    absent = [label for label in unknown if label not in missing]
    mapped = list(renamed) != list(own)
    got = f"{list(own)}" + (
        f", mapped to {['null' if to is None else to for to in renamed]}" if mapped else ""
    )
    if lost or absent:
        raise LabelMismatchError(
            f"teacher {name} has other labels than the run",
            got=got,
            wanted=f"{list(wanted)} in any order",
            next_step=_advise(key, lost, absent),
        )
    if known := [label for label in missing if label not in unknown]:
        leads = own[list(renamed).index(known[0])]
        raise LabelMismatchError(
            f"{key}.missing names labels that the teacher has: {', '.join(known)}",
            got=got,
            wanted=f"those of {list(wanted)} that no label of the teacher leads to",
            next_step="take them out of missing, or drop what leads to them: "
            f"{key}.label_map: {{{_quote(leads)}: null}}",
        )


def _quote(label: str) -> str:
    """Return a label as a line of YAML has to hold it: quoted where it would be read as another one."""
    plain = label == label.strip() and not re.search(
        r"[^\w .-]|^-|^(?:true|false|null|yes|no|on|off|~|)$", label, re.I
    )
    return label if plain or label == "..." else json.dumps(label, ensure_ascii=False)


def _advise(key: str, lost: Sequence[str], absent: Sequence[str]) -> str:
    """Return what to write for labels of the teacher and labels of the run that have no counterpart."""
    if lost:
        alike = {label.strip().casefold(): label for label in absent}
        shown = ", ".join(
            f"{_quote(label)}: {_quote(alike.get(label.strip().casefold(), '...'))}" for label in lost
        )
        return (
            f"say what each of the teacher's labels is in the run, several may lead to one, and null drops one: "
            f"{key}.label_map: {{{shown}}}"
        )
    names = ", ".join(absent)
    return f"where no label of the teacher stands for {names}, {key}.missing: [{names}] says that it does not teach it"
