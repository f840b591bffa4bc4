"""Whether a run's checkpoints and its teachers' answers find room on the disk, before anything starts.

Decision record: a run is refused only where it surely cannot work, when not one checkpoint of the smallest possible
student fits; a full store costs time and never a run. What is kept beside checkpoints and answers is counted with
sizes that were measured, so that the sum is that of the folder when the run ends, within a half of it. Where the
estimate of all that is kept does not fit, that is said and left to the user, since the store may hold the answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raykd.config import Run
from raykd.data.load import Dataset
from raykd.errors import ResourceError
from raykd.preflight.sizes import (
    COPIES,
    DATABASE,
    PAGES,
    WINDOW,
    StoreSize,
    count_student_parameters,
    count_windows,
    estimate_checkpoint_bytes,
    estimate_model_bytes,
    estimate_store_sizes,
    read_free_bytes,
)

MAY_NOT_FIT = "may not fit on the disk"
"""How a finding begins that is a doubt and no error."""


@dataclass(frozen=True)
class Disk:
    """Bytes that a run needs and that are free. checkpoint: of the student, None where it is not known; least: the
    smallest that it can be. store: a teacher each; free: None where the disk does not tell. teachers: checkpoints and
    models of teachers that are trained; models: saved students, in the run's folder and in MLflow; records: MLflow's
    database, pages and curves."""

    output: Path
    parameters: int | None
    checkpoint: int | None
    least: int | None
    store: tuple[StoreSize, ...]
    store_limit: int
    free: int | None
    copies: int = COPIES
    teachers: int = 0
    models: int = 0
    records: int = 0

    @property
    def answers(self) -> int:
        """Bytes of all answers, within the store's bound."""
        return min(self.store_limit, sum(part.bytes or 0 for part in self.store))

    @property
    def needed(self) -> int:
        """Bytes of all that is kept."""
        kept = self.teachers + self.models + self.records
        return self.copies * (self.checkpoint or 0) + kept + self.answers

    def arithmetic(self) -> str:
        """What is needed, as a sum."""
        checkpoint = "checkpoints of unknown size"
        if self.checkpoint is not None:
            checkpoint = f"{self.copies} x {format_bytes(self.checkpoint)} checkpoints"
        parts = [
            checkpoint,
            *(
                f"{format_bytes(size)} {what}"
                for what, size in (
                    ("trained teachers", self.teachers),
                    ("models", self.models),
                    ("records", self.records),
                )
                if size
            ),
            *([f"{format_bytes(self.answers)} answers"] if self.store else []),
        ]
        return f"{' + '.join(parts)} = {format_bytes(self.needed)}"


def compute_disk(
    config: Run, data: Mapping[str, Dataset] | None = None, *, copies: int = COPIES, trials: int = 0
) -> Disk:
    """What a run needs on the disk.

    Args:
        data: by task; None leaves the answers out.
        copies: checkpoints that are there at once.
        trials: of a sweep, students that are recorded and not kept as models.
    """
    members = config.members
    made = [count_student_parameters(config.student, m.task, m.data.labels) for m in members.values()]
    small = [
        count_student_parameters(config.student, m.task, m.data.labels, least=True) for m in members.values()
    ]
    largest = max((n for n in made if n is not None), default=None)
    smallest = max((n for n in small if n is not None), default=None)
    precision = config.train.precision
    store = [part for task, own in (data or {}).items() for part in estimate_store_sizes(members[task], own)]
    output = Path(config.output).resolve()
    saved = 0 if trials else (2 if config.baseline else 1) + config.tracking.log_model
    rows = sum(len(own.train) for own in (data or {}).values()) or None
    jobs = trials or 1 + config.baseline
    first = 0 if (output / "mlflow.db").exists() else DATABASE
    records = first + PAGES * len(members) + jobs * WINDOW * count_windows(config.train, rows)
    teachers, told = _teachers(config, rows)
    return Disk(
        output=output,
        parameters=largest,
        checkpoint=None if largest is None else estimate_checkpoint_bytes(largest, precision),
        least=None if smallest is None else estimate_checkpoint_bytes(smallest, precision),
        store=tuple(store),
        store_limit=int(config.serving.store_limit_gb * 1e9),
        free=read_free_bytes(output),
        copies=copies,
        teachers=teachers,
        models=saved * estimate_model_bytes(config.student, largest),
        records=records + told,
    )


def _teachers(config: Run, rows: int | None) -> tuple[int, int]:
    """Bytes of teachers that are trained, checkpoints and models, and of what is recorded of their training."""
    kept = told = 0
    for member in config.members.values():
        for teacher in member.trained_teachers:
            train, model = teacher.training.train, teacher.training.model
            count = count_student_parameters(model, member.task, member.data.labels)
            kept += (COPIES - 1) * estimate_checkpoint_bytes(
                count or 0, train.precision
            ) + estimate_model_bytes(model, count)
            told += WINDOW * count_windows(train, rows)
    return kept, told


def check_disk(disk: Disk) -> str:
    """What is needed and free, for people.

    Raises:
        ResourceError: not one checkpoint fits.
    """
    if disk.free is None:
        return f"{disk.arithmetic()}; what is free is not checked, {disk.output} does not tell"
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
    """Bytes for people, in powers of ten: 1.5 GB."""
    value = float(size)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} GB" if value < 1000 else f"{value:,.0f} GB"
