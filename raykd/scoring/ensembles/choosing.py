"""Choose the unlabelled rows that a person should label: those about which the teachers disagree most.

Decision record: all teachers that speak a row's language are asked, whatever the run's weighting, since one alone
agrees with itself. Each language gets its share of the rows by how many of its rows can be chosen, because
disagreement is no common measure over languages with other teachers. The file has the names of the run's own columns
and an empty label, so it is a source of the next run once a person has filled it in.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raykd.answers.source import SignalSource
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.distill.signals import Signals
from raykd.ensemble.disagreement import measure_disagreement
from raykd.errors import ConfigError, DataError
from raykd.folders.places import try_folder
from raykd.scoring.score import stack_signals
from raykd.tasks.forms import RowForm

_AT_ONCE = 2048
_COLUMNS: dict[RowForm, str] = {"text": "label", "words": "tags"}
"""Forms of rows that can be chosen, and the column that a person fills in."""


@dataclass(frozen=True)
class Choice:
    """How many rows are chosen, and the file that they are written to."""

    count: int
    path: Path

    def check(self, configs: Sequence[RunConfig]) -> None:
        """Refuse what cannot be chosen or written.

        Raises:
            ConfigError: Another task, several tasks, a file that is there already, or another ending.
        """
        wrong = [c.task.kind for c in configs if c.form not in _COLUMNS]
        if wrong or len(configs) > 1:
            raise ConfigError(
                "--choose cannot choose rows of this run",
                got=f"task {wrong[0]}" if wrong else f"{len(configs)} tasks",
                wanted="one task: classification or token_classification",
            )
        endings = (".jsonl",) if configs[0].form == "words" else (".jsonl", ".csv")
        if self.path.suffix not in endings or self.path.exists():
            raise ConfigError(
                "--to cannot take the chosen rows",
                got=f"{self.path}" + (", which is there already" if self.path.exists() else ""),
                wanted=f"a new file NAME{' or NAME'.join(endings)}",
            )
        try_folder(self.path.resolve().parent, "--to")


@dataclass(frozen=True)
class RowDisagreement:
    """How much teachers disagree about rows.

    Attributes:
        nats_B: Mean over the units that two teachers or more cover; NaN where there is none.
        answers_B: What each teacher says of the row's only unit, for people; "" in a task of several units a row.
    """

    nats_B: NDArray[np.float64]
    answers_B: tuple[str, ...]


def measure_rows(
    config: RunConfig, rows: Rows, source: SignalSource, report: Callable[[int, int], None]
) -> RowDisagreement:
    """Measure how much the teachers disagree about each row.

    Args:
        config: The run of one task.
        rows: The rows.
        source: The teachers, asked about every row in their languages.
        report: Called with (rows done, rows in all).
    """
    nats: list[NDArray[np.float64]] = []
    told: list[str] = []
    for begin in range(0, len(rows), _AT_ONCE):
        batch = rows.select(np.arange(begin, min(begin + _AT_ONCE, len(rows))))
        signals = stack_signals(config, source.submit(batch).result(), source.teacher_languages, batch)
        nats_N, teachers_N = (values.numpy() for values in measure_disagreement(signals))
        counts_B = config.task.count_units(batch)
        row_N = np.repeat(np.arange(len(batch)), counts_B)
        several_N = teachers_N > 1
        units_B = np.bincount(row_N[several_N], minlength=len(batch))
        sums_B = np.bincount(row_N[several_N], nats_N[several_N], minlength=len(batch))
        nats.append(np.where(units_B > 0, sums_B / np.maximum(units_B, 1), np.nan))
        single = config.form == "text"
        told += _describe_answers(signals, config.data.labels) if single else [""] * len(batch)
        report(begin + len(batch), len(rows))
    return RowDisagreement(np.concatenate([np.zeros(0), *nats]), tuple(told))


def _describe_answers(signals: Signals, labels: Sequence[str]) -> Iterator[str]:
    p_MNC = signals.logits_MNC.float().softmax(dim=-1).numpy()
    covered_MN = signals.covered_MN.numpy()
    for n in range(p_MNC.shape[1]):
        best = [
            (name, int(p_MNC[m, n].argmax()), m)
            for m, name in enumerate(signals.teachers)
            if covered_MN[m, n]
        ]
        yield "; ".join(f"{name}: {labels[top]} {p_MNC[m, n, top]:.2f}" for name, top, m in best)


def choose_disputed_rows(rows: Rows, nats_B: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the rows with most disagreement, those of most first; each language has its share, equal texts count once.

    Args:
        rows: Unlabelled rows.
        nats_B: Their disagreement; NaN cannot be chosen.
        count: How many, at most.
    """
    order = np.lexsort((np.arange(len(rows)), -nats_B))
    seconds = rows.pairs or [""] * len(rows)
    keys = list(zip(rows.languages, rows.texts, seconds, strict=True))
    first = {keys[i]: i for i in order[::-1].tolist()}
    usable = [i for i in order.tolist() if np.isfinite(nats_B[i]) and first[keys[i]] == i]
    members = {language: [i for i in usable if keys[i][0] == language] for language in rows.list_languages()}
    count = min(count, len(usable))
    exact = {language: count * len(own) / max(1, len(usable)) for language, own in members.items()}
    quota = {language: int(share) for language, share in exact.items()}
    for language in sorted(exact, key=lambda name: quota[name] - exact[name])[: count - sum(quota.values())]:
        quota[language] += 1
    kept = {i for language, own in members.items() for i in own[: quota[language]]}
    return np.asarray([i for i in usable if i in kept], dtype=np.int64)


def write_choice(
    config: RunConfig, rows: Rows, source: SignalSource, choice: Choice, report: Callable[[int, int], None]
) -> str:
    """Write the rows to be labelled, and return what was chosen, for people.

    Args:
        config: The run of one task.
        rows: Unlabelled rows.
        source: The teachers, asked about every row in their languages.
        choice: How many, and where to.
        report: Called with (rows done, rows in all).

    Raises:
        DataError: No row is covered by two teachers.
    """
    found = measure_rows(config, rows, source, report)
    picked = choose_disputed_rows(rows, found.nats_B, choice.count)
    if not len(picked):
        raise DataError(
            "--choose: there is no row that two teachers answer",
            got=f"{len(rows):,} rows without labels; teachers " + ", ".join(source.teachers),
            wanted="rows without labels in a language of two teachers",
            next_step="add a teacher, or data.unlabeled",
        )
    chosen = rows.select(picked)
    records = list(_make_records(config, chosen, found, picked))
    fresh = choice.path.with_name(f"{choice.path.name}.part")
    with fresh.open("w", encoding="utf-8", newline="") as file:
        if choice.path.suffix == ".csv":
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
        else:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    fresh.replace(choice.path)
    each = ", ".join(f"{int(chosen.is_in_language(one).sum()):,} {one}" for one in chosen.list_languages())
    mean, chosen_mean = float(np.nanmean(found.nats_B)), float(found.nats_B[picked].mean())
    return (
        f"{len(picked):,} of {len(rows):,} rows without labels were written to {choice.path} ({each}); teachers "
        f"disagree by {chosen_mean:.3f} nats on them, by {mean:.3f} on all. Fill in the column {_name_gold(config)}, "
        "and name the file in data.train.paths"
    )


def _name_gold(config: RunConfig) -> str:
    column = _COLUMNS[config.form]
    return str(getattr(config.data.columns, column) or column)


def _make_records(
    config: RunConfig, rows: Rows, found: RowDisagreement, picked: NDArray[np.int64]
) -> Iterator[dict[str, object]]:
    names, words, pairs = config.data.columns, rows.words, rows.pairs
    for at, i in enumerate(picked.tolist()):
        text = rows.texts[at]
        record: dict[str, object] = {names.id or "id": rows.ids[at]}
        if words is not None:
            record[names.tokens] = [text[begin:end] for begin, end in words[at]]
        else:
            record[names.text] = text
        if pairs is not None and names.text_pair is not None:
            record[names.text_pair] = pairs[at]
        record |= {_name_gold(config): None, names.language or "language": rows.languages[at]}
        record["disagreement"] = round(float(found.nats_B[i]), 4)
        yield record | ({"teachers": found.answers_B[i]} if words is None else {})
