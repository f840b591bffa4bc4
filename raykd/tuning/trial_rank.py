"""Hold one rank of a trial, and what all trials share.

Decision record: rows and tokens stay in a process from trial to trial while everything that they depend on is equal.
The process group of the ranks stays too. A student and its engine refer to each other, so only the garbage collector
frees them, and until it comes a process holds the weights and moments of several students, on a GPU as well. It is
therefore called between two trials. What imports and rows have made is set aside before, so that a call takes less than
a millisecond and not a second.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import ray

from raykd.checkpoint.manifest import CheckpointInfo
from raykd.checkpoint.save import load_checkpoint, save_checkpoint
from raykd.checkpoint.storage import StorageFolder
from raykd.config import Run
from raykd.data.load import Dataset, load_data
from raykd.driver.gold_labels import share_labels
from raykd.driver.jobs import start_student
from raykd.driver.loop import make_loop
from raykd.point import Point
from raykd.spaces.domains import Scalar
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import PreparedRows, fit_tokenizer, prepare_rows
from raykd.teachers.handle import PoolHandle
from raykd.teachers.pool_source import PoolSource

GROUP_TIMEOUT = timedelta(minutes=10)
MAX_PREPARED = 2
"""Sets of prepared rows that a process keeps. A space may search keys that change the tokens."""


class RunFactory(Protocol):
    """Makes the run of a sample."""

    def build_run(self, sample: Mapping[str, Scalar]) -> Run:
        """Return the run of a trial.

        Raises:
            ConfigError: The sample cannot be a run.
        """


@dataclass(frozen=True)
class PretrainedRuns:
    """Makes the runs of trials whose student starts from its pretraining, which all of them share.

    Attributes:
        runs: Makes them as they are written.
        folder: What the pretraining left.
    """

    runs: RunFactory
    folder: Path

    def build_run(self, sample: Mapping[str, Scalar]) -> Run:
        """Return the run of a trial."""
        return start_student(self.runs.build_run(sample), self.folder)


@dataclass(frozen=True)
class TrialContext:
    """What all trials share. Written by the driver, sent once to every trial's process.

    Attributes:
        run_factory: Makes the run of a sample.
        base: The run that every trial begins with.
        data: Its rows, by task. A trial with other `data` reads its own rows.
        tokenizers: Of the student, by `tokenizer_key`.
        pools: The teachers, by task.
        mailbox: Actor handle of the `Mailbox` that takes events to the driver.
        folder: Folder for checkpoints, which all trials can reach.
        checkpoint_s: Least time between two checkpoints of a trial, in seconds.
        students: Folder for the trained students; None keeps none.
    """

    run_factory: RunFactory
    base: Run
    data: Mapping[str, Dataset]
    tokenizers: Mapping[str, Any]
    pools: Mapping[str, PoolHandle]
    mailbox: Any
    folder: str
    checkpoint_s: float
    students: str | None = None


class TrialRank:
    """One rank of a trial: an actor, or a part of the trial's own process. Runs one training loop after another.

    Args:
        context: What all trials share.
        rank: From 0.
    """

    def __init__(self, context: TrialContext, rank: int) -> None:
        import torch

        self.context, self.rank = context, rank
        self.world = context.base.workers.num_workers
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        torch.set_num_threads(context.base.workers.threads)
        self._prepared: dict[str, tuple[dict[str, PreparedRows], Any]] = {}
        self.loop: TrainingLoop | None = None
        self.points: list[Point] = []

    def address(self) -> tuple[str, int]:
        """Open the process group's store on rank 0.

        Returns:
            Host and port, for `join` on every rank.
        """
        import torch

        host = ray.util.get_node_ip_address()
        self._store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
            host, 0, self.world, is_master=True, wait_for_workers=False
        )
        return host, int(self._store.port)

    def join(self, host: str, port: int) -> None:
        """Join the process group of the ranks, which stays for all trials of these processes."""
        import torch

        if self.rank:
            self._store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
                host, port, self.world, is_master=False
            )
        os.environ["LOCAL_RANK"] = "0"
        backend = "nccl" if self._device() != "cpu" else "gloo"
        torch.distributed.init_process_group(
            backend, store=self._store, rank=self.rank, world_size=self.world, timeout=GROUP_TIMEOUT
        )

    def begin(self, sample: Mapping[str, Scalar], checkpoint: str | None) -> None:
        """Make a new loop for a sample.

        Args:
            sample: Values of the searched keys.
            checkpoint: Folder to continue from; None begins anew.
        """
        self._free_loop()
        config = self.context.run_factory.build_run(sample)
        prepared, tokenizer = self._rows(config)
        self.points = []
        self.loop = make_loop(
            config,
            prepared,
            tokenizer,
            self.context.pools,
            rank=self.rank,
            world=self.world,
            device=self._device(),
            publish=self.points.append,
        )
        if checkpoint is not None:
            points = load_checkpoint(self.loop, StorageFolder(checkpoint))
            self.points += points if self.rank == 0 else []
            self.loop.kept = None  # a trial that diverges is over, so nothing to go back to

    def _free_loop(self) -> None:
        """End the loop and free its student before the next one is made."""
        if self.loop is not None:
            self.close()
            gc.collect()
        gc.freeze()  # what is left lives on: modules, rows, tokens

    def advance(self) -> bool:
        """Train to the next evaluation."""
        assert self.loop is not None
        return self.loop.advance()

    def save(
        self,
        folder: str,
        info: CheckpointInfo,
        points: Sequence[Point] = (),
        files: Mapping[str, str] | None = None,
    ) -> None:
        """Write this rank's part of a checkpoint (see `save_checkpoint`)."""
        assert self.loop is not None
        save_checkpoint(StorageFolder(folder), info, self.loop, points, files)

    def read_cpu_seconds(self) -> float:
        """Return the processor seconds of this process so far, over all its threads."""
        return time.process_time()

    def close(self) -> None:
        """End the loop."""
        if self.loop is not None:
            self.loop.engine.close()
            self.loop = None

    def _device(self) -> str:
        import torch

        return "cuda:0" if self.context.base.workers.num_gpus and torch.cuda.is_available() else "cpu"

    def _rows(self, config: Run) -> tuple[dict[str, PreparedRows], Any]:
        """Return prepared rows by task, and the tokenizer. They are kept while nothing that they depend on differs."""
        members, base = config.members, self.context.base.members
        parts = [
            (m.data.model_dump_json(), m.task.model_dump_json(), m.reads_unlabelled) for m in members.values()
        ]
        key = repr((config.student.tokenizer_key(), parts))
        if key not in self._prepared:
            same = {task: m.data == base[task].data for task, m in members.items()}
            data = {
                task: self.context.data[task]
                if same[task]
                else share_labels(load_data(m.data, Path.cwd(), m.form), self.context.data[task])
                for task, m in members.items()
            }
            markers = [getattr(run.task, "markers", ()) for run in (*members.values(), *base.values())]
            alike = all(same.values()) and markers[: len(members)] == markers[len(members) :]
            tokenizer = self.context.tokenizers.get(config.student.tokenizer_key()) if alike else None
            if tokenizer is None:
                pools = self.context.pools
                teachers = PoolSource(pools[""], direct=False) if "" in pools else None
                rows = [(m.task, data[task].train) for task, m in members.items()]
                tokenizer = fit_tokenizer(config.student, rows, teachers)
            while len(self._prepared) >= MAX_PREPARED:
                self._prepared.pop(next(iter(self._prepared)))
            prepared = {
                task: prepare_rows(m, data[task].train, data[task].validation, tokenizer)
                for task, m in members.items()
            }
            self._prepared[key] = prepared, tokenizer
        return self._prepared[key]
