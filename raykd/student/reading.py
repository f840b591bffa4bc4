"""`Reading`: how a student's loop reads one task: answers to signals, a model's outputs to the objective.

Decision record: tasks differ in what a unit is and in whether their choices are labels or a vocabulary; the loop is to
know neither. Over a vocabulary the engine trains a model without its output head, and head, loss and gradient go
through a chunk of units at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from raykd import models
from raykd.answers.layout import lay_out, stack
from raykd.answers.source import SignalSource, TeacherSignal
from raykd.answers.token_layout import Units, lay_out_tokens
from raykd.config import MultiRun, Run, RunConfig
from raykd.distill.chunks import evaluate_hidden
from raykd.distill.objective import Counts, Objective, ObjectiveResult
from raykd.distill.signals import Signals
from raykd.student.prepare import Prepared
from raykd.student.vocabularies import match_vocabularies
from raykd.tasks import EncodedBatch


def trained_module(config: Run, model: Any) -> nn.Module:
    """What the engine trains: the model, or over a vocabulary the model up to its output head.

    Raises:
        ModelError: the family changes its logits after the head.
    """
    if isinstance(config, MultiRun) or not config.task.language:
        module: nn.Module = model
        return module
    from raykd.models.lm import Headless

    return Headless(model)


class Reading:
    """One task of a run, as one rank reads it.

    Args:
        source: the teachers, or None.
    Raises:
        ConfigError, ModelError: a teacher's vocabulary and the student's cannot be compared as the run wants.
    """

    def __init__(
        self,
        config: RunConfig,
        prepared: Prepared,
        student: models.TextModel,
        source: SignalSource | None,
        device: torch.device,
    ) -> None:
        self.config, self.task, self._source = config, config.task, source
        self._rows, self._tokens = prepared.train, prepared.train_tokens
        self._matches = []
        if config.task.language and source is not None:
            self._matches = match_vocabularies(
                config,
                source.teachers,
                source.vocabularies(),
                student.tokenizer,
                prepared.train,
                prepared.train_tokens,
                device,
            )

    def signals(
        self, answers: Sequence[TeacherSignal], encoded: EncodedBatch, rows: Sequence[int]
    ) -> Signals:
        """The teachers' answers to one micro-batch, unit by unit.

        Args:
            rows: of the training rows, those of the batch.
        """
        assert self._source is not None
        spoken = self._source.teacher_languages
        languages = tuple(self._rows.languages[i] for i in rows)
        if self.task.row_units:
            return stack(answers, spoken, encoded.labels_N, languages)
        if self.task.language:
            places_N = self._tokens.units(rows)
            offsets_N = self._tokens.extra["offsets_N"][places_N]
            units = Units(encoded.labels_N, offsets_N, encoded.counts_B, places_N, languages)
            return lay_out_tokens(answers, spoken, self._matches, units)
        return lay_out(
            answers,
            spoken,
            encoded.labels_N,
            languages,
            encoded.counts_B,
            choices=len(self.config.data.labels) if encoded.choices is None else encoded.choices,
            seen_N=encoded.seen_N,
            visible_NC=encoded.extra.get("visible_NC"),
        )

    def evaluate(
        self,
        objective: Objective,
        module: Any,
        outputs: Any,
        encoded: EncodedBatch,
        signals: Signals | None,
        progress: float,
        totals: Counts,
    ) -> ObjectiveResult:
        """This micro-batch's share of the loss; ``module`` is what the engine trains."""
        units = self.task.gather(outputs, encoded)
        if not self.task.language:
            open_NC = encoded.extra.get("open_NC")
            return objective.evaluate(units.float(), encoded.labels_N, signals, progress, totals, open_NC)
        head, size = module.head, int(encoded.extra["vocabulary"])
        weight_VD, bias_V = head.weight_VD, head.bias_V
        if len(weight_VD) > size:  # rows that stand for no token take no probability
            weight_VD, bias_V = weight_VD[:size], None if bias_V is None else bias_V[:size]
        return evaluate_hidden(
            objective, units, weight_VD, bias_V, encoded.labels_N, signals, progress, totals, after=head.after
        )
