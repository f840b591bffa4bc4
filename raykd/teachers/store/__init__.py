"""The signal store: what a teacher answered, on disk, by content.

Decision record: LMDB, not a format of our own: many readers, and writers of several processes (replicas, other
runs) take turns by its own lock. Writes are not synced one by one: a killed process loses nothing, a power cut
may. A value is float32 logits, or a body of bytes of any size. A key is a hash of the text, a folder belongs to one
fingerprint (weights, tokenizer, labels, truncation, precision, form of the answer); never a position in a data set,
never alpha, temperature, lambda or weights, so an answer serves every trial and every later run. What LMDB lacks is
here: a checksum over key and value (`values`), a look at a file's pages before LMDB reads them, because LMDB trusts
its pages and a damaged one ends the process (`pages`), folders that are damaged, deleted or in use (`folder`), a
bound on the size (`bound`), and what a person may ask of a store
(`inventory`).
"""

from raykd.teachers.store.signalstore import SignalStore
from raykd.teachers.store.values import text_key, text_keys

__all__ = ["SignalStore", "text_key", "text_keys"]
