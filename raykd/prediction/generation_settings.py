"""Derive the ids, limits and settings of text generation from a checkpoint and a run, before anything is written.

Decision record: where texts begin and end, and what must not be written, always follows the checkpoint. Its lengths,
penalties and beams hold where the run asks for them (`task.generation: checkpoint`); what is not followed is logged.
Nothing is ever drawn at random.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING
from weakref import WeakSet

from raykd.errors import ModelError
from raykd.pretrained.starts import WRAPPING, find_start_token
from raykd.tasks.kinds.language import Generation
from raykd.text.codes import list_language_codes, set_languages
from raykd.text.prompts import find_end_id, find_text_marks

if TYPE_CHECKING:
    from torch import nn
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

    from raykd.text.tokens import Tokenizer

log = logging.getLogger("raykd.models")
MARKS = (
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens",
)  # fmt: skip
"""What is always taken from a checkpoint: where texts begin and end, and what must not be written."""
RANDOM = (
    "do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
)  # fmt: skip
"""Settings of drawing at random, which is never done."""
_NEUTRAL: dict[str, object] = {
    "min_length": 0, "min_new_tokens": None, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "length_penalty": 1.0, "num_beams": 1,
    "do_sample": False, "early_stopping": False, "renormalize_logits": False, "sequence_bias": None,
    "exponential_decay_length_penalty": None, "guidance_scale": None, "max_length": 20, "max_new_tokens": None,
    "max_time": None, "stop_strings": None, "remove_invalid_values": False, "watermarking_config": None,
}  # fmt: skip
"""Settings that change what is written, and their values that change nothing."""
_logged: WeakSet[nn.Module] = WeakSet()
"""Models whose ignored settings were logged already."""


def adapt_settings(
    settings: GenerationConfig, model: PreTrainedModel, tokenizer: Tokenizer, code: str | None
) -> GenerationConfig:
    """Return the settings for texts in one language, for tokenizers that mark languages.

    Where targets begin with the language's code, the code is forced. A decoder of mBART's kind, whose targets end with
    the code, starts with it.

    Args:
        settings: For any language.
        model: The model that writes.
        tokenizer: Its tokenizer.
        code: The language's code; None takes what the tokenizer is set to.

    Raises:
        ModelError: The tokenizer marks languages, and neither it nor the checkpoint says which one to write.
    """
    codes = list_language_codes(tokenizer)
    code = code or (getattr(tokenizer, "tgt_lang", None) if codes else None)
    if not codes:
        return settings
    with set_languages(tokenizer, target=code or codes[0]):
        marks = find_text_marks(tokenizer, as_target=True)
    starts = not marks.before and model.config.model_type in WRAPPING
    if code is None:
        own = settings.decoder_start_token_id if starts else settings.forced_bos_token_id
        if own is None:
            raise build_language_error(codes)
        return settings
    adapted = deepcopy(settings)
    if starts:
        adapted.decoder_start_token_id = marks.after[-1]
    else:
        adapted.forced_bos_token_id = marks.before[0] if marks.before else marks.after[-1]
    return adapted


def build_language_error(codes: Sequence[str]) -> ModelError:
    """Return the error of a model that writes several languages and is not told which one."""
    return ModelError(
        "this model writes several languages, and nothing says which one",
        got="texts without a language, and a tokenizer that names none",
        wanted=f"a language, such as {', '.join(codes[:5])}",
        next_step="name it: raykd predict --language, or a key lang in the JSON lines",
    )


def build_generation_settings(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    generation: Generation,
    *,
    max_new_tokens: int,
    **given: float | None,
) -> GenerationConfig:
    """Return the settings by which a model writes.

    Args:
        model: The model that writes.
        tokenizer: Its tokenizer.
        generation: Whose settings hold; see `raykd.tasks.kinds.language.LanguageTask`.
        max_new_tokens: Longest text in tokens.
        given: Other settings of the run; None takes the checkpoint's, or what changes nothing.

    Raises:
        ModelError: The checkpoint forces or forbids a token that is not in its vocabulary.
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
    # A model that was trained on targets of this tokenizer ends them as the tokenizer does.
    last = find_end_id(tokenizer)
    settings.eos_token_id = [*ends, *([last] if last is not None and last not in ends else [])] or None
    pads = (getattr(tokenizer, "pad_token_id", None), own.pad_token_id, *(settings.eos_token_id or ()))
    settings.pad_token_id = next((pad for pad in pads if pad is not None), None)
    return settings


def check_token_ids(settings: Mapping[str, object], size: int | None) -> None:
    """Refuse ids that a generation config forces or forbids and that are not in the vocabulary.

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
    """Return the settings of a checkpoint's generation config (as JSON) that are not followed."""
    names = ("do_sample", "max_length") if generation == "checkpoint" else _NEUTRAL
    return {
        name: value
        for name, value in settings.items()
        if name in names and value is not None and value != _NEUTRAL[name]
    }


def log_ignored_settings(model: PreTrainedModel, generation: Generation) -> None:
    """Log, once per model, what is not followed of its generation config."""
    aside = find_ignored_settings(model.generation_config.to_dict(), generation)
    if aside and model not in _logged:
        _logged.add(model)
        log.warning("%s: not followed of its generation config: %s", type(model).__name__, aside)


def compute_input_limit(config: PreTrainedConfig, max_new_tokens: int, asked: int | None) -> int | None:
    """Return the tokens that an input may have; None is any number.

    Args:
        config: The model's.
        max_new_tokens: Longest text that is written.
        asked: Tokens that the user wants to be read; None is as many as fit.

    Raises:
        ModelError: The model has fewer places than that.
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


def count_places(config: PreTrainedConfig) -> tuple[int | None, int | None]:
    """Return the positions that a model reads and those that it writes, the same for a decoder; None is any number."""

    def first(part: object, *names: str) -> int | None:
        found = (getattr(part, name, None) for name in names)
        return next((value for value in found if isinstance(value, int) and value > 0), None)

    own = "max_position_embeddings"
    decoder = config.get_text_config(decoder=True)
    written = first(decoder, "max_decoder_position_embeddings", own)
    if not config.is_encoder_decoder:
        return written, written
    return first(config.get_text_config(encoder=True), "max_encoder_position_embeddings", own), written
