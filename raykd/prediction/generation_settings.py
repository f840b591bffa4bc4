"""By what a text is written: the ids, limits and settings that a checkpoint and a run say, before anything is written.

Decision record: where texts begin and end, and what must not be written, is always the checkpoint's. Its lengths,
penalties and beams hold where the run asks for them (`task.generation: checkpoint`); what is not followed is said.
Nothing is ever drawn at random.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn

from raykd.errors import ModelError
from raykd.pretrained.starts import WRAPPING, find_start_token
from raykd.tasks.language import Generation
from raykd.text.codes import list_language_codes, set_languages
from raykd.text.prompts import find_end_id, find_text_marks

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

    from raykd.text.tokens import Tokenizer

log = logging.getLogger("raykd.models")
MARKS = (
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens",
)  # fmt: skip
"""What is always taken from a checkpoint: where texts begin and end, and what must not be written."""
RANDOM = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
"""Settings of drawing at random, which is never done."""
_NEUTRAL: dict[str, Any] = {
    "min_length": 0, "min_new_tokens": None, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "length_penalty": 1.0, "num_beams": 1,
    "do_sample": False, "early_stopping": False, "renormalize_logits": False, "sequence_bias": None,
    "exponential_decay_length_penalty": None, "guidance_scale": None, "max_length": 20, "max_new_tokens": None,
    "max_time": None, "stop_strings": None, "remove_invalid_values": False, "watermarking_config": None,
}  # fmt: skip
"""Settings that change what is written, and their values that change nothing."""
_told: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def adapt_settings(
    settings: GenerationConfig, model: PreTrainedModel, tokenizer: Tokenizer, code: str | None
) -> GenerationConfig:
    """The settings for texts in one language: where targets begin with its code, that is forced; a decoder of mBART's
    kind, whose targets end with it, starts with it.

    Raises:
        ModelError: the tokenizer marks languages, and neither it nor the checkpoint says which one to write.
    """
    codes = list_language_codes(tokenizer)
    code = code or (getattr(tokenizer, "tgt_lang", None) if codes else None)
    if not codes:
        return settings
    with set_languages(tokenizer, target=code or codes[0]):
        marks = find_text_marks(tokenizer, as_target=True)
    starts = not marks.before and model.config.model_type in WRAPPING
    if code is None:
        said = settings.decoder_start_token_id if starts else settings.forced_bos_token_id
        if said is None:
            raise _build_language_error(codes)
        return settings
    begun = deepcopy(settings)
    if starts:
        begun.decoder_start_token_id = marks.after[-1]
    else:
        begun.forced_bos_token_id = marks.before[0] if marks.before else marks.after[-1]
    return begun


def _build_language_error(codes: Sequence[str]) -> ModelError:
    return ModelError(
        "this model writes many languages, and nothing says which one",
        got="rows without a language, and no tgt_lang in tokenizer_config.json",
        wanted=f"a language, such as {', '.join(codes[:5])}",
        next_step="name it: raykd predict --language, or a key lang in the JSON lines",
    )


def build_generation_settings(
    model: PreTrainedModel, tokenizer: Tokenizer, generation: Generation, *, max_new_tokens: int, **given: Any
) -> GenerationConfig:
    """What a text is written by.

    Args:
        given: other settings of the run; None takes the checkpoint's, or what changes nothing.
    Raises:
        ModelError: the checkpoint forces or forbids a token that its vocabulary has not.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    check_token_ids(own.to_dict(), getattr(model.config.get_text_config(decoder=True), "vocab_size", None))
    if generation == "checkpoint":
        settings = deepcopy(own)
        for name in (*RANDOM, "max_length", "num_return_sequences", "custom_generate"):
            if hasattr(settings, name):
                setattr(settings, name, None)
        settings.do_sample = False
    else:
        settings = GenerationConfig(**{name: getattr(own, name, None) for name in MARKS})
    for name, value in given.items():
        if value is not None:
            setattr(settings, name, value)
    settings.max_new_tokens = max_new_tokens
    settings.decoder_start_token_id = find_start_token(model)
    ends = [own.eos_token_id] if isinstance(own.eos_token_id, int) else list(own.eos_token_id or ())
    ends += [model.config.eos_token_id] if not ends and isinstance(model.config.eos_token_id, int) else []
    last = find_end_id(tokenizer)  # what targets end with is an end for whoever was trained on them
    settings.eos_token_id = [*ends, *([last] if last is not None and last not in ends else [])] or None
    pads = (getattr(tokenizer, "pad_token_id", None), own.pad_token_id, *(settings.eos_token_id or ()))
    settings.pad_token_id = next((pad for pad in pads if pad is not None), None)
    return settings


def check_token_ids(settings: Mapping[str, object], size: int | None) -> None:
    """Refuse ids that a generation config forces or forbids and that the vocabulary has not.

    Args:
        settings: A generation config as JSON.
        size: Rows of the output head; None where that is not known.

    Raises:
        ModelError: Names the key.
    """
    for name in ("forced_bos_token_id", "forced_eos_token_id", "bad_words_ids", "begin_suppress_tokens"):
        ids = [
            i for i in _flatten(settings.get(name)) if isinstance(i, int) and size is not None and i >= size
        ]
        if ids:
            raise ModelError(
                f"{name} of the generation config names a token that the vocabulary has not",
                got=f"{ids[:5]}, {size} tokens",
                wanted=f"ids below {size}",
                next_step=f"correct {name} in generation_config.json (or config.json), or take it out",
            )


def _flatten(value: object) -> list[object]:
    return [each for part in value for each in _flatten(part)] if isinstance(value, list | tuple) else [value]


def find_ignored_settings(settings: Mapping[str, object], generation: Generation) -> dict[str, object]:
    """What a checkpoint's generation config (as JSON) says that is not followed; said by check and in the log."""
    aside = {
        name: value
        for name, value in settings.items()
        if name in _NEUTRAL and value is not None and value != _NEUTRAL[name]
    }
    if generation == "checkpoint":
        return {name: value for name, value in aside.items() if name in ("do_sample", "max_length")}
    return aside


def log_ignored_settings(model: PreTrainedModel, generation: Generation) -> None:
    """Logs once a model what of its generation config is not followed."""
    aside = find_ignored_settings(model.generation_config.to_dict(), generation)
    if aside and model not in _told:
        _told[model] = True
        log.warning("%s: not followed of its generation config: %s", type(model).__name__, aside)


def compute_input_limit(config: Any, max_new_tokens: int, asked: int | None) -> int | None:
    """Tokens that an input may have; None is any number.

    Raises:
        ModelError: the model has fewer places than that.
    """
    places, written = count_places(config)
    room = places if config.is_encoder_decoder or places is None else places - max_new_tokens
    if (written is not None and max_new_tokens > written) or (
        room is not None and (room < 1 or (asked or 0) > room)
    ):
        raise ModelError(
            "the model has no place for so many tokens",
            got=f"{asked or 'any number of'} tokens to read, {max_new_tokens} to write",
            wanted=f"at most {places or 'any number'} to read and {written} to write"
            if config.is_encoder_decoder
            else f"at most {places} tokens, to read and to write together",
            next_step="lower task.max_new_tokens or task.max_length (raykd predict: --max-new-tokens, --max-length)",
        )
    return asked or room


def count_places(config: Any) -> tuple[int | None, int | None]:
    """Positions of what a model reads and of what it writes (one and the same for a decoder); None is any number."""

    def first(part: object, *names: str) -> int | None:
        found = (getattr(part, name, None) for name in names)
        return next((value for value in found if isinstance(value, int) and value > 0), None)

    own = "max_position_embeddings"
    decoder = config.get_text_config(decoder=True)
    written = first(decoder, "max_decoder_position_embeddings", own)
    if not config.is_encoder_decoder:
        return written, written
    return first(config.get_text_config(encoder=True), "max_encoder_position_embeddings", own), written
