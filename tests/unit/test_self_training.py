"""Self-training: a teacher that learns from the student's own labelled rows, in a run and in an experiment."""

from __future__ import annotations

from typing import Any

import pytest

from raykd.config import RunConfig, TrainedTeacher
from raykd.driver.jobs import make_teacher_run
from raykd.errors import ConfigError
from raykd.experiments.arms import ExperimentPlan
from raykd.experiments.config import load_experiment
from raykd.experiments.resume import compare_arms, dump_arms
from raykd.experiments.self_training import bind_teachers
from raykd.tuning.config import load_sweep
from tests.unit.test_experiment_config import base


def experiment(**keys: Any) -> ExperimentPlan:
    generate = [{"labelled": [10, 20]}, {"self_training": [10, 20]}]
    return load_experiment(
        {"name": "x", "base": base(), "generate": generate, "resample_labelled": True, "seeds": 2, **keys}
    )


def with_self_training(**changes: Any) -> RunConfig:
    """A run whose only teacher is of the student's kind and learns from its 40 rows a language."""
    tree = base(**changes)
    training = {"model": tree["student"], "labelled": "student"}
    tree["teachers"] = [{"name": "self", "languages": "all", "training": training}]
    return RunConfig.model_validate({**tree, "teacher_defaults": {}})


@pytest.mark.parametrize(("labelled", "rows"), [("student", (40, 7)), ("all", (None, 0))])
def test_a_teacher_learns_from_the_students_rows_only_where_it_is_said(labelled: str, rows: Any) -> None:
    run = with_self_training()
    run = run.model_copy(update={"data": run.data.model_copy(update={"labelled_seed": 7})})
    (teacher,) = run.trained_teachers
    chosen = teacher.training.model_copy(update={"labelled": labelled})
    data = make_teacher_run(run, teacher.model_copy(update={"training": chosen})).data
    assert (data.labelled_per_language, data.labelled_seed) == rows
    assert data.unlabeled is None and data.undrawn == "drop"


def test_each_number_of_rows_and_each_seed_has_its_own_teacher_which_knows_no_other_labels() -> None:
    found = experiment().share_teachers()
    arms = {arm.name: arm for arm in found.arms}
    assert list(arms) == [
        "labelled_10", "labelled_10_no_teachers", "labelled_20", "labelled_20_no_teachers",
        "labelled_10_self_training", "labelled_20_self_training",
    ]  # fmt: skip
    asked = {}
    for seed in (1, 2):
        for count in (10, 20):
            run = found.build_run({"arm": f"labelled_{count}_self_training", "seed": seed})
            assert isinstance(run, RunConfig)
            (teacher,) = run.active_teachers
            assert isinstance(teacher, TrainedTeacher)
            taught = make_teacher_run(run, teacher)
            assert (taught.data.labelled_per_language, taught.data.labelled_seed) == (count, seed)
            assert (taught.data.labelled_per_language, taught.data.labelled_seed) == (
                run.data.labelled_per_language, run.data.labelled_seed,
            )  # fmt: skip
            assert taught.student == run.student and taught.train == run.train and taught.seed == seed
            asked[seed, count] = teacher.name
    assert len(set(asked.values())) == 4
    distilled = found.build_run({"arm": "labelled_10", "seed": 1})
    assert [teacher.name for teacher in distilled.active_teachers] == ["en", "zh", "multi"]
    assert [teacher.name for teacher in found.base.teachers] == ["en", "zh", "multi", *asked_order(asked)]


def asked_order(asked: dict[tuple[int, int], str]) -> list[str]:
    return [asked[seed, count] for count in (10, 20) for seed in (1, 2)]


def test_without_other_draws_all_seeds_share_the_teacher_of_their_rows() -> None:
    found = experiment(resample_labelled=False).share_teachers()
    own = [t.name for t in found.base.teachers if t.name.startswith("self_training")]
    assert own == ["self_training-10-seed0", "self_training-20-seed0"]


def test_arms_that_choose_among_trials_have_a_teacher_for_the_tuning_seed() -> None:
    trials = [{"train": {"learning_rate": rate}} for rate in (0.001, 0.01)]
    found = experiment(trials=trials).share_teachers()
    sample = {"arm": "labelled_10_self_training", "seed": 0, "trial": 1}
    run = found.build_run(sample)
    assert [teacher.name for teacher in run.active_teachers] == ["self_training-10-seed0"]
    assert run.train.learning_rate == 0.01


def test_a_resume_may_add_seeds(tmp_path: Any) -> None:
    (tmp_path / "arms.yaml").write_text(dump_arms(experiment().share_teachers()), encoding="utf-8")
    changes, _ = compare_arms(experiment(seeds=4).share_teachers(), tmp_path, {})
    assert not changes.refused


def test_arms_without_teachers_are_made_once_though_two_generators_name_them() -> None:
    found = experiment(generate=[{"self_training": [10]}, {"labelled": [10]}])
    assert [arm.name for arm in found.arms] == [
        "labelled_10_self_training", "labelled_10_no_teachers", "labelled_10",
    ]  # fmt: skip
    assert {found.find_reference(arm) for arm in found.arms} == {None, "labelled_10_no_teachers"}


def test_what_self_training_cannot_be_is_refused() -> None:
    by_epochs = base(train={**base()["train"], "steps": None, "epochs": 3.0})
    with pytest.raises(ConfigError, match="self_training needs the number of steps"):
        experiment(base=by_epochs)
    space = {"data": {"labelled_per_language": {"choice": [10, 20]}}}
    tree = with_self_training().model_dump(mode="json")
    with pytest.raises(ConfigError, match="from which teacher self learns once for all trials"):
        load_sweep({"name": "s", "base": tree, "space": space, "num_samples": 2, "label": "on_demand"})


def test_other_teachers_stay_as_they_are() -> None:
    run = RunConfig.model_validate(base())
    assert bind_teachers(run) == run.active_teachers
