"""Check the folders of language models before they are loaded: first tokens, language codes, room for texts.

Decision record: what is refused here would otherwise fail on a worker, or silently write in a wrong language.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from raykd.config import ModelTeacher, RunConfig
from raykd.data.rows import Rows
from raykd.errors import ConfigError, ModelError, RaykdError, prefix_errors
from raykd.models import PretrainedStudent, preview_model
from raykd.prediction.generation_settings import check_token_ids, compute_input_limit, find_ignored_settings
from raykd.pretrained import files
from raykd.pretrained.jsonfile import read_json
from raykd.pretrained.starts import GENERATION, check_decoder_start
from raykd.pretrained.tokenizers import load_tokenizer
from raykd.tasks.kinds.language import LanguageTask
from raykd.text.batch import TextBatch
from raykd.text.codes import (
    choose_language_code,
    find_source_marks,
    is_multilingual_class,
    list_language_codes,
)
from raykd.text.prompts import encode_prompts
from raykd.text.tokens import Tokenizer


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
    """Check a model's folder for a language task.

    Args:
        who: The model in messages, for example "teacher fr".
        folder: Its folder.
        config: The run of one task.
        max_length: Its own length in tokens; None takes the task's.
        spoken: Its languages; None is any.
        codes: Its codes for the run's languages (`language_codes`).
        trust_remote_code: Whether code in the folder may run.

    Returns:
        What a reader should know of the model; "" is nothing.

    Raises:
        ModelError: Its decoder has no token to start with, or no room for what it should write.
        ConfigError: Its length leaves no room for a prompt, or its tokenizer has no code for a language.
    """
    task = config.task
    if not isinstance(task, LanguageTask):
        return ""
    with prefix_errors(who, ModelError, ConfigError):
        _encode_one(load_tokenizer(folder, trust_remote_code=trust_remote_code), task)
        if not task.generates:
            return ""
        notes = []
        if task.marks_languages:
            check_decoder_start(folder)
            languages = config.data.select_languages or config.data.languages
            notes.append(
                _describe_codes(folder, [i for i in languages if spoken is None or i in spoken], codes)
            )
        described = _read_optional(folder / files.CONFIG)
        size = described.get("vocab_size")
        check_token_ids(
            _read_optional(folder / GENERATION) or described, size if isinstance(size, int) else None
        )
        sized = _with_length(task, max_length)
        _check_room(folder, sized)
    return "; ".join(filter(None, [*notes, _describe_ignored(folder, sized)]))


def _encode_one(tokenizer: Tokenizer, task: LanguageTask) -> None:
    """Encode a text, to find out whether the tokenizer can do what the task needs (mask tokens, give offsets).

    Raises:
        ConfigError: Names what it lacks.
    """
    one = TextBatch(("",), ("a",), ("",), np.zeros(1, np.int64), None if task.form == "plain" else ("a",))
    if not getattr(tokenizer, "by_language", False):
        task.encode(tokenizer, one)


def _describe_codes(folder: Path, languages: Sequence[str], given: Mapping[str, str]) -> str:
    """Return how a tokenizer that marks texts with their language names the languages to write; "" for others.

    Raises:
        ConfigError: A language has no code.
    """
    if not has_language_codes(folder):
        return ""
    codes = list_language_codes(load_tokenizer(folder))
    found = {language: choose_language_code(codes, given.get(language, language)) for language in languages}
    return "writes " + ", ".join(f"{language} as {code}" for language, code in found.items())


def has_language_codes(folder: Path) -> bool:
    """Return whether the tokenizer in a folder marks texts with their language."""
    place = folder / "tokenizer_config.json"
    return place.is_file() and is_multilingual_class(read_json(place).get("tokenizer_class"))


def check_source_languages(config: RunConfig, rows: Rows) -> str:
    """Check that models which mark the language of a source can tell it.

    Returns:
        How each such model reads sources without a language; "" if every row names one, or no model marks it.

    Raises:
        ConfigError: A model has no code for a language, or would take a source without one for a text in the
            language to write.
    """
    if not config.task.marks_languages:
        return ""
    named = sorted({name for name in rows.source_languages or () if name})
    # Languages of targets whose sources name none.
    unnamed = {
        to
        for to, name in zip(rows.languages, rows.source_languages or ("",) * len(rows), strict=True)
        if not name
    }
    notes = []
    for who, folder, given, trusted in _list_local_models(config):
        if not has_language_codes(folder):
            continue
        tokenizer = load_tokenizer(folder, trust_remote_code=trusted)
        codes = list_language_codes(tokenizer)
        for name in named:
            choose_language_code(codes, given.get(name, name))
        if unnamed:
            own = str(getattr(tokenizer, "src_lang", ""))
            same = [to for to in sorted(unnamed) if choose_language_code(codes, given.get(to, to)) == own]
            if same:
                raise ConfigError(
                    f"{who} reads the language of each source, and rows do not say it",
                    got=f"sources without a language, targets in {', '.join(same)}, which the tokenizer's own "
                    f"src_lang ({own}) is too",
                    wanted="a column src_lang (data.columns.source_language), or source_language of each source",
                    next_step="name it, for example data.train.source_language=en",
                )
            notes.append(f"{who} reads sources without a language as {own}")
    return "; ".join(notes)


def describe_untold_models(config: RunConfig, rows: Rows) -> str:
    """Return which models write several languages and are not told which one; "" where there is none.

    A T5, a Marian or a plain BART reads the language to write from the source or not at all, so only the data say it.
    """
    if not config.task.marks_languages:
        return ""
    asked = {f"teacher {t.name}": t.language_set for t in config.active_teachers}
    notes = []
    for who, folder, _, trusted in _list_local_models(config):
        written = sorted(set(rows.list_languages()) & (asked.get(who) or set(rows.list_languages())))
        if len(written) < 2 or has_language_codes(folder):
            continue
        if not find_source_marks(load_tokenizer(folder, trust_remote_code=trusted)):
            notes.append(
                f"{who} is not told which of {', '.join(written)} to write: its sources have to say it"
            )
    return "; ".join(notes)


def describe_ignored_settings(config: RunConfig) -> list[str]:
    """Return a note for each local model of a run whose generation config is not followed."""
    task = config.task
    if not isinstance(task, LanguageTask) or not task.written:
        return []
    notes = [(who, _describe_ignored(folder, task)) for who, folder, _, _ in _list_local_models(config)]
    return [f"{who}: {note}" for who, note in notes if note]


def check_prompts(config: RunConfig, rows: Rows) -> None:
    """Check that each model can begin a text after an empty prompt, if there are empty prompts.

    Raises:
        ConfigError: A model's tokenizer has no token to begin with.
    """
    empty = [i for i, text in enumerate(rows.texts if config.task.form == "target" else ()) if not text]
    if not empty:
        return
    for who, folder, _, trusted in _list_local_models(config):
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
    """Return, per model, how many training rows already hold the tokens that its tokenizer adds; "" is none.

    Such rows do not get them twice.
    """
    task, notes = config.task, []
    if not isinstance(task, LanguageTask) or not task.generates:
        return ""
    for who, folder, given, trusted in _list_local_models(config):
        try:
            tokenizer = load_tokenizer(folder, trust_remote_code=trusted)
            marks = _list_marks(tokenizer)
            pairs = zip(rows.texts, rows.pairs or rows.texts, strict=True)
            # A cheap test first: only these rows are tokenised.
            candidates = [i for i, (text, target) in enumerate(pairs) if _may_hold(text, target, marks)]
            if not candidates:
                continue
            batch = replace(rows, source_languages=None).take(candidates).with_codes(given)
            held_B = task.encode(tokenizer, batch).extra["held_B"]
        except RaykdError:  # reported by another check
            continue
        if held_B.any():
            notes.append(
                f"{who}: {held_B.sum():,} of {len(rows):,} training rows already hold "
                f"{' or '.join(dict.fromkeys(marks))} where its tokenizer would put it, and do not get it twice"
            )
    if notes and config.student.kind != "pretrained":
        notes.append(
            "the student, whose tokenizer is learnt from the texts, learns such marks as text: take them off the files "
            "if that is not wanted"
        )
    return "; ".join(notes)


def _list_marks(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return the tokens that a tokenizer may put around a text."""
    roles = ("bos_token", "cls_token", "eos_token", "sep_token")
    return tuple(str(mark) for role in roles if (mark := getattr(tokenizer, role, None)))


def _may_hold(text: str, target: str, marks: tuple[str, ...]) -> bool:
    # Without marks, `startswith(())` is False.
    return text.startswith(marks) or text.endswith(marks) or target.rstrip().endswith(marks)


def _list_local_models(config: RunConfig) -> list[tuple[str, Path, Mapping[str, str], bool]]:
    """Return the models of a run with a folder from which each can be inspected.

    Returns:
        Per model: who it is, for messages; its folder; its language codes; whether its code is trusted.
    """
    own = [(f"teacher {t.name}", t) for t in config.active_teachers if isinstance(t, ModelTeacher)]
    sources: list[tuple[str, ModelTeacher | PretrainedStudent]] = [*own]
    if config.student.kind == "pretrained":
        sources.append(("the student", config.student))
    found: list[tuple[str, Path, Mapping[str, str], bool]] = []
    for who, model in sources:
        with contextlib.suppress(ModelError):  # said where the model itself is checked
            folder = preview_model(
                model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
            )
            found.append((who, folder, model.language_codes, model.trust_remote_code))
    return found


def _with_length(task: LanguageTask, max_length: int | None) -> LanguageTask:
    """Return the task with a model's own length.

    Raises:
        ConfigError: The longest target leaves no room for a prompt.
    """
    if max_length is None:
        return task
    longest_target: int = getattr(task, "max_target_length", 0)
    if task.form == "target" and longest_target >= max_length:
        raise ConfigError(
            "its length leaves no room for a prompt before the longest target",
            got=f"max_length {max_length}, task.max_target_length {longest_target}",
            wanted=f"max_length above {longest_target}",
            next_step="set teachers.NAME.max_length (it was trained with less), or lower task.max_target_length",
        )
    return task.model_copy(update={"max_length": max_length})


def _check_room(folder: Path, task: LanguageTask) -> None:
    """Check that the positions of a model that writes hold the longest prompt and the longest text."""
    from transformers import AutoConfig

    if not task.written:
        return
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception:  # code of its own, or an unknown type: reported by another check
        return
    compute_input_limit(config, task.max_new_tokens, task.prompt_tokens)


def _read_optional(path: Path) -> dict[str, object]:
    """Return the JSON object in a file; empty if there is no such file."""
    return read_json(path) if path.is_file() else {}


def _describe_ignored(folder: Path, task: LanguageTask) -> str:
    """Return which settings of the model's generation config are ignored; "" is none."""
    settings = _read_optional(folder / GENERATION)
    ignored = find_ignored_settings(settings, task.generation)
    if not ignored:
        return ""
    named = ", ".join(f"{name} {value}" for name, value in ignored.items())
    always_ignored = find_ignored_settings(settings, "checkpoint")
    choosable = [name for name in ignored if name not in always_ignored]
    how = f"; task.generation: checkpoint follows {', '.join(choosable)}" if choosable else ""
    return f"its generation config is not followed where it says {named}{how}"
