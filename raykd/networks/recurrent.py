"""The networks that transformers does not have: a linear model over n-grams, and LSTMs.

Decision record: all are `PreTrainedModel`s with a configuration and are registered with transformers' auto
classes when this module is imported, so that they are saved, loaded and served like any other model.
Importing this module imports transformers' modelling code (seconds); the rest of `raykd.models` imports it
late. The LSTMs share one recurrent trunk, which they inherit, so that its weights have the same names under every
head and a checkpoint of one task starts a student of another.

transformers calls `_init_weights` on every module, after construction and for weights that a checkpoint
lacks; the classes override it, because what they want (zeros; an open forget gate) is not what the common
scheme does. The functions of `transformers.initialization` leave weights alone that were loaded.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import (
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from raykd.compat.transformers_private import is_initialized
from raykd.head import Head
from raykd.networks.heads import find_auto_class


class LinearConfig(PreTrainedConfig):
    """buckets: rows of the weight table; bucket 0 is padding."""

    model_type = "raykd_linear"

    def __init__(self, buckets: int = 2**18, **kwargs: Any) -> None:
        self.buckets = buckets
        kwargs.setdefault("pad_token_id", 0)
        super().__init__(**kwargs)


class LinearForSequenceClassification(PreTrainedModel):
    """Softmax regression over a bag of ids: ``sum(weight[id]) / sqrt(number of ids) + bias``.

    The root of the count is the length of a binary bag of words as a vector, so texts of all lengths get
    inputs of length one, as in a linear model over normalised counts.
    """

    config_class = LinearConfig
    base_model_prefix = ""

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        classes = len(config.id2label or ())
        self.weights = nn.EmbeddingBag(config.buckets, classes, mode="sum", padding_idx=0)
        self.bias = nn.Parameter(torch.zeros(classes))
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.EmbeddingBag):
            init.zeros_(module.weight)
        elif module is self:
            init.zeros_(self.bias)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **ignored: Any,
    ) -> SequenceClassifierOutput:
        """``[B, L]`` ids to ``[B, C]`` logits; the loss is the mean cross-entropy where labels are given."""
        if attention_mask is not None:
            input_ids = input_ids.masked_fill(attention_mask == 0, 0)
        count_B1 = (input_ids != 0).sum(dim=1, keepdim=True).clamp(min=1)
        sum_BC = self.weights(input_ids)
        logits_BC = sum_BC * count_B1.to(sum_BC.dtype).rsqrt() + self.bias
        return _output(logits_BC, labels)


class LSTMConfig(PreTrainedConfig):
    """See `raykd.models.LSTMStudent` for the fields."""

    model_type = "raykd_lstm"

    def __init__(
        self,
        vocab_size: int = 8000,
        embedding_size: int = 128,
        hidden_size: int = 128,
        num_hidden_layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.2,
        pooling: Literal["max", "mean", "last"] = "max",
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.pooling = pooling
        kwargs.setdefault("pad_token_id", 0)
        super().__init__(**kwargs)


class RecurrentModel(PreTrainedModel):
    """The trunk of the LSTMs, to which a subclass adds its head as the last module.

    It is an LSTM whose backward direction is a forward one over the reversed text.

    `nn.LSTM(bidirectional=True)` would read padding first; a packed sequence would not, but has no fast
    kernel on CPUs: here a training step takes 24 ms instead of 61 ms (batch 32, 40 tokens, width 128, one
    core). Tokens are reversed within each text's own length, so padding comes last in both directions and
    changes nothing before it.
    """

    config_class = LSTMConfig
    trunk = ("embedding", "forward_layers", "backward_layers")
    """Modules with weights that are not the head's."""
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
        """The table that grows where tokens are added."""
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Puts a grown table in its place."""
        self.embedding = value  # type: ignore[assignment]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=0.1)
            if module.padding_idx is not None and not is_initialized(module.weight):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LSTM):
            for name, weight in module.named_parameters():
                if name.startswith("weight_hh"):
                    init.orthogonal_(weight)
                elif name.startswith("weight"):
                    init.xavier_uniform_(weight)
                else:
                    # torch adds two biases; the gates stand in the order input, forget, cell, output. A
                    # forget gate that starts open remembers (Jozefowicz et al. 2015); only bias_ih opens it.
                    init.zeros_(weight)
                    if name.startswith("bias_ih") and not is_initialized(weight):
                        init.ones_(weight[module.hidden_size : 2 * module.hidden_size])
        else:
            super()._init_weights(module)  # type: ignore[no-untyped-call]

    def states(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        embedded_BLE: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return states ``[B, L, H]``, mask ``[B, L]`` and lengths ``[B, 1]`` of texts that begin at the first place.

        Args:
            input_ids: ``[B, L]``, as `begin_texts` puts them.
            embedded_BLE: What the LSTM reads, if not the embedding of the ids.
        """
        mask_BL = self._mask(input_ids, attention_mask)
        length_B1 = mask_BL.sum(dim=1, keepdim=True)
        place_BL = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        reversed_BL = torch.where(place_BL < length_B1, length_B1 - 1 - place_BL, place_BL)
        states_BLH = self.dropout(self.embedding(input_ids) if embedded_BLE is None else embedded_BLE)
        for i, forward in enumerate(self.forward_layers):
            out_BLH = forward(states_BLH)[0]
            if self.config.bidirectional:
                back_BLH = self.backward_layers[i](_take(states_BLH, reversed_BL))[0]
                out_BLH = torch.cat([out_BLH, _take(back_BLH, reversed_BL)], dim=2)
            states_BLH = self.dropout(out_BLH) if i + 1 < len(self.forward_layers) else out_BLH
        return states_BLH, mask_BL, length_B1

    def begin_texts(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Move each text to the first place of its row, because an LSTM would read padding that stands before it.

        Returns:
            Ids and mask ``[B, L]``, and ``[B, 1]``, by how many places each text was moved: 0 where padding follows it.
        """
        mask_BL = self._mask(input_ids, attention_mask)
        before_B1 = (mask_BL.cumsum(dim=1) == 0).sum(dim=1, keepdim=True) % max(1, mask_BL.shape[1])
        place_BL = self._rolled(mask_BL, before_B1)
        return input_ids.gather(1, place_BL), mask_BL.gather(1, place_BL), before_B1

    def put_back(self, logits_BLC: torch.Tensor, before_B1: torch.Tensor) -> torch.Tensor:
        """Return each token's outputs at the place where the token stood before `begin_texts`."""
        return _take(logits_BLC, self._rolled(logits_BLC[..., 0], -before_B1))

    @staticmethod
    def _rolled(like_BL: torch.Tensor, by_B1: torch.Tensor) -> torch.Tensor:
        """``[B, L]``: the places from ``by`` on, and then those before."""
        length = like_BL.shape[1]
        return (torch.arange(length, device=like_BL.device)[None] + by_B1) % max(1, length)

    def _mask(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        return input_ids != self.config.pad_token_id if attention_mask is None else attention_mask != 0


class LSTMForSequenceClassification(RecurrentModel):
    """The trunk's states, pooled over the text, and one linear layer."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(self.width, len(config.id2label or ()))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **ignored: Any,
    ) -> SequenceClassifierOutput:
        """``[B, L]`` ids, padded on either side, to ``[B, C]`` logits; the loss is the mean cross-entropy."""
        ids_BL, mask_BL, _ = self.begin_texts(input_ids, attention_mask)
        pooled_BH = self._pool(*self.states(ids_BL, mask_BL))
        return _output(self.classifier(self.dropout(pooled_BH)), labels)

    def _pool(self, states_BLH: torch.Tensor, mask_BL: torch.Tensor, length_B1: torch.Tensor) -> torch.Tensor:
        """``[B, H]`` of the real tokens; a text without any gives zeros."""
        some_B1 = length_B1 > 0
        if self.config.pooling == "mean":
            return (states_BLH * mask_BL[:, :, None]).sum(dim=1) / length_B1.clamp(min=1).to(states_BLH.dtype)
        if self.config.pooling == "max":
            pooled_BH = states_BLH.masked_fill(~mask_BL[:, :, None], float("-inf")).amax(dim=1)
            return pooled_BH.masked_fill(~some_B1, 0.0)
        last_BH = _take(states_BLH, (length_B1 - 1).clamp(min=0))[:, 0]
        if self.config.bidirectional:  # the backward direction ends at the first token
            half = self.config.hidden_size
            last_BH = torch.cat([last_BH[:, :half], states_BLH[:, 0, half:]], dim=1)
        return last_BH.masked_fill(~some_B1, 0.0)


class LSTMForTokenClassification(RecurrentModel):
    """The trunk's states and one linear layer for each token."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(self.width, len(config.id2label or ()))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **ignored: Any,
    ) -> TokenClassifierOutput:
        """``[B, L]`` ids to ``[B, L, C]`` logits; the loss is the mean over tokens whose label is not -100."""
        ids_BL, mask_BL, before_B1 = self.begin_texts(input_ids, attention_mask)
        logits_BLC = self.classifier(self.dropout(self.states(ids_BL, mask_BL)[0]))
        logits_BLC = self.put_back(logits_BLC, before_B1)
        loss = None if labels is None else F.cross_entropy(logits_BLC.float().flatten(0, 1), labels.view(-1))
        return TokenClassifierOutput(loss=loss, logits=logits_BLC)


class LSTMForQuestionAnswering(RecurrentModel):
    """Two outputs for each token, an answer starts here or ends here, by a small document reader.

    An LSTM over a question and a context cannot compare the two; this one is told of each token of the context
    whether it stands in the question and what of the question is most like it (the exact match and the aligned
    question embedding of Chen et al., ACL 2017, arXiv:1704.00051), and asks the question's summary about its states.
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
        **ignored: Any,
    ) -> QuestionAnsweringModelOutput:
        """``[B, L]`` ids of question and context to two ``[B, L]``; the loss is the mean of both cross-entropies."""
        ids_BL, mask_BL, before_B1 = self.begin_texts(input_ids, attention_mask)
        asked_BL, behind_BL = self._parts(ids_BL)
        embedded_BLE = self._matched(ids_BL, asked_BL, behind_BL)
        states_BLH = self.dropout(self.states(ids_BL, mask_BL, embedded_BLE)[0])
        weight_BL = self.summary(states_BLH).squeeze(2).masked_fill(~asked_BL, -1e4).softmax(dim=1)
        weight_BL = (
            weight_BL * asked_BL
        )  # a question without tokens has no summary, whatever the batch's width
        question_BH = (weight_BL[:, None] @ states_BLH).squeeze(1)
        wanted_BH2 = self.asking(question_BH).view(len(input_ids), -1, 2)
        logits_BL2 = self.qa_outputs(states_BLH) + states_BLH @ wanted_BH2 / self.width**0.5
        start_BL, end_BL = self.put_back(logits_BL2, before_B1).unbind(dim=2)
        loss = None
        if start_positions is not None and end_positions is not None:
            start = F.cross_entropy(start_BL.float(), start_positions.view(-1))
            loss = (start + F.cross_entropy(end_BL.float(), end_positions.view(-1))) / 2
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start_BL, end_logits=end_BL)

    def _parts(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which tokens are of the question and which of the context, ``[B, L]``, by the separators."""
        sign = self.config.sep_token_id
        ends_BL = input_ids == (-1 if sign is None else sign)
        behind_BL = ends_BL.cumsum(dim=1)
        asked_BL = (behind_BL == 0) & (input_ids != self.config.pad_token_id)
        asked_BL[:, 0] = False  # the sign of the beginning
        return asked_BL, (behind_BL == 1) & ~ends_BL & (input_ids != self.config.pad_token_id)

    def _matched(
        self, input_ids: torch.Tensor, asked_BL: torch.Tensor, behind_BL: torch.Tensor
    ) -> torch.Tensor:
        """What the LSTM reads of each token, ``[B, L, E]``: its embedding, and what the question has to do with it."""
        embedded_BLE = self.embedding(input_ids)
        longest = int(asked_BL.sum(dim=1).max()) + 1
        ids_BQ, asked_BQ = input_ids[:, :longest], asked_BL[:, :longest]
        same_BLQ = (input_ids[:, :, None] == ids_BQ[:, None, :]) & asked_BQ[:, None, :]
        match_BL = same_BLQ.any(dim=2) & behind_BL
        keys_BLE = torch.relu(self.alignment(embedded_BLE))
        score_BLQ = keys_BLE @ keys_BLE[:, :longest].transpose(1, 2)
        near_BLQ = score_BLQ.masked_fill(~asked_BQ[:, None, :], -1e4).softmax(dim=2) * asked_BQ[:, None, :]
        aligned_BLE = near_BLQ @ embedded_BLE[:, :longest] * behind_BL[:, :, None]
        told = torch.cat([aligned_BLE, match_BL[:, :, None], behind_BL[:, :, None]], dim=2)
        read_BLE: torch.Tensor = embedded_BLE + self.matching(told.to(embedded_BLE.dtype))
        return read_BLE


def _take(states_BLH: torch.Tensor, place_BK: torch.Tensor) -> torch.Tensor:
    """``states[b, place[b, k]]`` as ``[B, K, H]``."""
    return states_BLH.gather(1, place_BK[:, :, None].expand(-1, -1, states_BLH.shape[2]))


def _output(logits_BC: torch.Tensor, labels: torch.Tensor | None) -> SequenceClassifierOutput:
    loss = None if labels is None else F.cross_entropy(logits_BC.float(), labels.view(-1))
    return SequenceClassifierOutput(loss=loss, logits=logits_BC)


AutoConfig.register(LinearConfig.model_type, LinearConfig, exist_ok=True)
AutoConfig.register(LSTMConfig.model_type, LSTMConfig, exist_ok=True)
_NETWORKS: tuple[tuple[Head, type[PreTrainedConfig], type[PreTrainedModel]], ...] = (
    ("classification", LinearConfig, LinearForSequenceClassification),
    ("classification", LSTMConfig, LSTMForSequenceClassification),
    ("token_classification", LSTMConfig, LSTMForTokenClassification),
    ("question_answering", LSTMConfig, LSTMForQuestionAnswering),
)
for _head, _config, _network in _NETWORKS:
    find_auto_class(_head).register(_config, _network, exist_ok=True)
