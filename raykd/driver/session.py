"""The frame of a command: Ray and MLflow opened together."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import ray

from raykd.cluster.connection import connect
from raykd.cluster.interrupts import at_interrupt, interruptible
from raykd.cluster.own_processes import own_ray_ended
from raykd.config import RayConfig
from raykd.errors import RaykdError
from raykd.folders.folder import RunFolder, hush
from raykd.tracking import Tracker, redact
from raykd.tracking.tracker import Status

log = logging.getLogger("raykd.runs")


@contextlib.contextmanager
def ended_well(folder: RunFolder) -> Iterator[None]:
    """However the body ends: the folder says so, and a Ray of its own is gone."""
    with (
        interruptible(folder.interrupted, at_last=[lambda: folder.give_up("interrupted")]),
        own_ray_ended(),
    ):
        yield


class Session:
    """Ray, connected, and an MLflow run that is being opened beside it: each takes seconds.

    Args:
        start_tracker: opens the MLflow run; runs on a thread of its own.
    Raises:
        ResourceError: there is no such cluster.
    """

    def __init__(self, config: RayConfig, folder: RunFolder, start_tracker: Callable[[], Tracker]) -> None:
        self._folder = folder
        self._background = ThreadPoolExecutor(max_workers=1)
        self._starting = self._background.submit(start_tracker)
        self._tracker: Tracker | None = None
        at_interrupt(lambda: self.end(KeyboardInterrupt()))
        try:
            connect(config)
        except BaseException as error:
            self.end(error)
            raise
        log.info("connected to Ray: %s; its logs are in %s", ray.cluster_resources(), _ray_logs())

    def tracker(self) -> Tracker:
        """The MLflow run, waited for.

        Raises:
            TrackingError: it cannot be opened.
        """
        if self._tracker is None:
            self._tracker = self._starting.result()
            self._background.shutdown(wait=False)
            hush()
            log.info("MLflow run %s at %s", self._tracker.run_id, redact(self._tracker.uri))
            self._folder.write_state(mlflow_run_id=self._tracker.run_id)
        return self._tracker

    def end(self, error: BaseException | None = None) -> None:
        """Ends the MLflow run as the command ended."""
        with contextlib.suppress(
            RaykdError
        ):  # that it could not be opened was told, or is not the first error
            status: Status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            (self._tracker or self._starting.result()).finish("FINISHED" if error is None else status)
        self._background.shutdown(wait=False)


def _ray_logs() -> str:
    node = ray._private.worker.global_worker.node
    return str(node.get_logs_dir_path()) if node is not None else "the cluster"
