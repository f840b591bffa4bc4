"""The judge of `benchmarks.habits`: its table, and what it says of outputs that are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.habit_parts.judging import ORDER, Verdict, judge_case, judge_step, worst
from benchmarks.habit_parts.running import Ran, copied, run_step
from benchmarks.habit_parts.table import Case, Outcome, Step, choose, load_table
from benchmarks.habit_parts.values import Answers, Curve, Entities, Steady, Written, read_json_lines
from benchmarks.habits import TABLE

TRACE = 'Traceback (most recent call last):\n  File "x.py", line 1\nKeyError: 3\n'
REFUSAL = "wrong  teacher t\n       one output is a regression\n         next: choose another teacher\n"


def ran(
    code: int | None = 0, stdout: str = "", stderr: str = "", *, started: bool = False, seconds: float = 0.0
) -> Ran:
    """An output that was never printed."""
    return Ran(code, stdout, stderr, seconds, started)


def step(
    run: str = "raykd check run.yaml", served: Outcome | None = None, refused: Outcome | None = None
) -> Step:
    return Step(run=run, served=served, refused=refused)


def word(one: Step, output: Ran, folder: Path = Path(), *, was_well: bool = False) -> str:
    return judge_step(one, output, folder, was_well=was_well).word


def test_the_table_is_read_and_names_76_cases() -> None:
    table = load_table(TABLE)
    assert len(table) == 76
    numbers = [name.partition("-")[0] for name in table]
    assert numbers == sorted(numbers, key=lambda n: (int(n.rstrip("abcd")), n)) or len(set(numbers)) == 76
    assert all(case.steps and case.wanted for case in table.values())


def test_every_command_of_the_table_can_be_judged() -> None:
    for name, case in load_table(TABLE).items():
        judged = [s for s in case.steps if s.served is not None or s.refused is not None]
        assert judged, name
        # A command that takes minutes has a time limit of its own.
        assert all(s.timeout > 60 for s in case.steps if s.command == "train" and s.served), name


def test_cases_that_are_not_slow_are_those_that_check_and_predict_can_show() -> None:
    quick = [name for name, case in load_table(TABLE).items() if not case.slow]
    assert quick == choose(list(load_table(TABLE)), "01-28,40,42,46-49,54,81-98")


@pytest.mark.parametrize(
    ("only", "wanted"),
    [
        (None, ["01-a", "06a-b", "06b-c", "40-d", "98-e"]),
        ("01-28", ["01-a", "06a-b", "06b-c"]),
        ("6", ["06a-b", "06b-c"]),
        ("06b,98", ["06b-c", "98-e"]),
        ("53", []),
    ],
)
def test_cases_are_chosen_by_number(only: str | None, wanted: list[str]) -> None:
    assert choose(["01-a", "06a-b", "06b-c", "40-d", "98-e"], only) == wanted


def test_a_choice_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="neither a number nor a range"):
        choose(["01-a"], "padding")


@pytest.mark.parametrize(
    "entry",
    [
        {"wanted": "x", "steps": []},
        {"wanted": "x", "steps": [{"run": "raykd check", "serve": {}}]},
        {"wanted": "x", "steps": [{"run": "raykd check", "refused": {"prints": ["("]}}]},
        {"wanted": "x", "steps": [{"run": "raykd check", "served": {"values": [{"kind": "guess"}]}}]},
    ],
)
def test_a_table_with_an_error_is_refused(entry: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Case.model_validate(entry)


def test_served_and_refused_are_told_apart_by_exit_code_and_words() -> None:
    both = step(served=Outcome(prints=("12 labelled",)), refused=Outcome(prints=("regression",)))
    assert word(both, ran(0, "ok data 12 labelled texts")) == "right"
    assert word(both, ran(3, REFUSAL)) == "refused at check"
    assert word(both, ran(0, "ok data 5 labelled texts")) == "wrong"
    assert word(both, ran(3, "wrong  teacher t\n       map the names\n")) == "wrong"
    assert word(both, ran(0, REFUSAL)) == "wrong"
    assert word(both, ran(3, "12 labelled")) == "wrong"
    assert word(both, ran(5, REFUSAL)) == "wrong"


def test_the_sentence_of_a_refusal_is_shown() -> None:
    refused = step(refused=Outcome(prints=("regression",)))
    assert judge_step(refused, ran(3, REFUSAL), Path(), was_well=False).detail == "one output is a regression"


def test_words_that_must_not_be_printed() -> None:
    advice = step(refused=Outcome(lacks=("never closed",)))
    assert word(advice, ran(3, "error: look for a quote that is Never closed")) == "wrong"
    assert word(advice, ran(3, "error: double the quotes")) == "refused at check"


@pytest.mark.parametrize("code", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("trace", [TRACE, "This is a fault of raykd, or of a library under it"])
def test_a_traceback_is_never_anything_else(code: int, trace: str) -> None:
    both = step(served=Outcome(), refused=Outcome(exit=(1, 2, 3, 5)))
    assert word(both, ran(code, stderr=trace)) == "traceback"
    assert word(both, ran(code, stdout=trace), was_well=True) == "traceback"


def test_a_failure_after_all_was_well_is_late() -> None:
    train = step("raykd train run.yaml", served=Outcome(), refused=Outcome(prints=("regression",)))
    assert word(train, ran(3, REFUSAL), was_well=True) == "late"
    assert word(train, ran(5, "teacher t failed"), was_well=True) == "late"
    assert word(train, ran(None, "waiting"), was_well=True) == "late"
    assert word(train, ran(0), was_well=True) == "right"
    # The same words before anything is started are a refusal; after Ray was started they are not.
    assert word(train, ran(3, REFUSAL)) == "refused at check"
    assert word(train, ran(3, REFUSAL, started=True)) == "late"


def test_a_command_without_end_and_a_preparation_that_fails_are_wrong() -> None:
    assert word(step(served=Outcome()), ran(None)) == "wrong"
    assert word(step("python make.py"), ran(1, stderr=TRACE)) == "wrong"
    assert word(step("python make.py"), ran(0)) == "right"


def test_a_case_is_as_good_as_its_worst_command() -> None:
    verdicts = [Verdict(name, seconds=1.0) for name in ORDER]
    for count in range(1, len(ORDER) + 1):
        found = worst(reversed(verdicts[:count]))
        assert (found.word, found.seconds) == (ORDER[count - 1], float(count))


def test_json_lines_are_found_among_others() -> None:
    assert read_json_lines('warning\n{"text": "a"}\n{broken\n[1]\n{"text": "b"}') == [
        {"text": "a"},
        {"text": "b"},
    ]


def test_a_text_has_one_answer() -> None:
    def row(text: str, p: float) -> dict[str, object]:
        return {"text": text, "probabilities": {"a": p, "b": 1 - p}}

    steady = Steady(kind="steady")
    assert steady.find_fault(Path(), [row("x", 0.5)], [row("x", 0.500009), row("y", 0.1)]) is None
    assert "two answers" in str(steady.find_fault(Path(), [row("x", 0.5)], [row("x", 0.50002)]))
    assert "two answers" in str(steady.find_fault(Path(), [row("x", 0.5), row("x", 0.6)], []))


def test_answers_are_compared_with_the_gold_of_their_row() -> None:
    def row(answer: str, *gold: str) -> dict[str, object]:
        return {"prediction": answer, "answers": {"text": list(gold)}}

    answers = Answers(kind="answers", count=2)
    assert answers.find_fault(Path(), [row("Anna Kow", "Anna Kow"), row("", *[])], []) is None
    assert "1 of 2" in str(answers.find_fault(Path(), [row("Anna", "Anna Kow"), row("b", "a", "b")], []))
    assert "1 rows" in str(answers.find_fault(Path(), [row("a", "a")], []))


def test_entities_are_compared_with_the_tags_of_the_file(tmp_path: Path) -> None:
    gold = {"tokens": ["我", "在", "北", "京"], "tags": ["O", "O", "B-LOC", "I-LOC"]}
    (tmp_path / "test.jsonl").write_text(json.dumps(gold) + "\n", encoding="utf-8")
    entities = Entities(kind="entities", file="test.jsonl")

    def said(text: str, kind: str) -> str | None:
        rows = [{"prediction": [{"text": text, "type": kind}]}]
        return entities.find_fault(tmp_path, rows, [])

    assert said("北京", "LOC") is None
    assert said("北 京", "LOC") is None
    assert said("北京", "ORG") and said("在北京", "LOC")
    assert entities.find_fault(tmp_path, [], [])


def test_what_was_written_and_what_a_curve_holds(tmp_path: Path) -> None:
    written = Written(kind="written", texts=("uno", "sette"))
    assert written.find_fault(Path(), [{"written": "uno"}, {"written": " sette"}], []) is None
    assert written.find_fault(Path(), [{"written": ""}, {"written": "se"}], [])
    curve = Curve(kind="curve", file="curves.jsonl", metric="train/hard", between=(2.0, 4.0))
    assert curve.find_fault(tmp_path, [], []) == "curves.jsonl was not written"
    (tmp_path / "curves.jsonl").write_text('{"step": 1, "metrics": {"train/hard": 2.9}}\n', encoding="utf-8")
    assert curve.find_fault(tmp_path, [], []) is None
    (tmp_path / "curves.jsonl").write_text(
        '{"step": 1, "metrics": {"train/hard": 447.3}}\n', encoding="utf-8"
    )
    assert "447.3" in str(curve.find_fault(tmp_path, [], []))


def test_commands_run_in_a_copy_that_goes(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "rows.txt").write_text("a\n", encoding="utf-8")
    case = Case.model_validate(
        {
            "wanted": "both lines",
            "steps": [
                {"run": "echo b >> rows.txt", "shell": True},
                {"run": "cat rows.txt", "shell": True, "served": {"prints": ["a\\nb"]}},
            ],
        }
    )
    with copied(tmp_path / "case") as folder:
        assert judge_case(case, folder).word == "right"
        kept = folder
    assert not kept.exists()
    assert (tmp_path / "case" / "rows.txt").read_text(encoding="utf-8") == "a\n"


def test_a_command_is_ended_with_its_children_at_its_time_limit(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    with copied(tmp_path / "case") as folder:
        found = run_step(Step(run="sleep 60 & echo $! > child; wait", shell=True, timeout=0.3), folder)
        child = int((folder / "child").read_text(encoding="utf-8"))
    assert found.code is None and found.seconds < 10
    status = Path(f"/proc/{child}/stat")
    assert not status.exists() or status.read_text(encoding="utf-8").rpartition(") ")[2].startswith("Z")


def test_an_exit_code_and_both_outputs_are_kept(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    with copied(tmp_path / "case") as folder:
        found = run_step(Step(run="echo out; echo err >&2; exit 3", shell=True), folder)
    assert (found.code, found.stdout, found.stderr, found.started) == (3, "out\n", "err\n", False)
