"""The rows of a run with their tokens: what a training loop reads, made once and shared by all loops alike.

Decision record: tokenising the training rows takes longer than anything else before the first step, and the trials
of a sweep mostly differ in what leaves the tokens alone, so the tokens are an argument of the loop and not its own
doing.
"""

from __future__ import annotations

from dataclasses import dataclass

from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.tasks import EncodedRows
from raykd.tasks.base import Tokenizer


@dataclass(frozen=True)
class Prepared:
    """Rows and their tokens, row for row. Written by `prepare`, read by the loop; never changed."""

    train: Rows
    validation: Rows
    train_tokens: EncodedRows
    validation_tokens: EncodedRows


def prepare(config: RunConfig, train: Rows, validation: Rows, tokenizer: Tokenizer) -> Prepared:
    """Tokenises the rows that the run sees; plain training sees the labelled ones only."""
    if config.plain:
        train = train.select(train.labelled)
    return Prepared(
        train=train,
        validation=validation,
        train_tokens=config.task.encode(tokenizer, train.take(range(len(train)))),
        validation_tokens=config.task.encode(tokenizer, validation.take(range(len(validation)))),
    )
