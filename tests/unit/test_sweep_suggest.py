"""What a sweep tries next, also after it was cut off: no trial is lost, and schedulers judge as if nothing had been."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from ray.tune.search import Searcher

from raykd.errors import ConfigError, RaykdError
from raykd.spaces.schedulers import Asha, MedianStopping, SchedulerBase
from raykd.spaces.space import Space
from raykd.tuning.journal import Journal
from raykd.tuning.suggest import Suggestions
from raykd.tuning.trial import RESUMED_FROM

SPACE = Space({"objective": {"alpha": {"uniform": [0.1, 0.9]}}})
Mode = Literal["max", "min"]


class FakeSampler:
    """Sample i is {"x": i}; remembers what it was told."""

    def __init__(self, limit: int = 100) -> None:
        self.limit, self.asked = limit, list[int]()
        self.unwanted: list[int] = []
        self.reports: list[tuple[int, int, float]] = []
        self.told: list[tuple[int, float | None]] = []
        self.restored: list[tuple[int, dict[str, Any], float | None, bool]] = []

    def ask(self, index: int) -> dict[str, Any] | None:
        self.asked.append(index)
        return {"x": index} if index < self.limit else None

    def is_wanted(self, sample: Mapping[str, Any]) -> bool:
        return sample.get("x") not in self.unwanted

    def name_trial(self, index: int, sample: Mapping[str, Any]) -> str:
        return f"t{index:04d}"

    def report(self, index: int, evaluation: int, score: float) -> None:
        self.reports.append((index, evaluation, score))

    def tell(self, index: int, score: float | None) -> None:
        self.told.append((index, score))

    def restore(self, index: int, sample: Mapping[str, Any], score: float | None, finished: bool) -> None:
        self.restored.append((index, dict(sample), score, finished))


def start(journal: Journal, count: int, **changes: Any) -> tuple[Suggestions, FakeSampler, list[Any]]:
    """One start of a sweep over a journal."""
    sampler: FakeSampler = changes.pop("sampler", FakeSampler())
    begun: list[tuple[str, str]] = []
    told = {
        "num_samples": count, "folder": Path("/sweep/checkpoints"), "scheduler": None, "mode": "max",
        "on_begin": lambda name, trial_id: begun.append((name, trial_id)),
        "check": lambda sample: None, "on_refusal": lambda name, error: None, **changes,
    }  # fmt: skip
    return Suggestions(sampler, journal, **told), sampler, begun


def result(evaluation: int, score: float, best: float | None = None, **more: Any) -> dict[str, Any]:
    return {
        "evaluation": evaluation, "trained_steps": evaluation, "total_steps": 9, "score": score, "nll": 1.0,
        "objective": score if best is None else best, "trained_s": 1.0, "diverged": "", **more,
    }  # fmt: skip


def all_of(suggestions: Suggestions, prefix: str = "n") -> list[dict[str, Any]]:
    """Every suggestion up to the end."""
    found = []
    for at in itertools.count():
        suggested = suggestions.suggest(f"{prefix}{at}")
        if suggested == Searcher.FINISHED:
            return found
        found.append(suggested)
    raise AssertionError


def test_a_fresh_sweep_hands_out_samples_in_order_then_ends(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    suggestions, sampler, begun = start(journal, 3)
    assert all_of(suggestions) == [{"x": i, RESUMED_FROM: ""} for i in range(3)]
    assert begun == [("t0000", "n0"), ("t0001", "n1"), ("t0002", "n2")] and sampler.asked == [0, 1, 2]
    assert [(t.name, t.index, t.sample, t.tune_ids) for t in Journal(tmp_path / "j").trials.values()] == [
        (f"t000{i}", i, {"x": i}, [f"n{i}"]) for i in range(3)
    ]
    assert suggestions.suggest("more") == Searcher.FINISHED


def test_a_sample_that_is_no_run_fails_alone_and_costs_no_process(tmp_path: Path) -> None:
    """Tune is given the next one; a resumed sweep looks at it again, and again at no cost."""
    refused: list[tuple[str, str]] = []

    def check(sample: Mapping[str, Any]) -> None:
        if sample["x"] % 2 == 0:
            raise ConfigError("x is even", got=sample["x"], wanted="odd")

    def refuse(name: str, error: RaykdError) -> None:
        journal.record_end(name, "failed", str(error))
        refused.append((name, str(error)))

    for start_of_the_sweep in range(2):
        journal = Journal(tmp_path / "j")
        suggestions, sampler, begun = start(journal, 4, check=check, on_refusal=refuse)
        given = all_of(suggestions)
        assert [s["x"] for s in given] == ([1, 3] if start_of_the_sweep == 0 else [])
        assert refused == [(f"t000{x}", f"x is even\n  got:    {x}\n  wanted: odd") for x in (0, 2)]
        assert sampler.told == [(0, None), (2, None)]
        assert [name for name, _ in begun] == (["t0001", "t0003"] if start_of_the_sweep == 0 else [])
        ids = [t.tune_ids[-1] for t in Journal(tmp_path / "j").trials.values()]
        assert len(set(ids)) == 4, "what a refused trial is called names no checkpoint of another one"
        refused.clear()
        for name in ("t0001", "t0003") if start_of_the_sweep == 0 else ():
            journal.record_end(name, "finished")


def test_a_sampler_that_has_no_more_ends_the_sweep(tmp_path: Path) -> None:
    suggestions, _, _ = start(Journal(tmp_path / "j"), 10, sampler=FakeSampler(limit=2))
    assert len(all_of(suggestions)) == 2


def test_scores_and_outcomes_reach_the_sampler_by_index(tmp_path: Path) -> None:
    suggestions, sampler, _ = start(Journal(tmp_path / "j"), 5)
    all_of(suggestions)
    suggestions.on_trial_result("n1", result(1, 0.4, best=0.6))
    suggestions.on_trial_complete("n1", result(2, 0.5, best=0.6))
    suggestions.on_trial_complete("n0", error=True)
    suggestions.on_trial_complete("n2", None)
    suggestions.on_trial_complete("n3", result(1, 0.9, diverged="loss nan"))
    assert sampler.reports == [(1, 1, 0.6)]
    assert sampler.told == [(1, 0.6), (0, None), (2, None), (3, None)]


def test_a_trial_that_is_stopped_while_it_is_paused_has_the_score_that_it_came_to(tmp_path: Path) -> None:
    suggestions, sampler, _ = start(Journal(tmp_path / "j"), 2)
    all_of(suggestions)
    suggestions.on_trial_result("n0", result(1, 0.4))
    suggestions.on_trial_result("n0", result(2, 0.3, best=0.4))
    suggestions.on_trial_complete("n0")  # as hyperband ends the worse ones of a bracket: without a result
    suggestions.on_trial_result("n1", result(1, 0.9))
    suggestions.on_trial_complete("n1", error=True)
    assert sampler.told == [(0, 0.4), (1, None)]


def cut_off(path: Path) -> Journal:
    """0 finished, 1 running, 2 stopped, 3 failed, 4 diverged, 5 waiting."""
    journal = Journal(path)
    suggestions, _, _ = start(journal, 6)
    all_of(suggestions, "old")
    for index in range(5):
        journal.record_result(f"t000{index}", result(1, index / 10))
    journal.record_result("t0000", result(2, 0.7))
    for name, status in (
        ("t0000", "finished"),
        ("t0002", "stopped"),
        ("t0003", "failed"),
        ("t0004", "diverged"),
    ):
        journal.record_end(name, status)  # type: ignore[arg-type]
    return Journal(path)


def test_a_resumed_sweep_first_goes_on_with_what_was_left(tmp_path: Path) -> None:
    suggestions, sampler, begun = start(cut_off(tmp_path / "j"), 8)
    assert all_of(suggestions) == [
        {"x": 1, RESUMED_FROM: "/sweep/checkpoints/old1"},
        {"x": 3, RESUMED_FROM: "/sweep/checkpoints/old3"},
        {"x": 5, RESUMED_FROM: "/sweep/checkpoints/old5"},
        {"x": 6, RESUMED_FROM: ""},
        {"x": 7, RESUMED_FROM: ""},
    ]
    assert sampler.asked == [6, 7], "a sample that was drawn is not drawn again"
    assert [name for name, _ in begun] == ["t0001", "t0003", "t0005", "t0006", "t0007"]
    suggestions.on_trial_complete("n0", result(3, 0.8))
    assert sampler.told == [(1, 0.8)]
    ids = {t.name: t.tune_ids for t in Journal(tmp_path / "j").trials.values()}
    assert ids["t0001"] == ["old1", "n0"] and ids["t0000"] == ["old0"] and ids["t0007"] == ["n4"]


def test_the_sampler_is_told_what_is_known_in_order(tmp_path: Path) -> None:
    _, sampler, _ = start(cut_off(tmp_path / "j"), 8)
    assert sampler.restored == [
        (0, {"x": 0}, 0.7, True),
        (1, {"x": 1}, 0.1, False),
        (2, {"x": 2}, 0.2, True),
        (3, {"x": 3}, None, False),
        (4, {"x": 4}, None, True),
        (5, {"x": 5}, None, False),
    ]


def test_a_sweep_that_is_over_hands_out_nothing_unless_more_are_asked_for(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    all_of(start(journal, 3)[0])
    for index in range(3):
        journal.record_result(f"t000{index}", result(1, 0.5))
        journal.record_end(f"t000{index}", "finished")
    assert all_of(start(Journal(tmp_path / "j"), 3)[0]) == []
    assert all_of(start(Journal(tmp_path / "j"), 2)[0]) == []
    more, sampler, _ = start(Journal(tmp_path / "j"), 5)
    assert [s["x"] for s in all_of(more)] == [3, 4] and sampler.asked == [3, 4]


def test_a_trial_of_a_population_comes_back_with_what_it_has_now(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    all_of(start(journal, 2)[0], "old")
    changed = '[[0, {"x": 1}], [4, {"x": 1.2}]]'
    history = "[[1, 4, 0.5, 1.0], [2, 8, 0.6, 1.0]]"
    journal.record_result("t0000", {**result(2, 0.6), "segments": changed, "history": history})
    suggestions, sampler, _ = start(Journal(tmp_path / "j"), 2)
    assert suggestions.suggest("n0") == {"x": 1.2, RESUMED_FROM: "/sweep/checkpoints/old0"}
    assert sampler.restored[0][1] == {"x": 1}, "its sampler knows the sample that it drew"


# schedulers over a cut -----------------------------------------------------------------------------------------------

EVALUATIONS, TRIALS, AT_ONCE = 6, 12, 3
Decision = tuple[int, int, str]


class QuickJournal(Journal):
    """Does not wait for the disk: there are thousands of lines below."""

    def _append(self, event: str, row: dict[str, Any]) -> None:
        self._take(event, json.loads(json.dumps(row)))
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **row}) + "\n")


class Trial:
    """What Tune's schedulers look at of a trial."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id, self.status = trial_id, "RUNNING"


class Driver:
    """Runs made-up trials as Tune does: which trial reports next, and what, is a function of a seed alone."""

    def __init__(self, scheduler: SchedulerBase, mode: Mode, seed: int) -> None:
        self.rule, self.mode = scheduler, mode
        rng = np.random.default_rng(seed)
        self.scores = rng.random((TRIALS, EVALUATIONS)).round(2)  # rounded, so that there are ties
        self.turns = rng.integers(1 << 30, size=TRIALS * EVALUATIONS)

    def run(self, path: Path, cuts: Path | None = None, done: int = 0, again: bool = False) -> list[Decision]:
        """Decisions after the first ``done`` ones, from a journal that knows those.

        Args:
            cuts: where a copy of the journal goes after each decision.
            again: trials begin anew, and report what they had reported; else they go on where they were.
        """
        journal = QuickJournal(path)
        scheduler = self.rule.build(SPACE, EVALUATIONS, self.mode)
        reached = {t.index: max(t.evaluations, default=0) for t in journal.trials.values()}
        suggestions, _, _ = start(journal, TRIALS, scheduler=scheduler, mode=self.mode)
        live: dict[int, Any] = {}
        decisions: list[Decision] = []
        names = (f"{done}-{i}" for i in itertools.count())
        while True:
            while len(live) < AT_ONCE and (suggested := suggestions.suggest(trial_id := next(names))) != (
                Searcher.FINISHED
            ):
                index = int(suggested["x"])
                live[index] = Trial(trial_id)
                scheduler.on_trial_add(None, live[index])  # type: ignore[arg-type]
                for evaluation in range(1, reached.get(index, 0) + 1) if again else ():
                    assert self._report(scheduler, live[index], index, evaluation) == "CONTINUE"
            if not live:
                return decisions
            turn = done + len(decisions)
            index = sorted(live)[self.turns[turn] % len(live)]
            trial, evaluation = live[index], reached.get(index, 0) + 1
            reached[index] = evaluation
            decision = self._report(scheduler, trial, index, evaluation)
            decisions.append((index, evaluation, decision))
            name = f"t{index:04d}"
            journal.record_result(name, self._result(index, evaluation))
            if decision == "STOP":
                scheduler.on_trial_complete(None, trial, self._result(index, evaluation))  # type: ignore[arg-type]
                journal.record_end(name, "finished" if evaluation == EVALUATIONS else "stopped")
                del live[index]
            if cuts is not None:
                (cuts / str(len(decisions))).write_bytes(path.read_bytes())

    def _result(self, index: int, evaluation: int) -> dict[str, Any]:
        seen = self.scores[index, :evaluation]
        best = float(seen.max() if self.mode == "max" else seen.min())
        return result(evaluation, float(self.scores[index, evaluation - 1]), best)

    def _report(self, scheduler: Any, trial: Any, index: int, evaluation: int) -> str:
        """A trial that is over by itself is never judged."""
        if evaluation == EVALUATIONS:
            return "STOP"
        return str(scheduler.on_trial_result(None, trial, self._result(index, evaluation)))


RULES = [
    Asha(),
    Asha(grace=1, reduction_factor=2),
    MedianStopping(),
    MedianStopping(grace=1, min_trials=1),
]


@pytest.mark.parametrize("again", [False, True], ids=["going on", "from the start"])
@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.kind}-{rule.grace}")
def test_a_sweep_cut_anywhere_decides_as_an_unbroken_one(
    tmp_path: Path, rule: SchedulerBase, mode: Mode, again: bool
) -> None:
    driver = Driver(rule, mode, seed=3)
    (tmp_path / "cuts").mkdir()
    unbroken = driver.run(tmp_path / "unbroken", tmp_path / "cuts")
    stopped = [d for d in unbroken if d[2] == "STOP" and d[1] < EVALUATIONS]
    assert 2 <= len(stopped) < TRIALS and len(unbroken) > 20, "else the test would show nothing"
    for done in range(1, len(unbroken)):
        assert driver.run(tmp_path / "cuts" / str(done), done=done, again=again) == unbroken[done:], done


def test_a_cut_journal_without_its_results_would_decide_otherwise(tmp_path: Path) -> None:
    """What the test above relies on: decisions depend on what was there before."""
    driver = Driver(Asha(grace=1, reduction_factor=2), "max", seed=3)
    (tmp_path / "cuts").mkdir()
    unbroken = driver.run(tmp_path / "unbroken", tmp_path / "cuts")
    done = len(unbroken) // 2
    journal = Journal(tmp_path / "cuts" / str(done))
    lines = [line for line in (tmp_path / "cuts" / str(done)).read_text().split("\n") if line]
    kept = [line for line in lines if not any(f'"{t.name}"' in line and '"result"' in line
            for t in journal.trials.values() if t.status is not None)]  # fmt: skip
    (tmp_path / "forgetful").write_text("\n".join(kept) + "\n")
    assert driver.run(tmp_path / "forgetful", done=done) != unbroken[done:]


def test_an_unfinished_trial_that_nobody_wants_any_more_is_not_handed_out(tmp_path: Path) -> None:
    first, _, _ = start(Journal(tmp_path / "trials.jsonl"), 3)
    for trial_id in ("a", "b", "c"):
        first.suggest(trial_id)
    sampler = FakeSampler()
    sampler.unwanted = [1]
    again, _, _ = start(Journal(tmp_path / "trials.jsonl"), 4, sampler=sampler)
    handed = [again.suggest(trial_id) for trial_id in ("d", "e", "f")]
    assert [one["x"] for one in handed] == [0, 2, 3] and again.suggest("g") == Searcher.FINISHED
