"""Generate texts with language models: greedy, by beam search or drawn, each text as if it were alone.

Decision record: prompts are made by `raykd.text.prompts`, as in training. A checkpoint's generation config says where
texts begin and end and what must not be written, and that always holds. Its other settings (lengths, penalties,
repeated n-grams, beams) change which text is the most likely, so they are ignored unless the run asks for them
(`task.generation: checkpoint`). Scores must be the same twice, so what a checkpoint says of drawing is ignored.
Copies of texts may be drawn: noise that follows from a key of each text is added to the logits (the Gumbel-max trick),
so a text does not depend on what shares its batch. transformers fills what is not set from the model's own generation
config, so that config is replaced while a text is written.
Whether rows may share a batch is tried once per model: some families read padding, and then only rows of one length, or
no two rows, are written together.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from raykd.prediction.generation_settings import (
    adapt_settings,
    build_generation_settings,
    build_language_error,
    compute_input_limit,
    count_places,
    log_ignored_settings,
)
from raykd.pretrained.starts import find_start_token
from raykd.tasks.kinds.language import Generation
from raykd.text.codes import find_source_marks, group_rows_by_code
from raykd.text.prompts import encode_prompts, encode_sources

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.generation.utils import GenerateDecoderOnlyOutput

    from raykd.text.tokens import Tokenizer

Noise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Changes the logits ``[B, V]`` of the next tokens of texts ``[B, L]``."""
Together = Literal["any", "equal", "alone"]
"""Which rows may be written in one batch: any, those of equal length, or none."""
log = logging.getLogger("raykd.models")
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Difference of logits that counts as none, as a share of the largest; 3e-2 in half precision."""
_tried: WeakKeyDictionary[nn.Module, Together] = WeakKeyDictionary()


@dataclass(frozen=True)
class Draws:
    """Draws of tokens, each text by itself.

    Attributes:
        temperature: Above 0; at 1 tokens have the model's own probabilities.
        keys_B: What the draws of each text follow from.
    """

    temperature: float
    keys_B: Sequence[str]

    def make_noise(self, rows: Sequence[int]) -> Noise:
        """Return the noise by which a greedy search of these rows draws."""
        digests = (hashlib.sha256(self.keys_B[i].encode("utf-8", "surrogatepass")).digest() for i in rows)
        draws = [torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1) for digest in digests]

        def add(ids_BL: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
            size = scores_BV.shape[1]
            # The logarithm of an exponential draw is a Gumbel draw with its sign changed.
            noise_BV = torch.stack([torch.empty(size).exponential_(generator=each) for each in draws]).log()
            return scores_BV.float() / self.temperature - noise_BV.to(scores_BV.device)

        return add


def generate_texts(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    max_new_tokens: int,
    languages: Sequence[str] = (),
    source_languages: Sequence[str] = (),
    beams: int | None = 1,
    max_input_tokens: int | None = None,
    batch_size: int = 16,
    generation: Generation = "plain",
    alternatives: int = 1,
    draws: Draws | None = None,
) -> list[str]:
    """Return the most likely continuation (decoder) or target (encoder-decoder) of each text, or one that is drawn.

    Texts of like length share a batch; a decoder's prompts are padded on the left, and prompts are not repeated in
    the answers. The model is in evaluation mode while it generates and afterwards in the mode that it was in.

    Args:
        model: A decoder or an encoder-decoder.
        tokenizer: Its tokenizer.
        texts: B prompts or sources.
        max_new_tokens: Longest text in tokens.
        languages: The language to write for each text, for tokenizers that mark it; "" is what the tokenizer is set to.
        source_languages: The language of each text, likewise.
        beams: 1 is greedy. None takes the checkpoint's where ``generation`` is checkpoint, else 1.
        max_input_tokens: Longer sources lose their end, longer prompts their beginning. None is what the model can
            take.
        batch_size: Texts per batch at most.
        generation: Whose settings hold (see the module's docstring).
        alternatives: How many texts are returned for each, the best ones of the beams, one after the other.
        draws: How tokens are drawn; None takes the most likely text.

    Raises:
        ModelError: The model has no place for so many new tokens, or no token to begin with.
        ConfigError: The tokenizer has no code for a language.
    """
    closed = bool(model.config.is_encoder_decoder)
    limit = compute_input_limit(model.config, max_new_tokens, max_input_tokens)
    rows = _encode_inputs(model, tokenizer, texts, languages, source_languages, limit)
    settings = build_generation_settings(
        model,
        tokenizer,
        generation,
        max_new_tokens=max_new_tokens,
        num_beams=beams,
        num_return_sequences=alternatives,
    )
    log_ignored_settings(model, generation)
    own = cast("PreTrainedTokenizerBase", tokenizer)
    answers = [""] * (len(rows) * alternatives)
    together = find_rows_together(model) if len(rows) > 1 else "any"
    for code, members in group_rows_by_code(tokenizer, languages if closed else (), len(rows)).items():
        adapted = adapt_settings(settings, model, tokenizer, code)
        with _generation_mode(model, adapted):
            for batch in _group_by_length([rows[i] for i in members], batch_size, together):
                picked = [members[at] for at in batch]
                noise = [] if draws is None else [draws.make_noise(picked)]
                new = _generate_ids(model, [rows[i] for i in picked], adapted, noise)
                places = (i * alternatives + at for i in picked for at in range(alternatives))
                for i, ids in zip(places, new, strict=True):
                    answers[i] = cast("str", own.decode(ids, skip_special_tokens=True))
    return answers


def _encode_inputs(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    languages: Sequence[str],
    source_languages: Sequence[str],
    limit: int | None,
) -> list[list[int]]:
    """Return the ids of each text, and warn of those that are cut."""
    if model.config.is_encoder_decoder:
        inputs, lost = encode_sources(tokenizer, texts, limit, source_languages, languages), "their end"
        marks = find_source_marks(tokenizer)
        if marks and any(int(row[0]) not in marks.values() for row in inputs.ids):
            raise build_language_error(list(marks))
    else:
        inputs, lost = encode_prompts(tokenizer, texts, limit), "their beginning"
    if count := int(inputs.long_B.sum()):
        log.warning("%d of %d texts are longer than %d tokens and lose %s", count, len(texts), limit, lost)
    return [row.tolist() for row in inputs.ids]


def find_rows_together(model: PreTrainedModel) -> Together:
    """Return which rows may share a batch, tried once per model: their logits must be those of each row alone."""
    if model not in _tried:
        _tried[model] = _probe_rows_together(model)
    return _tried[model]


def _probe_rows_together(model: PreTrainedModel) -> Together:
    from transformers import GenerationConfig

    size = int(cast("nn.Embedding", model.get_input_embeddings()).num_embeddings)
    longest = max(2, min(9, *((n or 11) - 2 for n in count_places(model.config))))
    probe = GenerationConfig(
        max_new_tokens=2,
        min_new_tokens=2,
        do_sample=False,
        num_beams=1,
        pad_token_id=0,
        decoder_start_token_id=find_start_token(model),
        bos_token_id=model.generation_config.bos_token_id,
        output_logits=True,
        return_dict_in_generate=True,
    )

    def logits(rows: Sequence[Sequence[int]]) -> torch.Tensor:
        ids_BL, mask_BL = _pad_rows(rows, 0, left=not model.config.is_encoder_decoder)
        found = _generate(model, ids_BL, mask_BL, probe)
        return torch.stack(cast("GenerateDecoderOnlyOutput", found).logits or (), dim=1).float()

    lengths = (longest, longest // 2, longest)
    # Ids that differ from row to row and from place to place, so that a row that reads another is seen.
    rows = [[(7 * i + 11 * k + 1) % size for i in range(length)] for k, length in enumerate(lengths)]
    with _generation_mode(model, probe):
        alone = torch.cat([logits([row]) for row in rows])
        scale = float(alone.abs().max().clamp(min=1.0))
        near = _TOLERANCE.get(model.dtype, 3e-2) * scale
        if float((logits(rows) - alone).abs().max()) <= near:
            return "any"
        return "equal" if float((logits(rows[::2]) - alone[::2]).abs().max()) <= near else "alone"


def _group_by_length(rows: Sequence[Sequence[int]], size: int, together: Together) -> Iterator[list[int]]:
    """Yield rows of like length, longest first, that may share a batch."""
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


def _generate_ids(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    settings: GenerationConfig,
    noise: Sequence[Noise] = (),
) -> list[list[int]]:
    """Return the new ids of each row (or of each of its alternatives), without their end and what stands after it."""
    closed = bool(model.config.is_encoder_decoder)
    ids_BL, mask_BL = _pad_rows(rows, settings.pad_token_id or 0, left=not closed)
    out_BL = cast("torch.Tensor", _generate(model, ids_BL, mask_BL, settings, noise))
    ends = set(settings.eos_token_id or ())
    found = []
    for row in out_BL[:, 1 if closed else ids_BL.shape[1] :].tolist():
        stop = next((at for at, i in enumerate(row) if i in ends), len(row))
        found.append(row[:stop])
    return found


def _generate(
    model: PreTrainedModel,
    ids_BL: torch.Tensor,
    mask_BL: torch.Tensor,
    settings: GenerationConfig,
    noise: Sequence[Noise] = (),
) -> object:
    """Return what transformers generates: ids ``[B, L]``, or an output object where the settings ask for one."""
    generate = cast("Callable[..., object]", model.generate)
    return generate(
        input_ids=ids_BL.to(model.device),
        attention_mask=mask_BL.to(model.device),
        generation_config=settings,
        logits_processor=list(noise),
    )


def _pad_rows(rows: Sequence[Sequence[int]], pad: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``[B, L]`` ids and mask."""
    width = max(1, *(len(row) for row in rows))
    ids_BL = np.full((len(rows), width), pad, dtype=np.int64)
    mask_BL = np.zeros_like(ids_BL)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(0, len(row))
        ids_BL[i, at], mask_BL[i, at] = row, 1
    return torch.from_numpy(ids_BL), torch.from_numpy(mask_BL)


@contextmanager
def _generation_mode(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """Set the model to evaluation mode without gradients, and to no other settings than these, inside the context."""
    training, own = model.training, model.generation_config
    model.eval()
    model.generation_config = settings
    try:
        with torch.no_grad():
            yield
    finally:
        model.generation_config = own
        model.train(training)
