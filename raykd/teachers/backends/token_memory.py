"""`TokenMemory`: keeps the tokens of recent batches by content, for teachers that cut texts alike.

Decision record: teachers of one process are asked for the same rows one after the other, and often share a tokenizer
(fine-tuned from one model). Then a batch is tokenised once for all of them. What is kept is what a task's `encode`
returned for the whole batch, so it works for every task whose tokens depend on texts and tokenizer alone. Language
tasks are left out: their tokenizers have a language that is set from outside.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path

from raykd.tasks import Task
from raykd.teachers.store import make_text_keys
from raykd.text.batch import TextBatch
from raykd.text.encoding import EncodedRows
from raykd.text.ragged import Ragged
from raykd.text.tokens import Tokenizer, has_languages, list_adapters

MOST_BYTES = 32 * 2**20
"""Bound on the tokens of all batches together."""


class TokenMemory:
    """Tokens of recent batches. One is shared by the teachers of a process; safe to use from several threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._held = most_bytes, 0
        self._lock = threading.Lock()
        self._batches: OrderedDict[bytes, tuple[EncodedRows, int]] = OrderedDict()
        self.hits = 0

    def encode(self, task: Task, tokenizer: Tokenizer, cut: bytes | None, batch: TextBatch) -> EncodedRows:
        """Return what a task encodes a batch to.

        Args:
            task: With the teacher's length.
            tokenizer: The teacher's.
            cut: Names how the tokenizer cuts texts (`name_tokenizer`); None where that is not known.
            batch: Rows without labels.
        """
        if cut is None or task.language or has_languages(tokenizer) or list_adapters(tokenizer):
            return task.encode(tokenizer, batch)
        key = hashlib.sha256(
            b"".join([cut, task.model_dump_json().encode(), *make_text_keys(batch)])
        ).digest()
        with self._lock:
            if key in self._batches:
                self._batches.move_to_end(key)
                self.hits += 1
                return self._batches[key][0]
        encoded = task.encode(tokenizer, batch)
        size = sum(Ragged.of(rows).values.nbytes for rows in encoded.fields.values())
        with self._lock:
            if key not in self._batches and size <= self._most:
                self._batches[key] = encoded, size
                self._held += size
            while self._held > self._most:
                self._held -= self._batches.popitem(last=False)[1][1]
        return encoded


TOKENS = TokenMemory()
"""Of this process."""


def name_tokenizer(tokenizer: Tokenizer, folder: Path) -> bytes | None:
    """Return a name that two tokenizers share where they cut every text alike; None for one that cannot be told.

    Args:
        tokenizer: As loaded from the folder.
        folder: Of the model.
    """
    file = folder / "tokenizer.json"
    if not getattr(tokenizer, "is_fast", False) or not file.is_file():
        return None
    settings = [
        type(tokenizer).__name__,
        tokenizer.pad_token_id,
        getattr(tokenizer, "truncation_side", ""),
        getattr(tokenizer, "model_input_names", ""),
        getattr(tokenizer, "add_prefix_space", ""),
        sorted((name, str(token)) for name, token in getattr(tokenizer, "special_tokens_map", {}).items()),
    ]
    return hashlib.sha256(file.read_bytes() + repr(settings).encode()).digest()
