"""`Teacher`: a backend that computes answers, and a store that keeps them. Knows no Ray.

Decision record: store, counters and what a parked teacher may do are the same for every kind of teacher; its answers
are computed by a backend, chosen by kind. What the store holds is not computed, and a text that stands twice
in a batch is computed once, also where two threads are asked for it at the same moment. Weights are loaded on the
first row that the store does not hold. `answer` may be called from several threads.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raykd.answers.features import name_feature_store
from raykd.answers.source import AnswerSlots
from raykd.answers.vocabularies import TeacherVocabulary
from raykd.distill.features.states import FeatureRequest
from raykd.errors import TeacherError
from raykd.prediction.selftest import PaddingFinding
from raykd.teachers.backends.backend import make_backend
from raykd.teachers.spec import TeacherInfo, TeacherSpec
from raykd.teachers.store import SignalStore, make_text_keys
from raykd.teachers.timing import Timing, read_timing
from raykd.text.batch import TextBatch

log = logging.getLogger("raykd.teachers")
COUNTERS = (
    "answered",
    "forwarded",
    "real_tokens",
    "computed_tokens",
    "loaded",
    "unkept",
    "computed_while_parked",
)
"""What `Teacher.counters` counts."""


def count_nothing() -> dict[str, int]:
    """Return the counters of a teacher that has done nothing yet."""
    return dict.fromkeys(COUNTERS, 0)


class Teacher:
    """Answers batches of text, from its store or by its backend.

    Args:
        spec: What to load and how to answer. Nothing is read before the first `open` or `answer`.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self._info: TeacherInfo | None = None
        self._store: SignalStore | None = None
        self.backend = make_backend(spec)
        self.answered_rows = 0
        self.computed_while_parked = 0
        self._lock, self._turn = threading.RLock(), threading.Lock()
        self._feature_stores: dict[FeatureRequest, SignalStore] = {}
        self._computing: dict[tuple[FeatureRequest, bytes], Future[dict[bytes, bytes]]] = {}
        """Of each text that a thread computes now with some states, the answers that it will have."""

    def open(self) -> TeacherInfo:
        """Open the store and return what the teacher is; loads no weights.

        Raises:
            ModelError: The directory cannot be loaded, must not be, or is cut short.
            LabelMismatchError: The model has other labels.
            TeacherError: The store's folder cannot be written.
        """
        with self._lock:
            if self._info is None:
                info = self.backend.describe()
                if self.spec.store is not None:
                    self._store = SignalStore(
                        Path(self.spec.store),
                        info.answers,
                        limit_gb=self.spec.store_limit_gb,
                        teacher=self.name,
                    )
                self._info = info
            return self._info

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self.backend.loaded

    def load(self) -> None:
        """Load the weights now, not on the first row that the store does not hold.

        Raises:
            ModelError: They cannot be loaded.
        """
        self.open()
        self.backend.load()

    @property
    def stored(self) -> int | None:
        """Number of answers in its store; None where it keeps none, or is not opened."""
        return None if self._store is None else len(self._store)

    def holds(self, keys: Sequence[bytes]) -> bool:
        """Return whether its store has an answer for every key (`make_text_keys`); reads none of them."""
        self.open()
        return self._store is not None and self._store.contains(keys)

    def counters(self) -> dict[str, int]:
        """Count what the teacher did so far.

        Returns:
            answered: Rows answered.
            forwarded: Rows that needed a forward pass.
            real_tokens, computed_tokens: Tokens of these, before and after padding.
            loaded: 1 where the weights are in memory.
            unkept: Answers that the store did not take.
            computed_while_parked: Rows computed after the teacher was parked.
        """
        return {
            "answered": self.answered_rows,
            **self.backend.counters(),
            "loaded": int(self.loaded),
            "unkept": 0 if self._store is None else self._store.unkept,
            "computed_while_parked": self.computed_while_parked,
        }

    def halve(self) -> None:
        """Compute half as much at once from now on: a whole pass did not fit into memory."""
        self.backend.halve()

    def answer(
        self,
        batch: TextBatch,
        asked_B: NDArray[np.bool_] | None = None,
        keys: Sequence[bytes] | None = None,
        features: FeatureRequest = (),
    ) -> AnswerSlots:
        """Answer the rows asked for that are in one of this teacher's languages.

        Args:
            batch: B rows.
            asked_B: The rows asked for; None asks for all.
            keys: Of the rows in the store, where the caller has them already.
            features: States that come with each answer (`raykd.answers.features`); () for none.

        Raises:
            NonFiniteError: A logit is NaN or infinite; names the teacher and the rows.
            ModelError, LabelMismatchError: As `open`.
            TeacherError: The teacher is parked and cannot compute here.
        """
        begun = time.perf_counter()
        asked_B = np.ones(len(batch), dtype=bool) if asked_B is None else asked_B
        spoken_B = np.asarray(
            [self.spec.languages is None or lang in self.spec.languages for lang in batch.languages]
        )
        rows = np.flatnonzero(asked_B & spoken_B).tolist()
        asked = batch if len(rows) == len(batch) else batch.take(rows)
        if self.spec.store is not None:
            keys = make_text_keys(asked) if keys is None else [keys[i] for i in rows]
        with self._lock:
            self.answered_rows += len(rows)
        slots = AnswerSlots.empty(self.name, len(batch))
        if rows:
            bodies, slots.forwarded = self._look_up(asked, keys, features)
            slots.fill(rows, bodies)
        slots.latency_s = time.perf_counter() - begun
        return slots

    def _look_up(
        self, batch: TextBatch, keys: Sequence[bytes] | None, features: FeatureRequest
    ) -> tuple[list[bytes], int]:
        """Return the answer to each row, stored or computed, and how many were computed."""
        self.open()
        store = self._find_store(features)
        if store is None or keys is None:
            return self._compute(batch, features), len(batch)
        begun: Future[dict[bytes, bytes]] = Future()
        with self._lock:
            found = store.get(keys)
            missing = [i for i, body in enumerate(found) if body is None]
            if not missing:
                return [body for body in found if body is not None], 0
            # Backwards, so that of equal texts the first one stays: each is computed once.
            first = {keys[i]: i for i in reversed(missing)}
            under_way = self._computing
            elsewhere = {key: under_way[features, key] for key in first if (features, key) in under_way}
            own = [key for key in first if key not in elsewhere]
            under_way.update({(features, key): begun for key in own})
        fresh: dict[bytes, bytes] = {}
        try:
            at_once = self.backend.rows_at_once or len(own)
            for begin in range(0, len(own), max(1, at_once)):
                part = own[begin : begin + at_once]
                rows = batch.take([first[key] for key in part])
                found_now = dict(zip(part, self._compute(rows, features), strict=True))
                kept = {key: body for key, body in found_now.items() if body or self.backend.keeps_gaps}
                with self._lock:
                    store.put(list(kept), list(kept.values()))
                fresh |= found_now
            begun.set_result(fresh)
        except BaseException as error:
            begun.set_exception(error)
            raise
        finally:
            with self._lock:
                for key in own:
                    del self._computing[features, key]
        # Only now, so that two threads never wait for each other.
        failed = [key for key, other in elsewhere.items() if other.exception() is not None]
        taken = {key: other.result()[key] for key, other in elsewhere.items() if key not in failed}
        if failed:  # perhaps for another text of that request
            rows = batch.take([first[key] for key in failed])
            taken |= zip(failed, self._compute(rows, features), strict=True)
        fresh |= taken
        answers = [fresh[key] if body is None else body for key, body in zip(keys, found, strict=True)]
        return answers, len(own) + len(failed)

    def _find_store(self, features: FeatureRequest) -> SignalStore | None:
        """Return the store of answers that come with these states; None where they are not kept."""
        if not features or self._store is None:
            return self._store
        if not self.spec.store_features:
            return None
        with self._lock:
            if features not in self._feature_stores:
                own = self._store
                self._feature_stores[features] = SignalStore(
                    own.path.parent,
                    name_feature_store(own.fingerprint, features),
                    limit_gb=self.spec.store_limit_gb,
                    teacher=self.name,
                )
            return self._feature_stores[features]

    def _compute(self, batch: TextBatch, features: FeatureRequest) -> list[bytes]:
        """Compute answers. A parked teacher may, with a warning, if it has the kind of device that it had before."""
        parked = self.spec.parked
        if parked is not None and self.backend.keeps_gaps:  # else looking up what is not kept is no work
            if parked.device.partition(":")[0] != self.spec.device.partition(":")[0]:
                raise TeacherError(
                    f"teacher {self.name} is parked and has no stored answer to {len(batch)} rows",
                    got=f"rows {list(batch.ids[:5])}; it answered on {parked.device}, here it has {self.spec.device}",
                    wanted="every text answered before the pool is parked",
                    next_step="label all rows first, or do not park a pool on GPUs",
                )
            self.computed_while_parked += len(batch)
            log.warning(
                "teacher %s is parked and computes %d rows that its store does not hold (%d so far): its CPUs may "
                "be in use by others",
                self.name, len(batch), self.computed_while_parked,
            )  # fmt: skip
        with contextlib.nullcontext() if self.backend.is_concurrent else self._turn:
            return self.backend.compute_features(batch, features) if features else self.backend.compute(batch)

    def measure_time(self, batch: TextBatch) -> Timing | None:
        """Measure what a text takes, or read what was measured under conditions like those of this process.

        Returns:
            The time; None where the weights are not in memory, because all answers were stored, and no such time is
            kept.
        """
        self.open()
        took = self.backend.time(batch)
        if took is None:
            kept = None if self._store is None else read_timing(self._store.read_time())
            here = self.backend.conditions(batch)
            return kept if kept is not None and kept.is_like(here) else None
        if self._store is not None:
            self._store.write_time(took.dump())
        return took

    @property
    def finding(self) -> PaddingFinding | None:
        """What the self-test of its padding found; None until an answer is computed."""
        return self.backend.finding

    def vocabulary(self) -> TeacherVocabulary:
        """Return the tokenizer, and the output head where answers are hidden states."""
        return self.backend.vocabulary()

    def generate(self, rows: TextBatch, *, beams: int | None, max_new_tokens: int) -> list[str]:
        """Write a text for each prompt or source, see `BackendBase.generate`."""
        return self.backend.generate(rows, beams=beams, max_new_tokens=max_new_tokens)

    def close(self) -> None:
        """Flush the store."""
        for store in (self._store, *self._feature_stores.values()):
            if store is not None:
                store.close()
