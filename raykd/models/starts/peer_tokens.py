"""Whether two networks that learn side by side can read the same tokens."""

from __future__ import annotations

from raykd.errors import ConfigError
from raykd.models.checkpoints import PretrainedStudent
from raykd.models.students import Student


def has_equal_keys(student: Student, second: Student) -> bool:
    """Return whether two students fit equal tokenizers; a checkpoint without revision has that of the other one."""
    both = [student, second]
    if len({getattr(one, "revision", None) for one in both} - {None}) == 1:
        both = [
            one.model_copy(update={"revision": None}) if hasattr(one, "revision") else one for one in both
        ]
    return both[0].tokenizer_key() == both[1].tokenizer_key()


def check_peer_tokens(student: Student, peer: Student) -> None:
    """Refuse a checkpoint as a peer whose tokenizer is not that of the student's checkpoint.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(student, PretrainedStudent) or not isinstance(peer, PretrainedStudent):
        return
    from raykd.models.vocabulary import is_same_tokenizer

    if has_equal_keys(student, peer) or is_same_tokenizer(student.load_tokenizer(), peer.load_tokenizer()):
        return
    raise ConfigError(
        "peer: its tokenizer is not the student's, and both read the same tokens",
        got=f"the tokenizers of {student.path} and {peer.path}",
        wanted="checkpoints whose tokenizers have equal contents",
        next_step="choose a peer of the student's family, a peer of kind transformer or lstm, or train it first as a "
        "teacher (teachers[].training)",
    )
