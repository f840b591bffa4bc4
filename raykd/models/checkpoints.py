"""`PretrainedStudent`: a student that starts from a checkpoint, whole or changed.

Decision record: what may be changed of a checkpoint (layers, vocabulary, table, trained weights) are keys of one
student, applied in one order by `build`. `raykd.models.bases` tries the same code on torch's meta device before a run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from raykd.errors import ModelError
from raykd.head import Head
from raykd.models.tuning import Tuning
from raykd.networks.heads import HEADS, LANGUAGE, use_seed
from raykd.pretrained.structure import is_in_encoder
from raykd.spec import Spec
from raykd.text.tokens import list_adapters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raykd.networks.narrowing import PartScores
    from raykd.text.tokens import Tokenizer

    MeasureParts = Callable[[PreTrainedModel], PartScores]


TEACHER = "teacher:"
"""How the path of a student begins that starts from one of the run's teachers."""


class PretrainedStudent(Spec):
    """A checkpoint; `layers` starts a student as DistilBERT did (arXiv:1910.01108), `vocabulary` trims its table."""

    tasks: ClassVar[frozenset[Head]] = HEADS
    kind: Literal["pretrained"] = "pretrained"
    path: str = Field(min_length=1)
    """A local directory or a hub name; weights must be safetensors. `teacher:NAME` is the model of one of the run's
    teachers, also of one that the run trains first."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the model; said in the log."""
    language_codes: dict[str, str] = {}
    """The run's names of languages to the codes of a multilingual tokenizer, as of a teacher."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(None, min_length=1)
    """Keep these encoder layers, counted from 0, in this order; None keeps all."""
    hidden: int | None = Field(None, ge=1)
    """Keep so many columns of the hidden states: a multiple of the width of a head, whose heads leave with them."""
    feed_forward: int | None = Field(None, ge=1)
    """Keep so many feed-forward units of each layer."""
    importance: Literal["magnitude", "taylor"] = "magnitude"
    """Which columns, heads and units are kept: those with the largest weights; or, with `taylor`, those whose removal
    changes the loss of the checkpoint's own head most, estimated on training rows (arXiv:1905.10650)."""
    vocabulary: Literal["own", "trimmed"] = "own"
    """`trimmed` keeps the pieces, and the rows of the embedding table, that the training texts need (arXiv:2010.05609,
    arXiv:2305.15020); for WordPiece, Unigram and byte-pair vocabularies."""
    vocab_size: int | None = Field(None, ge=100)
    """Pieces of a trimmed vocabulary, at most: the most frequent ones. None keeps all that occur."""
    embedding_size: int | None = Field(None, ge=2)
    """Factorise the embedding table to this width (arXiv:1909.11942) by its singular vectors. A BERT checkpoint becomes
    an ELECTRA model, which has such a table, with a new head; other architectures are refused."""
    dropout: float | None = Field(None, ge=0.0, lt=1.0)
    """In training, wherever the architecture has some; None keeps the checkpoint's."""
    tuning: Tuning | None = None
    """Which weights are trained: adapters beside frozen weights, or the head alone. None trains all."""
    crf: bool = False
    """A tagger scores also which tag follows which (a linear-chain CRF): gold tags teach a row as a whole, teachers
    teach the marginals of its words, and the best row of tags is answered. A checkpoint with such scores keeps them."""

    @model_validator(mode="after")
    def _fits_together(self) -> PretrainedStudent:
        if self.layers is not None and len(set(self.layers)) != len(self.layers):
            raise ValueError(f"layers names a layer twice: {list(self.layers)}")
        if self.crf and self.tuning is not None and self.tuning.kind != "head":
            raise ValueError(
                f"crf: a checkpoint under tuning {self.tuning.kind} is saved as an adapter, which has no place for the "
                "scores of a chain: leave one of them out, or write tuning: {kind: head}"
            )
        if self.vocab_size is not None and self.vocabulary != "trimmed":
            raise ValueError("vocab_size plays no part without vocabulary: trimmed")
        if self.importance == "taylor" and (not self.is_narrowed or self.tuning is not None):
            raise ValueError("importance: taylor goes with hidden or feed_forward, and with tuning: null")
        changed = [
            key
            for key in ("layers", "hidden", "feed_forward", "embedding_size")
            if getattr(self, key) is not None
        ]
        changed += ["vocabulary"] * (self.vocabulary == "trimmed")
        if changed and self.tuning is not None and (self.tuning.by or not self.tuning.merged):
            raise ValueError(
                f"tuning: an adapter belongs to the whole checkpoint, which {changed[0]} changes; "
                f"{'leave' if self.tuning.by else 'set tuning.merged: true, or leave'} one of them out"
            )
        return self

    @property
    def is_narrowed(self) -> bool:
        """Whether it is less wide than its checkpoint."""
        return self.hidden is not None or self.feed_forward is not None

    @property
    def teacher(self) -> str | None:
        """The teacher that the path names; None where it names a checkpoint."""
        return self.path.removeprefix(TEACHER) if self.path.startswith(TEACHER) else None

    @property
    def is_awaited(self) -> bool:
        """Whether the checkpoint is that of a teacher which is still to be trained."""
        return self.teacher is not None or (os.path.isabs(self.path) and not os.path.exists(self.path))

    def start_from(self, teachers: Sequence[Any]) -> PretrainedStudent:
        """Return the student with its teacher's checkpoint as its path; a teacher that is trained first stays named.

        Args:
            teachers: Those of the run.

        Raises:
            ValueError: None of them has the name, or it is no model that a student can start from.
        """
        if self.teacher is None:
            return self
        found = {teacher.name: teacher for teacher in teachers}.get(self.teacher)
        if found is None or not found.has_states:
            fitting = [teacher.name for teacher in teachers if teacher.has_states]
            raise ValueError(
                f"path {self.path}: a student starts from a teacher that is a model; "
                f"of this run's that is {', '.join(fitting) or 'none'}"
            )
        if found.kind == "trained":
            return self
        own = {key: getattr(found, key) for key in ("path", "revision", "trust_remote_code")}
        codes = {"language_codes": self.language_codes or found.language_codes}
        return self.model_copy(update=own | codes)

    def fit_tokenizer(self, texts: Iterable[str]) -> Tokenizer:
        """Load the checkpoint's own tokenizer, and trim it to the texts if the vocabulary is trimmed.

        Raises:
            ModelError: It cannot be loaded or trimmed.
        """
        if self.vocabulary == "own":
            return self.load_tokenizer()
        from raykd.models.embeddings import read_token_ids
        from raykd.tokenizers.trimming import check_trimmable, trim_tokenizer

        named = read_token_ids(self.path, revision=self.revision, trust_remote_code=self.trust_remote_code)
        whole = check_trimmable(self.load_tokenizer(), self.path)
        return trim_tokenizer(whole, texts, self.vocab_size, named)

    def tokenizer_key(self) -> str:
        """Return a key that two students share exactly if they fit equal tokenizers."""
        checkpoint = f"pretrained {self.path} {self.revision} {self.trust_remote_code}"
        checkpoint += f" by {self.tuning.by}" if self.tuning is not None and self.tuning.by else ""
        return checkpoint if self.vocabulary == "own" else f"{checkpoint} trimmed {self.vocab_size}"

    def load_tokenizer(self) -> Tokenizer:
        """Load the checkpoint's whole tokenizer."""
        from raykd.pretrained.tokenizers import load_tokenizer

        return load_tokenizer(self.path, revision=self.revision, trust_remote_code=self.trust_remote_code)

    def build(
        self,
        tokenizer: Tokenizer | None,
        labels: Sequence[str],
        seed: int,
        head: Head = "classification",
        measure: MeasureParts | None = None,
    ) -> PreTrainedModel:
        """Load the checkpoint; its head is kept if it serves this task with the run's labels in this order.

        The head of a language model is always kept.

        Args:
            tokenizer: What `fit_tokenizer` returned, perhaps with markers added; None if it was not changed, which a
                trimmed one always is.
            labels: The run's, in the order of the logits; () for a head without labels.
            seed: For the weights that are drawn.
            head: What the model has to serve.
            measure: Measures the importance of its parts (`importance: taylor`); None goes by their magnitude, which
                gives the same shapes.

        Raises:
            ModelError: The checkpoint cannot be loaded, or does not fit the task.
        """
        from raykd.models.bases import load_for_training

        with use_seed(seed):
            model, missing = load_for_training(
                self.path,
                tuple(labels),
                head,
                revision=self.revision,
                trust_remote_code=self.trust_remote_code,
                layers=self.layers,
                dropout=self.dropout,
            )
            self._fit_rows(model, tokenizer)
            model = self.narrow(model, head, missing, measure)
            if self.embedding_size is not None:
                from raykd.models.vectors import factorise_embeddings

                model = factorise_embeddings(model, head, self.embedding_size, self.path)
            if self.crf:
                from raykd.networks.crf import add_crf

                add_crf(model)
            if self.tuning is not None:
                self.tuning.apply(model, head, missing, self.path, list_adapters(tokenizer))
            return model

    def narrow(
        self, model: PreTrainedModel, head: Head, missing: Sequence[str], measure: MeasureParts | None
    ) -> PreTrainedModel:
        """Return the model with the columns, heads and units that are kept; see `build`.

        Args:
            model: The checkpoint with the head of its task. It may be on the meta device.
            head: What it learns.
            missing: Weights that the checkpoint lacks.
            measure: As for `build`.

        Raises:
            ModelError: Its family cannot be narrowed, or the loss has no trained head to be measured at.
        """
        if not self.is_narrowed:
            return model
        drawn = [name for name in missing if not is_in_encoder(model, name)]
        if head == "embedding" or (self.importance == "taylor" and (drawn or head in LANGUAGE)):
            raise ModelError(
                f"{self.path} cannot be narrowed by {self.importance} for this task",
                got=f"a head for {head}" + (", whose weights begin at random" if drawn else ""),
                wanted="a checkpoint that was trained for the task, with the run's labels, and no vocabulary to score"
                if head != "embedding"
                else "a task with a head",
                next_step="importance: magnitude needs no head" if head != "embedding" else "",
            )
        from raykd.networks.narrowing import narrow

        return narrow(model, self.path, self.hidden, self.feed_forward, measure)

    def _fit_rows(self, model: PreTrainedModel, tokenizer: Tokenizer | None) -> None:
        """Give the model a row for each token of its tokenizer, which may be trimmed or have markers added."""
        if self.vocabulary == "trimmed" and tokenizer is not None:
            from raykd.models.embeddings import select_token_rows
            from raykd.tokenizers.trimming import list_kept_ids

            select_token_rows(model, list_kept_ids(tokenizer, self.load_tokenizer()), self.path)
            return
        tokens = 0 if tokenizer is None else len(tokenizer)
        if tokens > getattr(model.config, "vocab_size", tokens):  # markers were added
            if self.tuning is not None:
                raise ModelError(
                    f"student.tuning: {self.tuning.kind} trains no row of the embedding table, and the task adds some",
                    got=f"{tokens - model.config.vocab_size} tokens that {self.path} does not have",
                    wanted="a checkpoint that was trained with them, or no tuning",
                )
            model.resize_token_embeddings(tokens)
