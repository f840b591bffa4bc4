"""The table of `benchmarks.gpu`: goals, a section that fails, a budget that runs out; spans of kernels; operations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.gpu import choose_sections
from benchmarks.gpu_parts.context import Context
from benchmarks.gpu_parts.serving import count_operations
from benchmarks.gpu_parts.table import Figure, Section, run_sections
from benchmarks.gpu_parts.tracing import measure_union
from benchmarks.gpu_parts.worlds import FULL, TOY, Shape, make_language_texts, make_texts, make_word_tokenizer


@pytest.mark.parametrize(
    ("value", "goal", "verdict"),
    [
        (1.05, "<= 1.05", "met"),
        (1.06, "<= 1.05", "MISSED"),
        (0.9, ">= 0.8", "met"),
        (None, ">= 0.8", ""),
        (2.0, "", ""),
    ],
)
def test_a_figure_is_held_against_its_goal(value: float | None, goal: str, verdict: str) -> None:
    assert Figure("what", value, goal).verdict == verdict


def test_a_section_that_fails_is_named_and_the_next_runs(tmp_path: Path) -> None:
    def fail(context: Context) -> list[Figure]:
        raise ValueError("no such kernel")

    closed: list[str] = []

    def run(context: Context) -> list[Figure]:
        context.closing(lambda: closed.append("pool"))
        return [Figure("ratio", 1.0, "<= 2")]

    context = Context(TOY, torch.device("cpu"), tmp_path)
    first, second = run_sections([Section("a", fail, 0), Section("b", run, 0)], context, 60.0)
    assert (first.name, first.failure, second.failure) == ("a", "ValueError: no such kernel", "")
    assert second.figures == [Figure("ratio", 1.0, "<= 2")]
    assert closed == ["pool"]


def test_a_section_that_does_not_fit_is_not_begun_and_a_shorter_one_is(tmp_path: Path) -> None:
    context = Context(FULL, torch.device("cpu"), tmp_path)
    sections = [Section("long", lambda context: [], 100), Section("short", lambda context: [], 1)]
    long, short = run_sections(sections, context, 50.0)
    assert long.failure.startswith("not run: out of time") and not short.failure


def test_sections_keep_the_order_of_the_table() -> None:
    assert [each.name for each in choose_sections("memory,lm_student", "")] == ["lm_student", "memory"]
    assert "sweep" not in [each.name for each in choose_sections(None, "sweep")]
    with pytest.raises(SystemExit, match="no section speed"):
        choose_sections("speed", "")


def test_kernels_that_overlap_are_counted_once() -> None:
    assert measure_union([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0), (5.2, 5.4)]) == 4.0


def test_operations_of_bert_base_are_two_a_weight_and_those_of_attention() -> None:
    weights = 12 * 12 * 768**2
    assert count_operations(Shape(12, 768, 12), 0, 0) == 2 * weights
    assert (
        count_operations(Shape(12, 768, 12), 1000, 128) == 2 * weights + 12 * 4 * 128 * 768 + 2 * 1000 * 768
    )


def test_texts_have_the_tokens_that_are_said() -> None:
    tokenizer = make_word_tokenizer(TOY.vocabulary, TOY.tokens)
    assert len(tokenizer) == TOY.vocabulary
    lengths = {len(tokenizer(text)["input_ids"]) for text in make_language_texts(TOY, 5, seed=0)}
    assert lengths == {TOY.tokens - 2}  # the begin and the end are added to a row
    assert {len(text.split()) for text in make_texts(5, mean=4, longest=9, seed=0, even=True)} == {9}
