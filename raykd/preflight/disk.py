"""Check whether a run's checkpoints and its teachers' answers fit on the disk, before anything starts.

Decision record: a run is refused only if it cannot work, when not even one checkpoint of the smallest possible student
fits. A full store costs time, but never a run. Everything else that a run keeps is counted with measured sizes, so the
sum is right to a half when the run ends. If the sum does not fit, the user is warned and decides, because the store may
hold the answers already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raykd.config import Run
from raykd.config.rewriting.pretraining import make_pretraining_run
from raykd.data.load import Dataset
from raykd.errors import ResourceError
from raykd.preflight.sizes import (
    COPIES,
    DATABASE,
    PAGES,
    WINDOW,
    StoreSize,
    count_student_parameters,
    count_trained_parameters,
    count_windows,
    estimate_checkpoint_bytes,
    estimate_model_bytes,
    estimate_store_sizes,
    estimate_token_bytes,
    read_free_bytes,
)

MAY_NOT_FIT = "may not fit on the disk"
"""How a warning begins."""


@dataclass(frozen=True)
class Disk:
    """Bytes that a run needs, and bytes that are free. Made by `compute_disk`.

    Attributes:
        output: The folder of runs.
        parameters: Of the student; None if unknown.
        checkpoint: Bytes of one of the student's; None if unknown.
        least: Bytes of the smallest checkpoint that the student can have.
        store: The stored answers of each teacher.
        store_limit: Most bytes of the store.
        free: Free bytes; None if the disk does not say.
        copies: Checkpoints that exist at once.
        trained: Parameters of the student that are trained; None if all are.
        teachers: Bytes of checkpoints and models that are trained first: teachers, and the student's pretraining.
        models: Bytes of saved students, in the run's folder and in MLflow.
        records: Bytes of MLflow's database, pages and curves.
        tokens: Bytes of the student's tokens of many rows. They lie in raykd's cache, mostly on the same disk.
    """

    output: Path
    parameters: int | None
    checkpoint: int | None
    least: int | None
    store: tuple[StoreSize, ...]
    store_limit: int
    free: int | None
    copies: int = COPIES
    trained: int | None = None
    peer: int = 0
    teachers: int = 0
    models: int = 0
    records: int = 0
    tokens: int = 0

    @property
    def answers(self) -> int:
        """Bytes of all answers, at most the store's limit."""
        return min(self.store_limit, sum(part.bytes or 0 for part in self.store))

    @property
    def needed(self) -> int:
        """Bytes of everything that a run keeps."""
        kept = self.teachers + self.models + self.records + self.tokens
        return self.copies * (self.checkpoint or 0) + kept + self.answers

    def arithmetic(self) -> str:
        """Describe what is needed, as a sum."""
        parts = ["checkpoints of unknown size"]
        if self.checkpoint is not None:
            parts = [f"{self.copies} x {format_bytes(self.checkpoint)} checkpoints"]
        others = {
            "models trained first": self.teachers,
            "models": self.models,
            "records": self.records,
            "cached tokens": self.tokens,
        }
        parts += [f"{format_bytes(size)} {what}" for what, size in others.items() if size]
        parts += [f"{format_bytes(self.answers)} answers"] if self.store else []
        return f"{' + '.join(parts)} = {format_bytes(self.needed)}"


def compute_disk(
    config: Run,
    data: Mapping[str, Dataset] | None = None,
    *,
    copies: int = COPIES,
    trials: int = 0,
    tokens: int | None = None,
) -> Disk:
    """Compute what a run needs on the disk.

    Args:
        config: The run, or the base of a sweep.
        data: Data sets by task; None leaves the answers out.
        copies: Checkpoints that exist at once.
        trials: Of a sweep. Their students are recorded, but not kept as models.
        tokens: Of the student's trimmed vocabulary; None if it is not trimmed, or not yet known.
    """
    members = config.members
    first = next(iter(members.values()))

    # What only its pretraining lets it learn, a decoder, is as large as there.
    sized = [m if m.task.head in m.student.tasks else make_pretraining_run(m) for m in members.values()]

    def count_parameters(least: bool) -> int | None:
        counts = (
            count_student_parameters(m.student, m.task, m.data.labels, least=least, tokens=tokens)
            for m in sized
        )
        found = max((count for count in counts if count is not None), default=None)
        return None if found is None else found + count_peer(least)

    def count_peer(least: bool) -> int:
        peer = first.peer
        found = peer and count_student_parameters(peer.student, first.task, first.data.labels, least=least)
        return found or 0

    largest, smallest = count_parameters(least=False), count_parameters(least=True)
    languages = first.data.select_languages or first.data.languages
    trained = count_trained_parameters(config.student, first.task, first.data.labels, languages)
    store = [part for task, own in (data or {}).items() for part in estimate_store_sizes(members[task], own)]
    output = Path(config.output).resolve()
    saved = 0 if trials else (2 if config.baseline else 1) + config.tracking.log_model
    rows = sum(len(own.train) for own in (data or {}).values()) or None
    jobs = trials or 1 + config.baseline
    database = 0 if (output / "mlflow.db").exists() else DATABASE
    records = database + PAGES * len(members) + jobs * WINDOW * count_windows(config.train, rows)
    teachers, recorded = _teachers(config, rows)
    return Disk(
        output=output,
        parameters=largest,
        trained=trained,
        peer=count_peer(least=False),
        checkpoint=None if largest is None else estimate_checkpoint_bytes(trained or largest, config.train),
        least=None if smallest is None else estimate_checkpoint_bytes(trained or smallest, config.train),
        store=tuple(store),
        store_limit=int(config.serving.store_limit_gb * 1e9),
        free=read_free_bytes(output),
        copies=copies,
        teachers=teachers,
        models=saved * estimate_model_bytes(config.student, largest),
        records=records + recorded,
        tokens=sum(
            estimate_token_bytes(members[task].task.max_length, rows)
            for task, own in (data or {}).items()
            for rows in (own.train, own.validation)
        ),
    )


def _teachers(config: Run, rows: int | None) -> tuple[int, int]:
    """Estimate the bytes of what is trained first (checkpoints and models), and of the records of it."""
    kept = recorded = 0
    for member in config.members.values():
        if member.pretraining is not None:
            run = make_pretraining_run(member)
            count = count_student_parameters(run.student, run.task, run.data.labels)
            before = _teachers(run, rows)
            kept += before[0] + (COPIES - 1) * estimate_checkpoint_bytes(count or 0, run.train)
            kept += estimate_model_bytes(run.student, count)
            recorded += before[1] + WINDOW * count_windows(run.train, rows)
        for teacher in member.trained_teachers:
            train, model = teacher.training.train, teacher.training.model
            stage = teacher.training.pretraining  # it has the larger head, and a decoder has that alone
            run = member if stage is None else make_pretraining_run(member, teacher)
            count = count_student_parameters(model, run.task, run.data.labels)
            trained = count_trained_parameters(model, run.task, run.data.labels, run.data.languages)
            kept += (COPIES - 1) * estimate_checkpoint_bytes(trained or count or 0, train)
            kept += estimate_model_bytes(model, count)
            recorded += WINDOW * count_windows(train, rows)
            if stage is not None:
                kept += estimate_model_bytes(model, count)
                recorded += WINDOW * count_windows(stage.train, rows)
    return kept, recorded


def check_disk(disk: Disk) -> str:
    """Compare what is needed with what is free, and describe both.

    Raises:
        ResourceError: Not even one checkpoint fits.
    """
    if disk.free is None:
        return f"{disk.arithmetic()}; what is free is not checked, {disk.output} does not tell"
    # Half of the records, because their sizes are estimates.
    least = (disk.least or 0) + disk.records // 2
    if disk.free < least:
        raise ResourceError(
            f"not one checkpoint of the student and its records fit on the disk of {disk.output}",
            got=f"{format_bytes(disk.free)} free",
            wanted=f"{disk.arithmetic()}, and {format_bytes(least)} at the very least",
            next_step="free space, or set output to a folder on a larger disk",
        )
    if disk.free < disk.needed:
        return f"{MAY_NOT_FIT} of {disk.output}: {disk.arithmetic()}, {format_bytes(disk.free)} are free"
    return f"{disk.arithmetic()} of {format_bytes(disk.free)} free in {disk.output}"


def format_bytes(size: int) -> str:
    """Format bytes for people, in powers of ten: 1.5 GB."""
    value = float(size)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} GB" if value < 1000 else f"{value:,.0f} GB"
