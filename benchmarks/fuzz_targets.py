"""What is fuzzed: each reader of bytes, inputs that it knows, and what it may raise."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raykd.answers import codec
from raykd.answers.answer import Answer, DenseAnswer, HiddenAnswer, SampledAnswer, TopKAnswer
from raykd.answers.layout import read_unit_logits
from raykd.answers.source import AnswerSlots
from raykd.checkpoint.curves import Curves
from raykd.checkpoint.manifest import CheckpointInfo, describe_files, find_problem, write_manifest
from raykd.checkpoint.storage import StorageFolder
from raykd.distill.signals import UNLABELLED
from raykd.errors import RaykdError
from raykd.parse import parse_json, parse_yaml
from raykd.teachers.store import values
from raykd.teachers.wire import GroupRequest
from raykd.text.batch import TextBatch
from raykd.tracking.delivery.outbox import read_spool_lines
from raykd.tuning.journal import Journal

KEY = bytes(range(32))


@dataclass(frozen=True)
class Target:
    """A reader. files: ends of the names of the files whose lines count. may_raise: what it says that it raises."""

    name: str
    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    files: tuple[str, ...]
    may_raise: tuple[type[Exception], ...] = ()


def payloads() -> list[Answer]:
    """An answer of each form, small, with and without what is optional."""
    rng = np.random.default_rng(0)
    covered = np.asarray([True, False, True])
    common = {"covered_N": covered, "offsets_N": np.asarray([0, 3, 900]), "entropy_N": np.ones(3, np.float32)}
    ids = rng.permuted(np.tile(np.arange(90_000, dtype=np.int32)[:4], (3, 1)), axis=1)
    lse = np.ones((3, 2), np.float32)
    half = rng.normal(size=(3, 4)).astype(np.float16)
    counts = np.asarray([[3, 1, 1, 0], [0, 0, 0, 0], [5, 0, 0, 0]], np.uint8)
    return [
        DenseAnswer(logits_NC=rng.normal(size=(3, 2)).astype(np.float32), covered_N=covered),
        DenseAnswer(logits_NC=rng.normal(size=(1, 3)).astype(np.float32), covered_N=covered[:1]),
        TopKAnswer(ids_NK=ids, logits_NK=half, lse_NG=lse, temperatures=(1.0, 2.0), vocab=90_000, **common),
        SampledAnswer(
            ids_NJ=ids, counts_NJ=counts, draws=5, temperature=1.0, vocab=200_000, covered_N=covered
        ),
        HiddenAnswer(states_NH=half, **common),
    ]


def _bodies(data: bytes) -> object:
    """Two bodies, cut where the first byte says, together and one beside a row without an answer."""
    cut = int.from_bytes(data[:2], "little")
    rows = [data[2 : 2 + cut], data[2 + cut :]]
    payload, units_B = codec.decode_answers([row or None for row in rows])
    assert payload is None or len(payload) == int(units_B.sum())
    return payload


def _laid_out(data: bytes) -> object:
    count = data[0] if data else 0
    slots = AnswerSlots("t", [data[1:]])
    logits_NC, covered_N = read_unit_logits(slots, np.asarray([count]), 4)
    assert logits_NC.shape == (count, 4) and covered_N.shape == (count,)
    return logits_NC


def _value(data: bytes) -> object:
    body = values.decode_value(KEY, data)
    assert body is None or values.encode_value(KEY, body) == data
    return body


def _asked(data: bytes) -> object:
    """A request whose mask is these bytes, rebuilt as a teacher's process does."""
    rows = data[0] if data else 0
    texts = ("a",) * rows
    batch = TextBatch(texts, texts, ("en",) * rows, np.full(rows, UNLABELLED, np.int64))
    rebuild, parts = GroupRequest(batch, np.ones((1, rows), bool)).__reduce__()[:2]
    mask = next(at for at, part in enumerate(parts) if isinstance(part, bytes))
    return rebuild(*(data[1:] if at == mask else part for at, part in enumerate(parts)))


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    folder = Path(tempfile.mkdtemp(prefix="raykd-fuzz-"))

    def act(data: bytes) -> object:
        path = folder / name
        path.write_bytes(data)
        return read(path)

    return act


def _text(read: Callable[[str, str], object]) -> Callable[[bytes], object]:
    return lambda data: read(data.decode("utf-8", "surrogateescape"), "fuzz")


def _manifest() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        place = StorageFolder(folder)
        write_manifest(place, describe_files(place, CheckpointInfo("student", "f" * 64, 1, 7)))
        return (Path(folder) / "manifest-0.json").read_bytes()


def targets() -> list[Target]:
    """All of them."""
    bodies = [codec.encode_answer(payload) for payload in payloads()]
    pairs = tuple(len(b).to_bytes(2, "little") + b + b for b in bodies)
    mixed = len(bodies[0]).to_bytes(2, "little") + bodies[0] + bodies[1]
    lines = [
        {"event": "begin", "name": "t1", "index": 0, "sample": {"a": 1}, "tune_id": "x"},
        {"event": "result", "name": "t1", "evaluation": 1, "trained_steps": 3, "total_steps": 9, "score": 0.5,
         "nll": None, "objective": 0.5, "trained_s": 1.0, "segments": [[0, {}]], "history": [[1, 3, 0.5, 0.4]]},
        {"event": "end", "name": "t1", "status": "finished", "error": None}, {"event": "labelling", "asked": 3, "stored": 1},
        {"event": "labelled", "forwarded": 2}, {"event": "counters", "teachers": {"en": {"rows": 3}}},
    ]  # fmt: skip
    journal = "".join(json.dumps(line) + "\n" for line in lines).encode()
    point = {"job": "student", "run_id": "r", "step": 1, "time_ms": 5, "values": {"loss": 0.5, "x": "nan"}}
    points = (json.dumps(point) + "\n").encode() * 2
    manifest = _manifest()
    text = b"name: a\nlist: [1, 2.5e-3, null, true]\nmap: {a: {b: 'c'}}\ntext: |\n  x\n"
    spool = ("tracking/delivery/outbox.py", "tracking/delivery/files.py", "parse/json_lines.py")
    return [
        Target(
            "bodies of answers",
            _bodies,
            (*pairs, mixed),
            ("codec.py", "sections.py", "answer.py"),
            (ValueError,),
        ),
        Target(
            "answers laid out",
            _laid_out,
            tuple(b"\3" + b for b in bodies),
            ("layout.py", "codec.py"),
            (ValueError,),
        ),
        Target(
            "values of the store",
            _value,
            tuple(values.encode_value(KEY, b) for b in bodies),
            ("store/values.py",),
        ),
        Target("request of a group", _asked, (b"\3\1\0\1",), ("wire.py", "batch.py"), (ValueError,)),
        Target(
            "journal of a sweep",
            _file("trials.jsonl", Journal),
            (journal,),
            ("tuning/journal.py", "parse/json_lines.py"),
        ),
        Target(
            "curves",
            _file("curves.jsonl", Curves),
            (points,),
            ("checkpoint/curves.py", "parse/json_lines.py"),
        ),
        Target("spool", _file("spool.jsonl", lambda p: list(read_spool_lines(p))), (points,), spool),
        Target(
            "manifest",
            _file("manifest-0.json", lambda p: find_problem(StorageFolder(str(p.parent)))),
            (manifest,),
            ("checkpoint/manifest.py",),
        ),
        Target(
            "YAML", _text(parse_yaml), (text,), ("parse/bounded.py", "scanner.py", "parser.py"), (RaykdError,)
        ),
        Target("JSON", _text(parse_json), (manifest, points), ("parse/bounded.py",), (RaykdError,)),
    ]
