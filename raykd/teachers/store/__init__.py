"""The signal store: teachers' answers on disk, keyed by content.

Decision record:

- It uses a library (`sqlite`, behind the interface in `base`), not a format of its own. There are many readers, and
  writers of several processes (replicas, other runs) take turns by the library's locks.
- A value is an answer as `raykd.answers.codec` writes it. A key is a hash of the text. A folder belongs to one
  fingerprint of weights, tokenizer, labels, truncation, precision and form of the answer.
- A key never holds a position in a data set, alpha, temperature, lambda or weights, so an answer serves every trial and
  every later run.
- What the library lacks is here: a checksum over key and value (`values`), folders that are damaged, deleted or in use
  (`folder`), a bound on the size (`bound`), and the commands for people (`inventory`).
"""

from raykd.teachers.store.signalstore import SignalStore
from raykd.teachers.store.values import make_text_key, make_text_keys

__all__ = ["SignalStore", "make_text_key", "make_text_keys"]
