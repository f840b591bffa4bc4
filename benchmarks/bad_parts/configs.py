"""Bad run files: syntax, keys, values, combinations, overrides, search spaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.bad_parts.setting import Case, Tree, changed, good_run, written
from raykd.config.loading import load_any_run

SYNTAX = {
    "not closed": "a: [1, 2",
    "tab": "a:\n\t- b",
    "two documents": "a: 1\n---\nb: 2",
    "alias bomb": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
    "key twice": "name: a\nname: b",
    "python object": "name: !!python/object/apply:os.system ['true']",
    "unknown tag": "name: !evil x",
    "a list": "- a\n- b",
    "a text": "hello",
    "empty": "",
    "comment only": "# nothing",
    "deep": "[" * 500,
    "deep mappings": "{a: " * 200,
    "month 13": "name: 2020-13-01",
    "a date": "name: 2020-01-02",
    "empty int": "seed: !!int ''",
    "long int": "seed: " + "9" * 5000,
    "list as key": "? [a]\n: b",
    "NUL": 'name: "a\\0b"',
    "half a pair": 'name: "\\ud800"',
    "control sign": "name: a\x07b",
    "bytes": "name: !!binary aGk=",
    "set": "name: !!set {a, b}",
    "too many values": "labels: [" + "1," * 60_000 + "]",
    "too large": "name: " + "x" * 1_100_000,
    "directive": "%YAML 9.9\n---\nname: a",
    "no mapping value": "name: a: b",
    "quote": "name: 'abc",
}
SECTIONS = ("", "task", "data", "data.train", "student", "teachers.0", "teachers.0.training", "objective",
            "objective.terms.0", "train", "workers", "serving", "ray", "tracking")  # fmt: skip
TYPOS = ("kidn", "bacth_size", "NAME", "x", "learning-rate")
NUMBERS = ("seed", "train.batch_size", "train.steps", "train.learning_rate", "train.evaluations",
           "train.weight_decay", "student.layers", "student.hidden", "task.max_length", "workers.num_workers",
           "workers.num_cpus", "serving.prefetch", "serving.timeout_s", "serving.store_limit_gb",
           "objective.temperature", "ray.num_cpus", "data.max_bad_rows")  # fmt: skip
NO_NUMBERS: tuple[Any, ...] = ("many", True, [1, 2], {"a": 1}, -7)
NO_NAMES = ("../evil", "/abs", "", " ", "a/b", "a\nb", ".hidden", "x" * 101, "a b", "ä", "a\n", "~root")
COMBINATIONS: dict[str, Any] = {
    "teacher with two origins": ("teachers.0.path", "models/x"),
    "teacher without origin": ("teachers.0.training", None),
    "same name twice": ("teachers", [{"name": "a", "languages": ["en"], "path": "x"}] * 2),
    "no teachers": ("teachers", []),
    "selects nobody": ("select_teachers", []),
    "selects a stranger": ("select_teachers", ["who"]),
    "epochs and steps": ("train.epochs", 3),
    "one label": ("data.labels", ["only"]),
    "label twice": ("data.labels", ["a", "a"]),
    "no labels": ("data.labels", []),
    "no languages": ("data.languages", []),
    "selects another language": ("data.select_languages", ["zh"]),
    "teacher of no known language": ("teachers.0.languages", ["xx"]),
    "hidden not a multiple": ("student.heads", 3),
    "accumulation beyond the batch": ("train.gradient_accumulation", 64),
    "unknown metric": ("train.metric", "f7"),
    "metric of another task": ("train.metric", "perplexity"),
    "linear on tokens": ("student", {"kind": "linear", "layers": 2}),
    "unknown student": ("student", {"kind": "magic"}),
    "student without kind": ("student", {"layers": 2}),
    "unknown task": ("task", {"kind": "telepathy"}),
    "unknown divergence": ("objective.terms.0.divergence.kind", "friendship"),
    "no terms": ("objective.terms", []),
    "unknown schedule": ("objective.alpha", {"kind": "wavy"}),
    "alpha above 1": ("objective.alpha", 1.5),
    "negative temperature": ("objective.temperature", -1.0),
    "phases out of order": ("phases", [{"at": 0.5, "set": {"objective": {"alpha": 0.1}}}] * 2),
    "phase of the data": ("phases", [{"at": 0.5, "set": {"data": {}}}]),
    "file that is not there": ("train.deepspeed", "nowhere.json"),
    "credentials in a URI": ("tracking.uri", "http://user:secret@host:5000"),
    "credentials in a data set": ("data.test", {"kind": "hub", "name": "https://u:p@host/x"}),
    "token in DeepSpeed": ("train.deepspeed", {"wandb": {"api_key": "abc123"}}),
    "path of NUL": ("output", "a\0b"),
    "path too long": ("output", "x" * 300),
    "path of half a pair": ("output", "\ud800"),
    "empty output": ("output", ""),
    "teacher path too long": ("teachers.0", {"name": "en", "languages": ["en"], "path": "x" * 5000}),
    "home of nobody": ("teachers.0", {"name": "en", "languages": ["en"], "path": "~nobody-here/x"}),
    "paths no list": ("data.train.paths", "train.jsonl"),
    "paths empty": ("data.train.paths", []),
    "paths of lists": ("data.train.paths", [[1], [2]]),
    "unknown source": ("data.train.kind", "telepathy"),
    "task that is a text": ("task", "classification"),
    "teachers no list": ("teachers", {"name": "en"}),
    "teacher that is a text": ("teachers", ["en"]),
    "everything null": ("data", None),
}  # fmt: skip
OVERRIDES = ("noequals", "=3", "a..b=1", "train.steps=many", "train.stepz=3", "teachers.9.name=x", "teachers.²=x",
             "teachers.de.path=x", "name=../evil", "train.steps=[1", "." * 60 + "=1", "train=3", "data.labels=[a, a]",
             "seed=!!python/name:os.system", "train.steps=\0", "teachers." + "9" * 5000 + ".name=x")  # fmt: skip
SPACES: dict[str, Any] = {
    "no space": None,
    "no domain": {"objective": {"alpha": 0.5}},
    "unknown domain": {"objective": {"alpha": {"gaussian": [0, 1]}}},
    "upside down": {"objective": {"alpha": {"uniform": [0.9, 0.1]}}},
    "one end": {"objective": {"alpha": {"uniform": [0.1]}}},
    "three ends": {"objective": {"alpha": {"uniform": [0.1, 0.2, 0.3]}}},
    "texts as ends": {"objective": {"alpha": {"uniform": ["a", "b"]}}},
    "log of zero": {"train": {"learning_rate": {"log_uniform": [0, 1]}}},
    "empty choice": {"objective": {"alpha": {"choice": []}}},
    "choice of no list": {"objective": {"alpha": {"choice": 3}}},
    "out of range": {"objective": {"alpha": {"uniform": [0.5, 3.0]}}},
    "unknown key": {"objective": {"alhpa": {"uniform": [0.1, 0.9]}}},
    "searches the name": {"name": {"choice": ["a", "b"]}},
    "searches teachers": {"teachers": {"choice": [[], []]}},
    "searches workers": {"workers": {"num_workers": {"choice": [1, 2]}}},
    "searches rows ahead": {"data": {"labelled_per_language": {"choice": [1, 2]}}},
    "grid without grid search": {"objective": {"alpha": {"grid": [0.1, 0.2]}}},
    "space is a list": [1, 2],
    "space is a text": "alpha",
    "two domains in one": {"objective": {"alpha": {"uniform": [0, 1], "choice": [1]}}},
}


def cases(folder: Path) -> Iterator[Case]:
    """All bad run files."""
    good = good_run(folder)
    number = 0

    def loads(tree: Tree | str, *overrides: str) -> Any:
        nonlocal number
        number += 1
        path = written(folder, f"run{number}", tree)
        return lambda: load_any_run(path, overrides)

    for name, text in SYNTAX.items():
        yield Case("YAML syntax", name, loads(text))
    for section in SECTIONS:
        for typo in TYPOS:
            path = f"{section}.{typo}".lstrip(".")
            yield Case("unknown key", path, loads(changed(good, path, 1)))
    for path in NUMBERS:
        for value in NO_NUMBERS:
            yield Case("value", f"{path}: {value!r}", loads(changed(good, path, value)))
    for name in NO_NAMES:
        yield Case("name", repr(name[:12]), loads(changed(good, "name", name)))
        yield Case("name", f"teacher {name[:12]!r}", loads(changed(good, "teachers.0.name", name)))
    for name, (path, value) in COMBINATIONS.items():
        yield Case("combination", name, loads(changed(good, path, value)))
    for override in OVERRIDES:
        yield Case("override", override[:20], loads(good, override))
    yield from _files(folder)
    yield from _spaces(folder, good)


def _files(folder: Path) -> Iterator[Case]:
    loop = folder / "loop.yaml"
    loop.symlink_to(loop)
    (folder / "folder.yaml").mkdir()
    (folder / "latin.yaml").write_bytes("name: café".encode("latin-1"))
    (folder / "binary.yaml").write_bytes(bytes(range(256)))
    names = (
        "nowhere.yaml",
        "loop.yaml",
        "folder.yaml",
        "latin.yaml",
        "binary.yaml",
        "a\0b",
        "x" * 300,
        "train.jsonl",
    )
    for name in names:
        yield Case("run file", repr(name[:20]), lambda name=name: load_any_run(folder / name))  # type: ignore[misc]
    for name, text in {"torn": "{", "list": "[1]", "deep": "[" * 5000, "empty": "", "text": "x"}.items():
        (folder / f"ds-{name}.json").write_text(text, encoding="utf-8")
        tree = changed(good_run(folder), "train.deepspeed", f"ds-{name}.json")
        path = written(folder, f"ds-{name}", tree)
        yield Case("DeepSpeed file", name, lambda path=path: load_any_run(path))  # type: ignore[misc]


def _spaces(folder: Path, good: Tree) -> Iterator[Case]:
    from raykd.tuning.config import load_sweep

    base = {"name": "bad", "base": good, "num_samples": 4}
    ok: Tree = {"objective": {"alpha": {"uniform": [0.1, 0.9]}}}
    wrong = {"search": {"kind": "guess"}, "scheduler": {"kind": "never"}, "base": "no-such-preset", "mode": "min",
             "metric": "f7", "num_samples": 0, "set": {"trian": {}}, "nonsense": 1, "label": "sometimes"}  # fmt: skip
    trees = {name: base | ({} if space is None else {"space": space}) for name, space in SPACES.items()}
    trees |= {f"{key}: {value}": base | {"space": ok, key: value} for key, value in wrong.items()}
    for number, (name, tree) in enumerate(trees.items()):
        path = written(folder, f"space{number}", tree)
        yield Case("search space", name, lambda path=path: load_sweep(path))  # type: ignore[misc]
