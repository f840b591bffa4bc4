"""Runs that change on their way, evaluation by evaluation: a population's history, trained again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raykd.config import Phase, RunConfig
from raykd.data.rows import Rows
from raykd.errors import ConfigError
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from tests.worlds import build_loop, rows, run_config

WARM = {"kind": "linear", "start": 0.5, "end": 1.0}
LATER: dict[str, Any] = {
    "objective": {"alpha": {"kind": "linear", "start": 0.7, "end": 0.1}, "temperature": 4.0},
    "train": {"learning_rate": 0.02, "weight_decay": 0.5},
}


def furthest(a: TrainingLoop, b: TrainingLoop) -> float:
    """Largest difference of two loops' weights."""
    mine, theirs = a.engine.weights() or {}, b.engine.weights() or {}
    assert mine.keys() == theirs.keys() and mine
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


def to_step(loop: TrainingLoop, step: int) -> TrainingLoop:
    """Trains up to an evaluation."""
    while loop.state.step < step:
        assert loop.advance()
    assert loop.state.step == step
    return loop


def with_phases(*phases: tuple[float, dict[str, Any]], **train: Any) -> RunConfig:
    """The run of 12 steps with 4 evaluations, and phases from a progress on."""
    base = run_config(evaluations=4, lr_schedule=WARM, **train)
    written = [{"at": at, "set": change} for at, change in phases]
    return RunConfig.model_validate({**base.model_dump(), "phases": written})


def curves(points: list[Any]) -> list[tuple[int, dict[str, float]]]:
    """Points without what depends on the clock."""
    clock = ("wait_s", "latency_s", "padding_efficiency")
    return [(p.step, {k: v for k, v in p.values.items() if not k.endswith(clock)}) for p in points]


# advance -------------------------------------------------------------------------------------------------------------


def test_from_evaluation_to_evaluation_is_the_whole_run() -> None:
    points: dict[str, list[Any]] = {"whole": [], "steps": []}
    whole = build_loop(run_config(evaluations=4), publish=points["whole"].append)
    whole.run()
    steps = build_loop(run_config(evaluations=4), publish=points["steps"].append)
    seen = []
    while steps.advance():
        seen.append((steps.state.step, steps.evaluation, len(steps.state.history)))
    assert seen == [(3, 1, 1), (6, 2, 2), (9, 3, 3), (12, 4, 4)]
    assert furthest(whole, steps) == 0.0 and whole.state == steps.state
    assert curves(points["whole"]) == curves(points["steps"]) and len(points["steps"]) == 16
    assert not steps.advance() and steps.state.step == 12, "a run that is over stays over"


def test_patience_ends_it_like_the_run() -> None:
    config = run_config(evaluations=12, patience=1, learning_rate=1e-12)
    whole, steps = build_loop(config), build_loop(config)
    whole.run()
    while steps.advance():
        pass
    assert whole.state == steps.state and steps.state.stopped and steps.state.step < 12
    assert not steps.advance()


# phases --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        LATER,
        {"objective": LATER["objective"]},
        {"train": {"learning_rate": 0.02}},
        {"train": {"weight_decay": 0.9}},
    ],
    ids=["all", "objective", "learning rate", "weight decay"],
)
def test_a_phase_is_a_checkpoint_that_goes_on_under_another_configuration(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """Population based training copies a trial's state and goes on with other numbers; phases train that again."""
    replayed = build_loop(with_phases((0.5, change)))
    replayed.run()
    plain = with_phases()
    to_step(build_loop(plain), 6).save(tmp_path)
    changed = with_phases((0.5, change)).at_progress(0.5)
    assert changed.phases == () and changed != plain
    copied = build_loop(changed)
    copied.load(tmp_path)
    copied.run()
    assert furthest(replayed, copied) == 0.0 and replayed.state.history == copied.state.history
    unchanged = build_loop(plain)
    unchanged.run()
    assert furthest(replayed, unchanged) > 1e-4, "else a phase that does nothing would pass"


def test_two_changes_one_after_the_other(tmp_path: Path) -> None:
    again = {"train": {"learning_rate": 0.001}, "objective": {"alpha": 0.9}}
    config = with_phases((0.25, LATER), (0.75, again))
    replayed = build_loop(config)
    replayed.run()
    to_step(build_loop(with_phases()), 3).save(tmp_path / "first")
    middle = build_loop(config.at_progress(0.25))
    middle.load(tmp_path / "first")
    to_step(middle, 9).save(tmp_path / "second")
    assert (
        config.at_progress(0.75).objective.temperature.value_at(0.0),
        config.at_progress(0.75).train.weight_decay,
    ) == (
        4.0,
        0.5,
    )
    last = build_loop(config.at_progress(0.75))
    last.load(tmp_path / "second")
    last.run()
    assert furthest(replayed, last) == 0.0 and replayed.state.history == last.state.history


@pytest.mark.parametrize("stop", [3, 6, 9])
def test_a_run_with_phases_resumes_before_at_and_after_a_change(tmp_path: Path, stop: int) -> None:
    config = with_phases((0.5, LATER))
    unbroken = build_loop(config)
    unbroken.run()
    to_step(build_loop(config), stop).save(tmp_path)
    resumed = build_loop(config)
    resumed.load(tmp_path)
    resumed.run()
    assert furthest(unbroken, resumed) == 0.0 and unbroken.state == resumed.state


def test_knobs_and_rates_on_the_curves_change_at_the_phase() -> None:
    points: list[Any] = []
    build_loop(with_phases((0.5, LATER)), publish=points.append).run()
    seen = {p.step: p.values for p in points if "train/alpha" in p.values}
    for done in range(1, 13):
        u = (done - 1) / 12
        late = u >= 0.5
        factor = 0.5 + 0.5 * u
        assert seen[done]["train/alpha"] == pytest.approx(0.7 - 0.6 * u if late else 0.2 + 0.4 * u)
        assert seen[done]["train/temperature"] == pytest.approx(4.0 if late else 2.0)
        assert seen[done]["train/learning_rate"] == pytest.approx((0.02 if late else 0.002) * factor)


# set_rates -----------------------------------------------------------------------------------------------------------


def groups(loop: TrainingLoop) -> list[tuple[float, float]]:
    return [(g["lr"], g["weight_decay"]) for g in loop.engine.optimizer.param_groups]


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_rates_reach_every_group_and_the_schedule_stays_where_it_is(stage: int) -> None:
    loop = to_step(build_loop(with_phases(zero_stage=stage)), 6)
    assert groups(loop) == [(pytest.approx(0.002 * 0.75), 0.1), (pytest.approx(0.002 * 0.75), 0.0)]
    changed = loop.config.train.model_copy(update={"learning_rate": 0.01, "weight_decay": 0.3})
    loop.engine.set_rates(changed)
    assert groups(loop) == [(pytest.approx(0.01 * 0.75), 0.3), (pytest.approx(0.01 * 0.75), 0.0)]
    assert loop.engine.learning_rate() == pytest.approx(0.01 * 0.75)
    to_step(loop, 9)
    assert groups(loop) == [(pytest.approx(0.01 * 0.875), 0.3), (pytest.approx(0.01 * 0.875), 0.0)]


@pytest.mark.parametrize("stage", [0, 1])
def test_a_checkpoint_goes_on_with_the_rates_of_the_run_that_loads_it(tmp_path: Path, stage: int) -> None:
    to_step(build_loop(with_phases(zero_stage=stage)), 6).save(tmp_path)
    other = build_loop(with_phases(zero_stage=stage, learning_rate=0.01, weight_decay=0.3))
    other.load(tmp_path)
    assert groups(other) == [(pytest.approx(0.01 * 0.75), 0.3), (pytest.approx(0.01 * 0.75), 0.0)]


def test_the_same_rates_change_nothing() -> None:
    touched, alone = build_loop(with_phases()), build_loop(with_phases())
    while touched.advance():
        touched.engine.set_rates(touched.config.train)
    alone.run()
    assert furthest(touched, alone) == 0.0


def test_a_step_takes_the_new_rate_and_decay_as_torch_does() -> None:
    """One AdamW step from the same state: the decay's part of it is lr * weight_decay * weight."""
    loops = [to_step(build_loop(with_phases()), 6) for _ in range(2)]
    for loop, decay in zip(loops, (0.0, 0.5), strict=True):
        loop.engine.set_rates(
            loop.config.train.model_copy(update={"learning_rate": 0.01, "weight_decay": decay})
        )
    name = next(k for k, v in (loops[0].engine.weights() or {}).items() if v.ndim == 2)
    before = (loops[0].engine.weights() or {})[name]
    for loop in loops:
        works = loop._works
        assert works is not None
        loop.step(next(iter(works)))
    plain, decayed = ((loop.engine.weights() or {})[name] for loop in loops)
    assert torch.allclose(plain - decayed, 0.01 * 0.75 * 0.5 * before, atol=1e-7)
    assert float((plain - decayed).abs().max()) > 1e-4


# the configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"seed": 1},
        {"train": {"batch_size": 8}},
        {"train": {"learning_rate": 0.1, "steps": 4}},
        {"train": 3},
        {"objective": {"alpha": 0.1}, "student": {}},
    ],
)
def test_a_phase_may_set_the_objective_and_the_rates_only(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="a phase may set objective"):
        Phase(at=0.5, set=change)


@pytest.mark.parametrize("at", [0.0, 1.0, -0.5, 2.0])
def test_a_phase_begins_within_the_run(at: float) -> None:
    with pytest.raises(ValidationError, match="at"):
        Phase(at=at, set=LATER)


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ([(0.5, LATER), (0.25, LATER)], "one after the other"),
        ([(0.5, LATER), (0.5, LATER)], "one after the other"),
        ([(0.5, {"objective": {"weighting": {"kind": "uniform"}}})], "which teachers are asked"),
        ([(0.5, {"objective": {"alpha": 3}})], "alpha"),
        ([(0.5, {"objective": {"heat": 3}})], "heat"),
        ([(0.5, {"train": {"learning_rate": 0}})], "learning_rate"),
    ],
)
def test_phases_that_cannot_be_are_refused_when_the_run_is_read(
    phases: list[tuple[float, dict[str, Any]]], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        with_phases(*phases)


def test_a_fixed_weighting_stays_and_a_parameter_of_another_may_change() -> None:
    base = run_config({"weighting": {"kind": "fixed", "by_teacher": {"en": 1.0, "zh": 1.0, "multi": 1.0}}})
    same = {"at": 0.5, "set": {"objective": {"alpha": 0.5}}}
    assert RunConfig.model_validate({**base.model_dump(), "phases": [same]}).phases[0].at == 0.5
    other = {"at": 0.5, "set": {"objective": {"weighting": {"by_teacher": {"en": 3.0}}}}}
    with pytest.raises(ValidationError, match="which teachers are asked"):
        RunConfig.model_validate({**base.model_dump(), "phases": [other]})


def test_the_run_at_a_progress() -> None:
    config = with_phases((0.25, LATER), (0.5, {"train": {"weight_decay": 0.7}}))
    assert config.at_progress(0.0) is config and config.at_progress(0.24) is config
    for progress, rate, decay in ((0.25, 0.02, 0.5), (0.49, 0.02, 0.5), (0.5, 0.02, 0.7), (1.0, 0.02, 0.7)):
        at = config.at_progress(progress)
        assert (at.train.learning_rate, at.train.weight_decay, at.phases) == (rate, decay, ())
        assert at.objective.temperature.value_at(0.0) == 4.0
        rest = {"objective", "train", "phases"}
        assert at.model_dump(exclude=rest) == config.model_dump(exclude=rest)


def test_a_run_is_plain_only_if_it_always_is() -> None:
    plain = run_config({"alpha": 1.0})
    assert plain.plain
    later = {"at": 0.5, "set": {"objective": {"alpha": 0.5}}}
    assert not RunConfig.model_validate({**plain.model_dump(), "phases": [later]}).plain
    never = {"at": 0.5, "set": {"train": {"learning_rate": 0.1}}}
    assert RunConfig.model_validate({**plain.model_dump(), "phases": [never]}).plain


def test_phases_change_the_fingerprint() -> None:
    assert with_phases().fingerprint() != with_phases((0.5, LATER)).fingerprint()
    assert with_phases((0.5, LATER)).fingerprint() != with_phases((0.25, LATER)).fingerprint()


# select_teachers -----------------------------------------------------------------------------------------------------


def choosing(chosen: Any, **objective: Any) -> RunConfig:
    tree = {**run_config().model_dump(), "select_teachers": chosen, "objective": objective}
    return RunConfig.model_validate(tree)


def test_chosen_teachers_take_part_in_their_own_order() -> None:
    assert [t.name for t in run_config().active_teachers] == ["en", "zh", "multi"]
    assert [t.name for t in choosing(["multi", "en"]).active_teachers] == ["en", "multi"]
    assert choosing(["multi"]).fingerprint() != run_config().fingerprint()


@pytest.mark.parametrize("chosen", [["nobody"], ["en", "nobody"]])
def test_teachers_that_are_not_there_cannot_be_chosen(chosen: list[str]) -> None:
    with pytest.raises(ValidationError, match=r"select_teachers[\s\S]*\['en', 'zh', 'multi'\]"):
        choosing(chosen)


def test_choosing_no_teacher_says_how_a_run_without_teachers_is_written() -> None:
    with pytest.raises(
        ValidationError, match=r"select_teachers \[\][\s\S]*teachers: \[\] and objective: \{alpha: 1\}"
    ):
        choosing([])


def test_fixed_weights_are_those_of_the_chosen() -> None:
    weights = {"kind": "fixed", "by_teacher": {"en": 1.0, "multi": 2.0}}
    assert len(choosing(["en", "multi"], weighting=weights).active_teachers) == 2
    with pytest.raises(ConfigError, match="wanted: en, multi, zh"):
        choosing(None, weighting=weights)


# prepare -------------------------------------------------------------------------------------------------------------


def world(plain: bool) -> tuple[RunConfig, Rows, Callable[[], Any]]:
    config = run_config({"alpha": 1.0 if plain else 0.5})
    train = rows(160, 1)
    tokenizer = config.student.fit_tokenizer(train.texts)
    return config, train, lambda: prepare_rows(config, train, rows(60, 2, unlabelled=0.0), tokenizer)


def test_plain_training_sees_labelled_rows_only() -> None:
    _, train, make = world(plain=True)
    prepared = make()
    labelled = np.flatnonzero(train.labels_B >= 0)
    assert 0 < len(labelled) < len(train)
    assert prepared.train.ids == tuple(train.ids[i] for i in labelled)
    assert len(prepared.train_tokens.lengths_B) == len(labelled) and len(prepared.validation) == 60


def test_distillation_sees_all_rows_with_the_same_tokens() -> None:
    config, train, make = world(plain=False)
    every, labelled = make(), world(plain=True)[2]()
    assert every.train.ids == train.ids and len(every.train_tokens.lengths_B) == len(train)
    places = np.flatnonzero(train.labels_B >= 0)
    assert np.array_equal(every.train_tokens.lengths_B[places], labelled.train_tokens.lengths_B)
    picked = config.task.collate(every.train_tokens, places[:4].tolist())
    alone = config.task.collate(labelled.train_tokens, [0, 1, 2, 3])
    assert all(torch.equal(picked.inputs[k], alone.inputs[k]) for k in alone.inputs)


def test_a_phase_may_not_change_how_teachers_beside_an_anchor_are_asked() -> None:
    """What a gate learns, it learns before the first step; in a phase it would be uniform, and nobody would see it."""
    anchored = {"kind": "anchored", "teacher": "en", "among": {"kind": "uniform"}}
    tree = run_config({"weighting": anchored}).model_dump(mode="json")
    for among in ({"kind": "gate"}, {"kind": "fixed", "by_teacher": {"zh": 1.0}}):
        change = {"objective": {"weighting": {**anchored, "among": among}}}
        with pytest.raises(ValidationError, match="phases may not change which teachers"):
            RunConfig.model_validate({**tree, "phases": [{"at": 0.5, "set": change}]})
