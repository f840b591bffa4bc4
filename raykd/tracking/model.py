"""The student as MLflow serves it: MLflow copies this file beside the weights and runs it to load them.

Decision record: a model from code, so that nothing is pickled; what is loaded is safetensors and the
tokenizer's files, through `raykd.models`, which must be installed where the model is served.
"""

from __future__ import annotations

from typing import Any

import pandas
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

BATCH = 64
"""Rows of one forward pass."""
LONGEST = 512
"""Tokens, for a student that does not say with how many it was trained."""


class StudentModel(PythonModel):
    """Answers ``text`` (and ``text_pair``) with ``label`` and a column ``p_<label>`` for each label."""

    def load_context(self, context: Any) -> None:
        """Loads the saved student."""
        from raykd.models import load

        self.student = load(context.artifacts["student"])

    def predict(
        self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> Any:
        """A row for each row of the input, with its index."""
        import numpy as np

        labels = list(self.student.labels)
        texts = [str(text) for text in model_input["text"]]
        pairs = (
            [str(text) for text in model_input["text_pair"]] if "text_pair" in model_input.columns else None
        )
        p_NC = self._probabilities(texts, pairs) if texts else np.zeros((0, len(labels)))
        columns: dict[str, Any] = {"label": [labels[c] for c in p_NC.argmax(axis=1)]}
        columns |= {f"p_{label}": p_NC[:, c] for c, label in enumerate(labels)}
        return pandas.DataFrame(columns, index=model_input.index)

    def _probabilities(self, texts: list[str], pairs: list[str] | None) -> Any:
        """float64 ``[N, C]``; rows of similar length share a batch, so that little is padding."""
        import numpy as np
        import torch

        from raykd.tasks.base import pad, tokenize

        rows = tokenize(self.student.tokenizer, texts, pairs, self.student.max_length or LONGEST)
        order = np.argsort(rows.lengths_B, kind="stable")
        p_NC = np.zeros((len(texts), len(self.student.labels)))
        for start in range(0, len(order), BATCH):
            picked = order[start : start + BATCH]
            with torch.inference_mode():
                logits_BC = self.student.model(**pad(rows, [int(i) for i in picked])).logits
            p_NC[picked] = torch.softmax(logits_BC.double(), dim=-1).numpy()
        return p_NC


set_model(StudentModel())
