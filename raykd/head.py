"""`Head`: what a model says something about. Models have one, tasks name the one that they read."""

from typing import Literal

Head = Literal[
    "classification", "token_classification", "question_answering", "causal_lm", "seq2seq", "masked_lm"
]
