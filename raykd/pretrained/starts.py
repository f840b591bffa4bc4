"""Find the token that a decoder starts with, which comes before the first token of every target.

Decision record: transformers reads it from config.json for training and from generation_config.json for writing, and
fails in a worker if that file lacks it. So each of the two falls back to the other, then to the beginning token of
generation_config.json. A checkpoint that names none is refused before anything starts. Models like mBART have no such
token: they move the last token of each target, its language, to the front.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raykd.errors import ModelError
from raykd.pretrained.jsonfile import read_json
from raykd.pretrained.structure import read_auto_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GENERATION = "generation_config.json"
WRAPPING = ("mbart", "plbart")
"""Model types whose decoder starts with the last token of a target."""


def fill_start(model: PreTrainedModel, folder: Path) -> None:
    """Set the token that a loaded encoder-decoder starts with, where one of its two configurations lacks it.

    Raises:
        ModelError: Both lack it.
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
        except ValueError:
            # transformers saves a configuration that has other faults only if nothing in it was changed.
            generation.decoder_start_token_id = None
    if config.pad_token_id is None:
        # It only fills labels after their end, which nothing reads, so any id will do.
        ends = generation.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        config.pad_token_id = next((i for i in (generation.pad_token_id, *ends) if i is not None), 0)


def check_decoder_start(folder: Path) -> None:
    """Refuse a model directory that `fill_start` would refuse; reads its JSON files alone.

    Raises:
        ModelError: The decoder has no token to start with, or one that is not in its vocabulary.
    """
    from transformers import GenerationConfig

    try:
        config = read_auto_config(folder)
    except Exception:  # code of its own, or an unknown type; `check_code` reports those
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
            f"the decoder of {folder} starts with a token that is not in its vocabulary",
            got=f"decoder_start_token_id {start}, {size} tokens",
            wanted=f"an id below {size}",
            next_step="set decoder_start_token_id in its config.json to the one that it was trained with",
        )


def find_start_token(model: PreTrainedModel) -> int | None:
    """Return the token that writing starts with; None for a decoder, and where each target has its own."""
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
