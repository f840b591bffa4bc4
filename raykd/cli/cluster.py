"""Define the commands for clusters: `raykd submit`, `raykd jobs`, `raykd cluster render`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from raykd import __version__
from raykd.cli.app import Overrides, RunOrSpace, app, errors, exit_with, print_lines

Address = Annotated[
    str | None,
    typer.Option(
        help="The cluster's dashboard, http://HOST:8265. Default: RAY_ADDRESS. auto is a Ray on this machine."
    ),
]


@app.command("submit")
def submit_job(
    file: RunOrSpace,
    overrides: Overrides = None,
    address: Address = None,
    working_dir: Annotated[
        Path | None, typer.Option(help="Folder to upload. Default: the folder of the file.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            help="Folder of runs on the cluster, an absolute path that every node sees: /raykd/runs."
        ),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable for the job; no secrets.")
    ] = None,
    print_only: Annotated[
        bool,
        typer.Option("--print-only", help="Print the equivalent `ray job submit` command and send nothing."),
    ] = False,
    no_follow: Annotated[
        bool,
        typer.Option("--no-follow", help="Do not wait for the job. raykd jobs logs ID shows its output."),
    ] = False,
) -> None:
    """Send a run, a sweep or an experiment to a Ray cluster and follow it to its end.

    The folder of the file is uploaded (its sizes are shown), so relative paths in the file
    hold on the cluster too. Submitted again, an interrupted job continues,
    and a finished one shows its results.

    For a cluster that asks for a token:
    RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=FILE raykd submit ...

    Exit codes: that of the job, which is that of train, sweep or compare;
    2 configuration, 5 no cluster, 130 interrupted (the job goes on) or stopped.
    """
    from raykd.deploy.rayjobs import Jobs
    from raykd.deploy.request import read_request
    from raykd.deploy.submission import prepare_submission

    sent = prepare_submission(
        read_request(file, overrides or ()), working_dir=working_dir, output=output, environment=env or ()
    )
    lines = [escape(line) for line in [*sent.package.describe(), *sent.notes]]
    if print_only:
        for line in lines:
            errors.print(line, highlight=False, soft_wrap=True)
        print(sent.command(address, follow=not no_follow))
        return
    jobs = Jobs.connect(address)
    print_lines(*lines)
    jobs.send(sent)
    print_lines(f"job [bold]{sent.id}[/bold] at {escape(jobs.address)}")
    if no_follow:
        print_lines(f"its log: raykd jobs logs {sent.id}", f"its end: raykd jobs stop {sent.id}")
        return
    try:
        exit_with(jobs.follow(sent.id, _write))
    except KeyboardInterrupt:
        print_lines(
            f"The job goes on. raykd jobs stop {sent.id} ends it, raykd jobs logs {sent.id} shows what it writes."
        )
        raise


def _write(text: str) -> None:
    from raykd.redaction import redact

    sys.stdout.write(redact(text))
    sys.stdout.flush()


jobs_app = typer.Typer(
    help="Without a command, list the jobs of a cluster. With one, show a job's logs or stop it."
)
app.add_typer(jobs_app, name="jobs")


@jobs_app.callback(invoke_without_command=True)
def list_jobs(context: typer.Context, address: Address = None) -> None:
    """List the jobs of a cluster: id, status, start (UTC), command. logs and stop take an id."""
    from raykd.deploy.rayjobs import Jobs

    if context.invoked_subcommand is not None:
        return
    found = Jobs.connect(address).list()
    if not found:
        print_lines("No job was ever submitted to this cluster.")
        return
    width = max(len(job.id) for job in found)
    print_lines(f"{'id':<{width}}  {'status':<9}  {'started (UTC)':<19}  command")
    for job in found:
        print_lines(f"{job.id:<{width}}  {job.status:<9}  {job.started:<19}  {job.entrypoint}", markup=False)


JobId = Annotated[str, typer.Argument(metavar="ID", help="As raykd jobs shows it.")]


@jobs_app.command("logs")
def show_job_log(
    job: JobId,
    address: Address = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Follow the job to its end and exit with its code.")
    ] = False,
) -> None:
    """Show the output of a job."""
    from raykd.deploy.rayjobs import Jobs

    jobs = Jobs.connect(address)
    if follow:
        exit_with(jobs.follow(job, _write))
    else:
        _write(jobs.log(job))


@jobs_app.command("stop")
def stop_job(job: JobId, address: Address = None) -> None:
    """Stop a job. Its files stay; submitted again, it continues from there."""
    from raykd.deploy.rayjobs import Jobs

    ended = Jobs.connect(address).stop(job)
    print_lines(f"{job} is being stopped" if ended else f"{job} has ended before")


cluster_app = typer.Typer(no_args_is_help=True, help="Render files for Kubernetes.")
app.add_typer(cluster_app, name="cluster")


@cluster_app.command("render")
def render_cluster(
    file: RunOrSpace,
    overrides: Overrides = None,
    image: Annotated[
        str, typer.Option(help="The image built from cluster/Dockerfile.")
    ] = f"raykd:{__version__}",
    mlflow: Annotated[
        str | None, typer.Option(help="Address of an MLflow server: http://raykd-mlflow:5000.")
    ] = None,
    trials_at_once: Annotated[
        int | None,
        typer.Option(
            min=1, help="Trials that the student nodes hold. Default: the sweep's own number, else 4."
        ),
    ] = None,
    teacher_memory: Annotated[
        int | None, typer.Option(min=1, help="Memory of a teacher node in GiB.")
    ] = None,
    student_memory: Annotated[
        int | None, typer.Option(min=1, help="Memory of a student node in GiB.")
    ] = None,
    staying: Annotated[
        bool,
        typer.Option(
            "--staying",
            help="Print a RayCluster for raykd submit, which stays and grows, in place of a RayJob.",
        ),
    ] = False,
) -> None:
    """Print a RayJob: a cluster of the size that the run needs, removed when the job is done.

    The output is complete and checked: pipe it to kubectl apply -f -.

    Teachers are placed on nodes of type teacher, students on nodes of type student.
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
