"""`raykd plan`: describe what a run will need and do, with the arithmetic, before anything starts.

Decision record: the numbers follow from the configuration and the rows alone, without asking Ray. Time is not guessed.
It is computed if an earlier run in the same folder measured steps of the same student, task, batch and workers, and is
called unknown otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from raykd.checkpoint.curves import FILE, Curves
from raykd.cluster.connection import Demand, demands_of
from raykd.config import HttpTeacher, Run
from raykd.config.loading import load_any_run
from raykd.data.load import Dataset
from raykd.data.rows import Rows
from raykd.driver.jobs import Job, find_student_stage, make_jobs
from raykd.driver.pool import make_teacher_spec
from raykd.errors import RaykdError
from raykd.preflight.check import available_here, check_resources, list_replica_groups
from raykd.preflight.disk import Disk, check_disk, compute_disk, format_bytes
from raykd.preflight.features_check import describe_state_bytes
from raykd.preflight.finding import Finding, find
from raykd.preflight.model_check import measure_vocabulary
from raykd.teachers.backends.backend import make_backend

_SAMPLED = 200
"""About how many rows are cut into tokens, to estimate what requests cost."""


def plan_run(config: Run) -> list[Finding]:
    """Plan a run.

    Raises:
        RaykdError: The first error in files, rows or keys; `raykd check` shows all of them.
    """
    teachers, students = make_jobs(config, Path(config.output).resolve() / config.name)
    first = find_student_stage(teachers)  # which trims a vocabulary to its texts
    trimmed = measure_vocabulary(first.config if first else config, (first or students[-1]).data)
    disk = compute_disk(config, students[-1].data, tokens=None if trimmed is None else trimmed.tokens)
    return [
        *describe_resources(config),
        *describe_steps([*teachers, *students]),
        *([Finding("vocabulary", trimmed.describe(disk.parameters))] if trimmed else []),
        *describe_sizes(disk),
        *describe_token_costs(
            config, disk, {name: task.data.train for name, task in students[-1].tasks.items()}
        ),
        *describe_states(config, {name: task.data.train for name, task in students[-1].tasks.items()}),
        estimate_duration(config, students[-1]),
    ]


def describe_states(config: Run, rows: Mapping[str, Rows]) -> list[Finding]:
    """Describe what teachers send for `objective.features` beside their answers.

    Args:
        config: The run.
        rows: The training rows of each task.
    """
    found = {task: describe_state_bytes(member, rows[task]) for task, member in config.members.items()}
    return [Finding(f"states of {name}", detail) for told in found.values() for name, detail in told.items()]


def describe_resources(config: Run, *, together: bool = True) -> list[Finding]:
    """Describe what each stage holds at once, and what there is."""
    stages = demands_of(config, list_replica_groups(config), together=together)
    here = available_here(config)
    has = (
        f"of {_amounts(here[0])} on {here[1]}"
        if here is not None
        else "of the cluster that ray.address names"
    )
    items = []
    for number, demands in enumerate(stages, start=1):
        total = _total(demands)
        parts = "; ".join(f"{d.name} {_amounts(_held(d))}" for d in demands)
        wanting = here is not None and any(here[0].get(n, 0.0) + 1e-6 < amount for n, amount in total.items())
        told = f" = {_amounts(total)}" if len(demands) > 1 else ""
        items.append(Finding(f"stage {number}", f"{parts}{told} {has}", wanting))
    checked = find("resources", lambda: check_resources(config, together=together))
    return [*items, checked] if checked.error else items


def describe_steps(jobs: Sequence[Job]) -> list[Finding]:
    """Describe the steps of each job, with the arithmetic."""
    return [
        Finding(job.name, _count_steps(job) + (" (is there already)" if job.is_done else "")) for job in jobs
    ]


def _count_steps(job: Job) -> str:
    train = job.config.train
    batches = sum(task.batches for task in job.tasks.values())
    rows = sum(task.rows for task in job.tasks.values())
    epoch = f"{rows:,} rows / batch {train.batch_size} = {batches:,} steps an epoch"
    if train.steps is not None:
        return f"{job.steps:,} steps (train.steps); {epoch}"
    return f"{epoch} x {3.0 if train.epochs is None else train.epochs:g} epochs = {job.steps:,} steps"


def describe_sizes(disk: Disk) -> list[Finding]:
    """Describe weights, checkpoints, answers and free space."""
    weights = Finding("weights", "unknown before its tokenizer and checkpoint are there", doubt=True)
    if disk.parameters is not None and disk.checkpoint is not None:
        trained = disk.trained or disk.parameters
        some = "" if disk.trained is None else f", of which {disk.trained:,} are trained"
        some += f", of which {disk.peer:,} are its peer's" if disk.peer else ""
        weights = Finding(
            "weights",
            f"{disk.parameters:,} weights at its largest vocabulary{some}; a checkpoint is "
            f"{disk.checkpoint // trained} bytes x {trained:,} = {format_bytes(disk.checkpoint)}",
        )
    items = [weights]
    for part in disk.store:
        if part.bytes is None:
            detail = f"{part.pairs:,} texts; bytes unknown: the teacher's width is in no local config.json"
        else:
            each = part.bytes / max(1, part.pairs)
            about = "about " if part.about else ""
            detail = f"{part.pairs:,} texts x {about}{each:,.0f} bytes = {about}{format_bytes(part.bytes)}"
        items.append(Finding(f"answers of {part.teacher}", detail, doubt=part.bytes is None))
    total = sum(part.bytes or 0 for part in disk.store)
    if total > disk.store_limit:
        items.append(
            Finding(
                "store",
                f"{format_bytes(total)} of answers, serving.store_limit_gb keeps "
                f"{format_bytes(disk.store_limit)}: what does not stay is computed again in every epoch",
                doubt=True,
            )
        )
    doubt = disk.free is None or disk.free < disk.needed
    return [*items, replace(find("disk", lambda: check_disk(disk)), doubt=doubt)]


def describe_token_costs(config: Run, disk: Disk, rows: Mapping[str, Rows]) -> list[Finding]:
    """Describe what answers of served models cost, from the mean length of some rows; asks no server.

    Args:
        config: The run.
        disk: Says how many texts each teacher is asked about.
        rows: The training rows of each task.
    """
    texts = {part.teacher: part.pairs for part in disk.store}
    items = []
    for name, member in config.members.items():
        for teacher in member.active_teachers:
            if not isinstance(teacher, HttpTeacher) or teacher.name not in texts:
                continue
            sample = rows[name].take(range(0, len(rows[name]), max(1, len(rows[name]) // _SAMPLED)))
            each = make_backend(make_teacher_spec(member, teacher, {})).estimate_tokens(sample) or 0.0
            total = round(each * texts[teacher.name])
            price = None if teacher.price is None else teacher.price.charge(texts[teacher.name], None, total)
            most = teacher.most_tokens
            detail = f"{texts[teacher.name]:,} texts x about {each:,.0f} tokens = about {total:,} tokens"
            detail += "" if price is None else f", {price:,.2f} of money"
            detail += "" if most is None else f"; its budget is {most:,} tokens"
            over = most is not None and total > most
            items.append(Finding(f"requests of {teacher.name}", detail, doubt=over))
    return items


def estimate_duration(
    config: Run, student: Job, trials: int = 1, at_once: int = 1, budget_s: float | None = None
) -> Finding:
    """Estimate the time of the student's training, if an earlier run in its folder measured such steps.

    Args:
        config: The run, or the base of a sweep.
        student: The job that trains the student.
        trials: Number of students.
        at_once: How many of them train at one time.
        budget_s: Seconds after which no more of them start.
    """
    folder = Path(config.output).resolve() / config.name
    pace = read_measured_pace(config, folder)
    if pace is None:
        return Finding(
            "time",
            "unknown: nothing of this kind was measured yet; a few steps tell: "
            f"raykd train RUN.yaml name={config.name}-probe train.epochs=null train.steps=50, then plan with that name",
        )
    rounds = -(-trials // at_once)
    counted = f"{student.steps:,} steps x {1000 * pace:,.1f} ms (measured in {folder})"
    if trials > 1:
        counted = f"{trials:,} trials, {at_once} at once = {rounds:,} rounds x {counted}"
    return Finding(
        "time",
        f"{counted} = {rounds * student.steps * pace:,.0f} s of training {'the student' if trials == 1 else 'students'}"
        f"{' at most' if trials > 1 else ''}; start, teachers and scoring come on top"
        + ("" if budget_s is None else f"; time_budget_s ends it after {budget_s:,.0f} s"),
    )


def read_measured_pace(config: Run, folder: Path) -> float | None:
    """Read how long a step took in the folder's run, in seconds; None if no run of the same kind is there."""
    try:
        before = load_any_run(folder / "run.yaml")
        points = Curves(folder / FILE).by_job.get("student", [])
    except (RaykdError, OSError):
        return None
    alike = (
        before.student == config.student
        and [run.peer for run in before.members.values()] == [run.peer for run in config.members.values()]
        and before.task == config.task
        and before.workers == config.workers
        and before.train.batch_size == config.train.batch_size
        and before.train.precision == config.train.precision
        and before.train.adversarial == config.train.adversarial
        and before.train.alignment == config.train.alignment
    )
    timed = sorted((p.step, p.time_ms) for p in points)
    if not alike or len(timed) < 2 or timed[-1][0] <= timed[0][0] or timed[-1][1] <= timed[0][1]:
        return None
    return (timed[-1][1] - timed[0][1]) / 1000 / (timed[-1][0] - timed[0][0])


def compute_trial_disk(base: Run, data: Mapping[str, Dataset], trials: int, at_once: int) -> Disk:
    """Compute what a sweep needs: each trial keeps its newest checkpoint until the sweep ends, and writes one more."""
    return compute_disk(base, data, copies=trials + at_once, trials=trials)


def _held(demand: Demand) -> dict[str, float]:
    return {"CPU": demand.cpus, "GPU": demand.gpus, **demand.resources}


def _total(demands: Sequence[Demand]) -> dict[str, float]:
    total: dict[str, float] = {}
    for demand in demands:
        for name, amount in _held(demand).items():
            total[name] = total.get(name, 0.0) + amount
    return total


def _amounts(held: dict[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in held.items() if amount) or "nothing"
