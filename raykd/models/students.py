"""The union `Student`: every kind of model that can be trained, with its tokenizer and its architecture.

Decision record: a member does two things. `fit_tokenizer` learns from the training texts; it is deterministic, so every
worker may do it by itself. `build` makes a model with the head of the run's task, a function of the seed alone. `tasks`
says which heads a member can have, so that a configuration can be refused before anything is built. All members import
torch and transformers late, because every configuration imports this module. Students that generate text are in
`raykd.networks.generators`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from raykd.errors import ModelError
from raykd.head import Head
from raykd.models.checkpoints import PretrainedStudent
from raykd.networks.fresh import FreshStudent, check_heads
from raykd.networks.generators import DecoderStudent, EncoderDecoderStudent
from raykd.networks.heads import ENCODED
from raykd.tokenizers.ngrams import HashedNgrams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raykd.text.tokens import Tokenizer


class TransformerStudent(FreshStudent):
    """A transformer encoder from scratch: BERT (arXiv:1810.04805) or DistilBERT (arXiv:1910.01108)."""

    tasks: ClassVar[frozenset[Head]] = ENCODED
    kind: Literal["transformer"] = "transformer"
    architecture: Literal["bert", "distilbert"] = "bert"
    """The class of the encoder."""
    layers: int = Field(2, ge=1)
    """Number of layers."""
    hidden: int = Field(128, ge=1)
    """Width; a multiple of `heads`."""
    heads: int = Field(2, ge=1)
    """Attention heads of a layer."""
    feed_forward: int | None = Field(None, ge=1)
    """Width of the feed-forward layers; None is 4 x hidden."""
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """On attention and hidden states."""
    max_positions: int = Field(512, ge=2)
    """Longest input in tokens, special tokens included."""
    vocab_size: int = Field(8000, ge=100)
    """Word pieces learnt from the training texts, at most."""
    lowercase: bool = True
    """Whether texts are lowercased before they are cut into pieces."""
    vocabulary: Literal["own", "union"] = "own"
    """`union` learns no pieces: the vocabulary is the union of the teachers', and a text is cut by the tokenizer of its
    language's teacher (MergeDistill, arXiv:2106.02834); for masked language models."""

    @model_validator(mode="after")
    def _heads_divide(self) -> TransformerStudent:
        check_heads(self.hidden, self.heads)
        fields = TransformerStudent.model_fields
        idle = [n for n in ("vocab_size", "lowercase") if getattr(self, n) != fields[n].default]
        if self.vocabulary == "union" and idle:
            raise ValueError(f"{idle[0]} plays no part with vocabulary union, which the teachers bring")
        return self

    def fit_tokenizer(self, texts: Iterable[str]) -> Tokenizer:
        """Learn a WordPiece tokenizer from the texts.

        Raises:
            ModelError: The vocabulary is a union, which `raykd.student.prepare.fit_tokenizer` joins from the teachers'.
        """
        if self.vocabulary == "union":
            raise ModelError(
                "a union of vocabularies is not learnt from texts",
                got="vocabulary: union",
                wanted="the teachers' tokenizers",
                next_step="join them: raykd.tokenizers.union.UnionTokenizer",
            )
        from raykd.tokenizers.wordpiece import train_wordpiece

        return train_wordpiece(
            texts,
            vocab_size=self.vocab_size,
            lowercase=self.lowercase,
            max_length=self.max_positions,
            token_types=self.architecture == "bert",
        )

    def tokenizer_key(self) -> str:
        """Return a key that two students with the same teachers share exactly if they fit equal tokenizers."""
        if self.vocabulary == "union":
            return "union"
        return f"wordpiece {self.vocab_size} {self.lowercase} {self.max_positions} {self.architecture}"

    def _model_type(self) -> str:
        return self.architecture

    def _settings(self, tokenizer: Tokenizer, head: Head) -> dict[str, object]:
        settings: dict[str, object] = {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": self.max_positions,
            "pad_token_id": tokenizer.pad_token_id,
        }
        if head == "masked_lm":
            # With transformers' 0.02 a narrow model (width 128) only learnt how frequent tokens are in 561 steps of 32
            # texts: a validation loss of 6.52 nats per token at learning rate 0.003. With this it is 6.34 at 0.001.
            settings["initializer_range"] = self.hidden**-0.5
        feed_forward = self.feed_forward or 4 * self.hidden
        if self.architecture == "bert":
            return settings | {
                "hidden_size": self.hidden,
                "num_hidden_layers": self.layers,
                "intermediate_size": feed_forward,
                "num_attention_heads": self.heads,
                "hidden_dropout_prob": self.dropout,
                "attention_probs_dropout_prob": self.dropout,
            }
        dropouts = ("dropout", "attention_dropout", "seq_classif_dropout", "qa_dropout")
        return settings | {
            "dim": self.hidden,
            "n_layers": self.layers,
            "n_heads": self.heads,
            "hidden_dim": feed_forward,
            **dict.fromkeys(dropouts, self.dropout),
        }


class LSTMStudent(FreshStudent):
    """A (bidirectional) LSTM over word pieces, pooled over the text's tokens (as in arXiv:1903.12136)."""

    tasks: ClassVar[frozenset[Head]] = ENCODED - {"embedding"}
    kind: Literal["lstm"] = "lstm"
    embedding: int = Field(128, ge=1)
    """Width of the word pieces' vectors."""
    hidden: int = Field(128, ge=1)
    """Width of one direction."""
    layers: int = Field(1, ge=1)
    """Number of layers."""
    bidirectional: bool = True
    """Read the text in both directions."""
    dropout: float = Field(0.2, ge=0.0, lt=1.0)
    """On the embeddings, between layers and before the head."""
    pooling: Literal["max", "mean", "last"] = "max"
    """`last` is the final state of each direction."""
    vocab_size: int = Field(8000, ge=100)
    """Word pieces learnt from the training texts, at most."""
    lowercase: bool = True
    """Whether texts are lowercased before they are cut into pieces."""
    embedding_from: str | None = Field(None, min_length=1)
    """A checkpoint (a directory or a hub name) whose tokenizer, trimmed to `vocab_size` pieces, the student takes. Its
    word vectors start as the checkpoint's input embeddings, reduced to `embedding` columns by their principal
    components. None learns pieces and starts from random vectors."""
    embedding_of: Literal["input", "output"] = "input"
    """`output` takes what the checkpoint makes of each piece alone instead of its input embedding (as Model2Vec does):
    vectors that know more of what a piece means, for a pass of the whole vocabulary at each start."""

    @model_validator(mode="after")
    def _vectors_are_whole(self) -> LSTMStudent:
        if self.embedding_from is not None and not self.lowercase:
            raise ValueError("lowercase plays no part with embedding_from, whose tokenizer decides it")
        if self.embedding_from is None and self.embedding_of != "input":
            raise ValueError("embedding_of plays no part without embedding_from")
        return self

    def fit_tokenizer(self, texts: Iterable[str]) -> Tokenizer:
        """Learn a WordPiece tokenizer from the texts, or trim that of the checkpoint with the word vectors.

        Raises:
            ModelError: The checkpoint's cannot be loaded or trimmed.
        """
        if self.embedding_from is not None:
            return self.source().fit_tokenizer(texts)
        from raykd.tokenizers.wordpiece import train_wordpiece

        return train_wordpiece(
            texts, vocab_size=self.vocab_size, lowercase=self.lowercase, max_length=None, token_types=False
        )

    def tokenizer_key(self) -> str:
        """Return a key that two students share exactly if they fit equal tokenizers."""
        if self.embedding_from is not None:
            return self.source().tokenizer_key()
        return f"wordpiece {self.vocab_size} {self.lowercase}"

    def build(
        self, tokenizer: Tokenizer, labels: Sequence[str], seed: int, head: Head | None = None
    ) -> PreTrainedModel:
        """Build the model; see `FreshStudent.build`. Word vectors come from `embedding_from`, if it is set.

        Raises:
            ModelError: Also if the checkpoint cannot be loaded, or does not fit.
        """
        model = super().build(tokenizer, labels, seed, head)
        if self.embedding_from is not None:
            from raykd.models.vectors import find_around, set_word_vectors
            from raykd.tokenizers.trimming import list_kept_ids

            whole: Any = self.source().load_tokenizer()
            around = find_around(whole) if self.embedding_of == "output" else None
            set_word_vectors(model, self.embedding_from, list_kept_ids(tokenizer, whole), around)
        return model

    def source(self) -> PretrainedStudent:
        """Return the checkpoint of the word vectors, with the vocabulary that is kept of it."""
        return PretrainedStudent(
            path=self.embedding_from or "", vocabulary="trimmed", vocab_size=self.vocab_size
        )

    def _model_type(self) -> str:
        return "raykd_lstm"

    def _settings(self, tokenizer: Tokenizer, head: Head) -> dict[str, object]:
        return {
            "vocab_size": len(tokenizer),
            "embedding_size": self.embedding,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "bidirectional": self.bidirectional,
            "dropout": self.dropout,
            "pooling": self.pooling,
            "pad_token_id": tokenizer.pad_token_id,
            "sep_token_id": getattr(tokenizer, "sep_token_id", None),
            **({"tie_word_embeddings": True} if head == "masked_lm" else {}),
        }


class LinearStudent(FreshStudent):
    """A linear model over hashed n-grams of words and characters: quick, hard to beat on few texts.

    A tagger reads the n-grams of each word and of the words beside it.
    """

    tasks: ClassVar[frozenset[Head]] = frozenset(
        {"classification", "multi_label", "regression", "token_classification"}
    )
    kind: Literal["linear"] = "linear"
    buckets: int = Field(2**18, ge=2, le=2**26)
    """Rows of the weight table; n-grams that share one share its weights."""
    char_ngrams: tuple[int, int] | None = (1, 4)
    """Shortest and longest n-gram of characters within a word; null takes none."""
    word_ngrams: tuple[int, int] | None = (1, 2)
    """Shortest and longest n-gram of words (a Chinese character is a word); null takes none."""
    lowercase: bool = True
    """Whether texts are lowercased before n-grams are taken."""
    counted: bool = False
    """Count an n-gram as often as it occurs; otherwise once a text."""

    @model_validator(mode="after")
    def _has_valid_ranges(self) -> LinearStudent:
        self.fit_tokenizer(())
        return self

    def fit_tokenizer(self, texts: Iterable[str]) -> Tokenizer:
        """Return a tokenizer that hashes; it learns nothing, so the texts are not read.

        Raises:
            ValueError: The ranges of n-grams are empty, not positive, or both null.
        """
        return HashedNgrams(**self.model_dump(exclude={"kind", "crf"}))

    def tokenizer_key(self) -> str:
        """Return a key that two students share exactly if they fit equal tokenizers."""
        return f"ngrams {self.buckets} {self.char_ngrams} {self.word_ngrams} {self.lowercase} {self.counted}"

    def _model_type(self) -> str:
        return "raykd_linear"

    def _settings(self, tokenizer: Tokenizer, head: Head) -> dict[str, object]:
        # Weights begin as zeros whatever the seed, since the problem is convex.
        return {"buckets": self.buckets}


Student = Annotated[
    TransformerStudent
    | PretrainedStudent
    | LSTMStudent
    | LinearStudent
    | DecoderStudent
    | EncoderDecoderStudent,
    Field(discriminator="kind"),
]
