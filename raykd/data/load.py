"""Load everything that a run reads: check it, select rows, and separate the parts, before a worker is taken.

Decision record: which labelled rows a run uses is a draw of its own seed, nested (the rows of a smaller number are
among those of a larger one) and proportional to labels at every size, so that a curve over the number of labels
compares like with like. Labelled rows that are not drawn are dropped unless ``undrawn`` uses them as texts without
labels: the amount of unlabelled text is what the user says and nothing else. Texts of the held-out sets are removed
from the unlabelled rows, because a student that has learnt the teachers' answer to a test row has seen it. Labelled
rows that overlap are the user's own split, so they are counted and warned about. Whatever is left out is counted.
Held-out rows of which none has a gold label are kept as they are,
where the task chooses among labels: the teachers give their labels (`raykd.scoring.ensembles.agreement`).
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from raykd.config import DataConfig, Embedded, Replay, Source
from raykd.data.files.candidates import limit_candidates
from raykd.data.overlap import WITH_TARGETS, HeldOut
from raykd.data.read import Tally, read_rows
from raykd.data.rows import Rows, draw_share, make_copies, stratified_order
from raykd.data.selection.groups import GroupSelection
from raykd.data.selection.languages import select_languages
from raykd.data.summary import summarize_rows
from raykd.errors import DataError
from raykd.tasks.forms import LABELLED_FORMS, RowForm

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
    left_out: dict[str, int] = {}
    notes: list[str] = []
    groups = GroupSelection(config.select_groups, config.leave_out_groups)

    def part(name: str, source: Source, labelled: bool) -> Rows:
        tally = Tally()
        rows = read_rows(source, config, base_dir=base_dir, labelled=labelled, form=form, tally=tally)
        left_out.update(_count_changes(tally, name))
        notes.extend(note for note in tally.notes if note not in notes)
        if not len(rows):
            raise DataError(
                f"data.{name} holds no good row",
                got=", ".join(_describe_counts(_count_changes(tally, name))),
                wanted="at least one",
                next_step="change data.label_map, data.empty_label or data.on_bad_row, or the source",
            )
        groups.note(rows)
        rows = groups.select(select_languages(rows, name, config, left_out), name, left_out)
        rows = _limit_rows(rows, name, source, left_out)
        if config.max_candidates is None or name in ("validation", "test"):
            return rows
        rows, cut = limit_candidates(rows, config.max_candidates)
        left_out[f"{name}: with more candidates than data.max_candidates, of which some are drawn"] = cut
        return rows

    train = part("train", config.train, True)
    read = {
        "train": _keep_labelled(train, "train", form, left_out),
        "validation": _keep_labelled(
            part("validation", config.validation, True), "validation", form, left_out
        ),
    }
    if config.test is not None:
        read["test"] = _keep_labelled(part("test", config.test, True), "test", form, left_out)
    optional = form == "answers" and may_lack_answers(read, config.no_answer)
    if optional:
        train = train.with_mode("optional")
        read = {name: rows.with_mode("optional") for name, rows in read.items()}
    labelled, undrawn = _draw_labelled(read["train"], config, left_out)
    validation, test = read["validation"], read.get("test")
    held_out = HeldOut([rows for rows in (validation, test) if rows is not None], form)
    if not keep_overlap:
        labelled = _remove_held_out(labelled, held_out, left_out)
    _warn_of_overlap(labelled, held_out, left_out)
    bare = [train.select(~train.labelled), undrawn.without_labels()]
    parts = [labelled, *(_remove_held_out(rows, held_out, left_out) for rows in bare if len(rows))]
    if config.unlabeled is not None:
        unlabelled = part("unlabeled", config.unlabeled, False)
        unlabelled = unlabelled.with_mode("optional") if optional else unlabelled
        if targets_needed and form in WITH_TARGETS:
            _check_targets(unlabelled)
        parts.append(_not_held_out(unlabelled, held_out, left_out))
    if config.replay is not None and config.replay.share:
        parts.append(_read_replayed(config.replay, base_dir, form, held_out, left_out))
    groups.check()
    _check_pairs(parts)
    if not any(map(len, parts)):
        raise DataError(
            "every text of data.train is also in validation or test",
            got=f"{len(train)} of {len(train)} rows",
            wanted="texts that are not evaluated on",
            next_step="split the texts: some for data.train, others for data.validation",
        )
    if config.augment:
        copies = _remove_held_out(make_copies(Rows.concat(parts), config.augment), held_out, left_out)
        left_out["train: copies that data.augment made, which teachers alone teach"] = len(copies)
        parts.append(copies)
    judged = tuple(name for name in ("validation", "test") if name in read and not read[name].labelled.any())
    return Dataset(Rows.concat(parts), validation, test, left_out, form, tuple(notes), judged)


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


def _keep_labelled(rows: Rows, name: str, form: RowForm, left_out: dict[str, int]) -> Rows:
    """Return the rows with a gold label; of held-out rows all, where none has one and teachers can give them.

    Raises:
        DataError: No row has a label, and the task does not choose among labels.
    """
    if rows.labelled.all():
        return rows
    found = rows.select(rows.labelled)
    if not len(found):
        if form in LABELLED_FORMS or (form == "sentences" and name == "train"):
            return found if name == "train" else rows
        raise DataError(
            f"no row of data.{name} has gold",
            got=f"{len(rows)} rows, all without",
            wanted="rows with gold: agreement with the teachers is measured in tasks that choose among labels alone",
            next_step="use it as data.unlabeled" + (", and leave data.test out" if name == "test" else ""),
        )
    if len(found) < len(rows):
        used = "used as text without labels" if name == "train" else "left out"
        left_out[f"{name}: without a label, {used}"] = len(rows) - len(found)
    return found


def may_lack_answers(parts: Mapping[str, Rows], no_answer: str) -> bool:
    """Return whether "no answer" is a choice. With `auto` it is as soon as one question has no answer.

    Args:
        parts: The labelled parts by name.
        no_answer: As in the config.

    Raises:
        DataError: No question of a part has an answer, which mostly means that its answers were taken out.
    """
    if no_answer != "auto":
        return no_answer == "always"
    bare = {name: sum(not gold for gold in rows.golds or ()) for name, rows in parts.items()}
    for name, rows in parts.items():
        if bare[name] == len(rows):
            raise DataError(
                f"no question of data.{name} has an answer",
                got=f"{len(rows)} rows without an answer",
                wanted="rows with answers, some without perhaps",
                next_step="if the answers were taken out, read them as data.unlabeled; if none of the questions has "
                "one, set data.no_answer: always",
            )
    return any(bare.values())


def _limit_rows(rows: Rows, name: str, source: Source, left_out: dict[str, int]) -> Rows:
    """Return at most ``rows_per_language`` rows per language, with and without a label, evenly spaced.

    Embedded corpora have taken care of it while they were read.
    """
    most = source.rows_per_language
    if isinstance(source, Embedded) or most is None:
        return rows
    picked = []
    for language in rows.list_languages():
        for has_label in (True, False):
            members = np.flatnonzero(rows.is_in_language(language) & (rows.labelled == has_label))
            count = min(most, len(members))
            picked.append(members[np.arange(count) * len(members) // max(1, count)])
    chosen = np.sort(np.concatenate(picked))
    if len(chosen) == len(rows):
        return rows
    left_out[f"{name}: beyond data.{name}.rows_per_language"] = len(rows) - len(chosen)
    return rows.select(chosen)


def _draw_labelled(rows: Rows, config: DataConfig, left_out: dict[str, int]) -> tuple[Rows, Rows]:
    """Return ``labelled_per_language`` rows of each language in the source's order, and rows to use without labels."""
    wanted = config.labelled_per_language
    if wanted is None:
        return rows, rows.select([])
    picked = []
    for language in rows.list_languages():
        members = np.flatnonzero(rows.is_in_language(language))
        if len(members) < wanted:
            raise DataError(
                f"data.labelled_per_language: {language!r} has fewer labelled training rows",
                got=f"{len(members)} rows",
                wanted=f"{wanted}",
                next_step=f"lower data.labelled_per_language to {len(members)} or add rows",
            )
        # Where gold is not one label all rows are of one label here: the order is plainly random.
        # The language is in the seed by name, so that selecting other languages does not change this one's rows.
        seed = [config.labelled_seed & (2**64 - 1), zlib.crc32(language.encode())]
        order = stratified_order(rows.labels_B[members], np.random.default_rng(seed))
        picked.append(members[order[:wanted]])
    chosen = np.sort(np.concatenate(picked))
    rest = np.setdiff1d(np.arange(len(rows)), chosen)
    kept = config.undrawn == "unlabeled"
    if len(rest):
        used = "used as text without labels" if kept else "left out"
        left_out[f"train: labelled rows beyond data.labelled_per_language, {used}"] = len(rest)
    return rows.select(chosen), rows.select(rest if kept else [])


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
