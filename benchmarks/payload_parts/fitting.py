"""Training in this process: raykd's own `TrainingLoop`, fed by `LocalSource`, without Ray around it."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd import models
from raykd.config import DataConfig, RunConfig
from raykd.data.load import Dataset, load_data
from raykd.driver.loop import make_task_model
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from raykd.tasks.forms import RowForm
from raykd.teachers.source import LocalSource


@dataclass(frozen=True)
class Fitted:
    """A trained model, and how long its training took."""

    model: models.TextModel
    seconds: float


def fit(config: RunConfig, data: Dataset, tokenizer: Any, source: LocalSource | None) -> Fitted:
    """Trains and gives back the best checkpoint on validation."""
    begun = time.perf_counter()
    prepared = prepare_rows(config, data.train, data.validation, tokenizer)
    loop = TrainingLoop(config, prepared, make_task_model(config, tokenizer), source)
    while loop.advance():
        pass
    best = loop.best_student()
    loop.engine.close()
    assert isinstance(best, models.TextModel)
    return Fitted(best, time.perf_counter() - begun)


@functools.lru_cache(maxsize=2)
def _read(data: str, form: RowForm) -> Dataset:
    return load_data(DataConfig.model_validate_json(data), Path.cwd(), form)


def data_of(config: RunConfig) -> Dataset:
    """The rows of a run; read once for runs of the same rows."""
    return _read(config.data.model_dump_json(), config.form)
