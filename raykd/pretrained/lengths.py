"""Compare a task's lengths with a model's positions and its tokenizer's special tokens.

Decision record: a text beyond a model's last position fails in the middle of a run, so lengths are compared before it.
A teacher without a configured length reads as much as it can, with a note. A configured number that does not fit is
refused; so is the task's length for language models, because they all have to read the same tokens. Rotary and relative
positions do not end. There a note says that the model was made for fewer tokens.
"""

from __future__ import annotations

from typing import Protocol

from raykd.errors import ConfigError
from raykd.pretrained.positions import Positions
from raykd.pretrained.tokenizers import TokenizerFacts
from raykd.tasks import Task
from raykd.tasks.kinds.language import LanguageTask
from raykd.text.word_tokens import ADVANCE


class InspectedLengths(Protocol):
    """The part that the results of `inspect_model` and `inspect_base` share."""

    @property
    def positions(self) -> Positions: ...

    @property
    def tokenizer(self) -> TokenizerFacts: ...


def compute_teacher_length(
    name: str, asked: int | None, trained: int | None, looked: InspectedLengths, task: Task
) -> tuple[int, str]:
    """Compute how many tokens of a text a teacher reads.

    Args:
        name: The teacher's.
        asked: `teachers[].max_length`; None if it is not configured.
        trained: Longest texts in its training, in tokens; None if unknown.
        looked: Its inspection.
        task: The run's.

    Returns:
        The number of tokens, and a note ("" if there is nothing to say).

    Raises:
        ConfigError: The configured number does not fit the model, or the language task's does not.
    """
    limit = _find_limit(looked, task)
    length = asked or trained or task.max_length
    if limit is not None and length > limit:
        if asked is not None:
            raise _too_long_error(f"teachers.{name}.max_length", asked, limit, f"teacher {name}")
        if isinstance(task, LanguageTask):
            raise _too_long_error("task.max_length", task.max_length, limit, f"teacher {name}")
        return limit, f"reads {limit} tokens of a text at most: it has no positions for {length}"
    return length, _describe_length(length, looked)


def check_student_length(looked: InspectedLengths, task: Task) -> str:
    """Compare a checkpoint that a student starts from with the task's lengths.

    Returns:
        A note; "" if there is nothing to say.

    Raises:
        ConfigError: The task asks for more tokens than the student has positions for.
    """
    limit = _find_limit(looked, task)
    if limit is not None and task.max_length > limit:
        raise _too_long_error("task.max_length", task.max_length, limit, "the student")
    return _describe_length(task.max_length, looked)


def check_target(who: str, looked: InspectedLengths, task: Task) -> None:
    """Compare the targets of an encoder-decoder with the positions of its decoder.

    Raises:
        ConfigError: With the number to set.
    """
    limit = looked.positions.target
    longest = task.target_positions if isinstance(task, LanguageTask) else 0
    if limit is not None and longest > limit:
        raise _too_long_error("task.max_target_length", longest, limit, who)


def check_room(key: str, length: int, special: tuple[int, int], task: Task, *, pairs: bool) -> None:
    """Refuse a length that leaves no room for text beside the special tokens.

    Args:
        key: The key that sets the length, for the message.
        length: In tokens.
        special: How many tokens the tokenizer adds to a text, and to a pair.
        task: The run's.
        pairs: Whether rows have two texts.

    Raises:
        ConfigError: Names the smallest length that leaves room.
    """
    answers = task.form == "answers"
    added = special[1] if pairs or answers else special[0]
    least = added + 1
    if answers:
        # The same numbers as in `raykd.text.tokens.shorten_questions`: windows advance, a question keeps one token.
        stride = getattr(task, "stride", 0)
        least += stride + min(ADVANCE, max(1, (length - stride) // 8))
    if added and length < least:
        rows = "a question and windows of its context" if answers else "a text"
        raise ConfigError(
            f"{key} leaves no room for {rows} beside the special tokens",
            got=length,
            wanted=f"at least {least}" + (", or a smaller task.stride" if answers else ""),
            next_step=f"raise {key}"
            if "max_length" in key
            else "name a model with more positions" + (", or lower task.stride" if answers else ""),
        )


def _find_limit(looked: InspectedLengths, task: Task) -> int | None:
    """Return the most tokens of a text. An encoder-decoder that does not translate reads it on both sides."""
    sides = (
        looked.positions.source,
        None if isinstance(task, LanguageTask) and task.target_positions else looked.positions.target,
    )
    return min((side for side in sides if side is not None), default=None)


def _too_long_error(key: str, length: int, limit: int, who: str) -> ConfigError:
    return ConfigError(
        f"{key} is more than {who} has positions for",
        got=length,
        wanted=f"at most {limit} tokens, special tokens included",
        next_step=f"set {key}: {limit} (longer texts lose their end), or name a model with more positions",
    )


def _describe_length(length: int, looked: InspectedLengths) -> str:
    """Describe what a model or its tokenizer says about texts of this length; "" if nothing."""
    made_for, own = looked.positions.made_for, looked.tokenizer.limit
    if looked.positions.source is None and made_for is not None and length > made_for:
        return f"texts of up to {length} tokens, and it was made for {made_for}"
    if own is not None and length > own:
        return f"texts of up to {length} tokens, and its tokenizer says {own}"
    return ""
