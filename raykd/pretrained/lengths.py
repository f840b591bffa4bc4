"""How long texts may be: a task's lengths against a model's positions and its tokenizer's special tokens.

Decision record: a text beyond a model's last position is an error in the middle of a run, so lengths are compared
before it. A teacher that nobody gave a length reads as much as it can, which is said; where all models have to read
the same tokens (language models) and where a number was given, what does not fit is refused. Rotary and relative
positions do not end, so there it is only said that a model was made for fewer.
"""

from __future__ import annotations

from typing import Protocol

from raykd.errors import ConfigError
from raykd.pretrained.positions import Positions
from raykd.pretrained.tokenizers import TokenizerFacts
from raykd.tasks import Task
from raykd.tasks.language import LanguageTask
from raykd.text.word_tokens import ADVANCE


class InspectedLengths(Protocol):
    """What `inspect_model` and `inspect_base` both find."""

    @property
    def positions(self) -> Positions: ...

    @property
    def tokenizer(self) -> TokenizerFacts: ...


def teacher_length(
    name: str, asked: int | None, trained: int | None, looked: InspectedLengths, task: Task
) -> tuple[int, str]:
    """Return how many tokens of a text a teacher reads, and what is to be said about it.

    Args:
        name: The teacher's.
        asked: `teachers[].max_length`; None where nobody set it.
        trained: Tokens that it was trained with; None where that is not known.
        looked: What was found of it.
        task: The run's.

    Raises:
        ConfigError: The number that was set does not fit the model, or the task's does not where all models have to
            read the same tokens.
    """
    limit = _most(looked, task)
    length = asked or trained or task.max_length
    if limit is not None and length > limit:
        if asked is not None:
            raise _too_long(f"teachers.{name}.max_length", asked, limit, f"teacher {name}")
        if isinstance(task, LanguageTask):
            raise _too_long("task.max_length", task.max_length, limit, f"teacher {name}")
        return limit, f"reads {limit} tokens of a text at most: it has no positions for {length}"
    return length, _said(length, looked)


def check_student_length(looked: InspectedLengths, task: Task) -> str:
    """Compare a checkpoint that a student starts from with the task's lengths, and return what is to be said.

    Raises:
        ConfigError: The task asks for more tokens than the student has positions for.
    """
    limit = _most(looked, task)
    if limit is not None and task.max_length > limit:
        raise _too_long("task.max_length", task.max_length, limit, "the student")
    return _said(task.max_length, looked)


def check_target(who: str, looked: InspectedLengths, task: Task) -> None:
    """Compare the targets of an encoder-decoder with the positions of its decoder.

    Args:
        who: The model, for the message.
        looked: What was found of it.
        task: The run's.

    Raises:
        ConfigError: With the number to set.
    """
    limit = looked.positions.target
    longest = task.target_positions if isinstance(task, LanguageTask) else 0
    if limit is not None and longest > limit:
        raise _too_long("task.max_target_length", longest, limit, who)


def check_room(key: str, length: int, special: tuple[int, int], task: Task, *, pairs: bool) -> None:
    """Refuse a length that the special tokens of a tokenizer fill.

    Args:
        key: What sets the length, for the message.
        length: In tokens.
        special: Tokens that the tokenizer adds to a text, and to a pair.
        task: The run's.
        pairs: Whether rows are two texts.

    Raises:
        ConfigError: Nothing of a text would be left; with the smallest number that leaves something.
    """
    answers = task.form == "answers"
    added = special[1] if pairs or answers else special[0]
    least = added + 1
    if answers:
        # As `raykd.text.tokens.shorten_questions` reckons: windows advance, and a question keeps one token.
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


def _most(looked: InspectedLengths, task: Task) -> int | None:
    """Most tokens of a text; an encoder-decoder that does not translate reads it on both sides."""
    sides = (
        looked.positions.source,
        None if isinstance(task, LanguageTask) and task.target_positions else looked.positions.target,
    )
    return min((side for side in sides if side is not None), default=None)


def _too_long(key: str, length: int, limit: int, who: str) -> ConfigError:
    return ConfigError(
        f"{key} is more than {who} has positions for",
        got=length,
        wanted=f"at most {limit} tokens, special tokens included",
        next_step=f"set {key}: {limit} (longer texts lose their end), or name a model with more positions",
    )


def _said(length: int, looked: InspectedLengths) -> str:
    """What a model or its tokenizer says about texts of this length."""
    made_for, own = looked.positions.made_for, looked.tokenizer.limit
    if looked.positions.source is None and made_for is not None and length > made_for:
        return f"texts of up to {length} tokens, and it was made for {made_for}"
    if own is not None and length > own:
        return f"texts of up to {length} tokens, and its tokenizer says {own}"
    return ""
