"""Students that generate text, trained from scratch: a decoder, and an encoder with a decoder.

Decision record: both are transformers' own architectures, so what raykd trains is loaded by anybody, and both are
pre-norm with one matrix for embeddings and head. For translation M2M-100's is taken: it has sinusoidal positions
(nothing to learn), a pre-norm stack that bears high learning rates, and no bias or cap after its head. After 150
steps of 16 English-French pairs (width 192, 2 + 2 layers, learning rate 0.002) its validation loss was 6.29 nats a
token with weights as wide as one over the root of the width, 6.39 with transformers' 0.02, T5's 6.82; Marian's, which
is post-norm, 6.21 with 0.02 and 6.41 with the wider. That is too early in training to rank the first and the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from raykd.head import Head
from raykd.networks.heads import build_label_settings, check_offered, find_auto_class, seeded
from raykd.spec import Spec
from raykd.tokenizers.bytepair import SMALLEST

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raykd.text.tokens import Tokenizer


class DecoderStudent(Spec):
    """A causal language model from scratch: Llama (arXiv:2302.13971) or GPT-2."""

    tasks: ClassVar[frozenset[Head]] = frozenset({"causal_lm"})
    kind: Literal["decoder"] = "decoder"
    architecture: Literal["llama", "gpt2"] = "llama"
    """`llama` has rotary positions, RMSNorm, gated layers and no dropout but in its attention; `gpt2` learns its
    positions."""
    layers: int = Field(4, ge=1)
    """Number of layers."""
    hidden: int = Field(192, ge=1)
    """Width; a multiple of `heads`."""
    heads: int = Field(4, ge=1)
    """Attention heads of a layer."""
    feed_forward: int | None = Field(None, ge=1)
    """Width of the feed-forward layers; None is 4 x hidden (gated: 8/3 x hidden, which has as many weights)."""
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """Of training; see `architecture`."""
    max_positions: int = Field(512, ge=2)
    """Longest text in tokens, prompt and continuation together."""
    vocab_size: int = Field(8000, ge=SMALLEST)
    """Pieces learnt from the training texts, at most; 256 of them are bytes."""

    @model_validator(mode="after")
    def _heads_divide(self) -> DecoderStudent:
        check_heads(self.hidden, self.heads, rotary=self.architecture == "llama")
        return self

    def fit_tokenizer(self, texts: Iterable[str]) -> Tokenizer:
        """A byte-pair tokenizer learnt from the texts; a text begins with ``<s>`` and is left open."""
        from raykd.tokenizers.bytepair import train_bytepair

        return train_bytepair(texts, vocab_size=self.vocab_size, max_length=self.max_positions, closed=False)

    def tokenizer_key(self) -> str:
        """Equal for two students exactly if their tokenizers are."""
        return f"bytepair open {self.vocab_size} {self.max_positions}"

    def build(
        self, tokenizer: Tokenizer, labels: Sequence[str], seed: int, head: Head = "causal_lm"
    ) -> PreTrainedModel:
        """A randomly initialised decoder; it has no labels."""
        from transformers import AutoConfig

        check_offered(self.kind, head, self.tasks)
        settings = (
            build_label_settings(labels, head) | read_special_ids(tokenizer) | {"tie_word_embeddings": True}
        )
        if self.architecture == "llama":
            settings |= {
                "hidden_size": self.hidden,
                "intermediate_size": self.feed_forward or -(-self.hidden * 8 // 3),
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.heads,
                "attention_dropout": self.dropout,
                "max_position_embeddings": self.max_positions,
            }
        else:
            settings |= {
                "n_embd": self.hidden,
                "n_inner": self.feed_forward,
                "n_layer": self.layers,
                "n_head": self.heads,
                "n_positions": self.max_positions,
            }
            settings |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), self.dropout)
        config = AutoConfig.for_model(self.architecture, **settings)
        with seeded(seed):
            model: PreTrainedModel = find_auto_class(head).from_config(config)
            return model


class EncoderDecoderStudent(Spec):
    """A translation or summarisation model from scratch: M2M-100's architecture (arXiv:2010.11125)."""

    tasks: ClassVar[frozenset[Head]] = frozenset({"seq2seq"})
    kind: Literal["encoder_decoder"] = "encoder_decoder"
    layers: int = Field(3, ge=1)
    """Of the encoder, and as many of the decoder."""
    hidden: int = Field(192, ge=2)
    """Width; a multiple of `heads`, and even."""
    heads: int = Field(4, ge=1)
    """Attention heads of a layer."""
    feed_forward: int | None = Field(None, ge=1)
    """Width of the feed-forward layers; None is 4 x hidden."""
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """On attention and hidden states."""
    max_positions: int = Field(512, ge=2)
    """Longest source, and longest target, in tokens."""
    vocab_size: int = Field(8000, ge=SMALLEST)
    """Pieces learnt from sources and targets together, at most; 256 of them are bytes."""

    @model_validator(mode="after")
    def _heads_divide(self) -> EncoderDecoderStudent:
        check_heads(self.hidden, self.heads)
        if self.hidden % 2:
            raise ValueError(f"hidden {self.hidden} is odd; half of it are sines and half cosines")
        return self

    def fit_tokenizer(self, texts: Iterable[str]) -> Tokenizer:
        """A byte-pair tokenizer learnt from the texts, sources and targets; a text ends with ``</s>``."""
        from raykd.tokenizers.bytepair import train_bytepair

        return train_bytepair(texts, vocab_size=self.vocab_size, max_length=self.max_positions, closed=True)

    def tokenizer_key(self) -> str:
        """Equal for two students exactly if their tokenizers are."""
        return f"bytepair closed {self.vocab_size} {self.max_positions}"

    def build(
        self, tokenizer: Tokenizer, labels: Sequence[str], seed: int, head: Head = "seq2seq"
    ) -> PreTrainedModel:
        """A randomly initialised encoder and decoder, which starts with ``<s>``; it has no labels."""
        from transformers import AutoConfig

        check_offered(self.kind, head, self.tasks)
        settings = build_label_settings(labels, head) | read_special_ids(tokenizer)
        settings |= {
            "d_model": self.hidden,
            "max_position_embeddings": self.max_positions,
            "scale_embedding": True,
            "init_std": self.hidden**-0.5,
            "tie_word_embeddings": True,
            "decoder_start_token_id": settings["bos_token_id"],
            "dropout": self.dropout,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
        }
        for side in ("encoder", "decoder"):
            settings[f"{side}_layers"] = self.layers
            settings[f"{side}_attention_heads"] = self.heads
            settings[f"{side}_ffn_dim"] = self.feed_forward or 4 * self.hidden
            settings[f"{side}_layerdrop"] = 0.0
        config = AutoConfig.for_model("m2m_100", **settings)
        with seeded(seed):
            model: PreTrainedModel = find_auto_class(head).from_config(config)
            return model


def check_heads(hidden: int, heads: int, rotary: bool = False) -> None:
    """Whether the width can be shared out among the heads; rotary positions turn pairs of a head's columns."""
    if hidden % heads:
        raise ValueError(f"hidden {hidden} is not a multiple of heads {heads}")
    if rotary and hidden // heads % 2:
        raise ValueError(
            f"hidden {hidden} gives each of {heads} heads an odd width; rotary positions need pairs"
        )


def read_special_ids(tokenizer: Tokenizer) -> dict[str, object]:
    """The vocabulary's size and the ids that mark padding, beginning and end, as a configuration names them."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    return {"vocab_size": len(tokenizer), **ids}  # type: ignore[arg-type]
