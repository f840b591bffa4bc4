"""Define `raykd sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raykd import api
from raykd.cli.app import OutputFolder, Overrides, Overwrite, Smoke, app, console, end_with_result
from raykd.errors import ConfigError


@app.command("sweep")
def sweep_command(
    space: Annotated[
        Path | None,
        typer.Argument(
            metavar="SPACE.yaml",
            help="The searched keys and the base run: see tune_spaces/. With --resume also a sweep's name or folder.",
        ),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the sweep; with SPACE.yaml start it if there is none. Finished trials stay.",
        ),
    ] = False,
    go_on: Annotated[bool, typer.Option("--continue", hidden=True, help="The same as --resume.")] = False,
    overwrite: Overwrite = False,
    output: OutputFolder = Path("runs"),
    allow_failed_trials: Annotated[
        bool, typer.Option("--allow-failed-trials", help="Exit with 0 even if trials failed.")
    ] = False,
    smoke: Smoke = False,
) -> None:
    """Search alpha, temperature, schedules or any other key, over teachers that answer each text once.

    Everything is written to output/name: best.yaml (a run file for raykd train), report.html, trials.csv, trials.jsonl.

    An interrupted sweep continues with --resume: the same SPACE.yaml, or the sweep's name or folder.
    Finished trials stay, and num_samples may then be larger. --output is where a name is looked for.

    Exit codes: 0 done, 2 configuration, 3 data or model, 4 trials failed, 5 infrastructure, 130 interrupted.
    """
    resume, changes, named = resume or go_on, overrides or [], None
    if resume:
        space, named, changes = _find_resumed(space, changes)
    result = api.sweep(
        space,
        changes,
        resume=named or resume,
        overwrite=overwrite,
        smoke=smoke,
        output=output,
        progress=console,
    )
    end_with_result(result, allow_failed=allow_failed_trials)


def _find_resumed(space: Path | None, changes: list[str]) -> tuple[Path | None, str | None, list[str]]:
    """Return what a resumed sweep is named by, a file or a name or folder, and the changes of keys.

    Raises:
        ConfigError: It is named twice.
    """
    words = [*([] if space is None else [str(space)]), *changes]
    names = [word for word in words if "=" not in word]
    changes = [word for word in words if "=" in word]
    if len(names) > 1:
        raise ConfigError(
            "--resume goes on with one sweep",
            got=" and ".join(names),
            wanted="raykd sweep SPACE.yaml --resume, or raykd sweep NAME --resume",
            next_step="leave one of them out",
        )
    if not names:
        return None, None, changes
    is_file = Path(names[0]).suffix in (".yaml", ".yml") and not Path(names[0]).is_dir()
    return (Path(names[0]), None, changes) if is_file else (None, names[0], changes)
