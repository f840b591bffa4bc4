"""`FeatureMatcher`: reads the states that feature terms compare, of the student and of the teachers' answers.

Decision record: matrices between states of other widths are trained with the student, so they are a part of the model
that the engine trains, and of its checkpoints. They are no part of a student: `drop_projections` takes them out of the
weights that are kept. What cannot be compared is refused when the teachers have said what they are, before the first
step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from raykd import models
from raykd.answers.features import lay_out_states, split_features
from raykd.answers.source import AnswerSlots, SignalSource
from raykd.config import RunConfig
from raykd.devices import copy_to_device
from raykd.distill.adversarial.alignment import DISCRIMINATOR
from raykd.distill.features.plan import plan_features
from raykd.distill.features.states import FeatureRequest, TeacherStates
from raykd.distill.features.sums import FeatureBatch
from raykd.errors import ConfigError, ModelError
from raykd.models.vocabulary import is_same_tokenizer
from raykd.networks.heads import use_seed
from raykd.networks.states import read_encoder_shape, read_sources, record_states
from raykd.tasks import EncodedBatch
from raykd.text.padding import Padding
from raykd.text.tokens import Tokenizer

PROJECTIONS = "feature_projections"
"""Name of the projections among the modules of a student that is trained."""

States = tuple[TeacherStates | None, ...]


class FeatureMatcher:
    """Compares the states of one student with those of its teachers.

    Args:
        config: The run; its objective has feature terms.
        student: The model that is trained, which gets the projections as a part.
        source: The teachers.
        padding: How the student's batches are padded.

    Raises:
        ConfigError: Teacher and student cannot be compared so.
        ModelError: States of a model cannot be read.
    """

    def __init__(
        self, config: RunConfig, student: models.TextModel, source: SignalSource, padding: Padding
    ) -> None:
        features = config.objective.features
        if padding.shapes != "longest" or padding.side != "right":
            raise ModelError(
                f"student {config.name}: states are read where a batch runs in one pass, padded on the right",
                got=f"padding on the {padding.side}, passes of {padding.shapes} length",
                wanted="a model that answers alike beside longer texts",
                next_step="choose another checkpoint, or leave objective.features out",
            )
        used = [name for name in source.teachers if any(term.uses(name) for term in features)]
        told = dict(zip(used, source.vocabularies(used), strict=True))
        shapes = {
            name: read_encoder_shape(told[name].config, f"teacher {name}") if name in told else None
            for name in source.teachers
        }
        own = read_encoder_shape(student.model.config.to_dict(), "the student")
        self.plan = plan_features(features, own, shapes)
        self._widths = [0 if shape is None else shape.width for shape in shapes.values()]
        whole = {name for term in features if term.where == "sequence" for name in used if term.uses(name)}
        check_tokenizers({name: told[name].tokenizer for name in sorted(whole)}, student.tokenizer)
        with use_seed(config.seed):
            self.projections = torch.nn.ModuleDict(
                {name: torch.nn.Linear(*widths, bias=False) for name, widths in self.plan.widths.items()}
            )
        if self.projections:
            student.model.add_module(PROJECTIONS, self.projections)

    @property
    def requests(self) -> tuple[FeatureRequest, ...]:
        """What each teacher is asked for beside its answers."""
        return self.plan.teachers

    def lay_out(
        self, answers: Sequence[AnswerSlots], encoded: EncodedBatch, device: torch.device
    ) -> tuple[list[AnswerSlots], States]:
        """Return the teachers' answers alone, and their states over the student's rows and units.

        Args:
            answers: One entry per teacher.
            encoded: The micro-batch in the student's tokens, on the host.
            device: Of the states.
        """
        mask_BL = _find_mask(encoded)
        lengths_B, length = mask_BL.sum(dim=1).numpy(), int(mask_BL.shape[1])
        bare: list[AnswerSlots] = []
        states: list[TeacherStates | None] = []
        for slots, request, width in zip(answers, self.requests, self._widths, strict=True):
            own, bodies = split_features(slots)
            bare.append(own)
            states.append(lay_out_states(bodies, request, width, lengths_B, encoded.counts_B, length, device))
        return bare, tuple(states)

    def forward(
        self, module: torch.nn.Module, run: Any, encoded: EncodedBatch, states: States
    ) -> tuple[Any, FeatureBatch]:
        """Return the student's outputs for a micro-batch, and its states beside the teachers'.

        Args:
            module: The model that is trained.
            run: Runs its forward pass.
            encoded: The micro-batch on the device.
            states: Of the teachers.
        """
        with record_states(module, [source.state for source in self.plan.student]) as found:
            outputs = encoded.run(run)
        mask_BL = _find_mask(encoded)
        row_N = torch.from_numpy(np.repeat(np.arange(len(encoded.counts_B)), encoded.counts_B))
        batch = FeatureBatch(
            self.plan,
            read_sources(found, self.plan.student, mask_BL, encoded.places_N2),
            states,
            mask_BL.bool(),
            copy_to_device(row_N, mask_BL.device),
            partial(_project, getattr(module, PROJECTIONS, None)),
        )
        return outputs, batch


def check_tokenizers(teachers: Mapping[str, Tokenizer], student: Tokenizer) -> None:
    """Refuse teachers that cut texts into other tokens than the student.

    Raises:
        ConfigError: Names them.
    """
    other = [name for name, tokenizer in teachers.items() if not is_same_tokenizer(tokenizer, student)]
    if other:
        raise ConfigError(
            f"objective.features compares token by token, and teacher {', '.join(other)} cuts texts into other tokens",
            got="another tokenizer than the student's",
            wanted="one tokenizer",
            next_step="compare hidden states of whole texts (position: mean or cls) or of words (position: words), or "
            "start the student from the teacher's checkpoint",
        )


def drop_projections(weights: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor] | None:
    """Return a trained model's weights without projections and discriminators; None stays None."""
    if weights is None:
        return None
    others = (f"{PROJECTIONS}.", f"{DISCRIMINATOR}.")
    return {name: weight for name, weight in weights.items() if not name.startswith(others)}


def _find_mask(encoded: EncodedBatch) -> torch.Tensor:
    """Return the attention mask of the rows, without copies that fill the batch."""
    return encoded.inputs["attention_mask"][: len(encoded.counts_B)]


def _project(projections: Any, name: str, states: torch.Tensor) -> torch.Tensor:
    layer = projections[name]
    projected: torch.Tensor = layer(states.to(layer.weight.dtype))
    return projected.float()
