"""Check a run before it takes a worker: `raykd check`, and the start of every run.

Decision record: each check raises now the error that the run would raise later. `collect_findings` collects the errors,
so that one call shows everything that is wrong. `preflight` raises the first, so that a run fails before it starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from raykd.cluster.address import check_ray, configured_address
from raykd.cluster.connection import check_fits, cluster_address, demands_of
from raykd.config import (
    FileTeacher,
    Run,
    RunConfig,
    SavedModelTeacher,
    TrainedTeacher,
)
from raykd.config.rewriting.pretraining import make_pretraining_run
from raykd.data.rows import Rows
from raykd.driver.gold_labels import describe_judged
from raykd.driver.jobs import Job, find_student_stage, make_jobs
from raykd.driver.language_models import (
    check_source_languages,
    describe_repeated_marks,
    describe_untold_models,
)
from raykd.errors import RaykdError
from raykd.folders.places import check_places
from raykd.preflight.combinations import check_combinations
from raykd.preflight.disk import check_disk, compute_disk
from raykd.preflight.features_check import say_states
from raykd.preflight.finding import Finding, find
from raykd.preflight.folder_check import describe_folder
from raykd.preflight.model_check import (
    NOTE,
    TrimmedVocabulary,
    append_notes,
    check_made,
    look_at_peer,
    look_at_teachers,
    measure_vocabulary,
    sign_notes,
)
from raykd.preflight.selftests import (
    check_answers,
    check_student_answers,
    count_given_answers,
    try_out_teacher,
)
from raykd.preflight.teacher_check import check_pretrained_student, check_teacher
from raykd.scoring.absent_teachers import describe_unused_teachers, find_unused_teachers
from raykd.student.prepare import is_trimmed
from raykd.teachers.groups import Group
from raykd.teachers.pools.own_pool import Placement, group_placements
from raykd.teachers.spec import TeacherSpec
from raykd.tracking import find_recording_place as look_at_records


def preflight(config: Run, *, together: bool = True) -> tuple[str, ...]:
    """Check a run before it makes its folder. It reads its data afterwards, because what they hold is logged there.

    Args:
        config: The run.
        together: Whether teachers keep their resources while students train.

    Returns:
        What a reader must know before the run begins.

    Raises:
        RaykdError: The first error that `collect_findings` would show.
    """
    check_ray(config.ray)
    for member in config.members.values():
        check_combinations(member)
        for teacher in member.needed_teachers:
            check_teacher(teacher, member)
        if member.pretraining is not None:
            check_pretrained_student(member)
            look_at_teachers(make_pretraining_run(member))
    look_at_teachers(config)
    check_student(config)
    check_pool(config)
    check_resources(config, together=together)
    check_places(config)
    check_disk(compute_disk(config))
    return look_at_records(config.tracking, Path(config.output).resolve()).notes


def available_here(config: Run) -> tuple[dict[str, float], str] | None:
    """Find what a local Ray on this machine has; None if the run names a cluster, which is asked when it starts.

    Returns:
        Amounts by name (CPU, GPU), and where they are, for messages.
    """
    if configured_address(config.ray)[0] not in (None, "local"):
        return None
    has = {"CPU": float(config.ray.num_cpus or os.cpu_count() or 1)}
    if _asks_for_gpus(config):
        import torch

        has["GPU"] = float(torch.cuda.device_count())
    return has, "this machine"


def _asks_for_gpus(config: Run) -> bool:
    training = [t.training.workers for t in config.trained_teachers]
    return any(w.num_gpus for w in [config.workers, *training]) or any(
        t.actor.num_gpus for t in config.active_teachers
    )


def collect_findings(
    config: Run,
    *,
    together: bool = True,
    folder: Callable[[Sequence[Job]], tuple[str, str]] | None = None,
    asked_alike: bool = True,
) -> list[Finding]:
    """Collect all findings, good and bad, in the order of the run.

    Args:
        config: The run.
        together: Whether teachers keep their resources while students train.
        folder: Describes the folder that is there already, as `describe_folder` does; None describes the run's.
        asked_alike: Whether all trainings ask the teachers as this run does. False where arms ask others, so that a
            teacher which this run does not ask is no finding.
    """
    findings: list[Finding] = []

    def look(what: str, body: Callable[[], str]) -> None:
        findings.append(find(what, body))

    for name, member in config.members.items():
        look(f"combinations {name}".rstrip(), partial(check_combinations, member))
        for teacher in member.needed_teachers:
            look(f"teacher {teacher.name}", partial(check_teacher, teacher, member))
        if member.pretraining is not None:
            look("student pretraining", partial(check_pretrained_student, member))
    read: list[Job] = []
    taught: list[Job] = []
    look("data", lambda: _check_data(config, read, taught))
    findings[:] = [_name_trained(finding, taught) for finding in findings]
    findings.append(_look_at_folder(folder or partial(describe_folder, config), read))
    for job in read[-1:] if asked_alike else ():
        for task, part in job.tasks.items():
            idle = describe_unused_teachers(
                find_unused_teachers(config.members[task], part.data.train.list_languages())
            )
            findings += [Finding(f"teachers {task}".rstrip(), f"{NOTE}{line}") for line in idle]
    look("student", lambda: check_student(config))
    measured: list[TrimmedVocabulary] = []
    if read and not any(finding.error for finding in findings):
        if is_trimmed(config.student):
            first = find_student_stage(taught)  # which trims it to its texts
            look(
                "vocabulary",
                partial(_say_vocabulary, first.config if first else config, first or read[-1], measured),
            )
        _look_at_rows(config, read[-1], look)
        _look_at_selftests(config, read[-1], look)
    look("Ray", lambda: check_ray(config.ray))
    if config.serving.pool is not None:
        look("teacher pool", lambda: check_pool(config))
    look("resources", lambda: check_resources(config, together=together))
    look("output", lambda: check_places(config))
    look("tracking", lambda: _look_at_records(config))
    trimmed = measured[0].tokens if measured else None
    disk = find(
        "disk", lambda: check_disk(compute_disk(config, read[-1].data if read else None, tokens=trimmed))
    )
    return [*findings, _replace_repeated(disk, findings)]


def _name_trained(finding: Finding, taught: Sequence[Job]) -> Finding:
    """Return the finding of a teacher that was trained before as one that says so; any other unchanged."""
    for job in taught:
        if finding.what == job.name.replace("-", " ", 1) and job.is_done and finding.error is None:
            return Finding(finding.what, f"trained before, and reused: {job.output}")
    return finding


def _replace_repeated(finding: Finding, earlier: Sequence[Finding]) -> Finding:
    """Return the finding, without an error that an earlier one has shown under the key of its model."""
    error = finding.error
    shown = [other.error for other in earlier if other.error is not None]
    if error is None or not any(e.what.endswith(error.what) and e.got == error.got for e in shown):
        return finding
    return Finding(finding.what, "not checked, because a model that counts is refused above")


def _look_at_records(config: Run) -> str:
    """Describe where the run will be recorded, after asking whether it can be."""
    found = look_at_records(config.tracking, Path(config.output).resolve())
    return append_notes(str(found), list(found.notes))


def _say_vocabulary(config: Run, job: Job, measured: list[TrimmedVocabulary]) -> str:
    """Describe the student's trimmed vocabulary, and add it to a list for later checks."""
    trimmed = measure_vocabulary(config, job.data)
    if trimmed is None:
        return "not measured, because the checkpoint is not here"
    measured.append(trimmed)
    return trimmed.describe(compute_disk(config, tokens=trimmed.tokens).parameters)


def _look_at_rows(config: Run, job: Job, look: Callable[[str, Callable[[], str]], None]) -> None:
    """Check each task's rows for text that a model would read as special tokens."""
    for name, member in config.members.items():
        rows = job.tasks[name].data.train
        look(f"rows {name}".rstrip(), partial(_say_signs, member, rows))
        if member.objective.features:
            look(f"states {name}".rstrip(), partial(say_states, member, rows))
        if untold := describe_untold_models(member, rows):
            look(f"languages {name}".rstrip(), partial(str, NOTE + untold))


def _say_signs(member: RunConfig, rows: Rows) -> str:
    notes = sign_notes(member, rows)
    return append_notes("special tokens in texts", notes) if notes else "no special tokens in texts"


def _look_at_selftests(config: Run, job: Job, look: Callable[[str, Callable[[], str]], None]) -> None:
    """Run the self-tests of the models that a check can load."""
    for name, member in config.members.items():
        rows = job.tasks[name].data.train
        for teacher in member.active_teachers if config.serving.pool is None else ():
            if isinstance(teacher, TrainedTeacher):
                continue
            if isinstance(teacher, FileTeacher):
                data = job.tasks[name].data
                look(f"answers {teacher.name}", partial(count_given_answers, teacher, member, data))
            elif not isinstance(teacher, SavedModelTeacher):
                look(f"self-test {teacher.name}", partial(try_out_teacher, teacher, member, rows))
            elif Path(teacher.path).is_dir():
                look(f"self-test {teacher.name}", partial(check_answers, teacher, member, rows))
        peers = [] if member.peer is None else [member.peer.student]
        for what, one in zip(("student", "peer"), [member.student, *peers], strict=False):
            if one.kind == "pretrained" and Path(one.path).is_dir():
                alone = member.model_copy(update={"student": one, "peer": None})
                look(f"self-test {what}", partial(check_student_answers, one, alone, rows))


def _check_data(config: Run, read: list[Job], taught: list[Job]) -> str:
    """Read the data and describe the jobs.

    Args:
        config: The run.
        read: The students' jobs are added to it, for later checks.
        taught: The same of the teachers that are trained first.
    """
    teachers, students = make_jobs(config, Path(config.output) / config.name)
    read += students
    taught += teachers
    remarks = dict.fromkeys(line for part in students[-1].tasks.values() for line in part.data.remarks())
    return "; ".join([*(_describe(job) for job in [*teachers, *students]), *remarks])


def _look_at_folder(describe: Callable[[Sequence[Job]], tuple[str, str]], jobs: Sequence[Job]) -> Finding:
    try:
        text, argument = describe(jobs)
    except RaykdError as error:
        return Finding("folder", error=error)
    return Finding("folder", f"{NOTE}{text}" if argument else text, argument=argument)


def _describe(job: Job) -> str:
    told = []
    for name, part in job.tasks.items():
        rows, labelled = len(part.data.train), int(part.data.train.labelled.sum())
        told.append(f"{name} {labelled:,} labelled and {rows - labelled:,} unlabelled texts".lstrip())
        if part.data.train.take(range(1)).is_in_mode("optional").all():
            bare = sum(not gold for gold in part.data.train.golds or ()) - (rows - labelled)
            told.append(f'"no answer" is a choice ({bare:,} of the {labelled:,} have none)')
        if note := describe_judged(part.data):
            told.append(note)
        looks = (check_source_languages, describe_repeated_marks)
        told += filter(None, (look(part.config, part.data.train) for look in looks))
    return f"{job.name}: {', '.join(told)}, {job.steps:,} steps"


def check_student(config: Run) -> str:
    """Check the student, and describe it.

    Raises:
        ModelError, ConfigError: A checkpoint that it starts from cannot be loaded, or does not fit the task.
    """
    found = [check_made(member.student, member, "student") for member in config.members.values()]
    found += [look_at_peer(member) for member in config.members.values()]
    said = dict.fromkeys(what for what, _ in found if what)
    notes = dict.fromkeys(note for _, notes in found for note in notes)
    return append_notes("; ".join([config.student.kind, *said]), list(notes))


def check_pool(config: Run) -> str:
    """Check that a named pool can exist. What it serves is compared when the run has connected.

    Raises:
        ConfigError: The run would start a local Ray of its own, which has no named pool.
    """
    if config.serving.pool is None:
        return "the run starts its teachers"
    address = cluster_address(config.ray, f"the teacher pool {config.serving.pool}")
    return f"{config.serving.pool} at {address or 'this Ray'}: not checked before the run connects to it"


def list_replica_groups(config: Run) -> list[Group]:
    """List the teachers' processes that a run starts; a run that uses a named pool starts none."""
    groups: list[Group] = []
    for member in config.members.values() if config.serving.pool is None else ():
        groups += group_placements(
            [
                Placement(TeacherSpec(t, member.data.labels, member.task), t.actor)
                for t in member.active_teachers
            ]
        )
    return groups


def check_resources(config: Run, *, together: bool = True) -> str:
    """Compare what the run holds at once with this machine, unless it uses a cluster.

    Returns:
        What it holds, and what a reader should know.

    Raises:
        ResourceError: With the arithmetic.
    """
    groups = list_replica_groups(config)
    stages = demands_of(config, groups, together=together)
    here = available_here(config)
    for demands in stages:
        if here is not None:
            check_fits(demands, *here)
    thin = [g.name for g in groups if g.num_gpus == 0 and 0 < g.num_cpus < 1]
    cpus = max(sum(d.cpus for d in demands) for demands in stages)
    text = f"at most {cpus:g} CPUs at once"
    if thin:
        text += (
            f"; less than one CPU is asked for a process that runs one thread: {', '.join(thin)} (teachers of the same "
            "actor.group share a process)"
        )
    return text + _idle_replicas(config, groups)


def _idle_replicas(config: Run, groups: list[Group]) -> str:
    """Describe replicas without work: a batch goes to one replica, so at most as many work as there are batches."""
    ahead = config.serving.prefetch + 1
    batches = ahead * config.train.gradient_accumulation * config.workers.num_workers
    idle = [
        f"{g.name.removeprefix('teacher:')} has {g.replicas} replicas" for g in groups if g.replicas > batches
    ]
    if not idle:
        return ""
    return (
        f"; {', '.join(idle)}, but at most {batches} batches are asked for at once while students train: raise "
        "serving.prefetch"
    )
