"""Compute a teacher's answers together with states of its encoder, in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.features import encode_features
from raykd.distill.features.states import FeatureRequest
from raykd.errors import ModelError
from raykd.networks.states import read_sources, record_states
from raykd.tasks import Task
from raykd.tasks.base import PendingRows
from raykd.text.encoding import EncodedBatch


def start_answers(
    task: Task,
    module: Any,
    encoded: EncodedBatch,
    columns: Sequence[Sequence[int]],
    features: FeatureRequest,
) -> PendingRows:
    """Compute what a teacher answers to a batch; wait for no device.

    Args:
        task: Reads the answers.
        module: The teacher's model.
        encoded: The rows in its tokens.
        columns: The teacher's columns of each of the run's labels.
        features: States that come with each answer; () for none.

    Raises:
        ModelError: States are wanted, and the batch runs in several passes.
    """
    if not features:
        return task.start_answers(module, encoded, columns)
    if encoded.parts is not None:
        raise ModelError(
            "states are read where a batch runs in one pass, and padding changes the answers of this model",
            got=f"{type(module).__name__}, whose texts run in passes of one length",
            wanted="a model that answers alike beside longer texts",
            next_step="leave objective.features out, or name the other teachers in its `teachers`",
        )
    with record_states(module, [source.state for source in features]) as found:
        pending = task.start_answers(module, encoded, columns)
    mask_BL = encoded.inputs["attention_mask"][: len(encoded.counts_B)]
    limit, own = torch.finfo(torch.float16).max, len(pending.tensors)
    read = read_sources(found, features, mask_BL, encoded.places_N2)
    vectors = [read[source].float().clamp(-limit, limit).half() for source in features]

    def encode(arrays: Sequence[NDArray[Any]]) -> list[bytes | None]:
        bodies = pending.encode(arrays[:own])
        states = dict(zip(features, arrays[own + 1 :], strict=True))
        return encode_features(bodies, states, features, arrays[own].astype(np.bool_), encoded.counts_B)

    return PendingRows((*pending.tensors, mask_BL, *vectors), encode)
