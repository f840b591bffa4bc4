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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from raykd.prediction.generation_settings import (
    adapt_settings,
    build_generation_settings,
    compute_input_limit,
    count_places,
    log_ignored_settings,
)
from raykd.pretrained.starts import find_start_token
from raykd.tasks.language import Generation
from raykd.text.codes import group_rows_by_code
from raykd.text.prompts import encode_prompts, encode_sources

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

    from raykd.text.tokens import Tokenizer

Together = Literal["any", "equal", "alone"]
"""Which rows may be written in one batch: any, those of equal length, or none."""
log = logging.getLogger("raykd.models")
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_tried: WeakKeyDictionary[nn.Module, Together] = WeakKeyDictionary()


def generate_texts(
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
    limit = compute_input_limit(model.config, max_new_tokens, max_input_tokens)
    rest = (source_languages,) if closed else ()
    read = (encode_sources if closed else encode_prompts)(tokenizer, texts, limit, *rest)
    if read.long_B.any():
        lost = "their end" if closed else "their beginning"
        log.warning(
            "%d of %d texts are longer than %d tokens and lose %s", read.long_B.sum(), len(texts), limit, lost
        )
    rows = [row.tolist() for row in read.ids]
    settings = build_generation_settings(
        model,
        tokenizer,
        generation,
        max_new_tokens=max_new_tokens,
        num_beams=beams,
        length_penalty=length_penalty,
    )
    log_ignored_settings(model, generation)
    answers = [""] * len(rows)
    together = find_rows_together(model) if len(rows) > 1 else "any"
    for code, members in group_rows_by_code(tokenizer, languages if closed else (), len(rows)).items():
        begun = adapt_settings(settings, model, tokenizer, code)
        with _generation_mode(model, begun), torch.no_grad():
            for batch in _group_by_length([rows[i] for i in members], batch_size, together):
                picked = [members[at] for at in batch]
                new = _generate_ids(model, [rows[i] for i in picked], begun)
                for i, ids in zip(picked, new, strict=True):
                    answers[i] = tokenizer.decode(ids, skip_special_tokens=True)  # type: ignore[attr-defined]
    return answers


def find_rows_together(model: PreTrainedModel) -> Together:
    """Which rows may share a batch, tried once a model: their logits must be those of each row alone."""
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
        found = cast("Any", model).generate(
            input_ids=ids_BL.to(model.device),
            attention_mask=mask_BL.to(model.device),
            generation_config=probe,
        )
        return torch.stack(found.logits, dim=1).float()

    lengths = (longest, longest // 2, longest)
    rows = [[(7 * i + 11 * k + 1) % size for i in range(length)] for k, length in enumerate(lengths)]
    with _generation_mode(model, probe), torch.no_grad():
        alone = torch.cat([logits([row]) for row in rows])
        scale = float(alone.abs().max().clamp(min=1.0))
        near = _TOLERANCE.get(model.dtype, 3e-2) * scale
        if float((logits(rows) - alone).abs().max()) <= near:
            return "any"
        return "equal" if float((logits(rows[::2]) - alone[::2]).abs().max()) <= near else "alone"


def _group_by_length(rows: Sequence[Sequence[int]], size: int, together: Together) -> Iterator[list[int]]:
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


def _generate_ids(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], settings: GenerationConfig
) -> list[list[int]]:
    """New ids of each row, without their end and what stands after it."""
    closed = bool(model.config.is_encoder_decoder)
    ids_BL, mask_BL = _pad_rows(rows, settings.pad_token_id or 0, left=not closed)
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


def _pad_rows(rows: Sequence[Sequence[int]], pad: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """``[B, L]`` ids and mask."""
    width = max(1, *(len(row) for row in rows))
    ids_BL = np.full((len(rows), width), pad, dtype=np.int64)
    mask_BL = np.zeros_like(ids_BL)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(0, len(row))
        ids_BL[i, at], mask_BL[i, at] = row, 1
    return torch.from_numpy(ids_BL), torch.from_numpy(mask_BL)


@contextmanager
def _generation_mode(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """In evaluation mode, and with no other settings than these."""
    training, own = model.training, model.generation_config
    model.eval()
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own
        model.train(training)
