"""Load everything that a run reads: check it, select rows, and separate the parts, before a worker is taken.

Decision record: texts of the held-out sets are removed from the unlabelled rows, because a student that has learnt the
teachers' answer to a test row has seen it. Labelled rows that overlap are the user's own split, so they are counted
and warned about. Whatever is left out is counted.
Held-out rows of which none has a gold label are kept as they are,
where the task chooses among labels: the teachers give their labels (`raykd.scoring.ensembles.agreement`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from raykd.config import DataConfig, Replay, Source
from raykd.data.files.candidates import limit_candidates
from raykd.data.overlap import WITH_TARGETS, HeldOut
from raykd.data.read import Tally, read_rows
from raykd.data.rows import Rows, draw_share
from raykd.data.selection.copies import make_copies
from raykd.data.selection.groups import GroupSelection
from raykd.data.selection.labelled import draw_labelled, keep_labelled, limit_rows, may_lack_answers
from raykd.data.selection.languages import select_languages
from raykd.data.summary import summarize_rows
from raykd.errors import DataError
from raykd.tasks.forms import RowForm

log = logging.getLogger("raykd.data")

ALL = "data"
"""Key of the fingerprint over all parts."""


@dataclass(frozen=True)
class Dataset:
    """A run's rows. Made by `load_data`, read by `runs`.

    Attributes:
        train: The labelled rows that are used, then the unlabelled rows.
        validation: Labelled rows; without labels where no row has one.
        test: The same; None where the config names none.
        left_out: For each reason (a phrase for people) how many rows are not used, or are used all the same.
        form: What a row consists of.
        notes: How files were read, where that was not obvious.
        judged: Which of ``validation`` and ``test`` have no gold label, so that scores there are agreement with the
            teachers. Their labels are missing until the teachers have given them.
    """

    train: Rows
    validation: Rows
    test: Rows | None
    left_out: dict[str, int] = field(default_factory=dict)
    form: RowForm = "text"
    notes: tuple[str, ...] = ()
    judged: tuple[str, ...] = ()

    @cached_property
    def asked(self) -> Rows:
        """The training rows that teachers are asked about: without copies that are taught what their text is taught."""
        return self.train.select_asked()

    @property
    def held_out(self) -> str:
        """Name of the part that the final table is measured on: ``test``, or ``validation`` without a test set."""
        return "validation" if self.test is None else "test"

    def replace_held_out(self, parts: Mapping[str, Rows]) -> Dataset:
        """Return the same rows with other validation or test rows, by name of the part."""
        validation, test = parts.get("validation", self.validation), parts.get("test", self.test)
        return replace(self, validation=validation, test=test)

    def in_memory(self) -> Dataset:
        """Return the same rows, which travel to other machines with their content and not as the path of a file."""
        test = None if self.test is None else self.test.in_memory()
        return replace(self, train=self.train.in_memory(), validation=self.validation.in_memory(), test=test)

    def remarks(self) -> tuple[str, ...]:
        """Return lines for people: how files were read and what is not used."""
        return (*self.notes, *_describe_counts(self.left_out))

    def summary(self, labels: Sequence[str] = ()) -> dict[str, dict[str, object]]:
        """Return the counts of each part by language; see `raykd.data.summary`."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            name: summarize_rows(rows, self.form, labels) for name, rows in parts.items() if rows is not None
        }

    def fingerprint(self) -> str:
        """Return the sha256 (hex) over the content and order of all parts."""
        return self.fingerprints()[ALL]

    def fingerprints(self) -> dict[str, str]:
        """Return the sha256 (hex) over content and order of each part, by key (``data.train``), and of all as `ALL`."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        each = {f"{ALL}.{name}": rows.fingerprint() for name, rows in parts.items() if rows is not None}
        joined = " ".join(each.get(f"{ALL}.{name}", "none") for name in parts)
        return {ALL: hashlib.sha256(joined.encode()).hexdigest(), **each}


class _PartReader:
    """Reads the parts of a run's rows, and counts what is left out of them."""

    def __init__(self, config: DataConfig, base_dir: Path, form: RowForm) -> None:
        self.config, self.base_dir, self.form = config, base_dir, form
        self.groups = GroupSelection(config.select_groups, config.leave_out_groups)
        self.left_out: dict[str, int] = {}
        self.notes: list[str] = []

    def read(self, name: str, source: Source, *, labelled: bool = True) -> Rows:
        """Return the selected rows of a part.

        Raises:
            DataError: As `read_rows`, or no row is good.
        """
        config, left_out, tally = self.config, self.left_out, Tally()
        rows = read_rows(
            source, config, base_dir=self.base_dir, labelled=labelled, form=self.form, tally=tally
        )
        left_out.update(_count_changes(tally, name))
        self.notes.extend(note for note in tally.notes if note not in self.notes)
        if not len(rows):
            raise DataError(
                f"data.{name} holds no good row",
                got=", ".join(_describe_counts(_count_changes(tally, name))),
                wanted="at least one",
                next_step="change data.label_map, data.empty_label or data.on_bad_row, or the source",
            )
        self.groups.note(rows)
        rows = self.groups.select(select_languages(rows, name, config, left_out), name, left_out)
        rows = limit_rows(rows, name, source, left_out)
        if config.max_candidates is None or name in ("validation", "test"):
            return rows
        rows, cut = limit_candidates(rows, config.max_candidates)
        left_out[f"{name}: with more candidates than data.max_candidates, of which some are drawn"] = cut
        return rows

    def read_held_out(self, name: str, source: Source) -> Rows:
        """Return the rows of a held-out part that scores are measured on."""
        return keep_labelled(self.read(name, source), name, self.form, self.left_out)


def load_data(
    config: DataConfig,
    base_dir: Path,
    form: RowForm = "text",
    *,
    targets_needed: bool = True,
    keep_overlap: bool = True,
) -> Dataset:
    """Read the rows, select languages and labelled rows, and remove held-out texts from the unlabelled rows.

    Args:
        config: What to read.
        base_dir: The folder that relative paths start from.
        form: What a row of the run's task consists of (`RunConfig.form`).
        targets_needed: False where unlabelled rows may hold a source alone, because their targets are to be written.
        keep_overlap: Whether labelled training rows stay that are also in validation or test.

    Raises:
        DataError: As `read_rows`. A part is empty after the selection, a language has fewer labelled rows than
            ``labelled_per_language``, or unlabelled rows lack a target that they need.
    """
    reader = _PartReader(config, base_dir, form)
    left_out = reader.left_out
    train = reader.read("train", config.train)
    read = {
        "train": keep_labelled(train, "train", form, left_out),
        "validation": reader.read_held_out("validation", config.validation),
    }
    if config.test is not None:
        read["test"] = reader.read_held_out("test", config.test)
    optional = form == "answers" and may_lack_answers(read, config.no_answer)
    if optional:
        train = train.with_mode("optional")
        read = {name: rows.with_mode("optional") for name, rows in read.items()}
    labelled, undrawn = draw_labelled(read["train"], config, left_out)
    validation, test = read["validation"], read.get("test")
    held_out = HeldOut([rows for rows in (validation, test) if rows is not None], form)
    if not keep_overlap:
        labelled = _remove_held_out(labelled, held_out, left_out)
    _warn_of_overlap(labelled, held_out, left_out)
    bare = [train.select(~train.labelled), undrawn.without_labels()]
    parts = [labelled, *(_remove_held_out(rows, held_out, left_out) for rows in bare if len(rows))]
    if config.unlabeled is not None:
        unlabelled = reader.read("unlabeled", config.unlabeled, labelled=False)
        unlabelled = unlabelled.with_mode("optional") if optional else unlabelled
        if targets_needed and form in WITH_TARGETS:
            _check_targets(unlabelled)
        parts.append(_not_held_out(unlabelled, held_out, left_out))
    if config.replay is not None and config.replay.share:
        parts.append(_read_replayed(config.replay, base_dir, form, held_out, left_out))
    reader.groups.check()
    _check_pairs(parts)
    if not any(map(len, parts)):
        raise DataError(
            "every text of data.train is also in validation or test",
            got=f"{len(train)} of {len(train)} rows",
            wanted="texts that are not evaluated on",
            next_step="split the texts: some for data.train, others for data.validation",
        )
    if config.augment:
        parts.append(_add_copies(Rows.concat(parts), config, held_out, left_out, reader.notes))
    if form in ("text", "marked"):
        reader.notes += _describe_absent_labels(read | {"train": labelled}, config.labels)
    judged = tuple(name for name in ("validation", "test") if name in read and not read[name].labelled.any())
    return Dataset(Rows.concat(parts), validation, test, left_out, form, tuple(reader.notes), judged)


def _describe_absent_labels(parts: Mapping[str, Rows], labels: Sequence[str]) -> list[str]:
    """Return a line for each part with gold labels that lacks some of the run's."""
    found = []
    for name, rows in parts.items():
        seen = set(np.unique(rows.labels_B[rows.labelled]).tolist())
        absent = [label for i, label in enumerate(labels) if i not in seen]
        if seen and absent:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            found.append(f"data.{name} holds no row with the label {', '.join(absent[:5])}{more}")
    return found


def _add_copies(
    rows: Rows, config: DataConfig, held_out: HeldOut, left_out: dict[str, int], notes: list[str]
) -> Rows:
    """Return the changed copies of rows; what changed none is noted, since it would do nothing, unseen."""
    copies = _remove_held_out(make_copies(rows, config.augment, left_out, held_out.form), held_out, left_out)
    left_out["train: copies that data.augment made, which teachers alone teach"] = len(copies)
    made = {row_id.rsplit(" ", 2)[-2] for row_id in copies.ids}
    idle = [change.kind for change in config.augment if change.kind not in made]
    notes += [f"data.augment: {kind} changed no text, so it has no effect" for kind in idle]
    return copies


def _read_replayed(
    config: Replay, base_dir: Path, form: RowForm, held_out: HeldOut, left_out: dict[str, int]
) -> Rows:
    """Return the rows of an earlier run that are learnt again; none that this run is evaluated on."""
    rows = load_data(config.data, base_dir, form).train
    drawn = draw_share(rows, config.share, config.seed)
    kept = drawn.select(~held_out.find(drawn))
    left_out["train: of the earlier run, learnt again (data.replay)"] = len(kept)
    left_out["train: of the earlier run, not drawn again"] = len(rows) - len(drawn)
    left_out["train: of the earlier run, also in validation or test"] = len(drawn) - len(kept)
    return kept


def _not_held_out(rows: Rows, held_out: HeldOut, left_out: dict[str, int]) -> Rows:
    """Return the unlabelled rows that are not evaluated on.

    Raises:
        DataError: There are none.
    """
    cleaned = _remove_held_out(rows, held_out, left_out)
    if not len(cleaned):
        raise DataError(
            "every text of data.unlabeled is also in validation or test",
            got=f"{len(rows)} of {len(rows)} rows",
            wanted="texts that are not evaluated on",
            next_step="name another source in data.unlabeled",
        )
    return cleaned


def _check_pairs(parts: Sequence[Rows]) -> None:
    """Raise DataError where some parts have second texts and others have none."""
    if len({rows.pairs is None for rows in parts}) > 1:
        raise DataError(
            "train and unlabeled do not fit together",
            got="second texts in one of them only",
            wanted="second texts in both or in none",
            next_step="check columns.text_pair of both sources",
        )


def _describe_counts(counts: Mapping[str, int]) -> list[str]:
    """Return a line for each reason that holds for at least one row."""
    return [f"{count:,} row{'' if count == 1 else 's'}: {why}" for why, count in counts.items() if count]


def _count_changes(tally: Tally, name: str) -> dict[str, int]:
    """Return how many rows reading a part left out or changed, by a phrase for people."""
    return {
        **{f"{name}: bad rows of {where}": count for where, count in tally.skipped.items()},
        **{f"{name}: rows without a label of {where}": n for where, n in tally.without_label.items()},
        **{f"{name}: label {label!r}, left out by data.label_map": n for label, n in tally.left_out.items()},
        **{f"{name}: {what} (rows kept)": n for what, n in tally.mended.items()},
    }


def _check_targets(rows: Rows) -> None:
    """Refuse rows without a target, which teachers have nothing to answer about."""
    bare = sum(not target for target in rows.pairs or ())
    if bare:
        raise DataError(
            "rows of data.unlabeled have no target, so there is nothing that teachers could be asked about",
            got=f"{bare} of {len(rows)} rows with a source only",
            wanted="a target a row (data.columns.target)",
            next_step="let the teachers write them: raykd label --sequences",
        )


def _warn_of_overlap(rows: Rows, held_out: HeldOut, left_out: dict[str, int]) -> None:
    at = np.flatnonzero(held_out.find(rows)).tolist()
    if at:
        left_out["train: labelled and also in validation or test (kept)"] = len(at)
        log.warning(
            "%d labelled training rows are also in validation or test (kept): %s",
            len(at),
            ", ".join(rows.ids[i] for i in at[:5]),
        )


def _remove_held_out(rows: Rows, held_out: HeldOut, left_out: dict[str, int]) -> Rows:
    """Return the unlabelled rows whose text is in no held-out set."""
    found = held_out.find(rows)
    removed = int(found.sum())
    if removed:
        why = "unlabeled: also in validation or test"
        left_out[why] = left_out.get(why, 0) + removed
        log.info("%d unlabelled rows are also in validation or test: left out", removed)
    return rows.select(~found)
