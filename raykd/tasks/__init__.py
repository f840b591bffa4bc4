"""What one prediction is: encoding, gathering units out of logits, metrics. The tokenizer is passed in."""

from typing import Annotated

from raykd.tasks.base import EncodedBatch, EncodedRows, SystemAnswers, TaskBase
from raykd.tasks.causal_lm import CausalLM
from raykd.tasks.classification import Classification
from raykd.tasks.masked_lm import MaskedLM
from raykd.tasks.question_answering import QuestionAnswering
from raykd.tasks.registry import (
    Registered,
    build_task,
    holds_task,
    register_task,
    registered_tasks,
    task_class,
)
from raykd.tasks.seq2seq import Seq2Seq
from raykd.tasks.token_classification import TokenClassification
from raykd.text.tokens import Tokenizer

Task = Annotated[
    Classification | TokenClassification | QuestionAnswering | CausalLM | Seq2Seq | MaskedLM, Registered()
]
"""The union of tasks: to a type checker those that ship, to pydantic all that are registered."""

__all__ = [
    "CausalLM",
    "Classification",
    "EncodedBatch",
    "EncodedRows",
    "MaskedLM",
    "QuestionAnswering",
    "Registered",
    "Seq2Seq",
    "SystemAnswers",
    "Task",
    "TaskBase",
    "TokenClassification",
    "Tokenizer",
    "build_task",
    "holds_task",
    "register_task",
    "registered_tasks",
    "task_class",
]
