"""Tasks: what one prediction is, how rows are encoded and read, how answers are scored and shown."""

from typing import Annotated

from raykd.tasks.base import SystemAnswers, TaskBase
from raykd.tasks.kinds.causal_lm import CausalLM
from raykd.tasks.kinds.classification import Classification
from raykd.tasks.kinds.embedding import Embedding
from raykd.tasks.kinds.masked_lm import MaskedLM
from raykd.tasks.kinds.multi_label import MultiLabel
from raykd.tasks.kinds.question_answering import QuestionAnswering
from raykd.tasks.kinds.ranking import Ranking
from raykd.tasks.kinds.regression import Regression
from raykd.tasks.kinds.relation import Relation
from raykd.tasks.kinds.seq2seq import Seq2Seq
from raykd.tasks.kinds.token_classification import TokenClassification
from raykd.tasks.registry import (
    RegisteredTask,
    build_task,
    find_task_class,
    holds_task,
    rebuild_holders,
    register_task,
)
from raykd.text.encoding import EncodedBatch, EncodedRows
from raykd.text.tokens import Tokenizer

Task = Annotated[
    Classification
    | Relation
    | MultiLabel
    | Regression
    | TokenClassification
    | QuestionAnswering
    | CausalLM
    | Seq2Seq
    | MaskedLM
    | Embedding
    | Ranking,
    RegisteredTask(),
]
"""The union of tasks: to a type checker those that ship, to pydantic all that are registered."""

__all__ = [
    "CausalLM",
    "Classification",
    "Embedding",
    "EncodedBatch",
    "EncodedRows",
    "MaskedLM",
    "MultiLabel",
    "QuestionAnswering",
    "Ranking",
    "RegisteredTask",
    "Regression",
    "Relation",
    "Seq2Seq",
    "SystemAnswers",
    "Task",
    "TaskBase",
    "TokenClassification",
    "Tokenizer",
    "build_task",
    "find_task_class",
    "holds_task",
    "rebuild_holders",
    "register_task",
]
