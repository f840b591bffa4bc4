"""Match the vocabularies of language teachers with the student's, once per run.

Decision record: a teacher's vocabulary is the student's only where that is proved by the tokenizers' content. What
cannot be compared at all (a divergence that the answers do not serve, another vocabulary with sampled answers) is
refused here, before the first step, because a teacher's tokenizer is not known before it is opened.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.servable import check_servable
from raykd.answers.vocabularies import TeacherVocabulary, VocabularyKind, VocabularyMatch
from raykd.config import RunConfig
from raykd.distill.vocabulary_signals import IdMap
from raykd.errors import ConfigError, prefix_errors
from raykd.models.vocabulary import check_padding, compute_overlap, count_token_ids, is_same_tokenizer
from raykd.student.matching.cuts import make_columns, map_cuts
from raykd.tasks import MaskedLM, Tokenizer
from raykd.tasks.kinds.language import LanguageTask
from raykd.tokenizers.canonical import detect_marking, find_comparable_offsets
from raykd.tokenizers.union import UnionTokenizer

log = logging.getLogger("raykd.student")
LEAST_SHARED = 0.3
"""Share of the teacher's tokens that the student has, below which a warning is logged."""


def match_vocabularies(
    config: RunConfig,
    names: Sequence[str],
    vocabularies: Sequence[TeacherVocabulary],
    tokenizer: Tokenizer,
    device: torch.device,
) -> list[VocabularyMatch]:
    """Return for each teacher how its vocabulary maps onto the student's.

    Args:
        config: The run.
        names: The teachers'.
        vocabularies: What each teacher brings.
        tokenizer: The student's.
        device: Where the student is.

    Raises:
        ConfigError: The objective cannot be computed from a teacher's answers.
        ModelError: A head is smaller than its vocabulary, or tokenizers cannot be compared.
    """
    return [
        _match(config, name, teacher, tokenizer, device)
        for name, teacher in zip(names, vocabularies, strict=True)
    ]


def _match(
    config: RunConfig,
    name: str,
    teacher: TeacherVocabulary,
    tokenizer: Tokenizer,
    device: torch.device,
) -> VocabularyMatch:
    task = config.task
    assert isinstance(task, LanguageTask)
    if isinstance(task, MaskedLM):
        _check_cut(config, name, teacher, tokenizer)
    by_rank = any(term.divergence.kind == "universal_logit" for term in config.objective.terms)
    member = _find_member(teacher.tokenizer, tokenizer)
    total = member is not None and bool((member >= 0).all())
    same = member is None and is_same_tokenizer(teacher.tokenizer, tokenizer)
    kind: VocabularyKind = "own" if by_rank else "same" if same else "inside" if total else "overlap"
    with prefix_errors(f"teacher {name}", ConfigError):
        check_servable(config.objective, task.answers.kind, task.answers.temperatures, vocabulary=kind)
    match = VocabularyMatch(kind, after=teacher.after)
    if teacher.weight_VD is not None:
        # Padding rows of the head stand for no token, and must not get probability.
        size = check_padding(teacher.tokenizer, len(teacher.weight_VD))
        bias_V = None if teacher.bias_V is None else torch.from_numpy(teacher.bias_V[:size].copy()).to(device)
        weight_VD = torch.from_numpy(teacher.weight_VD[:size].copy()).to(device)
        match = replace(match, weight_VD=weight_VD, bias_V=bias_V)
    # Hidden tokens are the same on both sides, because `_check_cut` found that both cut texts alike.
    numbered = isinstance(task, MaskedLM)
    if kind in ("same", "own"):
        return replace(match, numbered=numbered)
    if member is not None:
        ids = IdMap.of(member, count_token_ids(tokenizer), device)
        return replace(match, ids=ids, numbered=numbered)
    found = compute_overlap(teacher.tokenizer, tokenizer)
    if found.teacher_share < LEAST_SHARED:
        log.warning(
            "teacher %s and the student share %.0f %% of the teacher's tokens; what it says of the others falls into "
            "one tail",
            name,
            100 * found.teacher_share,
        )
    cuts = map_cuts(teacher.tokenizer, tokenizer, found.ids_T)
    return replace(
        match,
        cuts=cuts,
        columns=None if task.answers.kind == "top_k" else make_columns(cuts, device),
        find_comparable=partial(
            find_comparable_offsets,
            teacher=detect_marking(teacher.tokenizer),
            student=detect_marking(tokenizer),
        ),
    )


def _find_member(theirs: Tokenizer, tokenizer: Tokenizer) -> NDArray[np.int32] | None:
    """Return the student's id of each of the teacher's, where the student's tokenizer is a union with the teacher's."""
    if not isinstance(tokenizer, UnionTokenizer):
        return None
    members = zip(tokenizer.members, tokenizer.maps, strict=True)
    return next((ids for own, ids in members if is_same_tokenizer(theirs, own)), None)


def _check_cut(config: RunConfig, name: str, teacher: TeacherVocabulary, tokenizer: Tokenizer) -> None:
    """Refuse a teacher of a masked language model that cuts texts otherwise than the student.

    Else student and teacher would hide different tokens.

    Raises:
        ConfigError: Names the languages.
    """
    languages = config.data.select_languages or config.data.languages
    declared = next((t.language_set for t in config.teachers if t.name == name), None)
    if isinstance(tokenizer, UnionTokenizer) and not isinstance(teacher.tokenizer, UnionTokenizer):
        cuts = {
            lang: is_same_tokenizer(teacher.tokenizer, tokenizer.members[tokenizer.member(lang)])
            for lang in languages
            if declared is None or lang in declared
        }
    else:
        cuts = dict.fromkeys(languages, is_same_tokenizer(teacher.tokenizer, tokenizer))
    other = [lang for lang, alike in cuts.items() if not alike]
    if other:
        raise ConfigError(
            f"teacher {name} cuts texts into other tokens than the student, so that other tokens would be masked",
            got=f"another tokenizer for {', '.join(other)}",
            wanted="for each language the tokenizer of the teachers that are asked about it",
            next_step="set student.vocabulary: union, with one tokenizer a language among the teachers",
        )
