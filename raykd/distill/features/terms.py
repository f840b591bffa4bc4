"""Feature terms: losses between states of the student's encoder and of its teachers' encoders.

Decision record: a feature term is a loss per unit like a divergence, with the same weights and coverage. What is
compared once a text (its first token, its mean, its tokens) is the loss of each of the text's units. Teachers are not
mixed first: states of two teachers have no coordinates in common, so each teacher has its own loss, and a matrix of its
own where its width is not the student's. A unit without a state of any teacher adds nothing; it has no gold state to
fall back to. Pairs of layers are averaged, so that lambda does not depend on how many there are.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, field_validator

from raykd.distill.features.layers import LayerMap, list_layer_pairs
from raykd.distill.features.states import EncoderShape, FeatureRequest, Part, Position, Source, State
from raykd.distill.schedules import Constant, Schedule, check_range
from raykd.errors import ConfigError
from raykd.spec import Spec

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ComparedStates:
    """States of one layer of the student and of one of a teacher. Made by `sum_feature`, read by a term's `measure`.

    Attributes:
        student: One tensor for each part, projected.
        teacher: One tensor for each part.
        mask_BL: Which tokens are no padding.
        heads: Attention heads of both.
    """

    student: tuple[torch.Tensor, ...]
    teacher: tuple[torch.Tensor, ...]
    mask_BL: torch.Tensor
    heads: int


class FeatureBase(Spec):
    """Base of all feature terms. A kind names the parts that it reads, and compares them."""

    parts: ClassVar[tuple[Part, ...]]
    kind: str
    layers: LayerMap
    teachers: tuple[str, ...] | None = Field(None, min_length=1)
    """Names of the teachers whose states are compared; None is all. Their weights are made to sum to 1 again."""
    lambda_schedule: Schedule = Constant(value=1.0)
    """>= 0, relative to the other terms. Where it is 0 teachers are not asked for states."""

    @field_validator("lambda_schedule")
    @classmethod
    def _not_negative(cls, value: Schedule) -> Schedule:
        return check_range(value, "lambda", low=0.0)

    @property
    @abstractmethod
    def where(self) -> Position:
        """Where states are read."""

    def list_pairs(self, student: EncoderShape, teacher: EncoderShape, name: str) -> Pairs:
        """Return the pairs of layers that are compared with a teacher.

        Raises:
            ConfigError: One of them has no such layer.
        """
        return list_layer_pairs(self.layers, student, teacher, name)

    def has_projection(self, student: EncoderShape, teacher: EncoderShape) -> bool:
        """Return whether a learned matrix maps the student's states to the teacher's width."""
        return False

    def list_sources(self, layer: int) -> FeatureRequest:
        """Return what is read of one layer, in the order of `parts`."""
        return tuple(Source(self.where, State(part, layer)) for part in self.parts)

    def uses(self, teacher: str) -> bool:
        """Return whether states of this teacher are compared."""
        return self.teachers is None or teacher in self.teachers

    def check_shapes(self, student: EncoderShape, teacher: EncoderShape, name: str, pairs: Pairs) -> None:
        """Refuse encoders that cannot be compared.

        Raises:
            ConfigError: Names the teacher.
        """

    @abstractmethod
    def measure(self, states: ComparedStates) -> torch.Tensor:
        """Return the loss of each row or unit, float32 ``[X]``."""


class HiddenBase(FeatureBase):
    """Compares hidden states."""

    parts: ClassVar[tuple[Part, ...]] = ("hidden",)
    layers: LayerMap = "last"
    """Which layers are compared: `last`, `uniform`, or pairs of [student's, teacher's]; 0 is the embeddings."""
    position: Position = "mean"
    """`cls`: a text's first token. `mean`: the mean over its tokens. `words`: of a tagger, the token at which each word
    is tagged. `sequence`: every token, where teacher and student share a tokenizer."""
    embeddings: bool = False
    """Compare also the outputs of the embeddings, the pair [0, 0], as TinyBERT does beside `uniform`."""
    project: bool = False
    """Learn a matrix from the student's states to the teacher's also where both have one width."""

    @property
    def where(self) -> Position:
        return self.position

    def list_pairs(self, student: EncoderShape, teacher: EncoderShape, name: str) -> Pairs:
        pairs = super().list_pairs(student, teacher, name)
        return ((0, 0), *pairs) if self.embeddings and (0, 0) not in pairs else pairs

    def has_projection(self, student: EncoderShape, teacher: EncoderShape) -> bool:
        return self.project or student.width != teacher.width

    def measure(self, states: ComparedStates) -> torch.Tensor:
        loss = self.compare(states.student[0], states.teacher[0])
        return loss if loss.ndim == 1 else average_tokens(loss, states.mask_BL)

    @abstractmethod
    def compare(self, student_XD: torch.Tensor, teacher_XD: torch.Tensor) -> torch.Tensor:
        """Return the loss of each vector."""


class HiddenMSE(HiddenBase):
    """``|W h_s - h_t|^2 / D`` of hidden states (arXiv:1909.10351, arXiv:2106.01023 with several teachers)."""

    kind: Literal["hidden_mse"] = "hidden_mse"

    def compare(self, student_XD: torch.Tensor, teacher_XD: torch.Tensor) -> torch.Tensor:
        return (student_XD - teacher_XD).square().mean(dim=-1)


class HiddenCosine(HiddenBase):
    """``1 - cos(W h_s, h_t)`` of hidden states (arXiv:1910.01108).

    Half of the squared distance of states of length 1, which with position cls is PKD's loss (arXiv:1908.09355).
    """

    kind: Literal["hidden_cosine"] = "hidden_cosine"

    def compare(self, student_XD: torch.Tensor, teacher_XD: torch.Tensor) -> torch.Tensor:
        return 1.0 - torch.nn.functional.cosine_similarity(student_XD, teacher_XD, dim=-1)


class AttentionBase(FeatureBase):
    """Compares what attention computes over the tokens of a text, which teacher and student must share."""

    @property
    def where(self) -> Position:
        return "sequence"

    def check_shapes(self, student: EncoderShape, teacher: EncoderShape, name: str, pairs: Pairs) -> None:
        if any(0 in pair for pair in pairs):
            raise ConfigError(
                f"objective.features: {self.kind} reads attention, and the embeddings have none",
                got=f"layers {[list(pair) for pair in pairs]}",
                wanted="layers from 1 on",
            )


class AttentionMSE(AttentionBase):
    """Mean squared difference of attention scores ``Q K^T / sqrt(d)`` before the softmax, head by head.

    TinyBERT's (arXiv:1909.10351). A head of the student has one of the teacher as its target, so both need as many;
    `relation_kl` does not.
    """

    parts: ClassVar[tuple[Part, ...]] = ("query", "key")
    kind: Literal["attention_mse"] = "attention_mse"
    layers: LayerMap = "uniform"
    """Which layers are compared: `last`, `uniform`, or pairs of [student's, teacher's]."""

    def check_shapes(self, student: EncoderShape, teacher: EncoderShape, name: str, pairs: Pairs) -> None:
        super().check_shapes(student, teacher, name, pairs)
        if student.heads != teacher.heads:
            raise ConfigError(
                f"objective.features: attention_mse compares head by head, and teacher {name} has other heads",
                got=f"{teacher.heads} heads, the student has {student.heads}",
                wanted="as many heads",
                next_step="take relation_kl, which splits both into as many relation heads",
            )

    def measure(self, states: ComparedStates) -> torch.Tensor:
        own, taught = (relate(q, k, states.heads) for q, k in (states.student, states.teacher))
        gap_BALL = own - taught
        both_BLL = states.mask_BL[:, :, None] & states.mask_BL[:, None, :]
        squared_BLL = torch.where(both_BLL, gap_BALL.square().mean(dim=1), 0.0)
        return squared_BLL.sum(dim=(1, 2)) / both_BLL.sum(dim=(1, 2)).clamp_min(1)


class RelationKL(AttentionBase):
    """``sum over X of KL(R_t || R_s)``, ``R = softmax(X X^T / sqrt(d))`` over the tokens, X queries, keys and values.

    MiniLMv2's (arXiv:2012.15828), averaged over relation heads and tokens. Queries, keys and values of all heads stand
    side by side and are cut into `heads` anew, so neither heads nor widths need be equal.
    """

    parts: ClassVar[tuple[Part, ...]] = ("query", "key", "value")
    kind: Literal["relation_kl"] = "relation_kl"
    layers: LayerMap = "last"
    """Which layers are compared: `last`, `uniform`, or pairs of [student's, teacher's]."""
    heads: int = Field(12, ge=1)
    """Relation heads; both widths are a multiple of it."""

    def check_shapes(self, student: EncoderShape, teacher: EncoderShape, name: str, pairs: Pairs) -> None:
        super().check_shapes(student, teacher, name, pairs)
        for who, shape in (("the student", student), (f"teacher {name}", teacher)):
            if shape.width % self.heads:
                raise ConfigError(
                    f"objective.features: relation_kl cuts states into {self.heads} heads, and {who} cannot be cut",
                    got=f"width {shape.width}",
                    wanted=f"a multiple of {self.heads}",
                    next_step="choose `heads` that divide both widths",
                )

    def measure(self, states: ComparedStates) -> torch.Tensor:
        total_BL = torch.zeros(())
        hidden_B11L = ~states.mask_BL[:, None, None, :]
        for own, taught in zip(states.student, states.teacher, strict=True):
            # The softmax of finite scores at places that are left out afterwards; infinite ones would make NaN.
            logq, logp = (
                relate(x, x, self.heads).masked_fill(hidden_B11L, -1e9).log_softmax(dim=-1)
                for x in (own, taught)
            )
            total_BL = total_BL.to(own.device) + (logp.exp() * (logp - logq)).sum(dim=-1).mean(dim=1)
        return average_tokens(total_BL, states.mask_BL)


def relate(left_BLD: torch.Tensor, right_BLD: torch.Tensor, heads: int) -> torch.Tensor:
    """Return ``[B, A, L, L]``: scaled products of each token's states with every token's, head by head."""
    b, length, width = left_BLD.shape
    left, right = (x.view(b, length, heads, width // heads).transpose(1, 2) for x in (left_BLD, right_BLD))
    scores: torch.Tensor = left @ right.transpose(2, 3) / (width // heads) ** 0.5
    return scores


def average_tokens(loss_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
    """Return the mean over the tokens of each text, ``[B]``."""
    return torch.where(mask_BL, loss_BL, 0.0).sum(dim=1) / mask_BL.sum(dim=1).clamp_min(1)


Feature = Annotated[
    HiddenMSE | HiddenCosine | AttentionMSE | RelationKL,
    Field(discriminator="kind"),
]
"""Any feature term."""
