"""Tokenise many rows once, into files that all workers and trials of a node map.

Decision record: up to `IN_MEMORY` rows take a second to tokenise and a few tens of megabytes, so they are tokenised
anew each time. More rows become a folder in raykd's cache (`RAYKD_CACHE`), named by all that the tokens follow from:
the rows' content, the tokenizer's serialised content, the task, and raykd's own source. It is written beside its place
and renamed, so a process that is killed leaves nothing that is read; a folder with a file that is cut off counts as
absent. Who comes second waits for the first (the kernel's lock) and maps what it wrote. Files that are mapped may be
removed: their pages stay until the last process ends.

Rows are tokenised in chunks by threads, each with a tokenizer of its own, because transformers changes a tokenizer at
each call. The tokenizers library works outside Python's lock, so threads keep all cores busy; its own threads would
wait while Python takes a chunk's tokens over.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import logging
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from raykd.cache import compute_key, mark_used, open_cache_folder, remove_old_folders
from raykd.data.rows import Rows
from raykd.environ import set_environment
from raykd.errors import ModelError, ResourceError
from raykd.models.identity import describe_tokenizer
from raykd.student.tokens.files import TokenWriter, map_tokens
from raykd.tasks import EncodedRows, TaskBase
from raykd.text.batch import TextBatch
from raykd.text.tokens import Tokenizer

log = logging.getLogger("raykd.student")
IN_MEMORY = 10_000
"""Most rows whose tokens are kept in memory."""
CHUNK = 1000
"""Rows that a thread tokenises at once; their encodings take some 10 MB until they are written."""
MOST_BYTES = 50 * 10**9
"""Bound on the tokens of all corpora together; the ones not used for longest are removed first."""
KIND = "tokens"
"""Their folder in the cache."""

Tell = Callable[[int, int], None]
"""Takes the rows that are tokenised so far, and all."""


@dataclass(frozen=True)
class TokenJob:
    """What is tokenised.

    Attributes:
        task: How.
        tokenizer: The student's.
        rows: The rows.
        codes: The tokenizer's codes of languages, where it has others.
        threads: How many there may be.
    """

    task: TaskBase
    tokenizer: Tokenizer
    rows: Rows
    codes: dict[str, str]
    threads: int = 1

    def key(self) -> str:
        """Return the name of the tokens: a hash of all that they follow from."""
        parts = [
            self.rows.fingerprint(),
            describe_tokenizer(self.tokenizer),
            getattr(self.tokenizer, "truncation_side", ""),
            getattr(self.tokenizer, "padding_side", ""),
            self.task.model_dump(mode="json"),
            self.codes,
        ]
        return compute_key(parts, "tokenizers", "transformers", "numpy")

    def encode(self, begin: int, end: int, tokenizer: Tokenizer | None = None) -> EncodedRows:
        """Tokenise some of the rows."""
        batch: TextBatch = self.rows.take(range(begin, end)).with_codes(self.codes)
        return self.task.encode(self.tokenizer if tokenizer is None else tokenizer, batch)


def load_tokens(job: TokenJob, tell: Tell = lambda done, rows: None) -> EncodedRows:
    """Return the tokens of rows: computed in memory where they are few, else mapped, and made first if need be.

    Args:
        job: What is tokenised.
        tell: Hears how far it is after every chunk.

    Raises:
        ResourceError: The disk is full.
    """
    if len(job.rows) <= IN_MEMORY:
        return job.encode(0, len(job.rows))
    root = open_cache_folder(KIND)
    with contextlib.suppress(ModelError):  # a tokenizer that cannot be told from others has no key
        key = job.key()
        found = None if root is None else _find(root / key)
        if root is None or found is not None:
            return found or make_unnamed(job, tell)
        with _lock(root / f"{key}.lock", len(job.rows)) as is_locked:
            if is_locked:
                return _find(root / key) or _build(job, root, key, tell)
    return make_unnamed(job, tell)


def _find(folder: Path) -> EncodedRows | None:
    """Map tokens that are there, and remember that they were used."""
    found = map_tokens(folder)
    if found is not None:
        mark_used(folder)
    return found


def _build(job: TokenJob, root: Path, key: str, tell: Tell) -> EncodedRows:
    """Make tokens beside their place, and move them there; the caller holds their lock."""
    fresh = root / f".{key}"
    shutil.rmtree(fresh, ignore_errors=True)  # of a process that was killed
    fresh.mkdir()
    try:
        made = _make(job, fresh, tell)
        mark_used(fresh)
        shutil.rmtree(root / key, ignore_errors=True)  # cut off, or of another format
        fresh.rename(root / key)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    remove_old_folders(KIND, MOST_BYTES, keep=key)
    return made


def make_unnamed(job: TokenJob, tell: Tell) -> EncodedRows:
    """Make tokens that only this process finds; their files go with it."""
    with tempfile.TemporaryDirectory(prefix="raykd-tokens-") as folder:
        return _make(job, Path(folder), tell)


def _make(job: TokenJob, folder: Path, tell: Tell) -> EncodedRows:
    begun, count = time.monotonic(), len(job.rows)
    try:
        with TokenWriter(folder) as writer:
            for part in _encode_chunks(job):
                writer.append(part)
                tell(writer.rows, count)
            writer.finish()
    except OSError as error:
        raise ResourceError(
            "the tokens of the rows cannot be written",
            got=f"{error.strerror or error}: {folder.parent}",
            wanted=f"room for the tokens of {count:,} rows",
            next_step="free room there, or name another folder (RAYKD_CACHE)",
        ) from error
    log.info("tokenised %s rows in %.1f s, %d threads", f"{count:,}", time.monotonic() - begun, job.threads)
    found = map_tokens(folder)
    assert found is not None, folder
    return found


def _encode_chunks(job: TokenJob) -> Iterator[EncodedRows]:
    """Yield the rows' tokens chunk by chunk, in order; a few chunks are held at once."""
    own = threading.local()

    def encode(begin: int) -> EncodedRows:
        if not hasattr(own, "tokenizer"):
            own.tokenizer = job.tokenizer if job.threads == 1 else copy.deepcopy(job.tokenizer)
        return job.encode(begin, min(begin + CHUNK, len(job.rows)), own.tokenizer)

    waiting: deque[Future[EncodedRows]] = deque()
    with (
        set_environment({"TOKENIZERS_PARALLELISM": "false"}),
        _collecting_rarely(),
        ThreadPoolExecutor(job.threads, "raykd-tokens") as threads,
    ):
        for begin in range(0, len(job.rows), CHUNK):
            waiting.append(threads.submit(encode, begin))
            if len(waiting) > job.threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextlib.contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Let the garbage collector look at a chunk's thousands of lists rarely: it took a tenth of the time."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextlib.contextmanager
def _lock(path: Path, rows: int) -> Iterator[bool]:
    """Hold a lock while the body runs; yields False on a file system without locks."""
    lock = FileLock(path, mode=0o600, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process tokenises these %s rows: waiting for it", f"{rows:,}")
        lock.acquire()
    except OSError as error:
        log.warning("%s cannot be locked (%s): the tokens are not kept", path, error)
    try:
        yield lock.is_locked
    finally:
        if lock.is_locked:
            path.unlink(
                missing_ok=True
            )  # before the release: who gets the lock next looks whether it is there
            lock.release()
