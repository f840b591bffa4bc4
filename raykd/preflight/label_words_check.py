"""Compare a language model that is read at words with what a run asks of it; see `raykd.preflight.model_check`."""

from __future__ import annotations

from pathlib import Path

from raykd.config import HttpTeacher, LabelWordsTeacher, RunConfig
from raykd.driver.pool import make_teacher_spec
from raykd.errors import ConfigError
from raykd.preflight.model_check import describe_columns, has_pairs
from raykd.teachers.backends.words.backend import LabelWordsBackend
from raykd.text.label_phrases import ANY


def look_at_label_words(
    teacher: LabelWordsTeacher, config: RunConfig, folder: Path
) -> tuple[str, tuple[str, ...]]:
    """Compare a language model, its template and words with a run; see `look_at_teacher`."""
    check_phrases(teacher, config)
    local = teacher.model_copy(update={"path": str(folder)})
    backend = LabelWordsBackend(make_teacher_spec(config, local, {}))
    looked, length = backend.look()
    columns = backend.map_columns(teacher.word_labels)
    labels = describe_columns(teacher.word_labels, config.data.labels, columns)
    note = "" if length >= config.task.max_length else f"reads {length} tokens of a text at most"
    return f"{looked.kind} read at words; {labels}", (note,) if note else ()


def check_phrases(teacher: LabelWordsTeacher | HttpTeacher, config: RunConfig) -> None:
    """Refuse templates that lack a language of the rows, or that read another number of texts than a row has.

    Raises:
        ConfigError: Names the languages or the template.
    """
    key, phrases = f"teachers.{teacher.name}", teacher.phrases
    asked = teacher.language_set or set(config.data.select_languages or config.data.languages)
    lacking = sorted(asked - set(phrases)) if ANY not in phrases else []
    if lacking:
        raise ConfigError(
            f"teacher {teacher.name} has no template or words for {', '.join(lacking)}",
            got=", ".join(phrases),
            wanted="each of its languages",
            next_step=f"add them to {key}.template and {key}.words, or leave them out of {key}.languages",
        )
    for phrase in phrases.values():
        if phrase.has_pair != has_pairs(config):
            raise ConfigError(
                f"the template of teacher {teacher.name} reads {'two texts' if phrase.has_pair else 'one text'}, and a "
                f"row has {'one' if phrase.has_pair else 'two'}",
                got=phrase.template,
                wanted="{text} and {text_pair}" if has_pairs(config) else "{text} alone",
                next_step=f"correct {key}.template, or data.columns.text_pair",
            )
