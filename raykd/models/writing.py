"""What language models write: greedy or by beam search, each text as if it were alone.

Decision record: prompts are made by `raykd.text.prompts`, as in training. A checkpoint's generation config says where
texts begin and end and what must not be written, and that always holds. What it says beside that (lengths, penalties,
repeated n-grams, beams) changes which text is the most likely one, so it is set aside unless the run asks for it
(`task.generation: checkpoint`). Nothing is ever drawn at random, because scores must be the same twice. transformers
fills what is not set from the model's own generation config, so that is replaced while a text is written. Whether rows
may share a batch is tried once for each model: some families read padding, and then only rows of one length, or no two
rows, are written together.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from raykd.errors import ModelError
from raykd.models.starts import WRAPPING, start_of
from raykd.tasks.language import Generation
from raykd.text.codes import codes_of, groups_of, speaking
from raykd.text.prompts import end_id, marks_of, prompt_ids, source_ids

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

    from raykd.text.tokens import Tokenizer

Together = Literal["any", "equal", "alone"]
"""Which rows may be written in one batch: any, those of equal length, or none."""
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
log = logging.getLogger("raykd.models")
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_told: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_tried: WeakKeyDictionary[nn.Module, Together] = WeakKeyDictionary()


def generate(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    max_new_tokens: int,
    languages: Sequence[str] = (),
    source_languages: Sequence[str] = (),
    beams: int | None = 1,
    length_penalty: float | None = None,
    max_input_tokens: int | None = None,
    batch_size: int = 16,
    generation: Generation = "plain",
) -> list[str]:
    """The most likely continuation (decoder) or target (encoder-decoder) of each text; nothing is drawn at random.

    Texts of like length share a batch; a decoder's prompts are padded on the left, and prompts are not repeated in
    the answers. The model is in evaluation mode while it generates and afterwards in the mode that it was in.

    Args:
        languages, source_languages: of what is written for each text and of the texts, for tokenizers that mark them;
            "" is what the tokenizer is set to.
        beams: 1 is greedy. None takes the checkpoint's where ``generation`` is checkpoint, else 1.
        length_penalty: exponent of the length by which a beam's log-likelihood is divided; only with beams. None as
            for ``beams``.
        max_input_tokens: longer sources lose their end, longer prompts their beginning. None is what the model can
            take.
        generation: whose settings hold (see the module's docstring).

    Raises:
        ModelError: the model has no place for so many new tokens, or no token to begin with.
        ConfigError: a language that the tokenizer has no code for.
    """
    closed = bool(model.config.is_encoder_decoder)
    limit = input_limit(model.config, max_new_tokens, max_input_tokens)
    rest = (source_languages,) if closed else ()
    read = (source_ids if closed else prompt_ids)(tokenizer, texts, limit, *rest)  # type: ignore[operator]
    if read.long_B.any():
        lost = "their end" if closed else "their beginning"
        log.warning(
            "%d of %d texts are longer than %d tokens and lose %s", read.long_B.sum(), len(texts), limit, lost
        )
    rows = [row.tolist() for row in read.ids]
    settings = settings_of(
        model,
        tokenizer,
        generation,
        max_new_tokens=max_new_tokens,
        num_beams=beams,
        length_penalty=length_penalty,
    )
    _say_aside(model, generation)
    answers = [""] * len(rows)
    together = rows_together(model) if len(rows) > 1 else "any"
    for code, members in groups_of(tokenizer, languages if closed else (), len(rows)).items():
        begun = settings_in(settings, model, tokenizer, code)
        with _writing(model, begun), torch.no_grad():
            for batch in _batches([rows[i] for i in members], batch_size, together):
                picked = [members[at] for at in batch]
                new = _written(model, [rows[i] for i in picked], begun)
                for i, ids in zip(picked, new, strict=True):
                    answers[i] = tokenizer.decode(ids, skip_special_tokens=True)  # type: ignore[attr-defined]
    return answers


def settings_in(
    settings: GenerationConfig, model: PreTrainedModel, tokenizer: Any, code: str | None
) -> GenerationConfig:
    """The settings for texts in one language: where targets begin with its code, that is forced; a decoder of mBART's
    kind, whose targets end with it, starts with it.

    Raises:
        ModelError: the tokenizer marks languages, and neither it nor the checkpoint says which one to write.
    """
    codes = codes_of(tokenizer)
    code = code or (getattr(tokenizer, "tgt_lang", None) if codes else None)
    if not codes:
        return settings
    with speaking(tokenizer, target=code or codes[0]):
        marks = marks_of(tokenizer, as_target=True)
    starts = not marks.before and model.config.model_type in WRAPPING
    if code is None:
        said = settings.decoder_start_token_id if starts else settings.forced_bos_token_id
        if said is None:
            raise _no_language(codes)
        return settings
    begun = deepcopy(settings)
    if starts:
        begun.decoder_start_token_id = marks.after[-1]
    else:
        begun.forced_bos_token_id = marks.before[0] if marks.before else marks.after[-1]
    return begun


def _no_language(codes: Sequence[str]) -> ModelError:
    return ModelError(
        "this model writes many languages, and nothing says which one",
        got="rows without a language, and no tgt_lang in tokenizer_config.json",
        wanted=f"a language, such as {', '.join(codes[:5])}",
        next_step="name it: raykd predict --language, or a key lang in the JSON lines",
    )


def settings_of(
    model: PreTrainedModel, tokenizer: Any, generation: Generation, *, max_new_tokens: int, **given: Any
) -> GenerationConfig:
    """What a text is written by.

    Args:
        given: other settings of the run; None takes the checkpoint's, or what changes nothing.
    Raises:
        ModelError: the checkpoint forces or forbids a token that its vocabulary has not.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    check_ids(own.to_dict(), getattr(model.config.get_text_config(decoder=True), "vocab_size", None))
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
    settings.decoder_start_token_id = start_of(model)
    ends = [own.eos_token_id] if isinstance(own.eos_token_id, int) else list(own.eos_token_id or ())
    ends += [model.config.eos_token_id] if not ends and isinstance(model.config.eos_token_id, int) else []
    last = end_id(tokenizer)  # what targets end with is an end for whoever was trained on them
    settings.eos_token_id = [*ends, *([last] if last is not None and last not in ends else [])] or None
    pads = (getattr(tokenizer, "pad_token_id", None), own.pad_token_id, *(settings.eos_token_id or ()))
    settings.pad_token_id = next((pad for pad in pads if pad is not None), None)
    return settings


def check_ids(settings: Mapping[str, Any], size: int | None) -> None:
    """Refuse ids that a generation config forces or forbids and that the vocabulary has not.

    Args:
        settings: A generation config as JSON.
        size: Rows of the output head; None where that is not known.

    Raises:
        ModelError: Names the key.
    """
    for name in ("forced_bos_token_id", "forced_eos_token_id", "bad_words_ids", "begin_suppress_tokens"):
        ids = [i for i in _flat(settings.get(name)) if isinstance(i, int) and size is not None and i >= size]
        if ids:
            raise ModelError(
                f"{name} of the generation config names a token that the vocabulary has not",
                got=f"{ids[:5]}, {size} tokens",
                wanted=f"ids below {size}",
                next_step=f"correct {name} in generation_config.json (or config.json), or take it out",
            )


def _flat(value: Any) -> list[Any]:
    return [each for part in value for each in _flat(part)] if isinstance(value, list | tuple) else [value]


def set_aside(settings: Mapping[str, Any], generation: Generation) -> dict[str, Any]:
    """What a checkpoint's generation config (as JSON) says that is not followed; said by check and in the log."""
    aside = {
        name: value
        for name, value in settings.items()
        if name in _NEUTRAL and value is not None and value != _NEUTRAL[name]
    }
    if generation == "checkpoint":
        return {name: value for name, value in aside.items() if name in ("do_sample", "max_length")}
    return aside


def _say_aside(model: PreTrainedModel, generation: Generation) -> None:
    """Logs once a model what of its generation config is not followed."""
    aside = set_aside(model.generation_config.to_dict(), generation)
    if aside and model not in _told:
        _told[model] = True
        log.warning("%s: not followed of its generation config: %s", type(model).__name__, aside)


def input_limit(config: Any, max_new_tokens: int, asked: int | None) -> int | None:
    """Tokens that an input may have; None is any number.

    Raises:
        ModelError: the model has fewer places than that.
    """
    places, written = places_of(config)
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


def places_of(config: Any) -> tuple[int | None, int | None]:
    """Positions of what a model reads and of what it writes (one and the same for a decoder); None is any number."""

    def first(part: Any, *names: str) -> int | None:
        found = (getattr(part, name, None) for name in names)
        return next((value for value in found if isinstance(value, int) and value > 0), None)

    own = "max_position_embeddings"
    decoder = config.get_text_config(decoder=True)
    written = first(decoder, "max_decoder_position_embeddings", own)
    if not config.is_encoder_decoder:
        return written, written
    return first(config.get_text_config(encoder=True), "max_encoder_position_embeddings", own), written


def rows_together(model: PreTrainedModel) -> Together:
    """Which rows may share a batch, tried once a model: their logits must be those of each row alone."""
    if model not in _tried:
        _tried[model] = _try_together(model)
    return _tried[model]


def _try_together(model: PreTrainedModel) -> Together:
    from transformers import GenerationConfig

    size = int(cast("nn.Embedding", model.get_input_embeddings()).num_embeddings)
    longest = max(2, min(9, *((n or 11) - 2 for n in places_of(model.config))))
    probe = GenerationConfig(
        max_new_tokens=2,
        min_new_tokens=2,
        do_sample=False,
        num_beams=1,
        pad_token_id=0,
        decoder_start_token_id=start_of(model),
        bos_token_id=model.generation_config.bos_token_id,
        output_logits=True,
        return_dict_in_generate=True,
    )

    def logits(rows: Sequence[Sequence[int]]) -> torch.Tensor:
        ids_BL, mask_BL = _padded(rows, 0, left=not model.config.is_encoder_decoder)
        found = cast("Any", model).generate(
            input_ids=ids_BL.to(model.device),
            attention_mask=mask_BL.to(model.device),
            generation_config=probe,
        )
        return torch.stack(found.logits, dim=1).float()

    lengths = (longest, longest // 2, longest)
    rows = [[(7 * i + 11 * k + 1) % size for i in range(length)] for k, length in enumerate(lengths)]
    with _writing(model, probe), torch.no_grad():
        alone = torch.cat([logits([row]) for row in rows])
        scale = float(alone.abs().max().clamp(min=1.0))
        near = _TOLERANCE.get(model.dtype, 3e-2) * scale
        if float((logits(rows) - alone).abs().max()) <= near:
            return "any"
        return "equal" if float((logits(rows[::2]) - alone[::2]).abs().max()) <= near else "alone"


def _batches(rows: Sequence[Sequence[int]], size: int, together: Together) -> Iterator[list[int]]:
    """Rows of like length, longest first, that may share a batch."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    batch: list[int] = []
    for i in order:
        apart = together == "alone" or (together == "equal" and batch and len(rows[i]) != len(rows[batch[0]]))
        if batch and (len(batch) == size or apart):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _written(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], settings: GenerationConfig
) -> list[list[int]]:
    """New ids of each row, without their end and what stands after it."""
    closed = bool(model.config.is_encoder_decoder)
    ids_BL, mask_BL = _padded(rows, settings.pad_token_id or 0, left=not closed)
    out_BL = cast("Any", model).generate(
        input_ids=ids_BL.to(model.device),
        attention_mask=mask_BL.to(model.device),
        generation_config=settings,
    )
    ends = set(settings.eos_token_id or ())
    found = []
    for row in out_BL[:, 1 if closed else ids_BL.shape[1] :].tolist():
        stop = next((at for at, i in enumerate(row) if i in ends), len(row))
        found.append(row[:stop])
    return found


def _padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """``[B, L]`` ids and mask."""
    width = max(1, *(len(row) for row in rows))
    ids_BL = np.full((len(rows), width), pad, dtype=np.int64)
    mask_BL = np.zeros_like(ids_BL)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(0, len(row))
        ids_BL[i, at], mask_BL[i, at] = row, 1
    return torch.from_numpy(ids_BL), torch.from_numpy(mask_BL)


@contextmanager
def _writing(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """In evaluation mode, and with no other settings than these."""
    training, own = model.training, model.generation_config
    model.eval()
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own
        model.train(training)
