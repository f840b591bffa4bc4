"""Define the commands that look at a saved model: `raykd evaluate`, `predict`, `drift` and `watch`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from raykd import saved_models
from raykd.cli.app import app, console, print_lines
from raykd.cli.terminal import decode_lines, format_json, recover_text
from raykd.errors import ConfigError
from raykd.parse import JsonObject

DRIFTED = 6
"""Exit code of `raykd drift` for texts that have drifted."""
TaskName = Annotated[
    str | None,
    typer.Option("--task", help="Name of the task if the student has several: a folder in MODEL_DIR."),
]


@app.command("evaluate")
def evaluate_command(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_DIR",
            help="A saved student or teacher, the folder of a run, or any model that transformers saved.",
        ),
    ],
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Labelled rows: JSON lines, CSV, TSV or Parquet, packed or not."),
    ],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="KEY=NAME",
            help="Name of a column in FILE: text=review label=stars. Keys as in data.columns of a run file; "
            "group=domain scores each value of the column domain.",
        ),
    ] = None,
    label_map: Annotated[
        list[str] | None,
        typer.Option(
            "--label-map",
            metavar="FROM=TO",
            help="What a label, of FILE or of the model, is called: LABEL_0=negative. Several may lead to one. "
            "FROM= leaves the rows of a label of FILE out. Of tags: types or tags, MISC=O.",
        ),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Language of all rows, if FILE has no column lang.")
    ] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave rows out that cannot be used, counted.")
    ] = False,
    task: TaskName = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object with all numbers, unrounded, instead of tables.")
    ] = False,
) -> None:
    """Score a saved model on a file of labelled rows.

    Shows all metrics with a bootstrap interval, by language and by length;
    precision, recall and F1 of each label or entity type;
    which label is taken for which; and how far probabilities can be believed.

    Labels of FILE and of the model are matched by name, never by number.
    --label-map says which are the same.

    Exit codes: 0 done, 2 options, 3 FILE or model.
    """
    found = saved_models.evaluate(
        model,
        file,
        columns=_read_pairs(columns, "--column"),
        label_map={key: to or None for key, to in _read_pairs(label_map, "--label-map").items()},
        language=language,
        skip_bad_rows=skip_bad_rows,
        task=task,
    )
    if as_json:
        print(format_json(found.to_json()))
        return
    from raykd.report.evaluations.tables import build_evaluation_tables, describe_evaluation

    print_lines(describe_evaluation(found), markup=False)
    for table in build_evaluation_tables(found):
        console.print(table)
    print_lines(*(f"- {note}" for note in found.notes), markup=False)


Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="KEY=NAME",
        help="Name of a column in the files, where it is not the run's: text=review.",
    ),
]
Language = Annotated[
    str | None, typer.Option(help="Language of all texts, if the files have no column for it.")
]
Level = Annotated[
    float, typer.Option(min=0.5, max=0.9999, help="Share of windows of undrifted texts below the threshold.")
]


@app.command("drift")
def drift_command(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run with teachers: runs/NAME.")],
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="New texts, without labels: paths or patterns.")
    ],
    columns: Columns = None,
    language: Language = None,
    level: Level = 0.99,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object with all numbers.")] = False,
) -> None:
    """Say whether new texts have drifted away from what a student learnt.

    Measures how far the student is from its teachers together on them.
    What is usual, and the threshold, are learnt on the run's validation rows. No gold label is needed.

    Exit codes: 0 not drifted, 2 options, 3 files or models, 6 drifted.
    """
    from raykd.cli.app import exit_with

    with console.status("") as status:
        found = saved_models.drift(
            run,
            files,
            columns=_read_pairs(columns, "--column"),
            language=language,
            level=level,
            progress=lambda who, done, rows: status.update(f"{who}: {done:,} of {rows:,} texts"),
        )
    if as_json:
        print(format_json(found.to_json()))
    else:
        console.print(found.to_rich())
    exit_with(DRIFTED if found.drifted else 0)


@app.command("watch")
def watch_command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN.yaml", help="Run file of the runs that are trained on drift.")
    ],
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Files of new texts: 'incoming/*.jsonl'.")
    ],
    earlier: Annotated[
        Path, typer.Option("--from", metavar="RUN_DIR", help="Folder of the run to begin with.")
    ],
    every: Annotated[float, typer.Option(min=1.0, help="Seconds between two looks.")] = 3600.0,
    window: Annotated[int, typer.Option(min=2, help="Least texts that are judged together.")] = 200,
    once: Annotated[bool, typer.Option("--once", help="Look once, for cron.")] = False,
    columns: Columns = None,
    language: Language = None,
    level: Level = 0.99,
) -> None:
    """Watch for files of new texts, and train the next student when they have drifted.

    Each file is judged once, as raykd drift does. Drifted texts become the unlabelled texts of the next run,
    NAME-1, NAME-2 and so on, which goes on from the last student (raykd train --from).
    What was judged is kept in RUN_DIR/drift.jsonl, so that a watch goes on where it ended. Ctrl-C ends it.

    Exit codes: 0 done, 2 configuration, 3 data or model, 5 infrastructure, 130 interrupted.
    """
    saved_models.watch(
        run,
        pattern,
        from_run=earlier,
        columns=_read_pairs(columns, "--column"),
        language=language,
        level=level,
        window=window,
        every_s=every,
        once=once,
        console=console,
    )


def _read_pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """Return options of the form KEY=VALUE by key.

    Raises:
        ConfigError: One has no =, or a key is given twice.
    """
    pairs: dict[str, str] = {}
    for text in map(recover_text, given or ()):
        key, equals, value = text.partition("=")
        if not equals or not key or key in pairs:
            raise ConfigError(
                f"{option} {text} cannot be read",
                got=f"{key} twice" if key in pairs else text,
                wanted=f"{option} FROM=TO, once for each FROM" if "map" in option else f"{option} KEY=NAME",
            )
        pairs[key] = value
    return pairs


Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT", help="Texts; without any, lines of standard input."),
]
RowsFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        help="Rows: JSON lines, CSV, TSV, Parquet or plain text (.txt); - for JSON lines on standard input.",
    ),
]
TextKey = Annotated[
    str | None, typer.Option(help="Key of the text in --file. Default: text, tokens or question.")
]
PairKey = Annotated[str | None, typer.Option(help="Key of the second text or context.")]
PredictionsFile = Annotated[
    Path | None,
    typer.Option(
        help="Write the rows of --file here; the ending says which kind: .jsonl, .csv, .tsv, .parquet."
    ),
]
Probabilities = Annotated[
    bool, typer.Option("--probabilities", help="Add probabilities to the rows of --file, too.")
]
NoAnswer = Annotated[
    bool, typer.Option("--no-answer", help="A question may have no answer (models trained on SQuAD v2).")
]
MaxLength = Annotated[
    int | None, typer.Option(min=1, help="Longest prompt or source of a generating model, in tokens.")
]
MaxNewTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest text that a generating model writes, in tokens.")
]
WrittenLanguage = Annotated[
    str | None,
    typer.Option(
        help="Language to write, for a multilingual model (or tgt_lang per line); or of the texts, for a student with "
        "an adapter for each language (or lang per line)."
    ),
]
SourceLanguage = Annotated[str | None, typer.Option(help="Language of the sources (or src_lang per line).")]
Relations = Annotated[
    Path | None,
    typer.Option(
        "--relations",
        metavar="RELATION_DIR",
        help="A model of relations: MODEL_DIR finds entities, this one says what holds between them.",
    ),
]


@app.command("predict")
def predict_command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL_DIR", help="A saved student, for example runs/NAME/student.")
    ],
    texts: Texts = None,
    file: RowsFile = None,
    column: TextKey = None,
    pair: PairKey = None,
    output: PredictionsFile = None,
    probabilities: Probabilities = False,
    task: TaskName = None,
    no_answer: NoAnswer = False,
    max_length: MaxLength = None,
    max_new_tokens: MaxNewTokens = None,
    language: WrittenLanguage = None,
    source_language: SourceLanguage = None,
    relations: Relations = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per text instead of a table.")
    ] = False,
) -> None:
    """Predict with a saved model: a label with probabilities, entities, an answer or a text per input.

    Texts are arguments, lines of standard input, or the rows of --file.
    Rows keep all their keys and get a key "prediction".
    They come out as JSON lines, or in the file that --output names.

    A tagger reads texts or {"tokens": [...]}. A question is {"question": ..., "context": ...}.
    A relation is {"text": ..., "head": ..., "tail": ...}, or a text that holds the markers.
    With --relations the answers are triples: head, relation, tail, probability.
    """
    from raykd.scoring import predictions
    from raykd.scoring.inputs import read_inputs

    _check_file_options(texts, file, output, probabilities=probabilities)
    if file is None and (column is not None or pair is not None):
        raise ConfigError(
            f"--{'column' if pair is None else 'pair'} names a key of the rows of a file",
            got="no --file",
            wanted="--file FILE, or - for JSON lines on standard input",
        )
    rows = read_inputs(
        [recover_text(text) for text in texts or ()], file, column, pair, sys.stdin, decode_lines
    )
    loaded = saved_models.load(model, task=task)
    if relations is not None:
        loaded = loaded.chain(saved_models.load(relations))
    answers = loaded.iterate(
        rows,
        probabilities=probabilities or file is None,
        no_answer=no_answer,
        max_length=max_length,
        max_new_tokens=max_new_tokens,
        language=language,
        source_language=source_language,
    )
    if file is not None:
        keys = loaded.list_answer_keys(ranks=rows.candidates is not None)
        answers = predictions.add_predictions(rows, answers, keys, probabilities=probabilities)
        if output is not None:
            count = predictions.write_rows(answers, output, rows.table)
            print_lines(f"{count:,} rows were written to {output}", markup=False)
            return
    _print_predictions(answers, as_json=as_json or file is not None)


def _print_predictions(answers: Iterable[JsonObject], *, as_json: bool) -> None:
    for row in answers:
        if as_json:
            print(format_json(row))
        else:
            first, rest = _format_prediction(row)
            console.print(f"[bold]{escape(first)}[/bold]  ", end="", highlight=False, soft_wrap=True)
            console.print(rest, style="dim", markup=False, highlight=False, soft_wrap=True)


def _check_file_options(
    texts: list[str] | None, file: Path | None, output: Path | None, *, probabilities: bool
) -> None:
    """Refuse options that only rows of a file have, and outputs that cannot be written.

    Raises:
        ConfigError: See `raykd.scoring.predictions.check_output`; or there is no file, or texts beside it.
    """
    if file is None and (output is not None or probabilities):
        raise ConfigError(
            f"--{'probabilities' if output is None else 'output'} is for the rows of a file",
            got="no --file",
            wanted="--file FILE, or - for JSON lines on standard input",
            next_step="texts are answered with probabilities anyway; --json prints them for programs",
        )
    if file is not None and texts:
        raise ConfigError("texts and --file cannot both be answered", got=texts[0][:60], wanted="one of them")
    if output is not None:
        from raykd.scoring.predictions import check_output

        check_output(output, file)


def _format_prediction(row: JsonObject) -> tuple[str, str]:
    """Return the answer and the input of a prediction as texts."""
    if "value" in row:
        return f"{row['value']:.4g}", "  |  ".join(row[key] for key in ("text", "text_pair") if key in row)
    if "probabilities" in row:
        chosen = row["label"] if "label" in row else ", ".join(row["labels"]) or "none"
        return chosen, "  ".join(f"{k} {p:.3f}" for k, p in row["probabilities"].items()) + f"  {row['text']}"
    if "written" in row:
        return row["written"] or "nothing", row["text"]
    if "triples" in row:
        found = (
            f"{t['head']['text']} - {t['relation']} - {t['tail']['text']} {t['probability']:.3f}"
            for t in row["triples"]
        )
        return "; ".join(found) or "no relation", row["text"]
    if "entities" in row:
        return ", ".join(f"{e['text']} {e['type']}" for e in row["entities"]) or "no entity", row["text"]
    if "ranked" in row:
        best = row["ranked"][:3]
        return "; ".join(f"{c['text'][:60]} {c['score']:.3f}" for c in best), row["query"]
    if "vector" in row:
        start = " ".join(f"{number:.3f}" for number in row["vector"][:4])
        return f"{len(row['vector'])} numbers: {start} ...", row["text"]
    return f"{row['answer'] or 'no answer'} {row['probability']:.3f}", row["question"]
