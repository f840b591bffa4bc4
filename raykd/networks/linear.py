"""Linear models over hashed n-grams, of texts and of words.

Decision record: a table of weights is all that they are, so they need no trunk, and a checkpoint of one task starts no
student of another. Weights begin as zeros, since the problem is convex. `raykd.networks.recurrent` registers them.

They read padded ids, as any model of transformers, and ids that are joined to one list (`raykd.text.padding`), by which
they answer several times as fast on a CPU. Both give the same numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput


class LinearConfig(PreTrainedConfig):
    """The configuration of a linear model."""

    model_type = "raykd_linear"
    buckets: int = 2**18
    """Rows of the weight table; bucket 0 is padding."""
    pad_token_id: int | None = 0


class LinearModel(PreTrainedModel):
    """A table of weights with a row per n-gram, and a bias."""

    config_class = LinearConfig
    base_model_prefix = ""
    much_shorter = 0.0
    """See `raykd.text.padding.Padding`: a padded id is one row of a table, a pass is a hundred calls of Python."""

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        classes = len(config.id2label or ())
        self.weights = self._make_table(config.buckets, classes)
        self.bias = nn.Parameter(torch.zeros(classes))
        self.post_init()  # type: ignore[no-untyped-call]

    def _make_table(self, buckets: int, classes: int) -> nn.Module:
        raise NotImplementedError

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            init.zeros_(module.weight)
        elif module is self:
            init.zeros_(self.bias)


class _Bags(nn.EmbeddingBag):
    """A table that sums rows; a module of its own, because ZeRO 3 has its weights while it runs and no longer."""

    def forward(
        self, ids: torch.Tensor, offsets: torch.Tensor | None = None, ignored: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the sums of rows of ids ``[B, L]``, or of joined ids, which begin at offsets."""
        if offsets is None:
            return super().forward(ids)
        # The same sums; on a CPU torch takes five times as long where it has to look for a `padding_idx`.
        return F.embedding_bag(ids, self.weight, offsets, mode="sum")


class _Words(nn.Embedding):
    """A table whose rows are read, or summed as those of `_Bags`."""

    def forward(self, ids: torch.Tensor, offsets: torch.Tensor | None = None) -> torch.Tensor:
        """Return the row of each id, or sums as `_Bags`."""
        return (
            super().forward(ids)
            if offsets is None
            else F.embedding_bag(ids, self.weight, offsets, mode="sum")
        )


class LinearForSequenceClassification(LinearModel):
    """Softmax regression over a bag of ids: ``sum(weight[id]) / sqrt(number of ids) + bias``.

    A binary bag of n words is a vector of length sqrt(n). The division gives all texts an input of length one, as in
    a linear model over normalised counts.
    """

    def _make_table(self, buckets: int, classes: int) -> nn.Module:
        return _Bags(buckets, classes, mode="sum", padding_idx=0)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        bag_starts: torch.Tensor | None = None,
        **ignored: object,
    ) -> SequenceClassifierOutput:
        """Return ``[B, C]`` logits for ``[B, L]`` ids, and the mean cross-entropy where labels are given.

        Where ``[B]`` starts are given, ids are ``[T]``, all real.
        """
        if bag_starts is not None:
            count_B = torch.diff(bag_starts, append=bag_starts.new_tensor([len(input_ids)]))
            sum_BC = self.weights(input_ids, bag_starts)
        else:
            real_BL = input_ids != 0
            if attention_mask is not None:
                real_BL &= attention_mask != 0
            count_B = real_BL.sum(dim=1)
            sum_BC = self.weights(input_ids.masked_fill(~real_BL, 0))
        logits_BC = sum_BC * count_B.clamp(min=1).to(sum_BC.dtype).rsqrt()[:, None] + self.bias
        return build_output(logits_BC, labels)


class LinearForTokenClassification(LinearModel):
    """Softmax regression of each word over the n-grams of the word and of its two neighbours, a table for each.

    A row of ids holds for each word a 0 and then its n-grams (`HashedNgrams.encode_words`). Sums are divided by the
    root of the number of ids, as in `LinearForSequenceClassification`.
    """

    def _make_table(self, buckets: int, classes: int) -> nn.Module:
        return _Words(buckets, 3 * classes, padding_idx=0)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        bag_starts: torch.Tensor | None = None,
        **ignored: object,
    ) -> TokenClassifierOutput:
        """Return ``[B, L, C]`` logits, of each word at its 0, and the mean loss where the label is not -100.

        Where ``[B]`` starts are given, ids are ``[T]``, all real, and logits ``[1, T, C]``.
        """
        if bag_starts is not None:
            return TokenClassifierOutput(logits=self._answer_joined(input_ids, bag_starts))
        real_BL = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        begins_BL = (input_ids == 0) & (real_BL != 0)
        logits_BLC = self._answer_padded(input_ids, begins_BL)
        loss = None if labels is None else F.cross_entropy(logits_BLC.float().flatten(0, 1), labels.view(-1))
        return TokenClassifierOutput(loss=loss, logits=logits_BLC)

    def _answer_padded(self, ids_BL: torch.Tensor, begins_BL: torch.Tensor) -> torch.Tensor:
        """Return ``[B, L, C]`` logits by operators that have gradients and few shapes."""
        word_BL = (begins_BL.cumsum(dim=1) - 1).clamp(min=0)
        rows_BLD = self.weights(ids_BL)
        index_BLD = word_BL[..., None].expand_as(rows_BLD)
        sums_BWD = torch.zeros_like(rows_BLD).scatter_add(1, index_BLD, rows_BLD)
        counts_BW = torch.zeros_like(word_BL).scatter_add(1, word_BL, (ids_BL != 0).to(word_BL.dtype))
        sums_BWD = sums_BWD * counts_BW.clamp(min=1).to(sums_BWD.dtype).rsqrt()[..., None]
        # What a word says of itself, of the next word, of the last one.
        own, before, after = sums_BWD.chunk(3, dim=-1)
        logits_BWC = own + F.pad(before, (0, 0, 1, 0))[:, :-1] + F.pad(after, (0, 0, 0, 1))[:, 1:]
        return logits_BWC.gather(1, word_BL[..., None].expand_as(logits_BWC)) + self.bias

    def _answer_joined(self, ids_T: torch.Tensor, starts_B: torch.Tensor) -> torch.Tensor:
        """Return ``[1, T, C]`` logits at the 0 of each word, other places 0: a word's ids are a bag."""
        real_T = ids_T != 0
        at_W, ids_G = (~real_T).nonzero()[:, 0], ids_T[real_T]
        edges_W = at_W - torch.arange(len(at_W))
        sums_WD = self.weights(ids_G, edges_W)
        counts_W = torch.diff(edges_W, append=edges_W.new_tensor([len(ids_G)]))
        sums_WD *= counts_W.clamp(min=1).to(sums_WD.dtype).rsqrt()[:, None]
        own, before, after = sums_WD.chunk(3, dim=-1)
        row_W = torch.searchsorted(starts_B, at_W, right=True)
        same_W1 = (row_W[1:] == row_W[:-1])[:, None]
        logits_WC = own + self.bias
        logits_WC[1:] += before[:-1] * same_W1
        logits_WC[:-1] += after[1:] * same_W1
        logits_1TC: torch.Tensor = logits_WC.new_zeros(1, len(ids_T), logits_WC.shape[1])
        logits_1TC[0, at_W] = logits_WC
        return logits_1TC


def build_output(logits_BC: torch.Tensor, labels: torch.Tensor | None) -> SequenceClassifierOutput:
    """Return logits, and their mean cross-entropy where labels are given."""
    loss = None if labels is None else F.cross_entropy(logits_BC.float(), labels.view(-1))
    return SequenceClassifierOutput(loss=loss, logits=logits_BC)
