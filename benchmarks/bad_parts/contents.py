"""Bad rows, files, model folders and command lines."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.bad_parts.setting import Case, Tree, changed, good_rows, good_run, write_rows, written
from raykd.config.loading import load_run
from raykd.data.load import load_data
from raykd.errors import RaykdError

ROWS: dict[str, Tree] = {
    "empty text": {"text": ""}, "blank text": {"text": " \n"}, "text null": {"text": None}, "text a number": {"text": 3},
    "text a list": {"text": ["a"]}, "unknown label": {"label": "Positive"}, "label null in validation": {"label": None},
    "label out of range": {"label": 7}, "label a list": {"label": []}, "label a truth value": {"label": True},
    "label a fraction": {"label": 0.5}, "unknown language": {"lang": "xx"}, "language null": {"lang": None},
    "language a number": {"lang": 1}, "language with region": {"lang": "EN-us"}, "language empty": {"lang": ""},
}  # fmt: skip
JSON_LINES: dict[str, bytes] = {
    "empty file": b"", "blank lines": b"\n\n", "torn": b'{"text": "a", "lab', "no JSON": b"hello\n", "a list": b"[1, 2]\n",
    "a number": b"3\n", "one JSON list": b'[\n{"text": "a"}\n]\n', "not UTF-8": b'{"text": "caf\xe9"}\n', "NULs": b"\0\0\0\n",
    "deep": b"[" * 100_000 + b"\n", "UTF-16": '{"text": "a"}'.encode("utf-16"), "no label column": b'{"text": "a", "lang": "en"}\n',
    "no text column": b'{"label": "negative", "lang": "en"}\n', "NaN": b'{"text": NaN, "label": "negative", "lang": "en"}\n',
    "long number": b'{"text": "a", "label": ' + b"9" * 5000 + b', "lang": "en"}\n', "half a pair": b'{"text": "\\ud800", "label": "negative", "lang": "en"}\n',
}  # fmt: skip
CSV: dict[str, bytes] = {
    "empty file": b"", "header only": b"text,label,lang\n", "name twice": b"text,text,lang\na,b,en\n",
    "wide row": b"text,label,lang\na,negative,en,more\n", "narrow row": b"text,label,lang\na\n",
    "open quote": b'text,label,lang\n"a,negative,en\n', "not UTF-8": b"text,label,lang\ncaf\xe9,negative,en\n",
    "wrong delimiter": b"text~label~lang\na~negative~en\n", "NULs": b"\0\0", "no label column": b"text,lang\na,en\n",
}  # fmt: skip
TASK_ROWS: dict[str, tuple[Tree, list[str], Tree]] = {
    "tags too few": ({"kind": "token_classification"}, ["O", "B-X", "I-X"], {"tokens": ["a", "b"], "tags": ["O"]}),
    "tag unknown": ({"kind": "token_classification"}, ["O", "B-X", "I-X"], {"tokens": ["a"], "tags": ["B-Y"]}),
    "tokens a text": ({"kind": "token_classification"}, ["O", "B-X", "I-X"], {"tokens": 3, "tags": ["O"]}),
    "loose inside": ({"kind": "token_classification"}, ["O", "B-X", "I-X"], {"tokens": ["a"], "tags": ["I-X"]}),
    "answer elsewhere": ({"kind": "question_answering"}, [], {"question": "q?", "context": "abc", "answers": {"text": ["z"], "answer_start": [0]}}),
    "offset a text": ({"kind": "question_answering"}, [], {"question": "q?", "context": "abc", "answers": {"text": ["a"], "answer_start": ["0"]}}),
    "no answer": ({"kind": "question_answering"}, [], {"question": "q?", "context": "abc", "answers": {"text": ["a"], "answer_start": []}}),
    "no context": ({"kind": "question_answering"}, [], {"question": "q?", "context": "", "answers": {"text": ["a"], "answer_start": [0]}}),
    "no target": ({"kind": "seq2seq"}, [], {"src": "a", "tgt": ""}),
    "target a list": ({"kind": "seq2seq"}, [], {"src": "a", "tgt": ["b"]}),
}  # fmt: skip
ARGUMENTS: tuple[tuple[str, ...], ...] = (
    ("check",), ("check", "nowhere.yaml"), ("train",), ("train", "nowhere.yaml"), ("train", "--resmue", "x.yaml"), ("nosuch",),
    ("sweep",), ("sweep", "nowhere.yaml"), ("sweep", "--resume", "nobody"), ("confirm", "nowhere"), ("confirm", "nowhere", "--seeds", "1"),
    ("confirm", "nowhere", "--seeds", "many"), ("predict",), ("predict", "nowhere", "a text"), ("predict", "nowhere", "--jsonl", "none.jsonl"),
    ("plan",), ("plan", "nowhere.yaml"), ("store", "nosuch"), ("mlflow",), ("mlflow", "sync", "nowhere"), ("teachers",),
    ("ui", "--port", "many"), ("label",), ("label", "nowhere.yaml"), ("doctor", "--adress", "auto"),
)  # fmt: skip


def cases(folder: Path) -> Iterator[Case]:
    """All bad rows, files, model folders and command lines."""
    yield from _data(folder)
    yield from _models(folder)
    for arguments in ARGUMENTS:
        yield Case("command line", " ".join(arguments), lambda a=arguments: command(a))  # type: ignore[misc]


def _read(folder: Path, name: str, file: Path, **changes: Any) -> Callable[[], object]:
    tree = changed(good_run(folder), "data.train.paths", [str(file)])
    for path, value in changes.items():
        tree = changed(tree, path.replace("__", "."), value)
    run = written(folder, name, tree)

    def act() -> None:
        config = load_run(run)
        load_data(config.data, folder, config.form)

    return act


def _data(folder: Path) -> Iterator[Case]:
    for number, (name, change) in enumerate(ROWS.items()):
        rows = good_rows()
        rows[5] |= change
        file = folder / f"row{number}.jsonl"
        write_rows(file, rows)
        labelled = {"data__validation__paths": [str(file)]} if "validation" in name else {}
        yield Case("row", name, _read(folder, f"row{number}", file, **labelled))
    for kind, files in (("jsonl", JSON_LINES), ("csv", CSV)):
        for number, (name, content) in enumerate(files.items()):
            file = folder / f"file{number}.{kind}"
            file.write_bytes(content)
            yield Case(f"{kind} file", name, _read(folder, f"{kind}{number}", file))
    (folder / "torn.parquet").write_bytes(b"PAR1 nothing")
    (folder / "folder.jsonl").mkdir()
    for name in ("torn.parquet", "folder.jsonl", "nowhere.jsonl", "rows.doc", "noending"):
        if name in ("rows.doc", "noending"):
            (folder / name).write_text("x", encoding="utf-8")
        yield Case("data file", name, _read(folder, f"data-{name}", folder / name))
    for number, (name, (task, labels, row)) in enumerate(TASK_ROWS.items()):
        file = folder / f"task{number}.jsonl"
        write_rows(file, [row | {"lang": "en"}] * 3)
        more = {"task": task, "data__labels": labels, "data__validation__paths": [str(file)], "teachers": []}
        if task["kind"] == "seq2seq":
            more["student"] = {"kind": "encoder_decoder"}
        more["objective"] = {"alpha": 1.0}
        yield Case("row of a task", name, _read(folder, f"task{number}", file, **more))


def _models(folder: Path) -> Iterator[Case]:
    """Model folders that must not or cannot be loaded, each a good one that is spoilt."""
    from raykd import models

    good = folder / "model"
    _save(good)
    evil = 'raise SystemExit("code of a model was run")'

    def spoil(name: str, change: Callable[[Path], object]) -> Case:
        spoilt = folder / f"model-{name.replace(' ', '-')}"
        shutil.copytree(good, spoilt)
        change(spoilt)
        return Case("model folder", name, lambda: models.load_model(spoilt))

    def config(**values: Any) -> Callable[[Path], object]:
        def change(spoilt: Path) -> None:
            tree = json.loads((spoilt / "config.json").read_text(encoding="utf-8")) | values
            (spoilt / "config.json").write_text(json.dumps(tree), encoding="utf-8")
            (spoilt / "evil.py").write_text(evil, encoding="utf-8")

        return change

    def cut(name: str, keep: float) -> Callable[[Path], object]:
        def change(spoilt: Path) -> None:
            content = (spoilt / name).read_bytes()
            (spoilt / name).write_bytes(content[: int(len(content) * keep)])

        return change

    def without(name: str) -> Callable[[Path], object]:
        return lambda spoilt: (spoilt / name).unlink()

    weights = "model.safetensors"
    yield spoil("pickled weights", lambda p: (p / weights).rename(p / "pytorch_model.bin"))
    yield spoil("auto_map", config(auto_map={"AutoConfig": "evil.Evil"}))
    yield spoil("nested auto_map", config(sub={"deep": [{"auto_map": {"AutoModel": "evil.Evil"}}]}))
    yield spoil("kernel of the hub", config(attn_implementation="stranger/kernel"))
    yield spoil("unknown type", config(model_type="evil"))
    yield spoil("type of pictures", config(model_type="vit"))
    yield spoil("nested unknown type", config(encoder={"model_type": "lightglue"}))
    yield spoil("type a number", config(model_type=3))
    yield spoil("labels that skip", config(id2label={"0": "a", "2": "b"}))
    yield spoil("labels a list", config(id2label=["a", "b"]))
    yield spoil("too many labels", config(id2label={str(i): str(i) for i in range(9)}))
    yield spoil("no config", without("config.json"))
    yield spoil("no weights", without(weights))
    yield spoil(
        "no tokenizer",
        lambda p: [f.unlink() for f in p.glob("*token*")] + [f.unlink() for f in p.glob("vocab*")],
    )
    yield spoil("torn config", cut("config.json", 0.5))
    yield spoil("empty config", cut("config.json", 0.0))
    yield spoil("deep config", lambda p: (p / "config.json").write_text('{"a":' * 5000, encoding="utf-8"))
    yield spoil("torn weights", cut(weights, 0.5))
    yield spoil("empty weights", cut(weights, 0.0))
    yield spoil("header only", cut(weights, 0.01))
    yield spoil("torn tokenizer", cut("tokenizer.json", 0.5))
    yield spoil("adapter", lambda p: (p / "adapter_config.json").write_text("{}", encoding="utf-8"))
    yield spoil("index to nowhere", lambda p: ((p / weights).unlink(), (p / f"{weights}.index.json").write_text('{"weight_map": {"a": "../../evil.safetensors"}}', encoding="utf-8")))  # fmt: skip
    yield spoil("card a list", lambda p: (p / "raykd.json").write_text("[]", encoding="utf-8"))
    yield spoil("other shapes", config(hidden_size=12, intermediate_size=7))
    for name in ("nowhere", "/nowhere/at/all", "x" * 300, "a\0b", "../../..", ""):
        yield Case("model folder", repr(name[:12]), lambda name=name: models.load_model(name))  # type: ignore[misc]


def _save(directory: Path) -> None:
    from raykd import models

    spec = models.TransformerStudent(layers=1, hidden=16, heads=2, vocab_size=200, max_positions=64)
    tokenizer = spec.fit_tokenizer([row["text"] for row in good_rows(60)])
    labels = ("negative", "positive")
    models.save_model(
        models.TextModel(spec.build(tokenizer, labels, 0), tokenizer, labels, max_length=64), directory
    )


class AnsweredError(RaykdError):
    """What the command line said and how it ended."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.exit_code = code


def command(arguments: tuple[str, ...]) -> None:
    """The command line in this process.

    Raises:
        AnsweredError: it said something and ended with another code than 0.
    """
    from raykd.cli import main

    app = sys.modules["raykd.cli.app"]  # the package's attribute of this name is the application in it
    said = io.StringIO()
    with (
        patch.object(sys, "argv", ["raykd", *arguments]),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        before, app.console.file, app.errors.file = (app.console.file, app.errors.file), said, said
        try:
            main()
        except SystemExit as ended:
            if ended.code:
                raise AnsweredError(int(ended.code), said.getvalue()) from None
        finally:
            app.console.file, app.errors.file = before
