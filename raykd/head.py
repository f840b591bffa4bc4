"""Name the heads of models. A model has one head, and a task names the head that it reads."""

from typing import Literal

Head = Literal[
    "classification", "token_classification", "question_answering", "causal_lm", "seq2seq", "masked_lm"
]
