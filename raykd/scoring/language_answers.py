"""Collect the answers of language models: the likelihood of the held-out targets, and the texts that they write.

Decision record: a teacher's likelihoods come with its answers (each token's log-probability as float16), so they cost
no extra pass. Its replicas share the work of writing texts. NLL and perplexity are per token of a system's own
tokenizer and compare only systems that share one; scores of written texts compare all systems. There is no ensemble:
several vocabularies have no common distribution to score.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from raykd import models
from raykd.answers.codec import decode_answers
from raykd.answers.source import AnswerSlots
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.errors import TeacherError
from raykd.prediction.selftest import find_padding
from raykd.student.evaluate import answer_rows
from raykd.student.prepare import get_language_codes
from raykd.tasks import SystemAnswers
from raykd.tasks.kinds.language import LanguageTask
from raykd.teachers.pools.pool import TeacherPool
from raykd.text.batch import TextBatch


def collect_student_answers(directory: Path, config: RunConfig, rows: Rows) -> tuple[SystemAnswers, int]:
    """Return a saved student's answers to the rows, and how many parameters it has."""
    student = models.load_model(directory, head=config.task.head)
    batch = rows.take(range(len(rows))).with_codes(get_language_codes(config))
    assert isinstance(config.task, LanguageTask)
    return answer_as_language_model(student, config.task, batch)[0], models.count_parameters(student.model)


def answer_as_language_model(
    model: models.TextModel, task: LanguageTask, batch: TextBatch
) -> tuple[SystemAnswers, NDArray[np.bool_]]:
    """Return how likely the rows' targets are to a model and what it writes, and which rows its limits cut, ``[B]``."""
    from raykd.models.lm import Headless
    from raykd.prediction.writing import generate_texts

    encoded = task.encode(model.tokenizer, batch)
    speaker = Headless(model.model)
    padding = find_padding(model, task, batch, module=speaker).of(model.padding)
    answers = answer_rows(speaker, task, encoded, range(len(batch)), torch.device("cpu"), padding)
    texts = None
    if task.written:
        texts = tuple(
            generate_texts(
                model.model,
                model.tokenizer,
                batch.texts,
                languages=batch.languages,
                source_languages=batch.source_languages or (),
                beams=task.beams,
                max_new_tokens=task.max_new_tokens,
                max_input_tokens=task.prompt_tokens,
                generation=task.generation,
            )
        )
    long_B = np.zeros(len(batch), dtype=bool) if encoded.long_B is None else encoded.long_B
    return replace(answers, texts=texts), long_B


def collect_teacher_answers(
    pool: TeacherPool, m: int, signal: AnswerSlots, config: RunConfig, rows: Rows
) -> SystemAnswers:
    """Return a teacher's answers to the rows of its languages; zeros and empty texts for other rows.

    Args:
        pool: The opened teachers.
        m: Position of the teacher in the pool.
        signal: The teacher's answers to all rows.
        config: The run of one task.
        rows: The held-out rows.

    Raises:
        TeacherError: Its answers carry no likelihoods.
    """
    task = config.task
    assert isinstance(task, LanguageTask)
    payload, units_B = decode_answers(signal.bodies)
    nll_B, tokens_B = np.zeros(len(rows)), units_B
    if payload is not None:
        if payload.gold_logp_N is None:
            raise TeacherError(
                f"the answers of teacher {signal.teacher} do not say how likely the targets are"
            )
        row_N = np.repeat(np.arange(len(rows)), units_B)
        # A served model may have no usable answer to a token, which then does not count.
        weights_N = np.where(payload.covered_N, payload.gold_logp_N, 0.0).astype(np.float64)
        tokens_B = np.bincount(row_N[payload.covered_N], minlength=len(rows)).astype(np.int64)
        nll_B = -np.bincount(row_N, weights=weights_N, minlength=len(rows)).astype(np.float64)
    texts: list[str] | None = None
    if task.written:
        asked = np.flatnonzero(signal.answered_B).tolist()
        made = pool.replicas.generate(
            m, rows.take(asked), beams=task.beams, max_new_tokens=task.max_new_tokens
        )
        at = dict(zip(asked, made, strict=True))
        texts = [at.get(i, "") for i in range(len(rows))]
    return SystemAnswers(
        np.empty((0, 0), np.float32),
        np.zeros(len(rows), np.int64),
        np.empty(0, bool),
        None if texts is None else tuple(texts),
        nll_B,
        tokens_B,
    )
