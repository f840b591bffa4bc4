"""Make a checkpoint's token embeddings narrower: word vectors for an LSTM, a factorised table for an encoder.

Decision record:

- An LSTM starts from the principal components of the rows that its vocabulary keeps, scaled to one spread
  (`VECTOR_STD`).
- transformers' BERT has no factorised table (arXiv:1909.11942), but its ELECTRA has one and the same layers otherwise.
  So a BERT checkpoint becomes an ELECTRA model, which any `from_pretrained` loads.
- ELECTRA normalises before it projects, BERT after. Written in an orthonormal basis of what is left of the sums of
  embeddings without their mean, in coordinates that add up to 0, both normalisations divide by the same length. So at
  full rank the two are equal, and at a lower one truncation is the only difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raykd.errors import ModelError
from raykd.head import Head
from raykd.models.loading import read_model
from raykd.networks.heads import find_auto_class
from raykd.pretrained.hub import resolve_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FACTORISED: frozenset[Head] = frozenset(
    {"classification", "multi_label", "regression", "token_classification", "question_answering"}
)
"""Heads that an encoder with a factorised table can have."""
VECTOR_STD = 0.3
"""Spread of an LSTM's word vectors from a checkpoint. With 0.1, as of random ones, a student of 1.3 M parameters had
72.7 % of 99 validation rows of topics after two epochs, with 0.3 it had 75.8 and with 1.0 again 72.7."""
TEXTS_AT_ONCE = 512
"""Tokens of a vocabulary in one forward pass of the checkpoint."""
_SHARED = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
    "initializer_range", "layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id", "classifier_dropout",
    "id2label", "label2id", "problem_type",
)  # fmt: skip
"""Fields of BERT's configuration that mean the same in ELECTRA's."""


Around = tuple[Sequence[int], Sequence[int]]
"""The special tokens before and behind a text."""


def set_word_vectors(
    model: PreTrainedModel, path: str, ids: Sequence[int | None], around: Around | None = None
) -> None:
    """Set the word vectors of an LSTM to the principal components of a checkpoint's vectors.

    Args:
        model: The LSTM.
        path: The checkpoint: a local directory or a hub name.
        ids: The id there of each token of the LSTM; None is a token that the checkpoint does not have. It keeps its
            random vector, as the padding keeps its zeros.
        around: None takes the input embeddings. Else the special tokens of a text (`find_around`): the vector of a
            token is the mean of the last hidden states of a text of this token alone.

    Raises:
        ModelError: The checkpoint cannot be loaded, or its embeddings are narrower than the LSTM's.
    """
    folder = resolve_model(path, revision=None, trust_remote_code=False)
    source, _ = read_model(
        folder, "classification", False, dtype=torch.float32, num_labels=2, ignore_mismatched_sizes=True
    )
    tables: list[Any] = [source.get_input_embeddings(), model.get_input_embeddings()]
    own = tables[1].weight
    at_ids = [(at, i) for at, i in enumerate(ids) if i is not None and at != model.config.pad_token_id]
    known, tokens = [at for at, _ in at_ids], torch.tensor([i for _, i in at_ids])
    found = tables[0].weight.detach()[tokens] if around is None else _read_outputs(source, tokens, around)
    check_width(path, own.shape[1], found.shape[1])
    rows = found.double()
    rows = rows - rows.mean(dim=0)
    reduced = rows @ _find_basis(rows, own.shape[1])
    with torch.no_grad():
        own[known] = (reduced * (VECTOR_STD / reduced.std().clamp(min=1e-12))).to(own.dtype)


def find_around(tokenizer: Any) -> Around:
    """Return the ids of the special tokens that a tokenizer puts before a text, and of those behind it."""
    found = tokenizer("a", return_special_tokens_mask=True)
    ids, is_special = found["input_ids"], found["special_tokens_mask"]
    begin = is_special.index(0) if 0 in is_special else len(ids)
    end = len(ids) - is_special[::-1].index(0) if 0 in is_special else len(ids)
    return ids[:begin], ids[end:]


@torch.inference_mode()
def _read_outputs(source: PreTrainedModel, tokens_K: torch.Tensor, around: Around) -> torch.Tensor:
    """Return [K, H]: the mean of the last hidden states of texts of one token each, special tokens included.

    Of an encoder-decoder they are the encoder's.
    """
    encoder: Any = (source.get_encoder() if source.config.is_encoder_decoder else source.base_model).eval()
    begin, end = around
    means = []
    for part in tokens_K.split(TEXTS_AT_ONCE):
        ids = torch.tensor([[*begin, token, *end] for token in part.tolist()])
        means.append(encoder(input_ids=ids, attention_mask=torch.ones_like(ids))[0].mean(dim=1))
    return torch.cat(means)


def check_width(path: str | Path, width: int, found: int) -> None:
    """Refuse to reduce embeddings to more columns than they have.

    Raises:
        ModelError: With both widths.
    """
    if width > found:
        raise ModelError(
            f"the embeddings of {path} cannot be reduced to more columns than they have",
            got=f"{width} columns",
            wanted=f"at most {found}",
            next_step="lower student.embedding (of an lstm) or student.embedding_size",
        )


def check_separators(added: int, head: Head, path: str | Path) -> None:
    """Refuse word vectors whose tokenizer separates a question from its context by other than one token.

    Args:
        added: Special tokens that the tokenizer adds to a pair of texts.
        head: What the LSTM serves.
        path: The checkpoint's place, for the message.

    Raises:
        ModelError: With what can be named.
    """
    if head == "question_answering" and added != 3:
        raise ModelError(
            f"an lstm that answers questions cannot take the tokenizer of {path}",
            got=f"{added} special tokens around a question and its context",
            wanted="3, as BERT's: one at the beginning and one after each",
            next_step="leave student.embedding_from out, or name a BERT checkpoint",
        )


def build_factorised(model: PreTrainedModel, head: Head, width: int, where: str) -> PreTrainedModel:
    """Build the model of ELECTRA's class that a model of BERT's becomes; its weights are random.

    Args:
        model: The model, which may be on torch's meta device; the new one is made on torch's default device.
        head: What it serves.
        width: Columns of the factorised table.
        where: The checkpoint's place, for the message.

    Raises:
        ModelError: It is no BERT encoder, or narrower than `width`.
    """
    from transformers import ElectraConfig

    config: Any = model.config
    absolute = getattr(config, "position_embedding_type", "absolute") in (None, "absolute")
    decoder = getattr(config, "is_decoder", False)
    if config.model_type != "bert" or head not in FACTORISED or not absolute or decoder:
        raise ModelError(
            f"the embedding table of {where} cannot be factorised",
            got=f"{config.model_type} for {head}",
            wanted=f"bert, for {', '.join(sorted(FACTORISED))}: it becomes electra, which has such a table",
            next_step="leave student.embedding_size out, or name a BERT checkpoint",
        )
    check_width(where, width, config.hidden_size)
    settings = {name: getattr(config, name) for name in _SHARED if hasattr(config, name)}
    return find_auto_class(head).from_config(ElectraConfig(embedding_size=width, **settings))


def factorise_embeddings(model: PreTrainedModel, head: Head, width: int, where: str) -> PreTrainedModel:
    """Turn a BERT encoder into an ELECTRA encoder with a narrower embedding table; the head is drawn anew.

    Args:
        model: The model, with its weights.
        head: What it serves.
        width: Columns of the factorised table.
        where: The checkpoint's place, for messages.

    Raises:
        ModelError: As `build_factorised`.
    """
    made = build_factorised(model, head, width, where)
    bert: Any = model.base_model
    electra: Any = made.base_model
    electra.encoder.load_state_dict(bert.encoder.state_dict())
    old, new = bert.embeddings, electra.embeddings
    if width == model.config.hidden_size:  # then ELECTRA has no projection, and is BERT
        new.load_state_dict(old.state_dict())
        return made
    names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    tables = {name: getattr(old, name).weight.detach().double() for name in names}
    tables = {name: table - table.mean(dim=1, keepdim=True) for name, table in tables.items()}
    basis = _find_basis(_list_typical_sums(*tables.values()), width - 1) @ _build_zero_sum_rows(width)
    scale = (model.config.hidden_size / width) ** 0.5
    with torch.no_grad():
        for name, table in tables.items():
            getattr(new, name).weight.copy_(table @ basis)
        new.LayerNorm.weight.fill_(1.0)
        new.LayerNorm.bias.zero_()
        electra.embeddings_project.weight.copy_(scale * old.LayerNorm.weight.double()[:, None] * basis)
        electra.embeddings_project.bias.copy_(old.LayerNorm.bias)
    return made


def _list_typical_sums(words: torch.Tensor, places: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
    """Return rows whose squares add up to those of a typical token's sum of embeddings.

    With equal rows truncation would favour rare words: the normalised embeddings of all-MiniLM-L6-v2 on 300 English
    review sentences were 79 % off at width 128, and 58 % with these weights (the norm of the difference, against that
    of the embeddings). Vocabularies list frequent words first, and short texts are frequent.
    """
    share_V, share_L = _share_by_rank(len(words)), _share_by_rank(len(places))
    mean = share_L @ places
    return torch.cat(
        [
            share_V.sqrt()[:, None] * (words + mean + types[0]),
            share_L.sqrt()[:, None] * (places - mean),
            (types - types[0]) / 10,  # of second texts, which most tasks do not have
        ]
    )


def _share_by_rank(count: int) -> torch.Tensor:
    """Return shares that fall as 1 / rank, as words do (Zipf's law), flatter for the first ten; their sum is 1."""
    weights = 1.0 / (torch.arange(count, dtype=torch.float64) + 10.0)
    return weights / weights.sum()


def _find_basis(rows: torch.Tensor, width: int) -> torch.Tensor:
    """Return the leading right singular vectors of a matrix as columns; their signs do not depend on the machine."""
    vectors: torch.Tensor = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, :width]
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)


def _build_zero_sum_rows(width: int) -> torch.Tensor:
    """Return an orthonormal basis ``[width - 1, width]`` of the vectors whose numbers add up to 0 (Helmert's)."""
    rows = torch.zeros(width - 1, width, dtype=torch.float64)
    for k in range(1, width):
        rows[k - 1, :k] = 1.0
        rows[k - 1, k] = -float(k)
    rows /= rows.norm(dim=1, keepdim=True)
    return rows
