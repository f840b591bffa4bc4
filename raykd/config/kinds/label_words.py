"""Define how a language model is read as a classifier: a template, words for the labels, a calibration.

Decision record: the same keys serve a local model and one behind an address, so they are a class that a kind of
teacher inherits. What stands for all languages is kept under the name "".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from pydantic import field_validator, model_validator

from raykd.spec import Spec
from raykd.text.label_phrases import ANY, LabelPhrase, check_template

Words = str | tuple[str, ...]
CONTENT_FREE = ("N/A", "", "[MASK]")
"""Texts that say nothing (Zhao et al., arXiv 2102.09690)."""


class LabelWords(Spec):
    """The keys of a teacher that is a language model with words for labels."""

    template: str | dict[str, str]
    """What the model reads, with the places `{text}` and `{label}` and, of pairs, `{text_pair}`: "{text} It was
    {label}.", or one for each language: {en: ..., fr: ...}. A masked model reads all of it; a causal model reads up to
    the label and continues. Texts are cut at the limit, the template never."""
    words: dict[str, Words | dict[str, Words]]
    """The word, or several, for each of the teacher's labels: {negative: terrible, positive: [great, good]}; or such a
    map for each language. Probabilities of several words are added. Of a word of several tokens all count."""
    calibrate: Literal["none", "content_free", "texts"] = "none"
    """Divide by the prior that the template gives the labels: `content_free` measures it on texts that say nothing
    ("N/A", "", "[MASK]"; arXiv 2102.09690), `texts` on `calibration_texts` (arXiv 2309.17249)."""
    calibration_texts: tuple[str, ...] | dict[str, tuple[str, ...]] = ()
    """Some unlabelled texts whose labels are spread as in the data, or such a list for each language; 50 do."""
    length_normalise: bool = False
    """Divide a word's log-probability by its number of tokens, so that long words are not rare by their length."""

    @field_validator("template")
    @classmethod
    def _places(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        for template in [value] if isinstance(value, str) else value.values():
            check_template(template)
        return value

    @field_validator("words")
    @classmethod
    def _whole(cls, value: dict[str, Words | dict[str, Words]]) -> dict[str, Words | dict[str, Words]]:
        nested = [isinstance(words, dict) for words in value.values()]
        if any(nested) and not all(nested):
            raise ValueError("words must be given for each label, or for each language and label; got both")
        by_language = {name: _list_words(words) for name, words in _by_language(value, any(nested)).items()}
        for language, labels in by_language.items():
            where = f" of {language}" if language else ""
            if len(labels) < 2:
                raise ValueError(f"words{where} name fewer than two labels: got {list(labels)}")
            bare = [
                label for label, words in labels.items() if not words or not all(w.strip() for w in words)
            ]
            if bare:
                raise ValueError(f"words{where}: label {bare[0]} has no word")
            own = [word for words in labels.values() for word in words]
            twice = sorted({word for word in own if own.count(word) > 1})
            if twice:
                raise ValueError(f"words{where}: the word {twice[0]!r} stands twice")
        first, *others = by_language.values()
        for labels in others:
            if set(labels) != set(first):
                raise ValueError(f"words differ in their labels: {sorted(first)} and {sorted(labels)}")
        return value

    @model_validator(mode="after")
    def _fitting(self) -> LabelWords:
        keys = {
            name: set(value)
            for name, value in (("template", self.template), ("calibration_texts", self.calibration_texts))
            if isinstance(value, dict)
        }
        if self._has_languages:
            keys["words"] = set(self.words)
        languages = list(keys.values())
        if any(own != languages[0] for own in languages):
            shown = "; ".join(f"{key}: {', '.join(sorted(own))}" for key, own in keys.items())
            raise ValueError(f"maps by language must name the same languages; got {shown}")
        if (self.calibrate == "texts") != bool(self.calibration_texts):
            raise ValueError("calibrate: texts and calibration_texts go together: write both or neither")
        return self

    @property
    def _has_languages(self) -> bool:
        return any(isinstance(words, dict) for words in self.words.values())

    @property
    def word_labels(self) -> tuple[str, ...]:
        """The teacher's own labels, in the order in which they are written."""
        return tuple(next(iter(_by_language(self.words, self._has_languages).values())))

    @property
    def phrases(self) -> dict[str, LabelPhrase]:
        """Template and words by language; of one that serves all languages the name is ""."""
        words = {
            name: _list_words(own) for name, own in _by_language(self.words, self._has_languages).items()
        }
        template = self.template if isinstance(self.template, dict) else {ANY: self.template}
        texts = self.calibration_texts
        by_language = texts if isinstance(texts, dict) else {ANY: texts}
        found = {}
        for name in {**template, **words, **by_language}:
            if name == ANY and len({*template, *words, *by_language}) > 1:
                continue
            given = by_language.get(name, by_language.get(ANY, ()))
            found[name] = LabelPhrase(
                template.get(name, template.get(ANY, "")),
                {label: words.get(name, words.get(ANY, {}))[label] for label in self.word_labels},
                CONTENT_FREE if self.calibrate == "content_free" else given,
            )
        return found

    @property
    def words_key(self) -> str:
        """All that an answer depends on beside the model, as text for the name of a store."""
        return json.dumps([self.model_dump(mode="json", include=set(LabelWords.model_fields)), CONTENT_FREE])


def _by_language(
    words: Mapping[str, Words | dict[str, Words]], nested: bool
) -> dict[str, Mapping[str, Words]]:
    """Return the words by language."""
    if not nested:
        return {ANY: {label: own for label, own in words.items() if not isinstance(own, dict)}}
    return {language: own for language, own in words.items() if isinstance(own, dict)}


def _list_words(words: Mapping[str, Words]) -> dict[str, tuple[str, ...]]:
    return {label: (own,) if isinstance(own, str) else own for label, own in words.items()}
