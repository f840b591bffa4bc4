"""Students that generate text and are trained from scratch: a decoder, and an encoder with a decoder.

Decision record: both are architectures of transformers, so anybody can load what raykd trains. Both are pre-norm and
use one matrix for embeddings and head. Translation uses the architecture of M2M-100: sinusoidal positions (nothing to
learn), a pre-norm stack that bears high learning rates, and no bias or cap after the head.

Validation loss in nats per token after 150 steps of 16 English-French pairs (width 192, 2 + 2 layers, learning rate
0.002), by the standard deviation of the initial weights:

| architecture         | width**-0.5 | 0.02 (transformers' default) |
| -------------------- | ----------- | ---------------------------- |
| M2M-100              | 6.29        | 6.39                         |
| Marian (post-norm)   | 6.41        | 6.21                         |
| T5 (its own default) | 6.82        |                              |

150 steps are too few to rank M2M-100 and Marian.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from raykd.head import Head
from raykd.networks.fresh import FreshStudent, check_heads
from raykd.tokenizers.bytepair import SMALLEST

if TYPE_CHECKING:
    from raykd.text.tokens import Tokenizer


class DecoderStudent(FreshStudent):
    """A causal language model from scratch: Llama (arXiv:2302.13971) or GPT-2."""

    tasks: ClassVar[frozenset[Head]] = frozenset({"causal_lm"})
    default_head: ClassVar[Head] = "causal_lm"
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
    """In training; see `architecture` for where."""
    max_positions: int = Field(512, ge=2)
    """Longest text in tokens, prompt and continuation together."""
    vocab_size: int = Field(8000, ge=SMALLEST)
    """Pieces learnt from the training texts, at most; 256 of them are bytes."""

    @model_validator(mode="after")
    def _heads_divide(self) -> DecoderStudent:
        check_heads(self.hidden, self.heads, rotary=self.architecture == "llama")
        return self

    def fit_tokenizer(self, texts: Iterable[str]) -> Tokenizer:
        """Learn a byte-pair tokenizer; a text begins with ``<s>`` and has no end, so that it can be continued."""
        from raykd.tokenizers.bytepair import train_bytepair

        return train_bytepair(texts, vocab_size=self.vocab_size, max_length=self.max_positions, closed=False)

    def tokenizer_key(self) -> str:
        """Return a key that two students share exactly if they fit equal tokenizers."""
        return f"bytepair open {self.vocab_size} {self.max_positions}"

    def _model_type(self) -> str:
        return self.architecture

    def _settings(self, tokenizer: Tokenizer, head: Head) -> dict[str, object]:
        common = read_special_ids(tokenizer) | {"tie_word_embeddings": True}
        if self.architecture == "llama":
            return common | {
                "hidden_size": self.hidden,
                # A gated layer has three matrices, so 8/3 x the width has as many weights as two of 4 x; rounded up.
                "intermediate_size": self.feed_forward or -(-self.hidden * 8 // 3),
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.heads,
                "attention_dropout": self.dropout,
                "max_position_embeddings": self.max_positions,
            }
        return common | {
            "n_embd": self.hidden,
            "n_inner": self.feed_forward,
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_positions": self.max_positions,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), self.dropout),
        }


class EncoderDecoderStudent(FreshStudent):
    """A translation or summarisation model from scratch: M2M-100's architecture (arXiv:2010.11125)."""

    tasks: ClassVar[frozenset[Head]] = frozenset({"seq2seq"})
    default_head: ClassVar[Head] = "seq2seq"
    marks_sources: ClassVar[bool] = True
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
        """Learn one byte-pair tokenizer from sources and targets; a text ends with ``</s>``."""
        from raykd.tokenizers.bytepair import train_bytepair

        return train_bytepair(texts, vocab_size=self.vocab_size, max_length=self.max_positions, closed=True)

    def tokenizer_key(self) -> str:
        """Return a key that two students share exactly if they fit equal tokenizers."""
        return f"bytepair closed {self.vocab_size} {self.max_positions}"

    def _model_type(self) -> str:
        return "m2m_100"

    def _settings(self, tokenizer: Tokenizer, head: Head) -> dict[str, object]:
        settings = read_special_ids(tokenizer)
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
        return settings


def read_special_ids(tokenizer: Tokenizer) -> dict[str, object]:
    """Return the vocabulary's size and the ids of padding, beginning and end, by their names in a configuration."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    return {"vocab_size": len(tokenizer), **ids}
