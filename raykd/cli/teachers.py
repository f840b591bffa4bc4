"""Commands about teachers that outlive a run: `raykd teachers up | status | down`."""

from __future__ import annotations

from typing import Annotated

import typer

from raykd.cli.app import Overrides, RunFile, app, console, load_run_file, print_lines
from raykd.errors import ConfigError

teachers_app = typer.Typer(
    no_args_is_help=True,
    help="""Teachers that stay on a cluster and serve one run after another.

They keep their CPUs and GPUs until raykd teachers down.
A run asks them with serving.pool=NAME; it is refused if they are not exactly
its own teachers.
""",
)
app.add_typer(teachers_app, name="teachers")

Address = Annotated[
    str | None,
    typer.Option(help="The Ray cluster; without it RAY_ADDRESS, else the one that runs on this machine."),
]


@teachers_app.command("up")
def start_pool_command(
    run: RunFile,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the pool; by default the run's.")] = None,
    load: Annotated[
        bool,
        typer.Option("--load", help="Load all weights now; by default on the first text without answer."),
    ] = False,
) -> None:
    """Start the teachers of RUN.yaml on a running cluster, under a name.

    Needs a cluster that outlives the command: ray start --head, then ray.address=auto.
    Of the file only teachers, labels, task, serving and ray are used.
    Teachers that it trains must be there already: raykd train makes them.
    Asked again for the same teachers it changes nothing.
    """
    from raykd.config.overlay import check_name
    from raykd.runs.named_pools import run_teachers_up

    if name is not None:
        try:
            check_name(name)
        except ValueError as error:
            raise ConfigError("--name is no name", got=name, wanted=str(error)) from None
    print_lines(run_teachers_up(load_run_file(run, overrides), name, load=load))


@teachers_app.command("status")
def show_pools(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One pool; by default all.")] = None,
    address: Address = None,
) -> None:
    """Show the named pools: what is alive, where, what it did and how much memory it holds.

    A replica that does not answer within seconds is shown as such.
    """
    from raykd.runs.named_pools import run_teachers_status

    table = run_teachers_status(name, address)
    console.print("there is no teacher pool on this cluster" if table is None else table, highlight=False)


@teachers_app.command("down")
def stop_pools(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The pool.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All pools of the cluster.")] = False,
    address: Address = None,
) -> None:
    """End a named pool: its stores are flushed, its CPUs and GPUs are free again.

    A run that still asks it fails with an error that says so. A pool that is not there is no error.
    """
    from raykd.runs.named_pools import run_teachers_down

    if (name is None) is not everything:
        raise ConfigError(
            "raykd teachers down wants one of two",
            got="both a NAME and --all" if everything else "neither a NAME nor --all",
            wanted="a NAME, or --all",
            next_step="raykd teachers status lists the pools",
        )
    print_lines(run_teachers_down(None if name is None else [name], address))
