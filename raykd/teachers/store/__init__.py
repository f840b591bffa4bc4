"""The signal store: what a teacher answered, on disk, by content.

Decision record: a kept library, not a format of our own (`sqlite`, behind the interface in `base`): many readers, and
writers of several processes (replicas, other runs) take turns by its locks. A value is an answer as
`raykd.answers.codec` writes it. A key is a hash of the text, a folder belongs to one fingerprint (weights, tokenizer,
labels, truncation, precision, form of the answer); never a position in a data set, never alpha, temperature, lambda or
weights, so an answer serves every trial and every later run. What a library lacks is here: a checksum over key and
value (`values`), folders that are damaged, deleted or in use (`folder`), a bound on the size (`bound`), and what a
person may ask of a store (`inventory`).
"""

from raykd.teachers.store.signalstore import SignalStore
from raykd.teachers.store.values import make_text_key, make_text_keys

__all__ = ["SignalStore", "make_text_key", "make_text_keys"]
