"""Define the commands for teachers that outlive a run: `raykd teachers up | status | down`."""

from __future__ import annotations

from typing import Annotated

import typer

from raykd.cli.app import Overrides, RunFile, app, console, print_lines
from raykd.errors import ConfigError

teachers_app = typer.Typer(
    no_args_is_help=True,
    help="""Start, list and stop teachers that stay on a cluster and serve one run after another.

They keep their CPUs and GPUs until raykd teachers down.
A run uses them with serving.pool=NAME. It is refused if they differ from its own teachers.
""",
)
app.add_typer(teachers_app, name="teachers")

Address = Annotated[
    str | None,
    typer.Option(help="The Ray cluster. Default: RAY_ADDRESS, else the one on this machine."),
]


@teachers_app.command("up")
def start_pool_command(
    run: RunFile,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the pool. Default: the name of the run.")] = None,
    load: Annotated[
        bool,
        typer.Option(
            "--load", help="Load all weights now. Default: on the first text without a stored answer."
        ),
    ] = False,
) -> None:
    """Start the teachers of RUN.yaml as a named pool on a running cluster.

    Needs a cluster that outlives the command: ray start --head, then ray.address=auto.
    Only teachers, labels, task, serving and ray are read from the file.
    Teachers that it trains must exist already: raykd train makes them.
    Repeating the command for the same teachers changes nothing.
    """
    from raykd.config.loading import load_run
    from raykd.config.overlay import check_name
    from raykd.runs.named_pools import run_teachers_up

    if name is not None:
        try:
            check_name(name)
        except ValueError as error:
            raise ConfigError("--name is no name", got=name, wanted=str(error)) from None
    print_lines(*run_teachers_up(load_run(run, overrides or ()), name, load=load))


@teachers_app.command("status")
def show_pools(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One pool. Default: all.")] = None,
    address: Address = None,
) -> None:
    """Show the named pools: live replicas, their nodes, answered rows and memory.

    A replica that does not answer within seconds is marked.
    """
    from raykd.runs.named_pools import run_teachers_status

    table = run_teachers_status(name, address)
    console.print("there is no teacher pool on this cluster" if table is None else table, highlight=False)


@teachers_app.command("down")
def stop_pools(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of the pool.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Stop all pools of the cluster.")] = False,
    address: Address = None,
) -> None:
    """Stop a named pool: flush its stores and free its CPUs and GPUs.

    A run that still uses it fails with an error that says so. A pool that does not exist is no error.
    """
    from raykd.runs.named_pools import run_teachers_down

    if (name is None) is not everything:
        raise ConfigError(
            "raykd teachers down wants one of two",
            got="both a NAME and --all" if everything else "neither a NAME nor --all",
            wanted="a NAME, or --all",
            next_step="raykd teachers status lists the pools",
        )
    print_lines(*run_teachers_down(None if name is None else [name], address))
