"""Trials one after the other in a process: none depends on those before it, and none leaves its student in memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.config import RunConfig
from raykd.data.load import Dataset
from raykd.tuning.trial_rank import TrialContext, TrialRank
from tests.worlds import rows, run_config

PLAIN = {"alpha": 1.0}


@dataclass(frozen=True)
class Trainings:
    """Makes runs that differ in keys of `train`."""

    def build_run(self, sample: Mapping[str, Any]) -> RunConfig:
        """Return a run without teachers with these keys."""
        return run_config(PLAIN, teachers=False, **sample)


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[TrialRank]:
    base = run_config(PLAIN, teachers=False)
    context = TrialContext(
        run_factory=Trainings(),
        base=base,
        data={"": Dataset(rows(160, 1), rows(60, 2, unlabelled=0.0), None)},
        tokenizers={base.student.tokenizer_key(): base.student.fit_tokenizer(rows(160, 1).texts)},
        pools={},
        mailbox=None,
        folder=str(tmp_path),
        checkpoint_s=1e9,
    )
    threads = torch.get_num_threads()
    yield TrialRank(context, 0)
    torch.set_num_threads(threads)
    gc.unfreeze()


def train(
    rank: TrialRank, sample: Mapping[str, Any]
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Train a trial to its end; return its history and its last weights."""
    rank.begin(sample, None)
    while rank.advance():
        pass
    assert rank.loop is not None
    weights = rank.loop.engine.weights()
    assert weights is not None
    return rank.loop.state.history, weights


def test_a_trial_does_not_depend_on_the_trials_before_it_in_its_process(rank: TrialRank) -> None:
    alone, weights = train(rank, {"learning_rate": 0.01})
    train(rank, {"learning_rate": 0.2, "batch_size": 8, "steps": 5, "zero_stage": 1})
    again, same = train(rank, {"learning_rate": 0.01})
    assert again == alone
    assert all(torch.equal(value, same[name]) for name, value in weights.items())


def test_a_trials_student_is_freed_when_the_next_one_begins(rank: TrialRank) -> None:
    gc.disable()  # it may come by itself at any time
    try:
        train(rank, {})
        assert rank.loop is not None
        student = weakref.ref(rank.loop.engine.module)
        rank.begin({"learning_rate": 0.01}, None)
        assert student() is None
    finally:
        gc.enable()
