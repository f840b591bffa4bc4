"""Who taught what, and the student beside its teachers: the table, and times taken alike."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from raykd.config.loading import load_run, validate_run
from raykd.config.teachers import Price
from raykd.data.rows import Rows
from raykd.ensemble.contributions import Contribution
from raykd.folders.changes import compare_trees
from raykd.presets import preset
from raykd.report.costs import CostTable, TeacherCost
from raykd.report.ensembles.cost_tables import lay_out_prices
from raykd.report.ensembles.report import EnsembleReport
from raykd.report.formats import ABSENT
from raykd.report.sizes import Size
from raykd.scoring.costs import list_system_sizes, list_taught_languages, make_cost_table
from raykd.scoring.score import sample_texts
from raykd.teachers import timing
from raykd.teachers.timing import describe_conditions, measure_time


def config(weighting: str = "by_language") -> Any:
    teachers = [("zh", ["zh"]), ("en", ["en"]), ("multi", "all")]
    return validate_run(
        {
            "data": {
                "train": {"kind": "embedded"}, "validation": {"kind": "embedded", "split": "validation"},
                "labels": ["negative", "positive"], "languages": ["zh", "en", "fr"],
            },
            "student": {"kind": "linear"},
            "teachers": [{"name": n, "languages": x, "path": "x"} for n, x in teachers],
            "objective": {"weighting": {"kind": weighting}},
        },
        "RUN.yaml",
    )  # fmt: skip


def rows(**counts: int) -> Rows:
    languages = tuple(x for x, n in counts.items() for _ in range(n))
    ids = tuple(f"{x}{i}" for i, x in enumerate(languages))
    return Rows(ids, tuple(f"text {i}" for i in ids), languages, np.zeros(len(ids), np.int64))


POOL: Any = SimpleNamespace(
    handle=SimpleNamespace(
        teachers=("zh", "en", "multi"), teacher_languages=(frozenset({"zh"}), frozenset({"en"}), None)
    )
)


def test_a_language_without_a_teacher_of_its_own_is_taught_by_the_multilingual_one() -> None:
    trained = rows(en=3, fr=5, zh=4)
    assert list_taught_languages(config(), POOL, trained) == {"zh": ("zh",), "en": ("en",), "multi": ("fr",)}
    uniform = list_taught_languages(config("uniform"), POOL, trained)
    assert uniform == {"zh": ("zh",), "en": ("en",), "multi": ("zh", "en", "fr")}
    infos: Any = [
        SimpleNamespace(name=n, parameters=p) for n, p in (("zh", 900), ("en", 50), ("multi", 1200))
    ]
    at = {"threads": 1, "device": "cpu", "dtype": "float32"}
    took = [
        timing.replace(describe_conditions(["ab"], **at), ms=ms, taken="2026-01-31") for ms in (0.6, 0.1, 0.8)
    ]
    times = {
        "zh": (took[0], took[1]),
        "en": (None, None),
        "multi": (timing.replace(took[2], kept=True), took[1]),
    }
    student = Size(100, 0.4, 0.05, "1 thread, cpu")
    table = make_cost_table(config(), POOL, infos, times, student, trained, trained, {"zh": 3.6})  # type: ignore[arg-type]
    assert [(t.taught, t.texts, t.smaller) for t in table.teachers] == [
        (("zh",), 4, 9.0), (("en",), 3, 0.5), (("fr",), 5, 12.0)]  # fmt: skip
    assert table.by_language == "zh is taught by zh; en is taught by en; fr is taught by multi"
    heads, lines = table.to_cells()
    assert heads[-2:] == ["x smaller", "x faster"] and [line[-2:] for line in lines] == [
        ["2.4", "–"], ["43", "–"], ["1.8", "–"], ["1.0", "–"], ["22", "–"]]  # fmt: skip
    # Of 12 texts 4 go to zh, 3 to en and 5 to multi: (4 x 0.6 + 3 x 0.1 + 5 x 0.8) / 12 ms.
    whole = {**times, "en": (took[1], took[1])}
    known = make_cost_table(config(), POOL, infos, whole, student, trained, trained, {})  # type: ignore[arg-type]
    assert known.together is not None and known.together.ms == pytest.approx(6.7 / 12)
    assert [line[-2:] for line in known.to_cells()[1]] == [
        ["2.4", "0.9"], ["43", "5.6"], ["1.8", "0.7"], ["1.0", "1.0"], ["22", "11"]]  # fmt: skip
    assert (
        table.summary
        == "the student (100 parameters) is 0.5 to 12 x smaller, 6.0 to 8.0 x faster than a teacher alone"
    )
    function = CostTable((TeacherCost("a", ("en",), 1, 0, None),), 100, ("en",), "so")
    assert function.summary.endswith("its teachers have no weights")
    assert function.to_cells()[1][0][3] == function.to_cells()[1][0][7] == ABSENT
    larger = CostTable((TeacherCost("a", ("en",), 1, 50, 0.5),), 100, ("en",), "so")
    assert larger.summary == "the student (100 parameters) is 2.0 x larger than a teacher alone"
    assert heads[4:7] == ["MB", "texts/s", "student's texts/s"]
    assert [line[4:7] for line in lines] == [
        ["3.6", "1,667", "10,000"], ["–", "–", "–"], ["–", "1,250*", "10,000"], ["–", "–", ""],
        ["0.4", "20,000", ""]]  # fmt: skip
    said = " ".join(table.notes)
    assert "1 held-out texts" in said and "1 thread, cpu" in said and "no time is known for en" in said
    assert "were loaded: multi on 2026-01-31, 1 thread, cpu on texts of 2 characters" in said
    assert "taken by an earlier run" in said and "load of the machine is not known" in said
    busy = {"zh": (timing.replace(took[0], load=0.2), timing.replace(took[1], load=1.4))}
    noted = make_cost_table(config(), POOL, infos, busy, student, trained, trained, {})  # type: ignore[arg-type]
    assert "least of up to 25 passes" in noted.conditions
    assert "0.2 to 1.4 processes a CPU; other work made the times longer" in noted.conditions
    assert table.to_rows()[0]["x_faster"] == 0.6 / 0.1 and table.to_rows()[1]["x_faster"] is None


def test_a_narrow_terminal_shows_every_number() -> None:
    cost = TeacherCost("a-teacher-with-a-long-name", ("zh", "en"), 12_345, 1_200_000, 17.0, 0.61, 0.08)
    table = CostTable((cost,), 70_000, ("zh", "en"), "times: so")
    console = Console(width=40, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    console.print(table.to_rich())
    text = console.export_text()
    assert "…" not in text
    for number in ("12,345", "1.2 M", "1,639", "12,500"):
        assert number in text.replace("\n", " "), number


def test_a_mean_of_results_says_what_its_teacher_costs() -> None:
    cost = TeacherCost("zh", ("zh",), 4, 900, 9.0, 0.6, 0.1)
    table = CostTable((cost,), 100, ("zh",), "so")
    results = [{"system": "zh", "role": "teacher", "language": x} for x in ("zh", "macro")]
    results.append({"system": "student", "role": "student", "language": "macro"})
    joined = table.merge_into(results)
    assert joined[0] == results[0] and joined[2] == results[2]
    assert joined[1]["x_smaller"] == 9.0 and round(joined[1]["x_faster"], 9) == 6.0


def test_a_time_is_the_least_after_a_first_pass_and_a_large_model_costs_one(monkeypatch) -> None:
    now = [0.0]
    spans = iter([0.016, 0.064, 0.064, 0.032, 0.064, 0.96])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def once() -> None:
        now[0] += next(spans)

    asked = describe_conditions([f"t{i}" for i in range(32)], 1, "cpu", "float32")
    assert abs(measure_time(once, asked).ms - 1.0) < 1e-6
    slow = iter([3.2, 2.0])
    calls = []
    taken = measure_time(lambda: calls.append(now.__setitem__(0, now[0] + next(slow))), asked)
    assert abs(taken.ms - 100.0) < 1e-6 and len(calls) == 1


def test_an_earlier_time_stands_for_texts_about_as_long_on_the_same_machine_and_threads() -> None:
    kept = describe_conditions(["a" * 40, "b" * 60], 1, "cpu", "float32")
    assert kept.is_like(describe_conditions(["a" * 40, "b" * 60], 1, "cpu", "bfloat16")), "the same texts"
    assert kept.is_like(describe_conditions(["c" * 61, "d" * 61], 1, "cpu", "float32"))
    assert not kept.is_like(describe_conditions(["c" * 63, "d" * 63], 1, "cpu", "float32")), "50 against 63"
    assert not kept.is_like(describe_conditions(["a" * 40, "b" * 60], 2, "cpu", "float32"))
    assert not kept.is_like(describe_conditions(["a" * 40, "b" * 60], 1, "cuda", "float32"))
    assert not kept.is_like(describe_conditions(["a" * 50], 1, "cpu", "float32")), "one row a pass"
    assert not kept.is_like(timing.replace(kept, host="another"))
    older = timing.read_timing(timing.replace(kept, ms=1.0, characters=None).dump())
    assert older is not None and older.is_like(kept)
    assert not older.is_like(describe_conditions(["c" * 50, "d" * 50], 1, "cpu", "float32"))


def test_a_sample_is_spread_over_the_rows_of_its_languages() -> None:
    held = rows(zh=100, en=64)
    batch = sample_texts(held, ("en",))
    assert set(batch.languages) == {"en"} and len(batch) == 32 and len(set(batch.ids)) == 32
    assert len(sample_texts(held)) == 32 and set(sample_texts(held).languages) == {"zh", "en"}
    assert len(sample_texts(rows(fr=3), ("fr",))) == 3 and len(sample_texts(rows(fr=3), ("xx",))) == 3


def test_the_demo_has_a_language_that_the_multilingual_teacher_alone_teaches_and_no_idle_teacher() -> None:
    run = load_run(preset("demo"))
    handle = SimpleNamespace(
        teachers=tuple(t.name for t in run.teachers),
        teacher_languages=tuple(t.language_set for t in run.teachers),
    )
    pool: Any = SimpleNamespace(handle=handle)
    taught = list_taught_languages(run, pool, rows(zh=1, en=1, fr=1))
    assert taught == {"zh": ("zh",), "en": ("en",), "multi": ("fr",)}


def test_what_a_point_costs_in_money() -> None:
    told = config().model_copy(
        update={
            "teachers": tuple(
                teacher.model_copy(update={"price": price})
                for teacher, price in zip(
                    config().teachers, (Price(per_hour=7.2), Price(per_1000_answers=0.5), None), strict=True
                )
            )
        }
    )
    costs = CostTable(
        (
            TeacherCost("zh", ("zh",), 4000, 900, 9.0, ms=5.0, student_ms=1.0),
            TeacherCost("en", ("en",), 3000, 900, 9.0),
            TeacherCost("multi", ("fr",), 2000, 900, 9.0, ms=5.0),
        ),
        100, ("zh", "en", "fr"), "so",
    )  # fmt: skip
    sizes = list_system_sizes(costs, told)
    # 4,000 texts of 5 ms are 20 s of 7.2 an hour; 3,000 answers at 0.5 per 1,000, whose time nobody needs to know.
    assert [s.price for s in sizes] == [pytest.approx(0.04), pytest.approx(1.5), None, None]
    # 30 tokens a text, 4,000 texts, 2 for a million tokens; unknown where all answers came from an earlier run.
    served = told.teachers[0].model_copy(update={"price": Price(per_million_tokens=2.0)})
    for tokens, price in ((30.0, pytest.approx(0.24)), (None, None)):
        asked = replace(costs, teachers=(replace(costs.teachers[0], tokens=tokens), *costs.teachers[1:]))
        assert list_system_sizes(asked, told.model_copy(update={"teachers": (served,)}))[0].price == price
    gains = [
        Contribution(name, "mean", "", value, value - 0.01, value + 0.01, None, 0.0, 9)
        for name, value in (("zh", 0.02), ("en", 0.005), ("multi", 0.1))
    ]
    report = EnsembleReport(
        "r", "classification", "accuracy", 9, True, ("zh",), ("zh", "en", "multi"), "uniform",
        contributions=tuple(gains), sizes=sizes,
    )  # fmt: skip
    section = lay_out_prices(report)
    assert section.heads[-2:] == ["price", "price a point"]
    # 2 points of zh for 0.04; the interval of en holds 0; multi has no price.
    assert [line[-2:] for line in section.lines] == [["0.04", "0.02"], ["1.5", "–"], ["–", "–"]]
    unpriced = lay_out_prices(replace(report, sizes=tuple(replace(s, price=None) for s in sizes)))
    assert "price" not in unpriced.heads
    with pytest.raises(ValueError, match="one of per_hour, per_1000_answers and per_million_tokens"):
        Price(per_hour=1.0, per_1000_answers=1.0)


def test_a_price_changes_no_result() -> None:
    plain, priced = config(), config().model_dump(mode="json")
    priced["teachers"][0]["price"] = {"per_hour": 2.5}
    other = validate_run(priced, "RUN.yaml")
    assert other.fingerprint() == plain.fingerprint()
    changes = compare_trees(plain.model_dump(mode="json"), other.model_dump(mode="json"))
    assert not changes.refused and changes.free
