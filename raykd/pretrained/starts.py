"""Where a decoder starts: the token that stands before the first one of every target.

Decision record: training reads it from config.json and writing from generation_config.json, and transformers fails in
a worker where the one that it reads lacks it. So each takes the other's, then the beginning that writing would take; a
checkpoint that names none is refused before anything starts. Models of mBART's kind have no token of their own: each
target's last token (its language) is moved to the front.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raykd.errors import ModelError
from raykd.pretrained.jsonfile import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GENERATION = "generation_config.json"
WRAPPING = ("mbart", "plbart")
"""Model types whose decoder starts with the last token of a target."""


def fill_start(model: PreTrainedModel, folder: Path) -> None:
    """Sets the token that a loaded encoder-decoder starts with where one of its two configurations lacks it.

    Raises:
        ModelError: both lack it.
    """
    if not model.config.is_encoder_decoder:
        return
    config, generation = model.config, model.generation_config
    start = find_start_token(model) if config.model_type in WRAPPING else _start(config, generation)
    if start is None and config.model_type not in WRAPPING:
        raise _missing(folder)
    if getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = start
    if generation.decoder_start_token_id is None:
        generation.decoder_start_token_id = start
        try:
            generation.validate(strict=True)
        except ValueError:  # transformers saves a config with other faults only if nothing in it was changed
            generation.decoder_start_token_id = None
    if config.pad_token_id is None:  # fills labels behind their end, where nothing is read
        ends = (
            generation.eos_token_id
            if isinstance(generation.eos_token_id, list)
            else [generation.eos_token_id]
        )
        config.pad_token_id = next((i for i in (generation.pad_token_id, *ends) if i is not None), 0)


def check_decoder_start(folder: Path) -> None:
    """Says now what `fill_start` would say of a model directory, from its JSON files.

    Raises:
        ModelError: the decoder has no token to start with, or one that its vocabulary has not.
    """
    from transformers import AutoConfig, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception:  # code of its own, or a type that is not known: said elsewhere
        return
    if not config.is_encoder_decoder or config.model_type in WRAPPING:
        return
    own = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else config.to_dict()
    start = _start(config, GenerationConfig.from_dict(dict(own)))
    if start is None:
        raise _missing(folder)
    size = getattr(config.get_text_config(decoder=True), "vocab_size", None)
    if isinstance(size, int) and start >= size:
        raise ModelError(
            f"the decoder of {folder} starts with a token that its vocabulary has not",
            got=f"decoder_start_token_id {start}, {size} tokens",
            wanted=f"an id below {size}",
            next_step="set decoder_start_token_id in its config.json to the one that it was trained with",
        )


def find_start_token(model: PreTrainedModel) -> int | None:
    """The token that writing starts with; None of a decoder, and where each target has its own."""
    if not model.config.is_encoder_decoder:
        return None
    own: int | None = model.generation_config.decoder_start_token_id
    if own is None and model.config.model_type in WRAPPING:
        own = getattr(model.config, "decoder_start_token_id", None)
    elif own is None:
        own = _start(model.config, model.generation_config)
    return own


def _start(config: object, generation: object) -> int | None:
    places = (
        (config, "decoder_start_token_id"),
        (generation, "decoder_start_token_id"),
        (generation, "bos_token_id"),
    )
    return next((i for part, name in places if isinstance(i := getattr(part, name, None), int)), None)


def _missing(folder: Path) -> ModelError:
    return ModelError(
        f"the checkpoint {folder} does not say which token its decoder starts with",
        got="no decoder_start_token_id in its config.json, and neither it nor bos_token_id in its "
        "generation_config.json",
        wanted="decoder_start_token_id",
        next_step="set decoder_start_token_id in its config.json to the one that it was trained with (T5 and Marian: "
        "pad_token_id, BART: eos_token_id)",
    )
