"""`HttpBackend`: a language model behind an OpenAI-compatible server, asked for log-probabilities of given tokens.

Decision record:

- What is scored is cut by the tokenizer of the run file and sent as tokens, so that it is what a model of another kind
  would score. A server that takes text alone is sent the text.
- What is asked and what becomes of it is a subclass's: `raykd.teachers.backends.http.tokens` teaches a language task,
  `raykd.teachers.backends.http.words` reads the model as a classifier.
- What cannot be used is counted and never stored as anything else than "not covered": units without log-probabilities,
  rows that the server refuses or cuts otherwise. A server that refuses the first row, or changes while it is asked,
  ends the run.
- Answers are stored every few rows (`rows_at_once`), so that a budget, a time-out or a kill loses nothing that was paid
  for.
"""

from __future__ import annotations

import hashlib
import json
import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np

from raykd.cache import read_entry, write_entry
from raykd.config import HttpTeacher
from raykd.errors import ModelError, TeacherError
from raykd.parse import JsonObject
from raykd.pretrained.hub import resolve_small_files
from raykd.pretrained.tokenizers import load_tokenizer
from raykd.teachers.backends.base import BackendBase
from raykd.teachers.backends.http.budget import TokenBudget
from raykd.teachers.backends.http.client import HttpClient, RequestRefusedError
from raykd.teachers.backends.http.replies import (
    TokenNames,
    TokenScores,
    TokensDifferError,
    UnreadableReplyError,
)
from raykd.teachers.backends.http.server import (
    ServerFacts,
    TokenScorer,
    ask_models,
    find_scoring,
    is_changed,
)
from raykd.teachers.backends.token_memory import name_tokenizer
from raykd.teachers.spec import TeacherInfo, TeacherSpec
from raykd.text.batch import TextBatch
from raykd.text.prompts import encode_prompts
from raykd.text.tokens import Tokenizer

_CACHE = "http_servers"
_TRIES = 3
"""How often a request is sent whose replies cannot be read."""
_STAMP = "system_fingerprint"
R = TypeVar("R")


class HttpBackend(BackendBase[HttpTeacher]):
    """A served language model. Nothing is asked before an answer is missing, except once in a machine's life.

    Args:
        spec: What to ask and how to answer.
    """

    labels: tuple[str, ...] = ()
    """The teacher's own, in the order of its columns; () for a language task."""
    k: int = 1
    """Log-probabilities per token that are asked for."""
    reading: str = ""
    """What an answer depends on beside the model and the run, for the name of the store."""

    is_concurrent = True

    def __init__(self, spec: TeacherSpec) -> None:
        super().__init__(spec)
        self.who = f"teacher {spec.name}"
        self._lock = threading.RLock()
        self._info: TeacherInfo | None = None
        self._facts: ServerFacts | None = None
        self._is_verified = self._has_scored = False
        self._tokens = self._units = self._unusable_units = self._few_units = 0
        self.client = HttpClient(self.teacher)
        self._budget = TokenBudget(self.teacher, spec.store)
        self.rows_at_once = 2 * self.teacher.concurrency

    def describe(self) -> TeacherInfo:
        """Return what the server said of itself, when it was last asked.

        Raises:
            ModelError: The task, the tokenizer or the server cannot serve; see `raykd.teachers.backends.http.server`.
            TeacherError: The server was never asked, and does not answer now.
        """
        with self._lock:
            if self._info is None:
                self._info = self.spec.parked or self._build_info(self.read_facts())
            return self._info

    def _build_info(self, facts: ServerFacts) -> TeacherInfo:
        teacher = self.teacher
        self.map_columns(self.labels)
        length = teacher.max_length or self.spec.task.max_length
        if facts.context is not None and length >= facts.context:
            raise ModelError(
                f"{self.who}: the server takes shorter texts than the task has",
                got=f"{facts.context} tokens, of which one is generated; max_length {length}",
                wanted=f"max_length below {facts.context}",
                next_step=f"set teachers.{self.spec.name}.max_length or task.max_length, or start the server with more",
            )
        named = {"version": teacher.version} if teacher.version else facts.said
        parts = [facts.model, named, facts.scoring, self._tokenizer_name, *filter(None, [self.reading])]
        fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return self.build_info(
            fingerprint,
            self.labels,
            dtype="log-probabilities",
            dtype_reason=self._describe_way(facts),
            max_length=length,
        )

    @abstractmethod
    def check_task(self) -> None:
        """Refuse a task, or keys, that it cannot serve; asks nobody.

        Raises:
            RaykdError: Names them.
        """

    def describe_place(self) -> str:
        """Return which model answers where, and what it gives."""
        facts = self.read_facts()
        return f"{facts.model} at {self.teacher.url}, {self._describe_way(facts)}"

    def _describe_way(self, facts: ServerFacts) -> str:
        if facts.scoring == "none":
            return "gives generation only"
        return f"gives log-probabilities of given text ({facts.scoring})"

    def read_facts(self) -> ServerFacts:
        """Return what the server said when it was last asked; asks it where nobody did on this machine."""
        with self._lock:
            if self._facts is None:
                self.check_task()
                known = read_entry(_CACHE, self._cache_key, ServerFacts)
                # One that gave generation only may have been started anew since, to give more.
                self._facts = self._ask_facts() if known is None or known.scoring == "none" else known
            return self._facts

    @cached_property
    def _cache_key(self) -> str:
        teacher = self.teacher
        parts = [teacher.url, teacher.model_name, self._tokenizer_name, self.k]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _ask_facts(self) -> ServerFacts:
        """Ask the server what it is and what it can give, and remember it."""
        facts = ask_models(self.client, self.teacher, patient=False)
        who = f"{self.who} (tokenizer {self.teacher.tokenizer})"
        scorer = self._make_scorer(facts)
        way, stamp, refused = find_scoring(self.client, scorer, facts, self._encode_text, who)
        said = {**facts.said, **({_STAMP: stamp} if stamp else {})}
        facts = replace(facts, said=said, scoring=way, refused=refused)
        write_entry(_CACHE, self._cache_key, ServerFacts, facts)
        self._is_verified = True
        return facts

    def check_ready(self) -> None:
        """Ask the server whether it is there and still what it was.

        Raises:
            ModelError: It is another one, or gives no log-probabilities.
            TeacherError: It does not answer.
        """
        self.make_ready(patient=False)

    def make_ready(self, *, patient: bool) -> ServerFacts:
        with self._lock:
            facts = self.read_facts()
            if facts.scoring == "none":
                raise ModelError(
                    f"{self.who}: the server gives generation only",
                    got=f"no log-probabilities of given text: {facts.refused}",
                    wanted="prompt_logprobs, or echo with logprobs; for vLLM also --max-logprobs of at least "
                    f"{self.k} (task.answers.k)",
                    next_step="lower task.answers.k, or use a server that gives them; or let it write the targets: "
                    "raykd label RUN.yaml --sequences FILE --beams 1, then train on FILE",
                )
            if not self._is_verified:
                now = ask_models(self.client, self.teacher, patient=patient)
                if self.teacher.version is None and is_changed(facts, now, but=_STAMP):
                    self._refuse_change(facts.said, now.said)
                self._is_verified = True
            return facts

    def _refuse_change(self, before: dict[str, str], now: dict[str, str]) -> None:
        name = self.spec.name
        raise ModelError(
            f"{self.who}: the server is not the one whose answers are stored",
            got=f"{now}",
            wanted=f"{before}",
            next_step="raykd check RUN.yaml asks it anew, and its answers then have another name in the store; or, if "
            f"the model is the same, name it yourself: teachers.{name}.version",
        )

    def try_out(self, batch: TextBatch) -> str:
        """Ask the server anew what it is, and for the answer to the shortest row; describe both.

        Raises:
            RaykdError: As `compute` would raise later.
        """
        with self._lock:
            before = self.read_facts()
            if not self._is_verified:
                self._facts, self._info = self._ask_facts(), None
        facts = self.make_ready(patient=False)
        units, unusable, few = self._units, self._unusable_units, self._few_units
        lengths = [len(text) for text in (batch.pairs or batch.texts)]
        self.compute(batch.take([int(np.argmin(lengths))]))
        units, unusable = self._units - units, self._unusable_units - unusable
        found = (
            f"asked now: {self._describe_way(facts)}; {units - unusable} of {units} units of a row are usable"
        )
        if self._few_units > few:
            found += f", with fewer than task.answers.k = {self.k} log-probabilities (their tail is larger)"
        if self.teacher.version is None and is_changed(before, facts):
            found += "; it says something else of itself than before, so its answers are asked for anew"
        return found

    def ask_all(self, ask: Callable[[int], tuple[R, int]], costs: Sequence[int]) -> list[R]:
        """Ask for all rows, several at once, and return the answers.

        Args:
            ask: Returns a row's answer, and the tokens that it took.
            costs: Tokens that each row may take.
        """
        reserved, used = sum(costs), 0
        self._budget.reserve(reserved)
        try:
            with ThreadPoolExecutor(self.teacher.concurrency) as pool:
                waiting = [pool.submit(ask, i) for i in range(len(costs))]
                try:
                    found = [call.result() for call in waiting]
                finally:
                    for call in waiting:
                        call.cancel()
                    # Also of rows that were answered beside one that failed.
                    done = [c for c in waiting if c.done() and not c.cancelled() and c.exception() is None]
                    used = sum(call.result()[1] for call in done)
        finally:
            self._budget.settle(reserved, used)
            with self._lock:
                self._tokens += used
        return [answer for answer, _ in found]

    def score(self, facts: ServerFacts, tokens: Sequence[int]) -> tuple[list[TokenScores | None], int]:
        """Return what the server says at each token, and the tokens that this took; None where it cannot be used."""
        last: UnreadableReplyError | None = None
        for _ in range(_TRIES):
            try:
                scores, reply = self._scorer.score(tokens, facts.scoring)
            except UnreadableReplyError as error:
                last = error
                continue
            except TokensDifferError as error:
                if facts.scoring == "echo_text":
                    return [None] * len(tokens), len(tokens) + 1
                raise ModelError(
                    f"{self.who}: the server answers for other tokens than were sent",
                    got=str(error),
                    wanted=f"those of its tokenizer {self.teacher.tokenizer}",
                    next_step="was the model behind the address exchanged? raykd check RUN.yaml asks it anew",
                ) from None
            except RequestRefusedError as error:
                if not self._has_scored:
                    raise TeacherError(
                        f"{self.who}: the server refuses a request for log-probabilities",
                        got=str(error.got),
                        wanted=f"them by {facts.scoring}, as the server at {self.teacher.url} gave them when it was "
                        "asked what it can do",
                        next_step="was another server started there? raykd check RUN.yaml asks it anew",
                    ) from error
                return [None] * len(tokens), 0
            self._has_scored = True
            self.check_stamp(facts, reply)
            return scores, count_tokens(reply, len(tokens) + 1)
        raise TeacherError(
            f"{self.who}: the server's replies cannot be read",
            got=f"{last}, {_TRIES} times",
            wanted="log-probabilities as it gave them when it was asked first",
            next_step="look into the server's log; the same command goes on from the answers that are stored",
        )

    def check_stamp(self, facts: ServerFacts, reply: JsonObject) -> None:
        stamp, known = str(reply.get(_STAMP) or ""), facts.said.get(_STAMP, "")
        if self.teacher.version is None and stamp and known and stamp != known:
            self._refuse_change({_STAMP: known}, {_STAMP: stamp})

    def count_units(self, units: int, unusable: int, few: int) -> None:
        """Count units that were asked for, those that cannot be used, and those with fewer numbers than asked for."""
        with self._lock:
            self._units += units
            self._unusable_units += unusable
            self._few_units += few

    def counters(self) -> dict[str, int]:
        """Count rows, requests and tokens, and units that could not be used, or with fewer numbers than asked for."""
        return {
            "forwarded": self.forwarded,
            "real_tokens": self._tokens,
            "computed_tokens": self._tokens,
            "requests": self.client.requests,
            "retries": self.client.retries,
            "unusable_units": self._unusable_units,
            "few_units": self._few_units,
        }

    @cached_property
    def _folder(self) -> Any:
        if self.teacher.tokenizer is None:
            raise ModelError(
                f"{self.who} names no tokenizer, and what is asked for is over its tokens",
                got=f"teachers.{self.spec.name} without tokenizer",
                wanted="the folder or hub name of the served model's tokenizer",
            )
        return resolve_small_files(self.teacher.tokenizer)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self._folder)

    @cached_property
    def _tokenizer_name(self) -> str:
        name = name_tokenizer(self.tokenizer, self._folder)
        if name is None:
            vocabulary = cast(Any, self.tokenizer).get_vocab()
            name = hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).digest()
        return name.hex()

    @cached_property
    def names(self) -> TokenNames:
        return TokenNames(self.tokenizer)

    @cached_property
    def _scorer(self) -> TokenScorer:
        return self._make_scorer(self.read_facts())

    def _make_scorer(self, facts: ServerFacts) -> TokenScorer:
        marks = frozenset(int(i) for i in cast(Any, self.tokenizer).all_special_ids)
        return TokenScorer(self.client, facts, self.names, marks, self.k, self.decode)

    def _encode_text(self, text: str) -> list[int]:
        return [int(i) for i in encode_prompts(self.tokenizer, [text]).ids[0]]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(
            cast(Any, self.tokenizer).decode(
                list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


def count_tokens(reply: JsonObject, otherwise: int) -> int:
    """Return the tokens that a reply says it took; another number where it does not say."""
    usage = reply.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) and total >= 0 else otherwise
