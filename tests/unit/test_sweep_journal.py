"""The journal: what a sweep knows after any end, also one in the middle of a line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from raykd.tuning.journal import Journal

SAMPLE = {"objective.alpha": 0.25, "objective.temperature": "linear", "train.batch_size": 16}


def result(evaluation: int, score: float, **changes: Any) -> dict[str, Any]:
    """What a trial reports at an evaluation, as Tune hands it on."""
    return {
        "evaluation": evaluation, "trained_steps": 5 * evaluation, "total_steps": 20, "score": score,
        "nll": 1.0 - score, "objective": score, "trained_s": 0.5, "config": {"not": "ours"}, **changes,
    }  # fmt: skip


def filled(path: Path) -> Journal:
    """t0 finished, t1 stopped, t2 failed, t3 diverged, t4 with one evaluation, t5 only begun."""
    journal = Journal(path)
    for index in range(6):
        journal.record_begin(f"t{index}", index, {**SAMPLE, "seed": index}, f"tune-{index}")
    for index in range(5):
        journal.record_result(f"t{index}", result(1, 0.5 + index / 100))
    journal.record_result("t0", result(2, 0.7))
    for name, status in (("t0", "finished"), ("t1", "stopped"), ("t3", "diverged")):
        journal.record_end(name, status)  # type: ignore[arg-type]
    journal.record_end("t2", "failed", "ValueError: no")
    journal.record_counters({"en": {"answered": 12, "forwarded": 3}})
    return journal


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    written, read = filled(path), Journal(path)
    assert read.trials == written.trials and read.teachers == written.teachers
    assert read.teachers == [{"en": {"answered": 12, "forwarded": 3}}]
    trial = read.trials["t0"]
    assert trial.sample == {**SAMPLE, "seed": 0} and list(trial.sample) == [*SAMPLE, "seed"]
    assert (trial.index, trial.tune_ids, trial.status, trial.total_steps) == (0, ["tune-0"], "finished", 20)
    assert (trial.objective, trial.seconds) == (0.7, 1.0)
    assert [(e.evaluation, e.step, e.score, e.nll) for e in trial.evaluations.values()] == [
        (1, 5, 0.5, 0.5),
        (2, 10, 0.7, pytest.approx(0.3)),
    ]


def test_every_line_is_an_event_and_is_there_before_the_call_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trials.jsonl")
    for count, call in enumerate(
        [
            lambda: journal.record_begin("t0", 0, SAMPLE, "a"),
            lambda: journal.record_result("t0", result(1, 0.5)),
            lambda: journal.record_end("t0", "finished"),
        ],
        start=1,
    ):
        call()
        lines = (tmp_path / "trials.jsonl").read_text(encoding="utf-8").split("\n")
        assert len(lines) == count + 1 and lines[-1] == ""
        assert json.loads(lines[-2])["event"] == ("begin", "result", "end")[count - 1]


def test_a_journal_that_is_cut_anywhere_has_the_whole_lines_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    filled(path)
    whole = path.read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        read = Journal(path)
        reference = tmp_path / "reference.jsonl"
        kept = max((end + 1 for end in ends if end < cut), default=0)
        # A cut just before a line's end leaves a line that is whole but for its end.
        reference.write_bytes(whole[: cut if cut in ends else kept])
        assert read.trials == Journal(reference).trials, cut


def test_what_comes_after_a_torn_line_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    filled(path)
    path.write_bytes(path.read_bytes() + b'{"event": "result", "name": "t4", "evalu')
    for _ in range(2):  # a sweep may be killed more than once
        again = Journal(path)
        again.record_begin("t4", 4, {**SAMPLE, "seed": 4}, "tune-later")
        again.record_result("t4", result(2, 0.9))
        read = Journal(path)
        assert read.trials == again.trials
        assert read.trials["t4"].objective == 0.9 and read.trials["t0"].status == "finished"
        path.write_bytes(path.read_bytes() + b'{"event":')
    assert Journal(path).trials["t4"].tune_ids == ["tune-4", "tune-later", "tune-later"]


def test_a_result_that_comes_twice_counts_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trials.jsonl")
    journal.record_begin("t0", 0, SAMPLE, "a")
    for number, score in ((1, 0.5), (2, 0.8), (3, 0.6)):
        journal.record_result("t0", result(number, score, objective=max(score, 0.5)))
    once = journal.trials["t0"].row()
    journal.record_begin("t0", 0, SAMPLE, "b")  # its process died after the first checkpoint
    for number, score in ((2, 0.8), (3, 0.6)):
        journal.record_result("t0", result(number, score, trained_s=9.0, objective=0.8))
    for trial in (journal.trials["t0"], Journal(tmp_path / "trials.jsonl").trials["t0"]):
        assert [e.score for e in trial.row().evaluations] == [0.5, 0.8, 0.6]
        assert (trial.seconds, trial.objective, trial.tune_ids) == (1.5, 0.8, ["a", "b"])
        assert trial.row().best == once.best


def test_unfinished_are_those_that_are_not_over_and_those_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    for journal in (filled(path), Journal(path)):
        assert [t.name for t in journal.unfinished] == ["t2", "t4", "t5"]
        assert [t.name for t in journal.cut_off] == ["t4", "t5"]
        assert journal.next_index == 6
        assert [t.row().status for t in journal.trials.values()] == [
            "finished", "stopped", "failed", "diverged", "cut off", "waiting",
        ]  # fmt: skip
    assert (Journal(tmp_path / "none.jsonl").unfinished, Journal(tmp_path / "none.jsonl").next_index) == (
        [],
        0,
    )


def test_a_failed_trial_that_begins_again_is_not_failed(tmp_path: Path) -> None:
    journal = filled(tmp_path / "trials.jsonl")
    assert (journal.trials["t2"].status, journal.trials["t2"].error) == ("failed", "ValueError: no")
    journal.record_begin("t2", 2, {**SAMPLE, "seed": 2}, "tune-later")
    assert (journal.trials["t2"].status, journal.trials["t2"].error) == (None, None)
    journal.record_end("t2", "finished")
    assert [t.name for t in Journal(tmp_path / "trials.jsonl").unfinished] == ["t4", "t5"]


def test_numbers_that_are_none_and_scores_that_are_worst(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trials.jsonl")
    journal.record_begin("t0", 0, SAMPLE, "a")
    journal.record_result("t0", result(1, 0.0, nll=float("nan")))
    journal.record_end("t0", "diverged", "loss nan")
    assert "NaN" not in (tmp_path / "trials.jsonl").read_text(encoding="utf-8")
    for trial in (journal.trials["t0"], Journal(tmp_path / "trials.jsonl").trials["t0"]):
        assert math.isnan(trial.evaluations[1].nll) and trial.evaluations[1].score == 0.0
        assert not trial.row().is_eligible and trial.row().error == "loss nan"


def test_a_diverged_trial_keeps_its_evaluations_as_they_were(tmp_path: Path) -> None:
    """What it reports then is where its loss broke, with the numbers of its last evaluation, or the worst there are."""
    journal = Journal(tmp_path / "trials.jsonl")
    for name in ("t0", "t1"):
        journal.record_begin(name, int(name[1]), SAMPLE, name)
    journal.record_result("t0", result(1, 0.5))
    journal.record_result("t0", result(1, 0.5, trained_steps=9, diverged="loss nan"))
    journal.record_result("t1", result(0, 1e9, trained_steps=3, diverged="loss nan"))
    for known in (journal, Journal(tmp_path / "trials.jsonl")):
        first, second = known.trials["t0"], known.trials["t1"]
        assert [(e.evaluation, e.step, e.score) for e in first.row().evaluations] == [(1, 5, 0.5)]
        assert (first.objective, first.seconds) == (0.5, 1.0)
        assert (second.objective, second.row().score) == (None, None)
        assert (second.total_steps, second.seconds) == (20, 0.5)


def test_a_population_has_the_history_that_it_took_over(tmp_path: Path) -> None:
    first, second = {"objective.alpha": 0.2}, {"objective.alpha": 0.24}
    journal = Journal(tmp_path / "trials.jsonl")
    journal.record_begin("t1", 1, {"objective.alpha": 0.8}, "b")
    for number in (1, 2):
        journal.record_result("t1", result(number, 0.1))
    # Then it copied another trial, which stood at evaluation 2.
    taken = result(
        3,
        0.9,
        segments=json.dumps([[0, first], [10, second]]),
        history=json.dumps([[1, 5, 0.5, 0.5], [2, 10, 0.7, float("nan")], [3, 15, 0.9, 0.1]]),
    )
    journal.record_result("t1", taken)
    for trial in (journal.trials["t1"], Journal(tmp_path / "trials.jsonl").trials["t1"]):
        assert trial.segments == [(0, first), (10, second)] and trial.sample == second
        assert [(e.step, e.score) for e in trial.row().evaluations] == [(5, 0.5), (10, 0.7), (15, 0.9)]
        assert math.isnan(trial.evaluations[2].nll)


def test_passes_are_counted_over_starts_that_were_cut_off_too(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    journal = Journal(path)
    assert journal.passes is None, "teachers answered on demand"
    journal.record_labelling(asked=80, stored=0)
    assert Journal(path).passes == 0.0, "what a start that goes on computes is known at the next"
    journal.record_labelling(asked=80, stored=50)  # the start before was killed after 50 answers
    journal.record_labelled(forwarded=30)
    assert Journal(path).passes == journal.passes == 1.0
    journal.record_counters({"en": {"forwarded": 30, "computed_while_parked": 4}, "fr": {"forwarded": 0}})
    journal.record_labelling(asked=80, stored=80)
    journal.record_labelled(forwarded=0)
    assert Journal(path).passes == journal.passes == pytest.approx(84 / 80)
    assert Journal(path).labellings == journal.labellings and len(journal.labellings) == 3


GARBAGE = [
    "",
    "no json",
    "null",
    "3",
    '"text"',
    "[]",
    "[1, 2]",
    "{}",
    '{"event": null}',
    '{"event": "party"}',
    '{"event": "begin"}',
    '{"event": "begin", "name": "t9"}',
    '{"event": "result", "name": "nobody", "evaluation": 1}',
    '{"event": "result", "name": "t0"}',
    '{"event": "result", "name": "t0", "evaluation": "many", "score": 1, "nll": 1}',
    '{"event": "end", "name": "t0"}',
    '{"event": "end", "name": "nobody", "status": "finished", "error": null}',
    '{"event": "teachers"}',
    '{"event": "labelled", "forwarded": 3}',
    "{" * 50,
    "\x00\x01",
]


def test_lines_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    filled(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    mixed = tmp_path / "mixed.jsonl"
    between = [part for line in lines for part in (*GARBAGE, line)]
    mixed.write_bytes("\n".join(between).encode() + b"\n\xff\xfe\x80\n")
    assert Journal(mixed).trials == Journal(path).trials and Journal(mixed).teachers == Journal(path).teachers
    empty = tmp_path / "garbage.jsonl"
    empty.write_bytes("\n".join(GARBAGE).encode())
    assert Journal(empty).trials == {}


@pytest.mark.parametrize(
    "text", ["line\u2028separator", "next\x85line", "form\x0cfeed", "très 好\n", "\udcff half"]
)
def test_any_text_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    """Labels and errors come from outside; some characters end a line for Python, and for JSON do not."""
    path = tmp_path / "trials.jsonl"
    journal = Journal(path)
    journal.record_begin("t0", 0, {"objective.temperature": text}, "a")
    journal.record_end("t0", "failed", text)
    read = Journal(path).trials["t0"]
    assert (read.sample, read.error, read.status) == ({"objective.temperature": text}, text, "failed")


def test_a_trial_that_went_on_tells_what_a_killed_driver_had_not_heard(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    journal = Journal(path)
    journal.record_begin("t0", 0, SAMPLE, "a")
    journal.record_result("t0", result(1, 0.5))
    journal.record_begin("t0", 0, SAMPLE, "b")  # after the kill: its checkpoint was of the second evaluation
    told = [[1, 5, 0.4, 0.6], [2, 10, 0.6, 0.4], [3, 15, 0.7, 0.3]]
    journal.record_result("t0", result(3, 0.7, history=json.dumps(told)))
    for read in (journal, Journal(path)):
        found = {k: e.score for k, e in sorted(read.trials["t0"].evaluations.items())}
        assert found == {1: 0.5, 2: 0.6, 3: 0.7}, "what was journalled stays as it was"
        assert read.trials["t0"].segments == []
