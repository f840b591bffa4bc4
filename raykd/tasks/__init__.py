"""What one prediction is: encoding, gathering units out of logits, metrics. The tokenizer is passed in."""

from raykd.tasks.base import EncodedBatch, EncodedRows, Tokenizer
from raykd.tasks.classification import Classification

Task = Classification
"""The union of tasks; one member today, the next task adds itself here with its `kind`."""

__all__ = ["Classification", "EncodedBatch", "EncodedRows", "Task", "Tokenizer"]
