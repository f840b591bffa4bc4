"""Rows as people have them: other delimiters, encodings, wrappings, and labels of other types."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.habits.neighbour import LABELS, Neighbour, classification_rows, neighbour, write_run

ROWS = classification_rows(12)


def _table(delimiter: str = ",", quoting: int = csv.QUOTE_MINIMAL, ending: str = "\n") -> str:
    """The rows with a header, each cell quoted where the dialect asks for it."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=ending)  # type: ignore[arg-type]
    writer.writerow(["text", "label"])
    writer.writerows([row["text"], row["label"]] for row in ROWS)
    return out.getvalue()


def _make(name: str, write: Callable[[Path], object], folder: Path, **data: Any) -> None:
    """A run whose training rows are one file."""
    write(folder / name)
    train = {"kind": "files", "paths": [name], "language": "en"}
    write_run(folder, rows=(), data={"train": train, **data})


def _read(name: str, write: Callable[[Path], object], labelled: int, *refused: str, **data: Any) -> Neighbour:
    """All rows are counted, or the file is refused by the patterns' words."""
    step: dict[str, Any] = {"run": "raykd check run.yaml", "served": {"prints": [rf"\b{labelled} labelled"]}}
    if refused:
        step["refused"] = {"prints": list(refused), "lacks": ["never closed", "cut off"]}
    return neighbour(partial(_make, name, write, **data), f"{labelled} rows", step)


def _refused(name: str, write: Callable[[Path], object], *patterns: str, **data: Any) -> Neighbour:
    step = {"run": "raykd check run.yaml", "refused": {"prints": list(patterns)}}
    return neighbour(partial(_make, name, write, **data), "refused", step)


def _text(text: str, encoding: str = "utf-8") -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text.encode(encoding))


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _gzipped(path: Path) -> None:
    path.write_bytes(gzip.compress(_lines(ROWS).encode()))


def _packed(path: Path) -> None:
    import pyarrow as pa

    with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as out:
        out.write(_lines(ROWS).encode())


def _two_parts(folder: Path) -> None:
    for part, rows in (("a", ROWS[:5]), ("b", ROWS[5:])):
        (folder / f"part-{part}.jsonl").write_text(_lines(rows), encoding="utf-8")
    train = {"kind": "files", "paths": ["part-*.jsonl"], "language": "en"}
    write_run(folder, rows=(), data={"train": train})


def _float_labels(path: Path) -> None:
    import pandas as pd

    pd.DataFrame({"text": [r["text"] for r in ROWS], "label": [1.0, 0.0, None] * 4}).to_parquet(path)


def _class_labels(label_of_last: int, path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(LABELS))}
    )
    labels = [LABELS.index(row["label"]) for row in ROWS]
    rows = {"text": [row["text"] for row in ROWS], "label": [*labels[:-1], label_of_last]}
    whole = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": whole, "validation": whole}).save_to_disk(path)


def _saved(split: str, label_of_last: int, folder: Path) -> None:
    """A saved DatasetDict, read by its folder."""
    _class_labels(label_of_last, folder / "set")
    hub = {"kind": "hub", "name": "set", "split": split, "language": "en"}
    write_run(folder, rows=(), data={"train": hub})


def _check(*prints: str, refused: tuple[str, ...] = ()) -> dict[str, Any]:
    step: dict[str, Any] = {"run": "raykd check run.yaml"}
    if prints:
        step["served"] = {"prints": list(prints)}
    if refused:
        step["refused"] = {"prints": list(refused)}
    return step


TWICE = "".join(
    f'{{"text": "first", "text": {json.dumps(r["text"])}, "label": "{r["label"]}"}}\n' for r in ROWS
)
QUOTES = "text\tlabel\n" + "".join(
    f"{q}good room {i}{r}\t{LABELS[i % 2]}\n"
    for i, (q, r) in enumerate([('"', ""), ("", ""), ("", '"'), ("", ' "so"'), ('"', '"'), ("", "")])
)
MISSING = "text,label\n" + "".join(
    f"good room {i},{'' if i % 3 == 0 else LABELS[i % 2]}\n" for i in range(12)
)
NUL = _lines([{**ROWS[0], "text": "good \0 room"}, *ROWS[1:]])

FILES: dict[str, Neighbour] = {
    "semicolons after a mark": _read("train.csv", _text(_table(";"), "utf-8-sig"), 12, "delimiter", ";"),
    "a line that names the delimiter": _read("train.csv", _text("sep=;\n" + _table(";")), 12, "delimiter", ";"),
    "tabs in a file named csv": _read("train.csv", _text(_table("\t")), 12, "delimiter", "tab"),
    "bars": _read("train.csv", _text(_table("|")), 12, "delimiter"),
    "every cell quoted": _read("train.csv", _text(_table(quoting=csv.QUOTE_ALL)), 12),
    "lines of Windows": _read("train.csv", _text(_table(ending="\r\n")), 12),
    "lines of old programs": _read("train.csv", _text(_table(ending="\r")), 12, r"\bCR\b"),
    "TSV with bare quotes": _read("train.tsv", _text(QUOTES), 6),
    "UTF-16 of either end": _read("train.csv", _text("\ufeff" + _table(), "utf-16-be"), 12, "utf-?16", "iconv -f utf-?16"),
    "UTF-16 without a mark": _read("train.csv", _text(_table(), "utf-16-le"), 12, "utf-?16|NUL|encod"),
    "JSON lines after a mark": _read("train.jsonl", _text(_lines(ROWS), "utf-8-sig"), 12),
    "gzipped JSON lines": _read("train.jsonl.gz", _gzipped, 12),
    "JSON lines packed by zstd": _read("train.jsonl.zst", _packed, 12),
    "files by a pattern": neighbour(_two_parts, "both files", _check(r"\b12 labelled")),
    "a key twice in a row": _refused("train.jsonl", _text(TWICE), "twice|duplicate|repeat|2 times", "text"),
    "a NUL in a text": _read("train.jsonl", _text(NUL), 12, "NUL|null character|zero byte|control|U\\+0000"),
    "labels that became floats": _read(
        "train.parquet", _float_labels, 8, "label", "null|unlabel|empty",
        labels=["0", "1"], validation={"kind": "files", "paths": ["train.parquet"], "language": "en"},
    ),
    "labels that are numbers in the run": _read(
        "train.jsonl", _text(_lines([{"text": r["text"], "label": LABELS.index(r["label"])} for r in ROWS])), 12,
        "label", "quote|text|string", labels=[0, 1], validation={"kind": "files", "paths": ["train.jsonl"], "language": "en"},
    ),
    "labels that are missing in some rows": _read("train.csv", _text(MISSING), 8, "label", "null|unlabel|empty"),
    "a saved DatasetDict": neighbour(
        partial(_saved, "train", 1), "read by names", _check(r"\b12 labelled", refused=("split|DatasetDict",))
    ),
    "half of a saved split": neighbour(
        partial(_saved, "train[:50%]", 1), "half of the rows", _check(r"\b6 labelled", refused=("split",))
    ),
    "a saved set with a label of -1": neighbour(
        partial(_saved, "train", -1), "said", _check(r"\b11 labelled", refused=("-1", "no gold|unlabel"))
    ),
    "texts of signs that are not seen": _refused(
        "train.jsonl", _text(_lines([{**ROWS[0], "text": "\u200b\u2060"}, *ROWS[1:]])), r"train\.jsonl", "blank|empty|no |zero|invisible|nothing"
    ),
}  # fmt: skip
