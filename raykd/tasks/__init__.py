"""What one prediction is: encoding, gathering units out of logits, metrics. The tokenizer is passed in."""

from typing import Annotated

from pydantic import Field

from raykd.tasks.base import EncodedBatch, EncodedRows, Said, TaskBase, Tokenizer
from raykd.tasks.classification import Classification
from raykd.tasks.question_answering import QuestionAnswering
from raykd.tasks.token_classification import TokenClassification

Task = Annotated[Classification | TokenClassification | QuestionAnswering, Field(discriminator="kind")]
"""The union of tasks; the next one adds itself here with its `kind`."""

METRICS: dict[str, tuple[str, ...]] = {
    str(task.model_fields["kind"].default): task.metric_names
    for task in (Classification, TokenClassification, QuestionAnswering)
}
"""Of each kind of task the names of its metrics, the one that a run is judged by first."""

__all__ = [
    "METRICS",
    "Classification",
    "EncodedBatch",
    "EncodedRows",
    "QuestionAnswering",
    "Said",
    "Task",
    "TaskBase",
    "TokenClassification",
    "Tokenizer",
]
