"""`raykd train`, `check`, `demo`, `predict`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any

import typer
from rich.markup import escape

from raykd import api
from raykd.cli.app import Overrides, RunFile, app, console, show_result
from raykd.cli.terminal import decode_lines, format_json, recover_text

NOT_CHECKED = "not checked"
"""What a finding says that only the run itself can know."""


@app.command("train")
def run_train(
    run: RunFile,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of this run, if there is one.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Empty the run's folder and start anew.")
    ] = False,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke",
            help="Run all of it in short, from the start, in output/NAME-smoke: a few rows and steps.",
        ),
    ] = False,
) -> None:
    """Train what RUN.yaml describes: missing teachers first, then the student.

    Everything lands in output/name: student/, report.html, results.md, run.yaml as resolved, log.txt.

    Trained teachers are kept in output/teachers and used again by every run that asks for the same ones.

    Without teachers and with objective.alpha: 1 it is plain supervised training.

    Exit codes: 0 done, 2 configuration, 3 data or model, 5 infrastructure, 130 interrupted.
    """
    show_result(
        api.train(run, overrides or (), resume=resume, overwrite=overwrite, smoke=smoke, progress=console)
    )


@app.command("check")
def check_command(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_SPACE.yaml", help="A run file, or a search space.")],
    overrides: Overrides = None,
) -> None:
    """Check a run or a sweep without taking a worker: files, rows, labels, models, resources, disk, combinations."""
    from raykd.config.home import find_config_file
    from raykd.tracking import redact
    from raykd.tuning.config import Sweep, load_run_or_sweep

    run = find_config_file(run)
    config = load_run_or_sweep(run, overrides or ())
    command = "sweep" if isinstance(config, Sweep) else "train"
    findings = api.check(config)
    for finding in findings:
        if finding.error is None:
            console.print(
                f"{_mark(finding.detail)} [bold]{escape(finding.what)}[/bold]  {escape(finding.detail)}",
                highlight=False,
                soft_wrap=True,
            )
        else:
            console.print(f"[red]wrong[/red]  [bold]{escape(finding.what)}[/bold]", highlight=False)
            console.print(
                indent(redact(str(finding.error)), " " * 7), markup=False, highlight=False, soft_wrap=True
            )
    wrong = [f.error for f in findings if f.error is not None]
    if wrong:
        raise typer.Exit(wrong[0].exit_code)
    arguments = [*(overrides or ()), *(f.argument for f in findings if f.argument)]
    changed = " ".join(map(shlex.quote, arguments))
    unknown = any(NOT_CHECKED in f.detail for f in findings)
    verdict = "Nothing wrong was found, but not all could be checked" if unknown else "All is well"
    starts = f"raykd {command} {shlex.quote(str(run))} {changed}".rstrip()
    console.print(
        escape(f"{verdict}; the {'run' if command == 'train' else 'sweep'} starts with: {starts}"),
        highlight=False,
        soft_wrap=True,
    )


def _mark(detail: str) -> str:
    from raykd.preflight.disk import MAY_NOT_FIT
    from raykd.preflight.model_check import NOTE

    if MAY_NOT_FIT in detail or NOTE in detail:
        return "[yellow]warn[/yellow]   "
    return "[yellow]unknown[/yellow]" if NOT_CHECKED in detail else "[green]ok[/green]     "


@app.command("demo")
def run_demo(
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="Folder of the demo's run.")] = Path("runs"),
) -> None:
    """Run the main job on the embedded corpus: three teachers, the undistilled and the distilled student.

    Needs no data and no network, two cores and about three minutes.
    """
    from raykd.config.loading import load_run
    from raykd.presets import preset

    config = load_run(preset("demo"), [f"output={json.dumps(str(output.resolve()))}", *(overrides or ())])
    there = (output / config.name / "run.json").exists()
    show_result(api.train(config, overwrite=there, progress=console))


@app.command("predict")
def predict_command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL_DIR", help="A saved student, for example runs/NAME/student.")
    ],
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="Texts; without any, the lines of standard input."),
    ] = None,
    jsonl: Annotated[
        Path | None, typer.Option("--jsonl", help="JSON lines with a text; '-' is standard input.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Key of the text in --jsonl; by default text, tokens or question.")
    ] = None,
    pair: Annotated[str | None, typer.Option(help="Key of the second text or context.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Which task, of a student of several tasks: the name of a folder in MODEL_DIR."),
    ] = None,
    no_answer: Annotated[
        bool, typer.Option("--no-answer", help="A question may have no answer (models trained on SQuAD v2).")
    ] = False,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Longest prompt or source in tokens, of a model that writes.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest text in tokens that a model writes.")
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Language to write, for a multilingual model (or tgt_lang in the lines)."),
    ] = None,
    source_language: Annotated[
        str | None, typer.Option(help="Language of the sources (or src_lang in the lines).")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per text instead of a table.")
    ] = False,
) -> None:
    """Predict with a saved model: label and probabilities, entities, an answer or a text for each input.

    Texts come as arguments, as lines of standard input, or from --jsonl; JSON lines are answered with JSON lines.

    A tagger reads texts or {"tokens": [...]}; questions come as {"question": ..., "context": ...}.
    """
    from raykd.scoring.inputs import read_inputs

    rows = read_inputs(
        [recover_text(text) for text in texts or ()], jsonl, column, pair, sys.stdin, decode_lines
    )
    answers = api.load(model, task=task).iterate(
        rows,
        no_answer=no_answer,
        max_length=max_length,
        max_new_tokens=max_new_tokens,
        language=language,
        source_language=source_language,
    )
    for row in answers:
        if as_json or jsonl is not None:
            print(format_json(row))
        else:
            first, rest = _shown(row)
            console.print(f"[bold]{escape(first)}[/bold]  ", end="", highlight=False, soft_wrap=True)
            console.print(rest, style="dim", markup=False, highlight=False, soft_wrap=True)


def _shown(row: dict[str, Any]) -> tuple[str, str]:
    """A prediction for people: what was answered, and to what."""
    if "probabilities" in row:
        return row["label"], "  ".join(
            f"{k} {p:.3f}" for k, p in row["probabilities"].items()
        ) + f"  {row['text']}"
    if "written" in row:
        return row["written"] or "nothing", row["text"]
    if "entities" in row:
        return ", ".join(f"{e['text']} {e['type']}" for e in row["entities"]) or "no entity", row["text"]
    return f"{row['answer'] or 'no answer'} {row['probability']:.3f}", row["question"]
