"""`LabelWordsBackend`: a causal or masked language model that is read as a classifier.

Decision record: the model is served as any other (`ModelBackend`); only its head and what is read of it differ. What
an answer depends on beside the model (templates, words, calibration) is part of the fingerprint, and so of the store's
name. Rows are stored by their text and not by their language, so a text that stands in two languages is answered once.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import cast

from raykd import models
from raykd.config import LabelWordsTeacher
from raykd.errors import ConfigError, ModelError
from raykd.head import Head
from raykd.models.inspection import Inspection
from raykd.networks.heads import read_head
from raykd.pretrained import files
from raykd.pretrained.lengths import compute_teacher_length
from raykd.tasks import Classification, Task
from raykd.teachers.backends.model import ModelBackend
from raykd.teachers.backends.precision import choose_precision
from raykd.teachers.backends.words.reading import WordReading
from raykd.teachers.spec import TeacherInfo, TeacherSpec
from raykd.text.label_phrases import LABEL, PAIR, TEXT
from raykd.text.tokens import Tokenizer

_FORMAT = "words behind a template, 1"
"""How words are read; when it changes, older answers are not used."""


class LabelWordsBackend(ModelBackend):
    """A language model of a local directory or of the hub, read at words.

    Args:
        spec: What to load and how to answer. Nothing is read before the first `describe` or `compute`.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        super().__init__(spec)
        self._words = cast(LabelWordsTeacher, spec.teacher)
        self._head: Head | None = None
        self._reading: WordReading | None = None
        self.has_few_shapes = False  # a row is several sequences, with a template beside its text

    def load(self) -> models.TextModel:
        """Load the weights if they are not in memory yet, and measure the priors of the templates.

        Raises:
            ModelError: They cannot be loaded.
        """
        with self._lock:
            model = super().load()
            if self._reading is None:
                reading = self._make_reading(self.describe().max_length)
                reading.bind(model, self._get_headless(model))
                self._reading = reading
            return model

    def look(self) -> tuple[Inspection, int]:
        """Compare model, words and templates with the run; reads no weights.

        Returns:
            What the model is, and how many tokens of a text are read.

        Raises:
            ModelError, ConfigError, LabelMismatchError: It cannot be used.
        """
        self._check_task()
        self.map_columns(self._words.word_labels)
        inspected = models.inspect_model(
            self._find_folder(), self._find_head(), trust_remote_code=self._words.trust_remote_code
        )
        self._check_templates()
        return inspected, self._find_length(inspected)

    def _inspect(self) -> TeacherInfo:
        spec, folder = self.spec, self._find_folder()
        inspected, length = self.look()
        precision = choose_precision(spec.dtype, inspected.model_type, spec.device)
        own = models.fingerprint(folder, trust_remote_code=self._words.trust_remote_code)
        return self.build_info(
            hashlib.sha256("\0".join([_FORMAT, own, self._words.words_key]).encode()).hexdigest(),
            self._words.word_labels,
            parameters=models.count_stored_parameters(folder),
            dtype=precision.name,
            dtype_reason=precision.reason,
            max_length=length,
        )

    def _find_head(self) -> Head:
        """Return causal_lm or masked_lm, as the model's files say; where they do not, as its tokenizer's mask says.

        Raises:
            ModelError: It is a model of another kind.
        """
        if self._head is None:
            folder = self._find_folder()
            head = read_head(files.read_config(folder))
            if head is None:
                tokenizer = self._load_tokenizer()
                head = "causal_lm" if getattr(tokenizer, "mask_token", None) is None else "masked_lm"
            if head not in ("causal_lm", "masked_lm"):
                raise ModelError(
                    f"teacher {self.spec.name}: {folder} is no causal or masked language model",
                    got=f"a {head} model",
                    wanted="causal_lm or masked_lm, which give a probability to any word",
                    next_step="name a language model; a model with a classification head is a teacher of kind: model",
                )
            self._head = head
        return self._head

    def _load_tokenizer(self) -> Tokenizer:
        return models.load_tokenizer(self._find_folder(), trust_remote_code=self.teacher.trust_remote_code)

    def _make_reading(self, length: int) -> WordReading:
        """Plan how the words are read.

        Args:
            length: Tokens of a text at most.

        Raises:
            ConfigError: A word cannot be told from the others, is unknown, or shares a token with the template.
        """
        teacher, tokenizer, trusted = self._words, self._load_tokenizer(), self.teacher.trust_remote_code
        looked = models.inspect_model(self._find_folder(), self._find_head(), trust_remote_code=trusted)
        return WordReading(
            max_length=length,
            who=teacher.name,
            words_key=teacher.words_key,
            length_normalise=teacher.length_normalise,
            masked=self._find_head() == "masked_lm",
            positions=looked.positions.source,
        ).plan(teacher.phrases, tokenizer)

    def _find_length(self, inspected: Inspection) -> int:
        """Return how many tokens of a text are read; the template comes on top.

        Raises:
            ConfigError: As `_make_reading`; or the model's positions have no room for the template and so many tokens.
        """
        name, limit = self.spec.name, inspected.positions.source
        template = self._make_reading(1).count_template_tokens(self._load_tokenizer())
        if limit is not None:
            if template >= limit:
                raise ConfigError(
                    f"the template of teacher {name} leaves no room for a text",
                    got=f"{template} tokens without the text",
                    wanted=f"fewer than the model's {limit} positions",
                    next_step=f"shorten teachers.{name}.template",
                )
            room = replace(inspected.positions, source=limit - template, target=limit - template)
            inspected = replace(inspected, positions=room)
        return compute_teacher_length(
            name, self._words.max_length, inspected.trained_length, inspected, self.spec.task
        )[0]

    def _check_task(self) -> None:
        if type(self.spec.task) is not Classification:
            raise ConfigError(
                f"teacher {self.spec.name} of kind label_words teaches no {self.spec.task.kind}",
                got=f"task.kind {self.spec.task.kind}",
                wanted="classification: a word is read for a whole text or pair",
                next_step="name a teacher of kind: model for this task",
            )

    def _check_templates(self) -> None:
        """Refuse a template whose label a causal model reads before the text.

        Raises:
            ConfigError: Names the template.
        """
        name = self.spec.name
        for phrase in self._words.phrases.values():
            spans = phrase.fill("x", "x", "x").spans
            if self._find_head() == "causal_lm" and spans[LABEL][0] < max(
                spans[TEXT][0], spans.get(PAIR, (0,))[0]
            ):
                raise ConfigError(
                    f"teacher {name} is a causal model and reads nothing behind {{label}}",
                    got=phrase.template,
                    wanted="{label} behind {text}" + (" and {text_pair}" if PAIR in spans else ""),
                    next_step=f"correct teachers.{name}.template, or name a masked model",
                )

    def _task(self) -> Task:
        """Return how the model is read; `load` comes before it."""
        assert self._reading is not None
        return self._reading
