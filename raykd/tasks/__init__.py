"""What one prediction is: encoding, gathering units out of logits, metrics. The tokenizer is passed in."""

from typing import Annotated, get_args

from pydantic import Field

from raykd.tasks.base import EncodedBatch, EncodedRows, SystemAnswers, TaskBase
from raykd.tasks.causal_lm import CausalLM
from raykd.tasks.classification import Classification
from raykd.tasks.masked_lm import MaskedLM
from raykd.tasks.question_answering import QuestionAnswering
from raykd.tasks.seq2seq import Seq2Seq
from raykd.tasks.token_classification import TokenClassification
from raykd.text.tokens import Tokenizer

Task = Annotated[
    Classification | TokenClassification | QuestionAnswering | CausalLM | Seq2Seq | MaskedLM,
    Field(discriminator="kind"),
]
"""The union of tasks; the next one adds itself here with its `kind`."""

METRICS: dict[str, tuple[str, ...]] = {
    str(task.model_fields["kind"].default): task.metric_names for task in get_args(get_args(Task)[0])
}
"""Of each kind of task the names of its metrics, the one that a run is judged by first."""

__all__ = [
    "METRICS",
    "CausalLM",
    "Classification",
    "EncodedBatch",
    "EncodedRows",
    "MaskedLM",
    "QuestionAnswering",
    "Seq2Seq",
    "SystemAnswers",
    "Task",
    "TaskBase",
    "TokenClassification",
    "Tokenizer",
]
