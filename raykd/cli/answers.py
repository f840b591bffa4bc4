"""Commands about what teachers answered: labelling ahead, and the stores on disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from raykd import api
from raykd.cli.app import Overrides, RunFile, app, console

store_app = typer.Typer(
    no_args_is_help=True,
    help="Look at, check or remove the answers that teachers gave to texts.\n\n"
    "A teacher's answer to a text is kept on disk and never computed again, by no run and no sweep. Each teacher "
    "(its weights, tokenizer, labels, precision) has a folder of its own under output/store; "
    "serving.store_limit_gb bounds them all together. Removing them is always safe: what is missing is computed "
    "again when it is asked for.",
)
app.add_typer(store_app, name="store")

DAMAGED = 3
"""Exit code of a check that found damage."""

Output = Annotated[Path, typer.Option(help="The folder of all runs, `output` of a run file.")]
Store = Annotated[str, typer.Option(help="The stores' folder under it, `serving.store` of a run file.")]


@app.command("label")
def label_command(
    run: RunFile,
    overrides: Overrides = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also the validation and test texts, by every teacher.")
    ] = False,
    sequences: Annotated[
        Path | None,
        typer.Option(
            help="Write what the teachers generate for the training sources to this file (JSON lines)."
        ),
    ] = None,
    beams: Annotated[int, typer.Option(min=1, help="Beams of --sequences; 1 is greedy.")] = 5,
) -> None:
    """Let the teachers of RUN.yaml answer all its training texts now and keep the answers.

    Later runs and sweeps over the same texts then need no teacher:
    they read the answers from disk. Interrupted, it goes on where it was.
    Teachers that RUN.yaml trains must be there already: raykd train makes them.
    They are scored on the validation texts first, as in a run.

    With --sequences the teachers of a language model write texts instead
    (sequence-level distillation). The file is data for a later run:
    its columns are src, tgt and lang.
    """
    if sequences is not None:
        rows = api.label_sequences(run, sequences, overrides or (), beams=beams, progress=console)
        console.print(
            f"{rows:,} texts were written to {sequences}", markup=False, highlight=False, soft_wrap=True
        )
        return
    report = api.label(run, overrides or (), everything=everything, progress=console)
    lost = f"; {report.unkept:,} could not be kept, see the store's disk" if report.unkept else ""
    console.print(
        f"{report.asked - report.unkept:,} answers are kept: {report.stored:,} were there, {report.forwarded:,} "
        f"computed in {report.seconds:,.1f} s ({report.rate:,.0f} a second){lost}",
        highlight=False,
        soft_wrap=True,
    )


@store_app.command("stats")
def stats_command(output: Output = Path("runs"), store: Store = "store") -> None:
    """List the stores: whose answers, how many, how large, used last when."""
    from raykd.report.fitted_table import build_plain_table
    from raykd.teachers.store.inventory import list_stores

    found = list_stores(output / store)
    if not found:
        console.print(f"no answers are kept under {output / store}", markup=False, highlight=False)
        return
    heads, lines = ("store", "teachers", "answers", "MB", "bytes an answer", "last used"), []
    for s in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(s.last_used))
        entries = "older version" if s.older else "damaged" if s.entries is None else f"{s.entries:,}"
        row = "" if s.bytes_a_row is None else f"{s.bytes_a_row:,.0f}"
        lines.append(
            [s.fingerprint[:12], ", ".join(s.teachers) or "?", entries, f"{s.bytes / 1e6:,.1f}", row, used]
        )
    console.print(build_plain_table(heads, lines, left=2))
    aside = sum(s.set_aside for s in found)
    more = f"; {aside} damaged files were set aside (damaged-N)" if aside else ""
    console.print(f"{sum(s.bytes for s in found) / 1e6:,.1f} MB in all{more}", highlight=False)


@store_app.command("verify")
def verify_command(output: Output = Path("runs"), store: Store = "store") -> None:
    """Read every stored answer and check it against its checksum; exit code 3 if one is damaged.

    Runs find damage by themselves and compute such answers again; this tells you without a run.
    """
    from raykd.teachers.store.inventory import verify_stores

    verdicts = verify_stores(output / store)
    for v in verdicts:
        mark = "[green]whole[/green]  " if v.is_whole else "[red]damaged[/red]"
        problem = escape(f"; the file: {v.found.problem}") if v.found.problem else ""
        damaged = f", {v.found.damaged:,} damaged" if v.found.damaged else ""
        console.print(
            f"{mark} {v.fingerprint[:12]} {', '.join(v.teachers)}: {v.found.entries:,} answers{damaged}{problem}",
            highlight=False,
            soft_wrap=True,
        )
    if not verdicts:
        console.print(f"no answers are kept under {output / store}", markup=False, highlight=False)
    if not all(v.is_whole for v in verdicts):
        console.print("raykd store clear STORE removes one; its answers are computed again", highlight=False)
        raise typer.Exit(DAMAGED)


@store_app.command("clear")
def clear_command(
    fingerprint: Annotated[
        str | None,
        typer.Argument(metavar="STORE", help="The store, or how its name in `stats` begins."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all stores.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even if a run has it open.")] = False,
    output: Output = Path("runs"),
    store: Store = "store",
) -> None:
    """Remove one teacher's answers, or all with --all. Refuses while a run has them open."""
    from raykd.errors import ConfigError
    from raykd.teachers.store.inventory import remove_stores

    if (fingerprint is None) != everything:
        raise ConfigError(
            "which answers go?",
            got="a store and --all" if everything else "neither a store nor --all",
            wanted="one of them: raykd store clear STORE, or raykd store clear --all",
            next_step="raykd store stats lists the stores",
        )
    gone = remove_stores(output / store, fingerprint, force=force)
    entries = sum(s.entries or 0 for s in gone)
    console.print(
        f"removed {entries:,} answers of {len(gone)} stores, {sum(s.bytes for s in gone) / 1e6:,.1f} MB",
        highlight=False,
    )
