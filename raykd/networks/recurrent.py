"""The networks that transformers does not have: linear models over n-grams (`raykd.networks.linear`), and LSTMs.

Decision record: all are `PreTrainedModel`s with a configuration, and importing this module registers them with
transformers' auto classes. So they are saved, loaded and served like any other model. The import takes seconds
(transformers' modelling code), which is why the rest of `raykd.models` imports this module late. The LSTMs inherit one
recurrent trunk. Its weights have the same names under every head, so a checkpoint of one task can start a student of
another.

transformers calls `_init_weights` on every module, after construction and again for weights that a checkpoint lacks.
The classes override it because they start from other values than the common scheme: zeros, and an open forget gate.
The functions of `transformers.initialization` skip weights that were loaded.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import (
    MaskedLMOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from raykd.compat.transformers_private import is_initialized
from raykd.head import Head
from raykd.networks.heads import find_auto_class
from raykd.networks.linear import (
    LinearConfig,
    LinearForSequenceClassification,
    LinearForTokenClassification,
    build_output,
)

EMBEDDING_STD = 0.1
"""Standard deviation of the random word vectors of an LSTM."""


class LSTMConfig(PreTrainedConfig):
    """The configuration of an LSTM; `raykd.models.LSTMStudent` explains the fields."""

    model_type = "raykd_lstm"
    vocab_size: int = 8000
    embedding_size: int = 128
    hidden_size: int = 128
    num_hidden_layers: int = 1
    bidirectional: bool = True
    dropout: float = 0.2
    pooling: Literal["max", "mean", "last"] = "max"
    pad_token_id: int | None = 0


class RecurrentModel(PreTrainedModel):
    """The trunk of the LSTMs. Its backward direction is a forward LSTM over the reversed text.

    `nn.LSTM(bidirectional=True)` would read padding before the text. A packed sequence would not, but has no fast
    kernel on CPUs: a training step takes 61 ms with it and 24 ms with this (batch 32, 40 tokens, width 128, one core).
    Tokens are reversed within each text's own length, so padding comes last in both directions and changes nothing
    before it.

    Subclasses add their head as the last module.
    """

    config_class = LSTMConfig
    trunk = ("embedding", "forward_layers", "backward_layers")
    """Modules of the trunk; all others belong to the head."""
    base_model_prefix = ""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(
            config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id
        )
        directions = 2 if config.bidirectional else 1
        sizes = [config.embedding_size] + [directions * config.hidden_size] * (config.num_hidden_layers - 1)
        self.forward_layers = nn.ModuleList(nn.LSTM(n, config.hidden_size, batch_first=True) for n in sizes)
        self.backward_layers = nn.ModuleList(
            nn.LSTM(n, config.hidden_size, batch_first=True) for n in sizes if config.bidirectional
        )
        self.dropout = nn.Dropout(config.dropout)
        self.width = directions * config.hidden_size

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of word vectors, which grows when tokens are added."""
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of word vectors."""
        self.embedding = value  # type: ignore[assignment]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=EMBEDDING_STD)
            if module.padding_idx is not None and not is_initialized(module.weight):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LSTM):
            for name, weight in module.named_parameters():
                if name.startswith("weight_hh"):
                    init.orthogonal_(weight)
                elif name.startswith("weight"):
                    init.xavier_uniform_(weight)
                else:
                    # The gates' order is input, forget, cell, output. A forget gate that starts open remembers
                    # (Jozefowicz et al. 2015). torch adds two biases; one of them is enough to open it.
                    init.zeros_(weight)
                    if name.startswith("bias_ih") and not is_initialized(weight):
                        init.ones_(weight[module.hidden_size : 2 * module.hidden_size])
        else:
            super()._init_weights(module)  # type: ignore[no-untyped-call]

    def compute_states(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        embedded_BLE: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run the LSTM over texts that begin at the first place of their row.

        Args:
            input_ids: ``[B, L]``, as `align_texts` returns them.
            attention_mask: ``[B, L]``, 0 for padding; None takes the padding id.
            embedded_BLE: The LSTM's input; None embeds the ids.

        Returns:
            States ``[B, L, H]``, mask ``[B, L]`` and lengths ``[B, 1]``.
        """
        mask_BL = self._mask(input_ids, attention_mask)
        length_B1 = mask_BL.sum(dim=1, keepdim=True)
        place_BL = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        mirror_BL = torch.where(place_BL < length_B1, length_B1 - 1 - place_BL, place_BL)
        states_BLH = self.dropout(self.embedding(input_ids) if embedded_BLE is None else embedded_BLE)
        for i, forward in enumerate(self.forward_layers):
            out_BLH = forward(states_BLH)[0]
            if self.config.bidirectional:
                back_BLH = self.backward_layers[i](_select_places(states_BLH, mirror_BL))[0]
                out_BLH = torch.cat([out_BLH, _select_places(back_BLH, mirror_BL)], dim=2)
            states_BLH = self.dropout(out_BLH) if i + 1 < len(self.forward_layers) else out_BLH
        return states_BLH, mask_BL, length_B1

    def align_texts(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Move each text to the first place of its row, because an LSTM would read padding that comes before it.

        Returns:
            Ids and mask ``[B, L]``, and by how many places each text was moved ``[B, 1]``: 0 if padding follows it.
        """
        mask_BL = self._mask(input_ids, attention_mask)
        # The modulus leaves a row of padding alone where it is.
        before_B1 = (mask_BL.cumsum(dim=1) == 0).sum(dim=1, keepdim=True) % max(1, mask_BL.shape[1])
        place_BL = _roll_places(mask_BL, before_B1)
        return input_ids.gather(1, place_BL), mask_BL.gather(1, place_BL), before_B1

    def restore_places(self, logits_BLC: torch.Tensor, before_B1: torch.Tensor) -> torch.Tensor:
        """Return each token's outputs at the place where the token was before `align_texts`."""
        return _select_places(logits_BLC, _roll_places(logits_BLC[..., 0], -before_B1))

    def _mask(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        return input_ids != self.config.pad_token_id if attention_mask is None else attention_mask != 0


class RecurrentClassifier(RecurrentModel):
    """The trunk with one linear layer that has an output per label."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(self.width, len(config.id2label or ()))
        self.post_init()  # type: ignore[no-untyped-call]


class LSTMForSequenceClassification(RecurrentClassifier):
    """A classifier of the trunk's states, pooled over the text."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **ignored: object,
    ) -> SequenceClassifierOutput:
        """Return ``[B, C]`` logits for ``[B, L]`` ids, padded on either side, and the mean cross-entropy."""
        ids_BL, mask_BL, _ = self.align_texts(input_ids, attention_mask)
        pooled_BH = self._pool(*self.compute_states(ids_BL, mask_BL))
        return build_output(self.classifier(self.dropout(pooled_BH)), labels)

    def _pool(self, states_BLH: torch.Tensor, mask_BL: torch.Tensor, length_B1: torch.Tensor) -> torch.Tensor:
        """Return ``[B, H]`` of the real tokens, zeros for a text without any."""
        some_B1 = length_B1 > 0
        if self.config.pooling == "mean":
            return (states_BLH * mask_BL[:, :, None]).sum(dim=1) / length_B1.clamp(min=1).to(states_BLH.dtype)
        if self.config.pooling == "max":
            pooled_BH = states_BLH.masked_fill(~mask_BL[:, :, None], float("-inf")).amax(dim=1)
            return pooled_BH.masked_fill(~some_B1, 0.0)
        last_BH = _select_places(states_BLH, (length_B1 - 1).clamp(min=0))[:, 0]
        if self.config.bidirectional:
            # The backward direction reads the first token last.
            half = self.config.hidden_size
            last_BH = torch.cat([last_BH[:, :half], states_BLH[:, 0, half:]], dim=1)
        return last_BH.masked_fill(~some_B1, 0.0)


class LSTMForTokenClassification(RecurrentClassifier):
    """A classifier of the trunk's state of each token."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **ignored: object,
    ) -> TokenClassifierOutput:
        """Return ``[B, L, C]`` logits for ``[B, L]`` ids, and the mean loss of tokens whose label is not -100."""
        ids_BL, mask_BL, before_B1 = self.align_texts(input_ids, attention_mask)
        logits_BLC = self.classifier(self.dropout(self.compute_states(ids_BL, mask_BL)[0]))
        logits_BLC = self.restore_places(logits_BLC, before_B1)
        loss = None if labels is None else F.cross_entropy(logits_BLC.float().flatten(0, 1), labels.view(-1))
        return TokenClassifierOutput(loss=loss, logits=logits_BLC)


class LSTMForMaskedLM(RecurrentModel):
    """Guesses hidden tokens from their states, which are compared with the word vectors (tied, arXiv:1608.05859)."""

    _tied_weights_keys = {"decoder.weight": "embedding.weight"}

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.transform = nn.Linear(self.width, config.embedding_size)
        self.decoder = nn.Linear(config.embedding_size, config.vocab_size)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_output_embeddings(self) -> nn.Module:
        """Return the layer that scores the vocabulary."""
        return self.decoder

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace that layer."""
        self.decoder = value  # type: ignore[assignment]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **ignored: object,
    ) -> MaskedLMOutput:
        """Return ``[B, L, V]`` logits for ``[B, L]`` ids, and the mean loss of tokens whose label is not -100."""
        ids_BL, mask_BL, before_B1 = self.align_texts(input_ids, attention_mask)
        states_BLH = self.restore_places(self.compute_states(ids_BL, mask_BL)[0], before_B1)
        logits_BLV = self.decoder(self.transform(self.dropout(states_BLH)))
        loss = None if labels is None else F.cross_entropy(logits_BLV.float().flatten(0, 1), labels.view(-1))
        return MaskedLMOutput(loss=loss, logits=logits_BLV)


class LSTMForQuestionAnswering(RecurrentModel):
    """A small document reader: two outputs per token, whether an answer starts or ends there.

    An LSTM over question and context cannot compare the two. So each token of the context also gets the exact match
    and the aligned question embedding of Chen et al. (ACL 2017, arXiv:1704.00051): whether it occurs in the question,
    and the embedding of what is most like it there. The outputs compare each state with a summary of the question.
    """

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        size = config.embedding_size
        self.alignment = nn.Linear(size, size)
        self.matching = nn.Linear(size + 2, size)
        self.summary = nn.Linear(self.width, 1)
        self.asking = nn.Linear(self.width, 2 * self.width)
        self.qa_outputs = nn.Linear(self.width, 2)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        **ignored: object,
    ) -> QuestionAnsweringModelOutput:
        """Return two ``[B, L]`` logits for ``[B, L]`` ids of question and context, and the mean of both losses."""
        ids_BL, mask_BL, before_B1 = self.align_texts(input_ids, attention_mask)
        question_BL, context_BL = self._find_parts(ids_BL)
        embedded_BLE = self._embed_with_matches(ids_BL, question_BL, context_BL)
        states_BLH = self.dropout(self.compute_states(ids_BL, mask_BL, embedded_BLE)[0])
        weight_BL = self.summary(states_BLH).squeeze(2).masked_fill(~question_BL, -1e4).softmax(dim=1)
        # A question without tokens has a summary of zeros. The softmax alone would make it the mean of all states,
        # which depends on how far the batch is padded.
        weight_BL = weight_BL * question_BL
        question_BH = (weight_BL[:, None] @ states_BLH).squeeze(1)
        wanted_BH2 = self.asking(question_BH).view(len(input_ids), -1, 2)
        logits_BL2 = self.qa_outputs(states_BLH) + states_BLH @ wanted_BH2 / self.width**0.5
        start_BL, end_BL = self.restore_places(logits_BL2, before_B1).unbind(dim=2)
        loss = None
        if start_positions is not None and end_positions is not None:
            start = F.cross_entropy(start_BL.float(), start_positions.view(-1))
            loss = (start + F.cross_entropy(end_BL.float(), end_positions.view(-1))) / 2
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start_BL, end_logits=end_BL)

    def _find_parts(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which tokens belong to the question and which to the context, ``[B, L]``, by the separators."""
        separator = self.config.sep_token_id
        ends_BL = input_ids == (-1 if separator is None else separator)
        part_BL = ends_BL.cumsum(dim=1)
        real_BL = ~ends_BL & (input_ids != self.config.pad_token_id)
        question_BL = (part_BL == 0) & real_BL
        question_BL[:, 0] = False  # [CLS]
        return question_BL, (part_BL == 1) & real_BL

    def _embed_with_matches(
        self, input_ids: torch.Tensor, question_BL: torch.Tensor, context_BL: torch.Tensor
    ) -> torch.Tensor:
        """Return the LSTM's input ``[B, L, E]``: embeddings, and for the context what they match in the question."""
        embedded_BLE = self.embedding(input_ids)
        longest = int(question_BL.sum(dim=1).max()) + 1
        ids_BQ, question_BQ = input_ids[:, :longest], question_BL[:, :longest]
        same_BLQ = (input_ids[:, :, None] == ids_BQ[:, None, :]) & question_BQ[:, None, :]
        match_BL = same_BLQ.any(dim=2) & context_BL
        keys_BLE = torch.relu(self.alignment(embedded_BLE))
        score_BLQ = keys_BLE @ keys_BLE[:, :longest].transpose(1, 2)
        near_BLQ = (
            score_BLQ.masked_fill(~question_BQ[:, None, :], -1e4).softmax(dim=2) * question_BQ[:, None, :]
        )
        aligned_BLE = near_BLQ @ embedded_BLE[:, :longest] * context_BL[:, :, None]
        features = torch.cat([aligned_BLE, match_BL[:, :, None], context_BL[:, :, None]], dim=2)
        read_BLE: torch.Tensor = embedded_BLE + self.matching(features.to(embedded_BLE.dtype))
        return read_BLE


def _roll_places(like_BL: torch.Tensor, by_B1: torch.Tensor) -> torch.Tensor:
    """Return the numbers of the places ``[B, L]`` in the order by, by + 1, ..., L - 1, 0, ..., by - 1."""
    length = like_BL.shape[1]
    return (torch.arange(length, device=like_BL.device)[None] + by_B1) % max(1, length)


def _select_places(states_BLH: torch.Tensor, place_BK: torch.Tensor) -> torch.Tensor:
    """Return ``states[b, place[b, k]]`` as ``[B, K, H]``."""
    return states_BLH.gather(1, place_BK[:, :, None].expand(-1, -1, states_BLH.shape[2]))


AutoConfig.register(LinearConfig.model_type, LinearConfig, exist_ok=True)
AutoConfig.register(LSTMConfig.model_type, LSTMConfig, exist_ok=True)
_NETWORKS: tuple[tuple[Head, type[PreTrainedConfig], type[PreTrainedModel]], ...] = (
    ("classification", LinearConfig, LinearForSequenceClassification),
    ("token_classification", LinearConfig, LinearForTokenClassification),
    ("classification", LSTMConfig, LSTMForSequenceClassification),
    ("token_classification", LSTMConfig, LSTMForTokenClassification),
    ("masked_lm", LSTMConfig, LSTMForMaskedLM),
    ("question_answering", LSTMConfig, LSTMForQuestionAnswering),
)
for _head, _config, _network in _NETWORKS:
    find_auto_class(_head).register(_config, _network, exist_ok=True)
