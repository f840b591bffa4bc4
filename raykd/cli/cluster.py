"""Commands about clusters that are not this machine: `raykd submit`, `raykd jobs`, `raykd cluster render`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from raykd import __version__
from raykd.cli.app import app, console, errors, print_lines

RunOrSpace = Annotated[
    Path, typer.Argument(metavar="RUN_OR_SPACE", help="A run file, or a sweep file (one with a space).")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Keys of the file to change, as for train and sweep."),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="The cluster's dashboard, http://HOST:8265; without it RAY_ADDRESS. auto is a Ray that runs here."
    ),
]


@app.command("submit")
def submit_job(
    file: RunOrSpace,
    overrides: Overrides = None,
    address: Address = None,
    working_dir: Annotated[
        Path | None, typer.Option(help="Folder that is uploaded; by default that of the file.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            help="Where runs lie on the cluster, a path from the root that every node sees: /raykd/runs."
        ),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable for the job; no secrets.")
    ] = None,
    print_only: Annotated[
        bool,
        typer.Option("--print-only", help="Print the same as a `ray job submit` command and send nothing."),
    ] = False,
    no_follow: Annotated[
        bool,
        typer.Option("--no-follow", help="Do not wait for the job: raykd jobs logs ID shows what it writes."),
    ] = False,
) -> None:
    """Send a run or a sweep to a Ray cluster and follow it to its end.

    The folder of the file is uploaded (its sizes are shown), so paths in the file
    that are relative to it hold on the cluster too. Sent again, the job goes on
    where it was; a finished one says what it found.

    A cluster with a token:
    RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=FILE raykd submit ...

    Exit codes: that of the job, which is that of train or sweep;
    2 configuration, 5 no cluster, 130 interrupted (the job goes on) or stopped.
    """
    from raykd.deploy.request import read_request
    from raykd.deploy.submission import prepare_submission

    sent = prepare_submission(
        read_request(file, overrides or ()), working_dir=working_dir, output=output, environment=env or ()
    )
    if print_only:
        for line in [*sent.package.describe(), *sent.notes]:
            errors.print(escape(line), highlight=False, soft_wrap=True)
        print(sent.command(address, follow=not no_follow))
        return
    from raykd.deploy.rayjobs import Jobs

    jobs = Jobs.connect(address)
    print_lines([escape(line) for line in [*sent.package.describe(), *sent.notes]])
    jobs.send(sent)
    console.print(f"job [bold]{sent.id}[/bold] at {escape(jobs.address)}", highlight=False, soft_wrap=True)
    if no_follow:
        print_lines([f"its log: raykd jobs logs {sent.id}", f"its end: raykd jobs stop {sent.id}"])
        return
    try:
        code = jobs.follow(sent.id, _write)
    except KeyboardInterrupt:
        print_lines(
            [
                f"The job goes on. raykd jobs stop {sent.id} ends it, raykd jobs logs {sent.id} shows what it writes."
            ]
        )
        raise
    if code:
        raise typer.Exit(code)


def _write(text: str) -> None:
    from raykd.redaction import redact

    sys.stdout.write(redact(text))
    sys.stdout.flush()


jobs_app = typer.Typer(help="Jobs of a cluster: list them, read their logs, stop them.")
app.add_typer(jobs_app, name="jobs")


@jobs_app.callback(invoke_without_command=True)
def list_jobs(context: typer.Context, address: Address = None) -> None:
    """Jobs of a cluster: id, status, when they began (UTC), command. logs and stop take an id."""
    from raykd.deploy.rayjobs import Jobs

    if context.invoked_subcommand is not None:
        return
    found = Jobs.connect(address).list()
    if not found:
        print_lines(["No job was ever submitted to this cluster."])
        return
    width = max(len(job.id) for job in found)
    console.print(
        f"{'id':<{width}}  {'status':<9}  {'started (UTC)':<19}  command", highlight=False, soft_wrap=True
    )
    print_lines(
        [escape(f"{job.id:<{width}}  {job.status:<9}  {job.started:<19}  {job.entrypoint}") for job in found]
    )


JobId = Annotated[str, typer.Argument(metavar="ID", help="As raykd jobs shows it.")]


@jobs_app.command("logs")
def show_job_log(
    job: JobId,
    address: Address = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the job ends; exit with its code.")
    ] = False,
) -> None:
    """Show what a job has written."""
    from raykd.deploy.rayjobs import Jobs

    jobs = Jobs.connect(address)
    if not follow:
        _write(jobs.log(job))
        return
    code = jobs.follow(job, _write)
    if code:
        raise typer.Exit(code)


@jobs_app.command("stop")
def stop_job(job: JobId, address: Address = None) -> None:
    """End a job. What it has written stays; submitted again, it goes on from there."""
    from raykd.deploy.rayjobs import Jobs

    ended = Jobs.connect(address).stop(job)
    print_lines([f"{job} is being stopped" if ended else f"{job} has ended before"])


cluster_app = typer.Typer(no_args_is_help=True, help="Files for Kubernetes.")
app.add_typer(cluster_app, name="cluster")


@cluster_app.command("render")
def render_cluster(
    file: RunOrSpace,
    overrides: Overrides = None,
    image: Annotated[
        str, typer.Option(help="The image that cluster/Dockerfile makes.")
    ] = f"raykd:{__version__}",
    mlflow: Annotated[
        str | None, typer.Option(help="Address of an MLflow server: http://raykd-mlflow:5000.")
    ] = None,
    trials_at_once: Annotated[
        int | None,
        typer.Option(min=1, help="Trials that the student nodes hold; by default the sweep's own, else 4."),
    ] = None,
    teacher_memory: Annotated[int | None, typer.Option(min=1, help="GiB of a teacher node.")] = None,
    student_memory: Annotated[int | None, typer.Option(min=1, help="GiB of a student node.")] = None,
    staying: Annotated[
        bool,
        typer.Option("--staying", help="A RayCluster that stays and grows, for raykd submit, not a RayJob."),
    ] = False,
) -> None:
    """Print a RayJob for this run: a cluster as large as it needs, which goes when the job is done.

    The file is self-contained: kubectl apply -f - takes it as it is.
    It is checked before it is printed.

    Teachers go to nodes of the type teacher, students to those of the type student.
    The run's data must be embedded, on the hub,
    or on the volume of runs with paths from the root.
    """
    from raykd.deploy.render import RenderOptions, render_manifests
    from raykd.deploy.request import read_request

    options = RenderOptions(
        image=image,
        mlflow=mlflow,
        trials_at_once=trials_at_once,
        teacher_gib=teacher_memory,
        student_gib=student_memory,
        staying=staying,
    )
    print(render_manifests(read_request(file, overrides or ()), options), end="")
