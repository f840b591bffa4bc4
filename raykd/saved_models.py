"""Provide the public functions that ask a saved model: load and predict.

Importing this module imports neither torch nor Ray.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raykd.parse import JsonObject
    from raykd.scoring.model import Model


def load(model: str | os.PathLike[str], *, task: str | None = None) -> Model:
    """Load a saved student, or any model with a head that raykd serves.

    Args:
        model: Folder of the model, or of a run, whose student is meant.
        task: Name of the task, of a student of several tasks.

    Returns:
        The model; its `predict` takes texts.

    Raises:
        ModelError: There is no model, or it must not be loaded (pickled weights, code of its own).
    """
    from raykd.scoring.model import Model

    return Model.load(model, task=task)


def predict(
    model: str | os.PathLike[str],
    inputs: str | Iterable[str | Mapping[str, object]],
    pairs: Sequence[str] | None = None,
    *,
    task: str | None = None,
    **options: Any,
) -> list[JsonObject]:
    """Load a model and predict a row for each input, in order.

    Args:
        model: As for `load`; load it once where you predict more than once.
        inputs: Texts, or mappings such as ``{"question": ..., "context": ...}``.
        pairs: Second texts, or contexts, one for each text.
        task: Name of the task, of a student of several tasks.
        **options: As for `Model.predict`.

    Returns:
        Plain values by task, for example ``{"text": ..., "label": ..., "probabilities": {...}}``.

    Raises:
        ModelError: As `load`.
        DataError: The inputs are not of the model's task.
    """
    return load(model, task=task).predict(inputs, pairs, **options)
