"""Bytes a token of each form: of the bodies that a teacher sends, and of the file in which its store keeps them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.payload_parts.setting import FEWER_DRAWS, GOAL_BYTES, Form, Setting, top
from raykd.answers.answer import HiddenAnswer
from raykd.answers.codec import decode_answers
from raykd.teachers.teacher import Teacher

ROWS = 256
"""Rows that the teacher answers for a size."""
ALONE = {"temperatures": (1.0,)}


@dataclass(frozen=True)
class Size:
    """Bytes a token: on the wire, and in the store's file (None where nothing is stored)."""

    name: str
    wire: float
    stored: float | None


def sizes(setting: Setting) -> tuple[list[Size], int]:
    """All forms, and the most draws that stay below `GOAL_BYTES` on the wire."""
    found = [*_dense(setting)]
    for k in (8, 16, 64):
        found.append(_size(setting, f"top-{k}, 5 temperatures", top(k)))
        found.append(_size(setting, f"top-{k}, 1 temperature", top(k) | ALONE))
    found.append(_size(setting, "hidden state", {"kind": "hidden"}))
    for draws in FEWER_DRAWS:
        size = _size(setting, f"sampled, {draws} draws", {"kind": "sampled", "draws": draws})
        if draws == FEWER_DRAWS[0] or size.wire <= GOAL_BYTES:
            found.append(size)
        if size.wire <= GOAL_BYTES:
            break
    return found, draws


def _dense(setting: Setting) -> list[Size]:
    """What nobody sends: float16 of every logit, as an array of one row's, and by arithmetic."""
    config = setting.config("student", Form("", {"kind": "hidden"}))
    teacher = Teacher(setting.spec(config, None))
    payload, _ = decode_answers(teacher.answer(setting.rows().train.take(range(1))).bodies)
    assert isinstance(payload, HiddenAnswer)
    head = teacher.vocabulary().weight_VD
    assert head is not None
    logits_NV = (payload.states_NH.astype(np.float32) @ head.T).astype(np.float16)
    vocab = len(setting.tokenizer())
    return [
        Size("dense float16, arithmetic", 2.0 * vocab, None),
        Size("dense float16, an array", logits_NV.nbytes / len(payload), None),
    ]


def _size(setting: Setting, name: str, answers: Mapping[str, Any]) -> Size:
    config = setting.config("student", Form("", answers))
    rows = setting.rows().train
    batch = rows.take(range(min(ROWS, len(rows))))
    with tempfile.TemporaryDirectory() as folder:
        teacher = Teacher(setting.spec(config, Path(folder)))
        bodies = teacher.answer(batch).bodies
        teacher.close()
        _, units_B = decode_answers(bodies)
        files = [path.stat() for path in Path(folder).rglob("answers.sqlite")]
        # The file is as long as what is used of it, or sparse; either way these are the bytes of the disk.
        stored = sum(min(file.st_size, 512 * file.st_blocks) for file in files)
    tokens = int(units_B.sum())
    return Size(name, sum(len(body) for body in bodies if body is not None) / tokens, stored / tokens)
