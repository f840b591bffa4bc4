"""The command line. Heavy imports come late: `--help` answers at once."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(
    name="raykd",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="""Distil several teachers, monolingual and multilingual, into one small student.

Teachers are served by Ray actors, DeepSpeed trains the student in Ray Train workers, MLflow records the run.

[bold]A first look:[/bold]   raykd demo
[bold]Your own run:[/bold]   raykd check RUN.yaml   then   raykd train RUN.yaml
[bold]Its student:[/bold]    raykd predict runs/NAME/student "some text"
""",
)


def _console(*, stderr: bool = False) -> Console:
    """A pipe or a file has no width of its own; the result table needs more than rich's 80 columns."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=max(console.width, 120))


console = _console()
errors = _console(stderr=True)

NOT_CHECKED = "not checked"
"""What a finding says that only the run itself can know."""
INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM, as of a shell."""

RunFile = Annotated[
    Path, typer.Argument(metavar="RUN.yaml", help="The run: data, teachers, student, objective.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Keys of RUN.yaml to change: objective.alpha=0.3 teachers.en.actor.replicas=2.",
    ),
]


def main() -> None:
    """Runs the command line; an error of raykd is one message and an exit code, never a traceback."""
    from raykd.errors import RaykdError

    try:
        code = app(prog_name="raykd", standalone_mode=False)
    except RaykdError as error:
        _say(error)
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        show = getattr(error, "show", None)
        if show is None:
            _say_fault(error)
            raise SystemExit(1) from None
        show()
        raise SystemExit(getattr(error, "exit_code", 2)) from None
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code
        going_on = "; --resume goes on from the last checkpoint" if sys.argv[1:2] == ["train"] else ""
        errors.print(f"interrupted{going_on}", highlight=False)
    raise SystemExit(code if isinstance(code, int) else 0)


def _say(error: Exception) -> None:
    from raykd.tracking import redact

    errors.print(f"[bold red]error[/bold red] ({type(error).__name__})", highlight=False)
    errors.print(redact(str(error)), markup=False, highlight=False, soft_wrap=True)


def _say_fault(error: Exception) -> None:
    """An error that nobody foresaw: the trace, which may hold what must not be printed, and what to do."""
    import traceback

    from raykd.tracking import redact

    trace = redact("".join(traceback.format_exception(error)))
    errors.print(trace, markup=False, highlight=False, soft_wrap=True, end="")
    errors.print("This is a fault of raykd, or of a library under it; please report it with these lines.")


def _run_file(path: Path, overrides: list[str] | None) -> Any:
    from raykd.load import load_run

    return load_run(path, overrides or ())


@app.command()
def train(
    run: RunFile,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of this run, if there is one.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Empty the run's folder and start anew.")
    ] = False,
) -> None:
    """Train what RUN.yaml describes: missing teachers first, then the student.

    Everything lands in output/name: student/, report.html, results.md, run.yaml as resolved, log.txt.

    Trained teachers are kept in output/teachers and used again by every run that asks for the same ones.

    Without teachers and with objective.alpha: 1 it is plain supervised training.

    Exit codes: 0 done, 2 configuration, 3 data or model, 5 infrastructure, 130 interrupted.
    """
    from raykd.runs.folder import finished_before

    config = _run_file(run, overrides)
    before = finished_before(config) if resume else None
    if before is not None:
        console.print(before.text, markup=False, highlight=False)
        console.print("This run is finished already; --overwrite starts anew.", highlight=False)
        _print_lines(before.lines)
        return
    from raykd.runs.train import train as run_train

    _finish(run_train(config, resume=resume, overwrite=overwrite, console=console))


@app.command()
def check(run: RunFile, overrides: Overrides = None) -> None:
    """Check a run without taking a worker: files, rows, labels, languages, models, resources, combinations."""
    from raykd.runs.check import check as run_check
    from raykd.tracking import redact

    findings = run_check(_run_file(run, overrides))
    for finding in findings:
        if finding.error is None:
            console.print(
                f"{_mark(finding.detail)} [bold]{finding.what}[/bold]  {escape(finding.detail)}",
                highlight=False,
                soft_wrap=True,
            )
        else:
            console.print(f"[red]wrong[/red]  [bold]{finding.what}[/bold]", highlight=False)
            console.print(
                indent(redact(str(finding.error)), " " * 7), markup=False, highlight=False, soft_wrap=True
            )
    wrong = [f.error for f in findings if f.error is not None]
    if wrong:
        raise typer.Exit(wrong[0].exit_code)
    changed = " ".join(shlex.quote(o) for o in overrides or ())
    unknown = any(NOT_CHECKED in f.detail for f in findings)
    verdict = "Nothing wrong was found, but not all could be checked" if unknown else "All is well"
    console.print(
        escape(f"{verdict}; the run starts with: raykd train {run} {changed}".rstrip()),
        highlight=False,
        soft_wrap=True,
    )


def _mark(detail: str) -> str:
    return "[yellow]unknown[/yellow]" if NOT_CHECKED in detail else "[green]ok[/green]     "


@app.command()
def demo(
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="Folder of the demo's run.")] = Path("runs"),
) -> None:
    """Run the main job on the embedded corpus: four teachers, the undistilled and the distilled student.

    Needs no data and no network, two cores and about four minutes.
    """
    from raykd.load import load_run
    from raykd.presets import preset
    from raykd.runs.train import train as run_train

    config = load_run(preset("demo"), [f"output={json.dumps(str(output.resolve()))}", *(overrides or ())])
    _finish(run_train(config, overwrite=(output / config.name / "run.json").exists(), console=console))


@app.command()
def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL_DIR", help="A saved student, for example runs/NAME/student.")
    ],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts; none reads standard input.")
    ] = None,
    jsonl: Annotated[
        Path | None, typer.Option("--jsonl", help="JSON lines with a text; '-' is standard input.")
    ] = None,
    column: Annotated[str, typer.Option(help="Key of the text in --jsonl.")] = "text",
    pair: Annotated[str | None, typer.Option(help="Key of the second text in --jsonl.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a text instead of a table.")
    ] = False,
) -> None:
    """Classify texts: the label and every label's probability.

    Texts come as arguments, as lines of standard input, or from --jsonl; JSON lines are answered with JSON lines.
    """
    from raykd.runs.predict import predict_texts, read_texts

    rows, seconds = read_texts(texts, jsonl, column, pair, sys.stdin)
    for row in predict_texts(model, rows, seconds):
        if as_json or jsonl is not None:
            print(json.dumps(row, ensure_ascii=False))
        else:
            shown = "  ".join(f"{label} {p:.3f}" for label, p in row["probabilities"].items())
            console.print(f"[bold]{row['label']}[/bold]  {shown}  ", end="", highlight=False, soft_wrap=True)
            console.print(row["text"], style="dim", markup=False, highlight=False, soft_wrap=True)


mlflow_app = typer.Typer(help="What concerns MLflow alone.", no_args_is_help=True)
app.add_typer(mlflow_app, name="mlflow")


@mlflow_app.command()
def sync(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, for example runs/NAME.")],
) -> None:
    """Send the points that a run could not send while MLflow was away; sending twice does no harm."""
    from raykd.load import load_run
    from raykd.tracking import replay, tracking_uri
    from raykd.tracking.tracker import SPOOL

    config = load_run(run / "run.yaml")
    if not (run / SPOOL).exists():
        console.print("nothing waits to be sent")
        return
    sent = replay(tracking_uri(config.tracking, run.resolve().parent), run / SPOOL)
    console.print(f"sent {sent:,} points")


@app.command()
def ui(
    output: Annotated[Path, typer.Option(help="The folder that holds mlflow.db.")] = Path("runs"),
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
) -> None:
    """Open the MLflow pages of this database (on 127.0.0.1 only); Ctrl-C ends them."""
    from raykd.tracking import serve_ui

    serve_ui(output, port, lambda line: console.print(line, highlight=False))


def _finish(outcome: Any) -> None:
    for part in outcome.tables:
        console.print(part)
    _print_lines(outcome.lines)


def _print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
