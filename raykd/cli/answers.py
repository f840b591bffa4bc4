"""Define the commands about stored answers: `raykd label`, `raykd store`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from raykd import api
from raykd.cli.app import OutputFolder, Overrides, RunFile, app, console, print_lines

store_app = typer.Typer(
    no_args_is_help=True,
    help="List, verify or remove the stored answers of teachers.\n\n"
    "A teacher's answer to a text is stored on disk and reused by all later runs and sweeps. Each teacher (its "
    "weights, tokenizer, labels, precision) has its own folder under output/store. serving.store_limit_gb bounds all "
    "of them together. Removing stores is safe: missing answers are computed again when they are needed.",
)
app.add_typer(store_app, name="store")

DAMAGED = 3
"""Exit code of `raykd store verify` if it found damage."""

Store = Annotated[
    str, typer.Option(help="Folder of the stores below --output (serving.store in a run file).")
]


@app.command("label")
def label_command(
    run: RunFile,
    overrides: Overrides = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also the validation and test texts, by every teacher.")
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(
            help="Also write these answers to a .parquet or .jsonl file, which a teacher of kind: file reads. "
            "A path or a URL (s3://...); {teacher} in it stands for each teacher's name."
        ),
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Write all teachers together to --to, as one teacher.")
    ] = False,
    choose: Annotated[
        int | None,
        typer.Option(
            min=1, help="Write to --to the rows without labels that a person should label, so many in all."
        ),
    ] = None,
    sequences: Annotated[
        Path | None,
        typer.Option(
            help="Write what the teachers generate for the training sources to this file (JSON lines)."
        ),
    ] = None,
    beams: Annotated[int, typer.Option(min=1, help="Beams of --sequences; 1 is greedy.")] = 5,
) -> None:
    """Let the teachers of RUN.yaml answer all its training texts now and store the answers.

    Later runs and sweeps over the same texts need no teacher:
    they read the answers from disk. If interrupted, run it again to continue.
    Teachers that RUN.yaml trains must exist already: raykd train makes them.
    They are scored on the validation texts first, as in a run.

    With --to the answers to training, validation and test texts
    are also written to files, for another cluster or other programs.

    With --choose N the file of --to (.jsonl or .csv) holds N rows without labels
    about which the teachers disagree most, with an empty label to be filled in.

    With --sequences the teachers of a language model write texts instead
    (sequence-level distillation). The file is data for a later run:
    its columns are src, tgt and lang.
    """
    if sequences is not None:
        rows = api.label_sequences(run, sequences, overrides or (), beams=beams, progress=console)
        print_lines(f"{rows:,} texts were written to {sequences}", markup=False)
        return
    report = api.label(
        run, overrides or (), everything=everything, to=to, ensemble=ensemble, choose=choose, progress=console
    )
    lost = f"; {report.unkept:,} could not be kept, see the store's disk" if report.unkept else ""
    print_lines(
        f"{report.asked - report.unkept:,} answers are kept: {report.stored:,} were there, {report.forwarded:,} "
        f"computed in {report.seconds:,.1f} s ({report.rate:,.0f} a second){lost}"
    )


@store_app.command("stats")
def stats_command(output: OutputFolder = Path("runs"), store: Store = "store") -> None:
    """List the stores with their teachers, number of answers, size and last use; and the tokens of many rows."""
    from raykd.report.fitted_table import build_plain_table
    from raykd.teachers.store.inventory import list_stores

    found = list_stores(output / store)
    if not found:
        print_lines(f"no answers are kept under {output / store}", markup=False)
        _print_tokens()
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
    print_lines(f"{sum(s.bytes for s in found) / 1e6:,.1f} MB in all{more}")
    _print_tokens()


def _print_tokens() -> None:
    """Print what the tokens of many rows take in raykd's cache."""
    from raykd.cache import list_cached_folders

    kept = list_cached_folders("tokens")
    if kept:
        corpora = "one corpus" if len(kept) == 1 else f"{len(kept)} corpora"
        size = sum(own.bytes for own in kept) / 1e6
        print_lines(f"tokens of {corpora}: {size:,.1f} MB in {kept[0].path.parent}", markup=False)


@store_app.command("verify")
def verify_command(output: OutputFolder = Path("runs"), store: Store = "store") -> None:
    """Check every stored answer against its checksum. Exit code 3 if one is damaged.

    A run finds damaged answers by itself and computes them again. This command tells you without a run.
    """
    from raykd.teachers.store.inventory import verify_stores

    verdicts = verify_stores(output / store)
    for v in verdicts:
        mark = "[green]whole[/green]  " if v.is_whole else "[red]damaged[/red]"
        problem = escape(f"; the file: {v.found.problem}") if v.found.problem else ""
        damaged = f", {v.found.damaged:,} damaged" if v.found.damaged else ""
        teachers = ", ".join(v.teachers)
        print_lines(f"{mark} {v.fingerprint[:12]} {teachers}: {v.found.entries:,} answers{damaged}{problem}")
    if not verdicts:
        print_lines(f"no answers are kept under {output / store}", markup=False)
    if not all(v.is_whole for v in verdicts):
        print_lines("raykd store clear STORE removes one; its answers are computed again")
        raise typer.Exit(DAMAGED)


@store_app.command("clear")
def clear_command(
    fingerprint: Annotated[
        str | None,
        typer.Argument(metavar="STORE", help="Name of the store in `stats`, or its beginning."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all stores.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Remove it even if a run has it open.")] = False,
    output: OutputFolder = Path("runs"),
    store: Store = "store",
) -> None:
    """Remove the answers of one teacher, or of all with --all. Refused while a run has them open."""
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
    print_lines(
        f"removed {entries:,} answers of {len(gone)} stores, {sum(s.bytes for s in gone) / 1e6:,.1f} MB"
    )
