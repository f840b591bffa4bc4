"""The pool of a run: which model each teacher is, where answers are kept, the actors started and opened.

Decision record: one place makes pools, for runs, sweeps and `raykd label` alike, so that all of them find the same
stores: a store's folder follows from `output` and from content, never from a run's name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from raykd.config import RunConfig, TeacherConfig
from raykd.runs.jobs import teacher_path
from raykd.teachers.pool import Placement, TeacherPool
from raykd.teachers.spec import TeacherInfo, TeacherSpec

log = logging.getLogger("raykd.runs")


def store_root(config: RunConfig) -> Path | None:
    """The folder of all stores, None where nothing is kept."""
    store = config.serving.store
    return None if store is None else (Path(config.output).resolve() / store).resolve()


def placements_of(config: RunConfig, trained: Mapping[str, Path]) -> list[Placement]:
    """The teachers that take part and what each asks of the cluster.

    Args:
        trained: folder of each teacher that was trained, by the name of its job; without it such a teacher is
            only good for counting resources.
    """
    return [_placement(config, teacher, trained) for teacher in config.active_teachers]


def _placement(config: RunConfig, teacher: TeacherConfig, trained: Mapping[str, Path]) -> Placement:
    serving, root = config.serving, store_root(config)
    paths = {t.name: trained[f"teacher-{t.name}"] for t in config.teachers if f"teacher-{t.name}" in trained}
    made = teacher.training is None or teacher.name in paths
    spec = TeacherSpec(
        name=teacher.name,
        path=teacher_path(teacher, paths) if made else "",
        labels=config.data.labels,
        task=config.task,
        languages=teacher.language_set,
        revision=teacher.revision,
        trust_remote_code=teacher.trust_remote_code,
        label_map=dict(teacher.label_map),
        max_length=teacher.max_length,
        dtype=serving.dtype,
        max_tokens=serving.max_tokens,
        store=None if root is None else str(root),
        store_limit_gb=serving.store_limit_gb,
    )
    return Placement(spec, teacher.actor)


def start_pool(config: RunConfig, trained: Mapping[str, Path]) -> tuple[TeacherPool, list[TeacherInfo]]:
    """The pool of a run, opened (no weights are loaded), and what its teachers say of themselves.

    Raises:
        ModelError, LabelMismatchError, TeacherError, ResourceError: as `TeacherPool.open`; no actor is left then.
    """
    pool = TeacherPool(placements_of(config, trained), config.serving)
    try:
        infos = pool.open()
    except BaseException:
        pool.stop()
        raise
    for info in infos:
        log.info("teacher %s answers in %s (%s) on %s", info.name, info.dtype, info.dtype_reason, info.device)
    return pool, infos
