"""`raykd predict`: label and probabilities of texts from a saved model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from raykd import models
from raykd.distill.signals import UNLABELLED, TextBatch
from raykd.errors import DataError
from raykd.tasks import Classification
from raykd.tasks.metrics import log_softmax
from raykd.teachers.teacher import Teacher, TeacherSpec

BATCH = 256


def read_texts(
    texts: Sequence[str] | None, jsonl: Path | None, column: str, pair: str | None, stdin: TextIO
) -> tuple[list[str], list[str] | None]:
    """Texts (and second texts) from arguments, JSON lines, or the lines of standard input.

    Raises:
        DataError: nothing to read, or a JSON line without the key; names file and line.
    """
    if texts:
        return list(texts), None
    if jsonl is None:
        if stdin is sys.stdin and sys.stdin.isatty():
            raise DataError(
                "no text to classify", wanted="texts as arguments, on standard input, or --jsonl FILE"
            )
        return [line.rstrip("\n") for line in stdin if line.strip()], None
    name = "standard input" if str(jsonl) == "-" else str(jsonl)
    try:
        lines = stdin.readlines() if str(jsonl) == "-" else jsonl.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {name}", got=str(error), wanted="a UTF-8 file of JSON lines") from None
    rows = [
        _json_row(line, f"{name}:{number}", [column, *([pair] if pair else [])])
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    return [row[column] for row in rows], [row[pair] for row in rows] if pair else None


def _json_row(line: str, where: str, wanted: Sequence[str]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON", got=str(error), wanted="one JSON object a line") from None
    for key in wanted:
        if not isinstance(row, dict) or not isinstance(row.get(key), str):
            raise DataError(
                f"{where} has no text {key!r}",
                got=f"keys {sorted(row)}" if isinstance(row, dict) else type(row).__name__,
                wanted=f"a string under {key!r}",
                next_step="name the key with --column or --pair",
            )
    return dict(row)


def predict_texts(
    directory: Path, texts: Sequence[str], pairs: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """For each text ``{text, label, probabilities}``, in order.

    Raises:
        ModelError: the directory holds no model that can be loaded.
    """
    labels = models.read_labels(directory)
    teacher = Teacher(TeacherSpec("student", str(directory), labels, Classification(), dtype="float32"))
    for begin in range(0, len(texts), BATCH):
        part = list(texts[begin : begin + BATCH])
        batch = TextBatch(
            ids=tuple(f"text {begin + i + 1}" for i in range(len(part))),
            texts=tuple(part),
            languages=("",) * len(part),
            labels_B=np.full(len(part), UNLABELLED, dtype=np.int64),
            pairs=None if pairs is None else tuple(pairs[begin : begin + BATCH]),
        )
        probabilities_NC = np.exp(log_softmax(teacher.answer(batch).logits_NC))
        for text, p_C in zip(part, probabilities_NC, strict=True):
            yield {
                "text": text,
                "label": labels[int(p_C.argmax())],
                "probabilities": {label: round(float(p), 6) for label, p in zip(labels, p_C, strict=True)},
            }
