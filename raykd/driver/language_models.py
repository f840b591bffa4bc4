"""What can be known of a language model's directory before it is loaded: where it starts, how it writes, its room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from raykd.config import ModelTeacher, RunConfig
from raykd.data.rows import Rows
from raykd.errors import ConfigError, ModelError, RaykdError
from raykd.prediction.generation_settings import check_token_ids, compute_input_limit, find_ignored_settings
from raykd.pretrained import files
from raykd.pretrained.jsonfile import read_json
from raykd.pretrained.starts import GENERATION, check_decoder_start
from raykd.pretrained.tokenizers import load_tokenizer
from raykd.tasks.language import LanguageTask
from raykd.text.batch import TextBatch
from raykd.text.codes import choose_language_code, is_multilingual_class, list_language_codes
from raykd.text.prompts import encode_prompts


def check_language_model(
    who: str,
    folder: Path,
    config: RunConfig,
    max_length: int | None,
    spoken: frozenset[str] | None = None,
    codes: Mapping[str, str] = MappingProxyType({}),
    *,
    trust_remote_code: bool = False,
) -> str:
    """Return what is to be said of a model directory that serves a language task ("" is nothing).

    Args:
        who: For messages, such as "teacher fr".
        max_length: Of this model; None is the task's.
        spoken: Its languages; None is any.
        codes: Of the run's languages, as its `language_codes` say.

    Raises:
        ModelError: Its decoder has no token to start with, or it has no place for what it is to write.
        ConfigError: Its length leaves no room for a prompt, or its tokenizer has no code for a language.
    """
    task = config.task
    if not isinstance(task, LanguageTask):
        return ""
    try:
        _encode_one(load_tokenizer(folder, trust_remote_code=trust_remote_code), task)
        if not task.generates:
            return ""
        said = []
        if task.marks_languages:
            check_decoder_start(folder)
            languages = config.data.select_languages or config.data.languages
            said.append(_coded(folder, [i for i in languages if spoken is None or i in spoken], codes))
        described = read_json(folder / files.CONFIG) if (folder / files.CONFIG).is_file() else {}
        size = described.get("vocab_size")
        check_token_ids(_generation_settings(folder) or described, size if isinstance(size, int) else None)
        task = _with_length(task, max_length)
        _check_room(folder, task)
    except (ModelError, ConfigError) as error:
        raise type(error)(
            f"{who}: {error.what}", got=error.got, wanted=error.wanted, next_step=error.next_step
        ) from None
    return "; ".join(filter(None, [*said, _said(folder, task)]))


def _encode_one(tokenizer: Any, task: Any) -> None:
    """Whether the tokenizer can do what the task asks: hide tokens, say where a target's stand.

    Raises:
        ConfigError: What it lacks.
    """
    one = TextBatch(("",), ("a",), ("",), np.zeros(1, np.int64), None if task.form == "plain" else ("a",))
    if not getattr(tokenizer, "by_language", False):
        task.encode(tokenizer, one)


def _coded(folder: Path, languages: Sequence[str], given: Mapping[str, str]) -> str:
    """Return how the languages that are written are named, where the tokenizer marks texts with their language.

    Raises:
        ConfigError: One has no code.
    """
    if not has_language_codes(folder):
        return ""
    codes = list_language_codes(load_tokenizer(folder))
    found = {language: choose_language_code(codes, given.get(language, language)) for language in languages}
    return "writes " + ", ".join(f"{language} as {code}" for language, code in found.items())


def has_language_codes(folder: Path) -> bool:
    """Return whether the tokenizer of a directory marks texts with their language."""
    place = folder / "tokenizer_config.json"
    return place.is_file() and is_multilingual_class(read_json(place).get("tokenizer_class"))


def check_source_languages(config: RunConfig, rows: Rows) -> str:
    """Return how sources are read by models that mark their language ("" where no model does, or every row says it).

    Raises:
        ConfigError: A model has no code for a language, or would read sources without one as what is to be
            written.
    """
    if not config.task.marks_languages:
        return ""
    named = sorted({name for name in rows.source_languages or () if name})
    silent = {
        to
        for to, name in zip(rows.languages, rows.source_languages or ("",) * len(rows), strict=True)
        if not name
    }
    said = []
    for who, folder, given, trusted in _coded_models(config):
        tokenizer: Any = load_tokenizer(folder, trust_remote_code=trusted)
        codes = list_language_codes(tokenizer)
        for name in named:
            choose_language_code(codes, given.get(name, name))
        if silent:
            own = str(getattr(tokenizer, "src_lang", ""))
            same = [to for to in sorted(silent) if choose_language_code(codes, given.get(to, to)) == own]
            if same:
                raise ConfigError(
                    f"{who} reads the language of each source, and rows do not say it",
                    got=f"sources without a language, targets in {', '.join(same)}, which the tokenizer's own "
                    f"src_lang ({own}) is too",
                    wanted="a column src_lang (data.columns.source_language), or source_language of each source",
                    next_step="name it, for example data.train.source_language=en",
                )
            said.append(f"{who} reads sources without a language as {own}")
    return "; ".join(said)


def describe_ignored_settings(config: RunConfig) -> list[str]:
    """For each model that a run starts from, what of its generation config is not followed."""
    task = config.task
    if not isinstance(task, LanguageTask) or not task.written:
        return []
    said = [(who, _said(folder, task)) for who, folder, _, _ in _local_models(config)]
    return [f"{who}: {what}" for who, what in said if what]


def check_prompts(config: RunConfig, rows: Rows) -> None:
    """Whether each model can begin where a prompt is empty.

    Raises:
        ConfigError: A model's tokenizer has no token to begin with; names the model.
    """
    empty = [i for i, text in enumerate(rows.texts) if not text]
    if config.task.form != "target" or not empty:
        return
    for who, folder, _, trusted in _local_models(config):
        try:
            encode_prompts(load_tokenizer(folder, trust_remote_code=trusted), [""])
        except ConfigError as error:
            raise ConfigError(
                f"{who}: {error.what}",
                got=f"{error.got}; row {rows.ids[empty[0]]} and {len(empty) - 1} more",
                wanted=error.wanted,
                next_step=error.next_step,
            ) from None


def describe_repeated_marks(config: RunConfig, rows: Rows) -> str:
    """How many rows already hold what a tokenizer would put around them ("" is none); they do not get it twice."""
    task, said = config.task, []
    if not isinstance(task, LanguageTask) or not task.generates:
        return ""
    for who, folder, given, trusted in _local_models(config):
        try:
            tokenizer: Any = load_tokenizer(folder, trust_remote_code=trusted)
            roles = ("bos_token", "cls_token", "eos_token", "sep_token")
            marks = tuple(str(mark) for role in roles if (mark := getattr(tokenizer, role, None)))
            pairs = list(zip(rows.texts, rows.pairs or rows.texts, strict=True))
            near = [
                i
                for i, (text, target) in enumerate(pairs)
                if marks
                and (text.startswith(marks) or text.endswith(marks) or target.rstrip().endswith(marks))
            ]
            if not near:
                continue
            held_B = task.encode(
                tokenizer, replace(rows, source_languages=None).take(near).in_codes(given)
            ).extra["held_B"]
        except RaykdError:  # said elsewhere
            continue
        if held_B.any():
            said.append(
                f"{who}: {held_B.sum():,} of {len(rows):,} training rows already hold "
                f"{' or '.join(dict.fromkeys(marks))} where its tokenizer would put it, and do not get it twice"
            )
    if said and config.student.kind != "pretrained":
        said.append(
            "the student, whose tokenizer is learnt from the texts, learns such marks as text: take them off the files "
            "if that is not wanted"
        )
    return "; ".join(said)


def _local_models(config: RunConfig) -> list[tuple[str, Path, Mapping[str, str], bool]]:
    """Directories of the models that a run starts from: who they are, the language codes that they are given, and
    whether their code is trusted."""
    found = [
        (f"teacher {t.name}", Path(t.path), t.language_codes, t.trust_remote_code)
        for t in config.active_teachers
        if isinstance(t, ModelTeacher)
    ]
    if config.student.kind == "pretrained":
        own = config.student
        found.append(("the student", Path(own.path), own.language_codes, own.trust_remote_code))
    return [each for each in found if each[1].is_dir()]


def _coded_models(config: RunConfig) -> list[tuple[str, Path, Mapping[str, str], bool]]:
    """Those whose tokenizers mark texts with their language."""
    return [each for each in _local_models(config) if has_language_codes(each[1])]


def _with_length(task: Any, max_length: int | None) -> Any:
    """Return the task with this model's length.

    Raises:
        ConfigError: The longest target leaves no room for a prompt.
    """
    if max_length is not None and task.form == "target" and task.max_target_length >= max_length:
        raise ConfigError(
            "its length leaves no room for a prompt before the longest target",
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
    compute_input_limit(config, task.max_new_tokens, task.prompt_tokens)


def _generation_settings(folder: Path) -> dict[str, Any]:
    """Return the checkpoint's generation_config.json; empty where there is none."""
    return read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}


def _said(folder: Path, task: LanguageTask) -> str:
    """Return what of its generation config is set aside."""
    settings = _generation_settings(folder)
    aside, never = (
        find_ignored_settings(settings, task.generation),
        find_ignored_settings(settings, "checkpoint"),
    )
    if not aside:
        return ""
    named = ", ".join(f"{name} {value}" for name, value in aside.items())
    wished = [name for name in aside if name not in never]
    how = f"; task.generation: checkpoint follows {', '.join(wished)}" if wished else ""
    return f"its generation config is not followed where it says {named}{how}"
