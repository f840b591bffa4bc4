"""Select the rows with gold: which part of a source is used, and what becomes of rows without a label.

Decision record: which labelled rows a run uses is a draw of its own seed, nested (the rows of a smaller number are
among those of a larger one) and proportional to labels at every size, so that a curve over the number of labels
compares like with like. Labelled rows that are not drawn are dropped unless ``undrawn`` uses them as texts without
labels: the amount of unlabelled text is what the user says and nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from raykd.config import DataConfig, Embedded, Source
from raykd.data.rows import Rows, stratified_order
from raykd.errors import DataError
from raykd.tasks.forms import LABELLED_FORMS, RowForm


def keep_labelled(rows: Rows, name: str, form: RowForm, left_out: dict[str, int]) -> Rows:
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


def limit_rows(rows: Rows, name: str, source: Source, left_out: dict[str, int]) -> Rows:
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


def draw_labelled(rows: Rows, config: DataConfig, left_out: dict[str, int]) -> tuple[Rows, Rows]:
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
