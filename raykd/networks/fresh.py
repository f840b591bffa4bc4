"""`FreshStudent`: what all students with random weights have in common.

Decision record: such a student is a configuration of transformers (or of `raykd.networks.recurrent`) under the auto
class of the head, so a member of the union only says which architecture it is and how its fields are called there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from raykd.errors import ModelError
from raykd.head import Head
from raykd.networks.heads import build_label_settings, find_auto_class, register, use_seed
from raykd.networks.sentence_modules import SentenceModules
from raykd.spec import Spec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raykd.text.tokens import Tokenizer


class FreshStudent(Spec):
    """A student that is trained from scratch.

    Subclasses override `_model_type` and `_settings`, and add `fit_tokenizer`.
    """

    tasks: ClassVar[frozenset[Head]]
    """Heads that it can have."""
    default_head: ClassVar[Head] = "classification"
    marks_sources: ClassVar[bool] = False
    """Whether its sources begin with the language to write, where there are several."""
    kind: str
    crf: bool = False
    """A tagger scores also which tag follows which (a linear-chain CRF): gold tags teach a row as a whole, teachers
    teach the marginals of its words, and the best row of tags is answered."""

    def build(
        self, tokenizer: Tokenizer, labels: Sequence[str], seed: int, head: Head | None = None
    ) -> PreTrainedModel:
        """Build the model with random weights, which the seed alone decides.

        Args:
            tokenizer: What `fit_tokenizer` returned; its size and its special ids become the model's.
            labels: In the order of the logits; () for a head without labels.
            seed: For torch's CPU generator, which is put back afterwards.
            head: What the model has to serve; None is `default_head`.

        Raises:
            ModelError: This kind of student does not have the head, or the labels do not fit it.
        """
        from transformers import AutoConfig

        head = head or self.default_head
        if head not in self.tasks:
            raise ModelError(
                f"a student of kind {self.kind} cannot learn this task",
                got=head,
                wanted=", ".join(sorted(self.tasks)),
                next_step="choose another kind of student, or another task",
            )
        register()
        settings = {**build_label_settings(labels, head), **self._settings(tokenizer, head)}
        config = AutoConfig.for_model(self._model_type(), **settings)
        with use_seed(seed):
            model = find_auto_class(head).from_config(config)
        if head == "embedding":
            from raykd.networks.sentences import add_sentence_modules

            return add_sentence_modules(model, SentenceModules())
        if self.crf:
            from raykd.networks.crf import add_crf

            add_crf(model)
        return model

    @abstractmethod
    def _model_type(self) -> str:
        """Return the name under which transformers knows the architecture."""

    @abstractmethod
    def _settings(self, tokenizer: Tokenizer, head: Head) -> Mapping[str, object]:
        """Return the fields of the architecture's configuration."""


def check_heads(hidden: int, heads: int, rotary: bool = False) -> None:
    """Refuse a width that cannot be shared out among attention heads.

    Args:
        hidden: Width of the model.
        heads: Attention heads of a layer.
        rotary: Whether positions are rotary, which turn pairs of a head's columns.

    Raises:
        ValueError: With the numbers.
    """
    if hidden % heads:
        raise ValueError(f"hidden {hidden} is not a multiple of heads {heads}")
    if rotary and hidden // heads % 2:
        raise ValueError(
            f"hidden {hidden} gives each of {heads} heads an odd width; rotary positions need pairs"
        )
