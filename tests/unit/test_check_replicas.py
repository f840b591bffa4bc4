"""`raykd check` says which replicas of a teacher no worker could keep busy."""

from __future__ import annotations

import pytest

from raykd.preflight.check import check_resources
from tests.worlds import run_config


@pytest.mark.parametrize(
    ("prefetch", "accumulation", "workers", "batches"),
    [(2, 1, 1, 3), (4, 1, 1, 5), (2, 2, 1, 6), (1, 1, 3, 6)],
)
def test_replicas_beyond_the_batches_in_flight_are_named(
    prefetch: int, accumulation: int, workers: int, batches: int
) -> None:
    config = run_config(gradient_accumulation=accumulation)

    def said(replicas: int) -> str:
        first, *others = config.teachers
        many = first.model_copy(update={"actor": first.actor.model_copy(update={"replicas": replicas})})
        changes = {
            "teachers": (many, *others),
            "serving": config.serving.model_copy(update={"prefetch": prefetch}),
            "workers": config.workers.model_copy(update={"num_workers": workers}),
            "ray": config.ray.model_copy(update={"num_cpus": 32}),
        }
        return check_resources(config.model_copy(update=changes))

    assert f"en has {batches + 1} replicas, but at most {batches} batches" in said(batches + 1)
    assert "replicas" not in said(batches)
