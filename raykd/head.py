"""Name the heads of models. A model has one head, and a task names the head that it reads."""

from collections.abc import Mapping
from typing import Any, Literal

Pooling = Literal["mean", "cls"]
"""What of an encoder's output is a text's vector: the mean over its tokens, or its first token."""

Head = Literal[
    "classification",
    "multi_label",
    "regression",
    "token_classification",
    "question_answering",
    "causal_lm",
    "seq2seq",
    "masked_lm",
    "embedding",
]
TaskSettings = Mapping[str, Any]
"""What a saved model remembers of its task, as JSON in raykd.json."""
