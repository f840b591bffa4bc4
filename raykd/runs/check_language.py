"""What can be known of a language model's directory before it is loaded: where it starts, how it writes, its room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raykd.config import RunConfig
from raykd.errors import ConfigError, ModelError
from raykd.models import files
from raykd.models.starts import GENERATION, check_start
from raykd.models.writing import input_limit, set_aside
from raykd.tasks.language import LanguageTask


def check_language_model(who: str, folder: Path, config: RunConfig, max_length: int | None) -> str:
    """What is to be said of a model directory that serves a language task ("" is nothing).

    Args:
        who: for messages, such as "teacher fr". max_length: of this model; None is the task's.
    Raises:
        ModelError: its decoder has no token to start with, or it has no place for what it is to write.
        ConfigError: its length leaves no room for a prompt.
    """
    task = config.task
    if not isinstance(task, LanguageTask) or task.kind == "masked_lm":
        return ""
    try:
        if task.kind == "seq2seq":
            check_start(folder)
        task = _with_length(who, task, max_length)
        _check_room(folder, task)
    except ModelError as error:
        raise ModelError(
            f"{who}: {error.what}", got=error.got, wanted=error.wanted, next_step=error.next_step
        ) from None
    return _said(folder, task)


def _with_length(who: str, task: Any, max_length: int | None) -> Any:
    """The task with this model's length.

    Raises:
        ConfigError: the longest target leaves no room for a prompt.
    """
    if max_length is not None and task.kind == "causal_lm" and task.max_target_length >= max_length:
        raise ConfigError(
            f"{who}: its length leaves no room for a prompt before the longest target",
            got=f"max_length {max_length}, task.max_target_length {task.max_target_length}",
            wanted=f"max_length above {task.max_target_length}",
            next_step="set teachers.NAME.max_length (it was trained with less), or lower task.max_target_length",
        )
    return task if max_length is None else task.model_copy(update={"max_length": max_length})


def _check_room(folder: Path, task: LanguageTask) -> None:
    """Whether the model's positions hold the longest prompt and what it is to write, where it is to write."""
    from transformers import AutoConfig

    if not task.written:
        return
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception:  # code of its own, or a type that is not known: said elsewhere
        return
    input_limit(config, task.max_new_tokens, task.prompt_tokens)


def _said(folder: Path, task: LanguageTask) -> str:
    """What of its generation config is set aside."""
    if not (folder / GENERATION).is_file():
        return ""
    aside = set_aside(files.read_json(folder / GENERATION), task.generation)
    if not aside:
        return ""
    named = ", ".join(f"{name} {value}" for name, value in aside.items())
    how = "" if task.generation == "checkpoint" else "; task.generation: checkpoint follows it"
    return f"its generation config is not followed where it says {named}{how}"
