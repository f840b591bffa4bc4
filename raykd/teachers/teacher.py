"""A teacher: a frozen model with its own tokenizer. Knows no Ray.

Decision record: the teacher encodes for itself, sorts the rows it is asked for by length and cuts them into
forward passes of at most `max_tokens` padded tokens, because a forward costs in proportion to the padded
length. It answers with raw logits at temperature 1 whose columns are the run's labels, mapped by *name* at load:
a permuted label list shows in no loss curve. Weights are loaded on the first row that the store does not hold.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from raykd import models
from raykd.distill.signals import TeacherSignal, TextBatch
from raykd.errors import LabelMismatchError, NonFiniteError
from raykd.tasks import Task
from raykd.teachers.precision import Precision, choose
from raykd.teachers.store import SignalStore, text_key


@dataclass(frozen=True)
class TeacherSpec:
    """What a process needs to become a teacher. Written by `runs`, read by `Teacher`.

    path: local directory or hub name. labels: the run's. label_map: the teacher's label names to the run's.
    languages: None is any. dtype: auto, float32 or bfloat16. store: folder of stores, None keeps nothing.
    """

    name: str
    path: str
    labels: tuple[str, ...]
    task: Task
    languages: frozenset[str] | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    label_map: dict[str, str] = field(default_factory=dict)
    max_length: int | None = None
    dtype: str = "auto"
    max_tokens: int = 8192
    device: str = "cpu"
    store: str | None = None


@dataclass(frozen=True)
class TeacherInfo:
    """What a teacher says of itself once loaded. Read by tracking and the report."""

    name: str
    fingerprint: str
    parameters: int
    dtype: str
    dtype_reason: str
    device: str
    max_length: int


def label_columns(
    own: Sequence[str], wanted: Sequence[str], label_map: dict[str, str], name: str
) -> list[int]:
    """For each of the run's labels the teacher's column.

    Raises:
        LabelMismatchError: a label of one list has no counterpart in the other; names both lists.
    """
    renamed = [label_map.get(label, label) for label in own]
    if sorted(renamed) != sorted(wanted):
        raise LabelMismatchError(
            f"teacher {name} has other labels than the run",
            got=f"{list(own)}" + (f", mapped to {renamed}" if label_map else ""),
            wanted=f"{list(wanted)} in any order",
            next_step=f"map the names: teachers.{name}.label_map: {{its label: the run's label}}",
        )
    return [renamed.index(label) for label in wanted]


class Teacher:
    """A frozen model that answers batches of text.

    Args:
        spec: what to load and how to answer.
    Raises:
        ModelError: the directory cannot be loaded or must not be; LabelMismatchError: other labels.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self._model: models.TextModel | None = None
        self._columns: list[int] = []
        self._precision = Precision(torch.float32, "")
        self._store: SignalStore | None = None
        self._weights_fingerprint: str | None = None
        self.forwarded_rows = 0
        self.answered_rows = 0
        self.real_tokens = 0
        self.computed_tokens = 0

    def load(self) -> TeacherInfo:
        """Loads the weights if they are not there yet; frozen, in `eval` mode, on its device."""
        if self._model is None:
            spec = self.spec
            model = models.load(spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
            self._columns = label_columns(model.labels, spec.labels, spec.label_map, spec.name)
            if self._weights_fingerprint is None:
                self._weights_fingerprint = self._fingerprint(model)
            model.model.eval()
            model.model.requires_grad_(False)
            self._precision = choose(spec.dtype, model.model.config.model_type, spec.device)
            cast(torch.nn.Module, model.model).to(
                device=torch.device(spec.device), dtype=self._precision.dtype
            )
            self._model = model
        model = self._model
        assert self._weights_fingerprint is not None
        return TeacherInfo(
            name=self.name,
            fingerprint=self._weights_fingerprint,
            parameters=models.parameter_count(model.model),
            dtype=self._precision.name,
            dtype_reason=self._precision.reason,
            device=self.spec.device,
            max_length=self._task(model).max_length,
        )

    def answer(self, batch: TextBatch, asked_B: NDArray[np.bool_] | None = None) -> TeacherSignal:
        """Logits of the rows asked for (all by default) that are in one of this teacher's languages.

        Raises:
            NonFiniteError: a logit is NaN or infinite; names the teacher and the rows.
        """
        begun = time.perf_counter()
        asked_B = np.ones(len(batch), dtype=bool) if asked_B is None else asked_B
        spoken_B = np.asarray(
            [self.spec.languages is None or lang in self.spec.languages for lang in batch.languages]
        )
        rows = np.flatnonzero(asked_B & spoken_B)
        logits_NC = np.zeros((len(batch), len(self.spec.labels)), dtype=np.float32)
        covered_N = np.zeros(len(batch), dtype=bool)
        forwarded = 0
        if len(rows):
            logits_NC[rows], forwarded = self._look_up(batch.take(rows.tolist()))
            covered_N[rows] = True
        self.answered_rows += len(rows)
        return TeacherSignal(self.name, logits_NC, covered_N, time.perf_counter() - begun, forwarded)

    def _look_up(self, batch: TextBatch) -> tuple[NDArray[np.float32], int]:
        if self.spec.store is None:
            return self._forward(batch), len(batch)
        if self._store is None:
            self._store = SignalStore(Path(self.spec.store), self._answer_fingerprint())
        pairs: Sequence[str | None] = batch.pairs if batch.pairs is not None else [None] * len(batch)
        keys = [text_key(text, pair) for text, pair in zip(batch.texts, pairs, strict=True)]
        found = self._store.get(keys)
        classes = len(self.spec.labels)
        missing = [i for i, value in enumerate(found) if value is None or len(value) != classes]
        logits_NC = np.zeros((len(batch), classes), dtype=np.float32)
        for i, value in enumerate(found):
            if value is not None and len(value) == classes:
                logits_NC[i] = value
        if missing:
            fresh = self._forward(batch.take(missing))
            logits_NC[missing] = fresh
            self._store.put([keys[i] for i in missing], fresh)
        return logits_NC, len(missing)

    def _fingerprint(self, model: models.TextModel | None) -> str:
        """Of a local directory's bytes, before the weights change their precision; of a hub model as loaded."""
        local = Path(self.spec.path)
        if local.is_dir():
            return models.fingerprint(local, trust_remote_code=self.spec.trust_remote_code)
        assert model is not None
        return models.fingerprint(model)

    def _answer_fingerprint(self) -> str:
        """Everything that changes an answer, so that a store of one never serves another."""
        spec = self.spec
        if not Path(spec.path).is_dir():
            self.load()
        if self._model is not None:
            precision, trained_length = self._precision.name, self._model.max_length
        else:
            self._weights_fingerprint = self._weights_fingerprint or self._fingerprint(None)
            config = json.loads((Path(spec.path) / "config.json").read_text(encoding="utf-8"))
            precision = choose(spec.dtype, str(config.get("model_type")), spec.device).name
            trained_length = models.inspect_directory(
                spec.path, trust_remote_code=spec.trust_remote_code
            ).max_length
        parts: list[Any] = [
            self._weights_fingerprint,
            spec.labels,
            sorted(spec.label_map.items()),
            spec.max_length or trained_length or spec.task.max_length,
            precision,
            spec.task.kind,
            spec.device.partition(":")[0],
            "dense-float32",
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _forward(self, batch: TextBatch) -> NDArray[np.float32]:
        """Raw logits ``[B, C]`` of every row, in forward passes of similar length."""
        self.load()
        model = self._model
        assert model is not None
        task = self._task(model)
        encoded = task.encode(model.tokenizer, batch)
        logits_NC = np.empty((len(batch), len(self.spec.labels)), dtype=np.float32)
        device = torch.device(self.spec.device)
        with torch.inference_mode():
            for picked in by_length(encoded.lengths_B, self.spec.max_tokens):
                padded = task.collate(encoded, batch.labels_B, picked).to(device)
                raw = task.gather(model.model(**padded.inputs).logits, padded)
                logits_NC[picked] = raw[:, self._columns].float().cpu().numpy()
                self.real_tokens += padded.real_tokens
                self.computed_tokens += padded.computed_tokens
        self.forwarded_rows += len(batch)
        bad = np.flatnonzero(~np.isfinite(logits_NC).all(axis=1))
        if len(bad):
            raise NonFiniteError(
                f"teacher {self.name} answered with NaN or infinite logits",
                got=f"rows {[batch.ids[i] for i in bad[:5]]} and {max(0, len(bad) - 5)} more",
                wanted="finite logits",
                next_step="try serving.dtype: float32; if it stays, the teacher's weights are broken",
            )
        return logits_NC

    def measure(self, batch: TextBatch, passes: int = 3) -> float:
        """Milliseconds for 1,000 such texts, tokenisation included, store not used; the median of some passes."""
        counted = self.forwarded_rows, self.real_tokens, self.computed_tokens
        self._forward(batch)
        times = []
        for _ in range(passes):
            begun = time.perf_counter()
            self._forward(batch)
            times.append(time.perf_counter() - begun)
        # Counters say what the run needed, not what was measured beside it.
        self.forwarded_rows, self.real_tokens, self.computed_tokens = counted
        return float(np.median(times)) * 1e6 / len(batch)

    def _task(self, model: models.TextModel) -> Task:
        length = self.spec.max_length or model.max_length or self.spec.task.max_length
        return self.spec.task.model_copy(update={"max_length": length})

    def close(self) -> None:
        """Flushes the store."""
        if self._store is not None:
            self._store.close()
            self._store = None


def by_length(lengths_B: NDArray[np.int64], max_tokens: int) -> list[list[int]]:
    """Rows sorted by length and cut so that rows x longest stays within ``max_tokens`` (one row always fits)."""
    passes: list[list[int]] = []
    for i in np.argsort(-lengths_B, kind="stable").tolist():
        if passes and (len(passes[-1]) + 1) * int(lengths_B[passes[-1][0]]) <= max_tokens:
            passes[-1].append(i)
        else:
            passes.append([i])
    return passes
