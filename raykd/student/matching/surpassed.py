"""`SurpassedTeachers`: leave a teacher out of a language once the student is as good there (arXiv 1902.10461).

Decision record: teachers are asked about the validation rows once, as the run's weighting asks them about training
rows, and scored by the run's metric, so both sides are compared by the same number on the same rows. Which pairs are
left out follows from the last evaluation, which is in the checkpoint. A teacher that is left out is still asked:
batches are ahead of the evaluation that decides, and a run that is resumed must be as one that was not cut.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from raykd.answers.source import SignalSource
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.distill.signals import Signals
from raykd.keys import make_key_part
from raykd.point import Point
from raykd.student.evaluate import compute_language_scores
from raykd.student.matching.held_out import ask_held_out
from raykd.tasks import SystemAnswers

log = logging.getLogger("raykd.student")


def hide_pairs(signals: Signals, pairs: Collection[tuple[str, str]]) -> Signals:
    """Return answers without those of some pairs of teacher and language."""
    if not pairs:
        return signals
    names = sorted(set(signals.languages))
    codes_N = np.asarray([names.index(language) for language in signals.languages], dtype=np.int64)
    table = [[(teacher, name) in pairs for name in names] for teacher in signals.teachers]
    table_MV = np.asarray(table, dtype=bool).reshape(len(signals.teachers), len(names))
    return signals.hide(torch.from_numpy(table_MV[:, codes_N]))


def read_surpassed(
    curve: Sequence[Point], teachers: Sequence[str], languages: Sequence[str]
) -> list[tuple[str, str]]:
    """Return the pairs of teacher and language that were left out at the end of a run, by its curve."""
    last = {name: value for point in curve for name, value in point.values.items()}
    return [pair for pair in itertools.product(teachers, languages) if last.get(_name_pair(*pair))]


def _name_pair(teacher: str, language: str) -> str:
    return f"teacher/{teacher}/surpassed/{make_key_part(language)}"


class SurpassedTeachers:
    """The pairs of teacher and language that are left out.

    Args:
        config: The run of one task.
        rows: Its validation rows.
        source: Its teachers.
        margin: How much better than the teacher the student must be.
    """

    def __init__(self, config: RunConfig, rows: Rows, source: SignalSource, margin: float) -> None:
        self._config, self._rows, self._source, self._margin = config, rows, source, margin
        self.pairs: frozenset[tuple[str, str]] = frozenset()

    def update(self, scores: Mapping[str, float]) -> None:
        """Compare the student with its teachers; without scores of the student all teachers teach.

        Args:
            scores: Of an evaluation: ``eval/<language>/<metric>``.
        """
        higher, found = self._config.train.higher_is_better, set[tuple[str, str]]()
        for pair, known in self._teachers.items() if scores else ():
            gain = scores.get(self._name(pair[1]), float("nan")) - known
            if (gain if higher else -gain) >= self._margin:
                found.add(pair)
        if found != self.pairs:
            told = ", ".join(f"{teacher} in {language}" for teacher, language in sorted(found))
            log.info("teachers that the student has surpassed, left out from here on: %s", told or "none")
        self.pairs = frozenset(found)

    def hide(self, signals: Signals) -> Signals:
        """Return the answers without those of teachers that were surpassed in the unit's language."""
        return hide_pairs(signals, self.pairs)

    def to_values(self) -> dict[str, float]:
        """Return for the curves in how many languages each teacher is left out, and whether in each."""
        values: dict[str, float] = {}
        for name in self._source.teachers:
            found = [float((name, language) in self.pairs) for language in self._rows.list_languages()]
            values[f"teacher/{name}/surpassed"] = sum(found)
            values |= {
                _name_pair(name, language): value
                for language, value in zip(self._rows.list_languages(), found, strict=True)
            }
        return values

    def _name(self, language: str) -> str:
        return f"eval/{make_key_part(language)}/{self._config.metric}"

    @cached_property
    def _teachers(self) -> dict[tuple[str, str], float]:
        """The score of each teacher in each language in which it answers validation rows."""
        rows, task, labels = self._rows, self._config.task, self._config.data.labels
        slots, signals = ask_held_out(self._config, rows, self._source)
        counts_B = task.count_units(rows.take(range(len(rows))))
        logits_MNC, found = signals.known_logits().numpy(), {}
        for m, name in enumerate(self._source.teachers):
            picked = np.flatnonzero(slots[m].answered_B)
            answers = SystemAnswers(logits_MNC[m], counts_B, signals.covered_MN[m].numpy())
            scores = compute_language_scores(task, answers.take(picked), rows.select(picked), labels)
            for language in rows.list_languages():
                if self._name(language) in scores:
                    found[name, language] = scores[self._name(language)]
        return found
