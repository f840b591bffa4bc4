"""Experiments as they are read: generated arms spelled out, what is equal between arms, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from raykd.config import RunConfig
from raykd.config.loading import dump_run, read_yaml_mapping
from raykd.data.load import Dataset
from raykd.driver.command import Start
from raykd.errors import ConfigError, SweepError
from raykd.experiments import presets
from raykd.experiments.arms import ExperimentPlan
from raykd.experiments.config import is_experiment, load_experiment
from raykd.experiments.generation import Generator
from raykd.experiments.presets import PRESETS, load_preset
from raykd.experiments.resume import compare_arms, dump_arms
from raykd.experiments.run import choose_trials, is_choosing
from raykd.experiments.smoke import shorten_experiment
from raykd.tuning.config import load_sweep
from raykd.tuning.journal import Journal
from tests.unit.test_several_tasks import tree as two_tasks
from tests.worlds import rows, run_config

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "experiments").glob("*.yaml"))


def base(**changes: Any) -> dict[str, Any]:
    """A run of two languages with three teachers: en, zh, and multi for both."""
    tree = run_config(objective={"alpha": 0.1}).model_dump(mode="json")
    data = {**tree["data"], "languages": ["en", "zh"], "labelled_per_language": 40}
    return {**tree, "data": data, "name": "reviews", **changes}


def experiment(**keys: Any) -> ExperimentPlan:
    return load_experiment({"name": "x", "base": base(), **keys})


def differences(arm: Any, plain: RunConfig) -> dict[str, Any]:
    """Keys of an arm's run that are not the base's."""

    def walk(one: Any, other: Any, above: str) -> dict[str, Any]:
        if isinstance(one, dict) and isinstance(other, dict) and one.get("kind") == other.get("kind"):
            found: dict[str, Any] = {}
            for key in {**one, **other}:
                found |= walk(one.get(key), other.get(key), f"{above}.{key}".lstrip("."))
            return found
        return {} if one == other else {above: one}

    return walk(arm.run.model_dump(mode="json"), plain.model_dump(mode="json"), "")


def test_generated_arms_of_three_teachers_and_two_languages_spelled_out() -> None:
    found = experiment(generate=["each_teacher", "leave_one_out", "no_teachers"], seeds=2)
    uniform = {"kind": "uniform"}
    plain = {"alpha": {"kind": "constant", "value": 1.0}}
    arms = {arm.name: differences(arm, found.base) for arm in found.arms}
    assert arms == {
        "base": {},
        "only_en": {"select_teachers": ["en"], "objective.weighting": uniform},
        "only_zh": {"select_teachers": ["zh"], "objective.weighting": uniform},
        "only_multi": {"select_teachers": ["multi"], "objective.weighting": uniform},
        "without_en": {"select_teachers": ["zh", "multi"]},
        "without_zh": {"select_teachers": ["en", "multi"]},
        "without_multi": {"select_teachers": ["en", "zh"]},
        "no_teachers": {"teachers": [], "objective.alpha.value": plain["alpha"]["value"]},
    }
    assert found.baseline == "base" and found.seeds == (1, 2) and found.trainings == 16
    assert [found.find_reference(arm) for arm in found.arms] == [None, *["base"] * 7]


def test_weightings_divergences_sizes_students_and_labels() -> None:
    found = experiment(
        generate=[
            {"weightings": ["uniform", {"kind": "entropy", "tau": 0.5}]},
            {"divergences": ["reverse_kl"]},
            {"sizes": [0.5, 2]},
            {"students": {"linear": {"kind": "linear"}}},
            {"labelled": [10, 20]},
        ]
    )
    arms = {arm.name: arm for arm in found.arms}
    assert list(arms) == [
        "base", "weighting_uniform", "weighting_entropy_tau_0.5", "divergence_reverse_kl", "size_0.5", "size_2",
        "student_linear", "labelled_10", "labelled_10_no_teachers", "labelled_20", "labelled_20_no_teachers",
    ]  # fmt: skip
    assert arms["weighting_entropy_tau_0.5"].run.objective.weighting.tau == 0.5  # type: ignore[union-attr]
    assert [term.divergence.kind for term in arms["divergence_reverse_kl"].run.objective.terms] == [
        "reverse_kl"
    ]
    assert arms["size_0.5"].run.student.hidden == 8 and arms["size_2"].run.student.hidden == 32  # type: ignore[union-attr]
    assert arms["student_linear"].run.student.kind == "linear"
    few, plain = arms["labelled_10"], arms["labelled_10_no_teachers"]
    assert few.run.data.labelled_per_language == plain.run.data.labelled_per_language == 10  # type: ignore[union-attr]
    assert not few.run.plain and plain.run.plain and plain.run.teachers == ()
    assert found.find_reference(few) == plain.name and found.find_reference(plain) is None
    assert (few.labelled, plain.labelled) == (10, 10)


def test_with_two_teachers_leaving_one_out_is_the_other_alone_and_is_trained_once() -> None:
    two = base(teachers=base()["teachers"][:2], objective={"alpha": 0.1, "weighting": {"kind": "uniform"}})
    found = load_experiment({"name": "x", "base": two, "generate": ["each_teacher", "leave_one_out"]})
    assert [arm.name for arm in found.arms] == ["base", "only_en", "only_zh"]


def test_all_arms_train_as_many_steps_as_the_base_whatever_rows_they_have() -> None:
    by_epochs = base(train={**base()["train"], "steps": None, "epochs": 3.0})
    found = load_experiment({"name": "x", "base": by_epochs, "generate": [{"labelled": [10, 20]}]})
    assert {(arm.run.train.steps, arm.run.train.epochs) for arm in found.arms} == {(None, 3.0)}
    fixed = found.fix_steps(77)
    assert {(arm.run.train.steps, arm.run.train.epochs) for arm in fixed.arms} == {(77, None)}
    for one, other in zip(found.arms, fixed.arms, strict=True):
        assert other.run.model_copy(update={"train": one.run.train}) == one.run, "nothing else changes"
    with pytest.raises(ConfigError, match=r"the arm long trains longer or shorter[\s\S]*equal: as_written"):
        experiment(arms={"long": {"train": {"steps": 24}}})
    free = experiment(arms={"long": {"train": {"steps": 24}}}, equal="as_written").fix_steps(77)
    assert [arm.run.train.steps for arm in free.arms] == [12, 24]


def test_written_arms_their_baseline_and_the_order_of_trainings() -> None:
    arms = {"soft": {"objective": {"temperature": 4.0}}, "hard": {"objective": {"temperature": 1.0}}}
    found = experiment(arms=arms, baseline="soft", seeds=[7, 3])
    assert [arm.name for arm in found.arms] == ["soft", "hard"]
    assert found.find_reference(found.arms[1]) == "soft" and found.find_reference(found.arms[0]) is None
    sampler = found.build_sampler()
    order = [sampler.ask(index) for index in range(5)]
    assert order == [
        {"arm": "soft", "seed": 7},
        {"arm": "hard", "seed": 7},
        {"arm": "soft", "seed": 3},
        {"arm": "hard", "seed": 3},
        None,
    ]
    assert found.build_run({"arm": "hard", "seed": 3}) == found.arms[1].run.model_copy(update={"seed": 3})
    with_base = experiment(arms=arms)
    assert [arm.name for arm in with_base.arms] == ["base", "soft", "hard"] and with_base.baseline == "base"
    same = experiment(arms={**arms, "as_it_is": {}})
    assert same.baseline == "as_it_is" and len(same.arms) == 3, "the base stands there already"


def test_a_resume_trains_what_is_left_and_may_add_seeds_and_arms() -> None:
    arms = {"soft": {"objective": {"temperature": 4.0}}, "hard": {"objective": {"temperature": 1.0}}}
    more = experiment(
        arms={**arms, "warm": {"objective": {"temperature": 3.0}}}, baseline="soft", seeds=[1, 2]
    )
    sampler = more.build_sampler()
    sampler.restore(0, {"arm": "soft", "seed": 1}, 0.5, True)
    sampler.restore(1, {"arm": "hard", "seed": 1}, None, False)
    left = [sampler.ask(index) for index in range(2, 7)]
    assert left == [
        {"arm": "warm", "seed": 1},
        {"arm": "soft", "seed": 2},
        {"arm": "hard", "seed": 2},
        {"arm": "warm", "seed": 2},
        None,
    ]
    assert sampler.name_trial(0, {"arm": "warm", "seed": 2}) == "warm-seed2"


def test_settings_of_an_arm_may_not_change_on_a_resume(tmp_path: Path) -> None:
    arms = {"soft": {"objective": {"temperature": 4.0}}}
    before = experiment(arms=arms).share_teachers()
    (tmp_path / "arms.yaml").write_text(dump_arms(before), encoding="utf-8")
    more = experiment(arms={**arms, "hard": {"objective": {"temperature": 1.0}}}, seeds=9).share_teachers()
    assert compare_arms(more, tmp_path, {})[0].refused == ()
    other = experiment(arms={"soft": {"objective": {"temperature": 3.0}}}).share_teachers()
    (change,) = compare_arms(other, tmp_path, {})[0].refused
    assert (change.key, change.before, change.now) == ("soft.objective.temperature", "4.0", "3.0")
    gone = experiment().share_teachers()
    assert [change.key for change in compare_arms(gone, tmp_path, {})[0].refused] == ["soft"]


def test_teachers_are_the_union_and_each_arm_selects_its_own() -> None:
    extra = {"name": "fr", "languages": ["en"], "path": "fr"}
    found = experiment(
        arms={"another": {"teachers": [base()["teachers"][0], extra]}},
        generate=["no_teachers", "each_teacher"],
    ).share_teachers()
    assert [t.name for t in found.base.teachers] == ["en", "zh", "multi", "fr"]
    chosen = {arm.name: arm.run.select_teachers for arm in found.arms}
    assert chosen == {
        "base": ("en", "zh", "multi"), "another": ("en", "fr"), "no_teachers": None,
        "only_en": ("en",), "only_zh": ("zh",), "only_multi": ("multi",),
    }  # fmt: skip
    assert found.find_arm("no_teachers").run.teachers == ()
    with pytest.raises(ConfigError, match="different teachers under the name en"):
        experiment(arms={"another": {"teachers": [{**extra, "name": "en"}]}}).share_teachers()


def test_arms_ask_only_their_own_teachers_and_each_pair_is_needed_once() -> None:
    found = experiment(generate=["each_teacher", "no_teachers"], seeds=3).share_teachers()
    texts = rows(30, 1, uncovered=False)
    needed = found.list_needed_answers({"": Dataset(texts, texts, None)})[""]
    names, languages = ("en", "zh", "multi"), (frozenset({"en"}), frozenset({"zh"}), frozenset({"en", "zh"}))
    asked = {part.teachers: part.route(names, languages) for part in needed}
    assert set(asked) == {names, ("en",), ("zh",), ("multi",)}, (
        "seeds ask nothing new, no teacher asks nothing"
    )
    is_en = [language == "en" for language in texts.languages]
    assert asked["en",].tolist() == [is_en, [False] * 30, [False] * 30]
    assert asked["multi",].tolist() == [[False] * 30, [False] * 30, [True] * 30]
    # By language, the monolingual teachers answer all texts of the base.
    assert asked[names].tolist() == [is_en, [not one for one in is_en], [False] * 30]


def test_each_seed_may_draw_other_labelled_rows() -> None:
    found = experiment(resample_labelled=True, seeds=[4])
    assert found.build_run({"arm": "base", "seed": 4}).data.labelled_seed == 4  # type: ignore[union-attr]
    fixed = experiment(seeds=[4])
    assert fixed.build_run({"arm": "base", "seed": 4}).data.labelled_seed == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"arms": {"a": {"seed": 3}}}, "the arm a changes seed"),
        ({"arms": {"a": {"serving": {"dtype": "float32"}}}}, "the arm a changes serving"),
        ({"arms": {"a": {"data": {"labels": ["x", "y"]}}}}, r"the arm a would be measured on other rows"),
        ({"arms": {"a": {"task": {"max_length": 8}}}}, "answered differently by the teachers"),
        ({"arms": {"a": {"objectiv": {}}}}, r"the arm a: 1 key is wrong[\s\S]*objectiv"),
        ({"arms": {"a": {}, "b": {}}}, "two arms are the same run"),
        ({"baseline": "nobody"}, "the baseline is no arm"),
        ({"generate": ["each_techer"]}, "generate"),
        ({"generate": [{"sizes": [2], "labelled": [3]}]}, "one way to generate arms"),
        ({"seeds": [1, 1]}, "none twice"),
        ({"seeds": 0}, "at least one seed"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        experiment(**keys)


def test_the_copy_in_a_folder_is_the_same_experiment(tmp_path: Path) -> None:
    keys = {"generate": ["each_teacher", {"sizes": [0.5]}], "seeds": 2, "set": {"train": {"batch_size": 16}}}
    found = experiment(**keys)
    (tmp_path / "copy.yaml").write_text(found.yaml, encoding="utf-8")
    again = load_experiment(tmp_path / "copy.yaml")
    assert again.fingerprint() == found.fingerprint() and again.seeds == found.seeds


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_goes_with_a_run_file(tmp_path: Path, preset: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(base()), encoding="utf-8")
    found = load_preset(preset, path, ["seeds=2"])
    assert found.name == f"reviews-{preset}" and len(found.arms) > 2 and found.seeds == (1, 2)
    with pytest.raises(ConfigError, match="no preset 'all'"):
        load_preset("all", path)
    path.write_text(found.yaml, encoding="utf-8")
    with pytest.raises(ConfigError, match="is no run file"):
        load_preset(preset, path)


def test_a_file_tells_whether_it_is_an_experiment() -> None:
    assert is_experiment({"base": "demo", "seeds": 3}) and is_experiment({"base": "demo", "arms": {}})
    assert not is_experiment({"base": "demo", "space": {}}) and not is_experiment({"data": {}})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_experiment_file_of_the_tree_is_valid(path: Path) -> None:
    tree = read_yaml_mapping(path)
    if "space" in tree:
        assert load_sweep(path).trials > 1
        return
    assert is_experiment(tree)
    found = load_experiment(path)
    assert len(found.arms) > 1 and len(found.seeds) > 1


def test_the_demo_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # a folder of something else
    assert load_preset("ensemble", "demo").name == "demo-ensemble"


def test_tuned_against_default_searches_first_and_then_compares_the_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(base(output=str(tmp_path / "runs"))), encoding="utf-8")
    searched: list[Any] = []
    monkeypatch.setattr(presets, "run_sweep", lambda plan, start: searched.append((plan, start)))
    monkeypatch.setattr(presets, "read_confirmation", lambda folder, seeds: (folder, seeds))
    found = presets.run_tuning(path, ["num_samples=7", "seeds=3"], Start(resume=True))
    assert found == (tmp_path / "runs" / "reviews-tuning", 3)
    ((plan, start),) = searched
    assert start.resume and plan.trials == 7 and plan.config.search.kind == "optuna"
    keys = {key.partition("_schedule")[0] for key in plan.space.searched}
    assert keys == {"objective.alpha", "objective.temperature", "objective.terms.0.lambda"}
    first = plan.build_sampler().ask(0)
    assert first is not None and plan.space.build_run(first) == plan.base, (
        "the search cannot lose to its base"
    )
    outside = ["set.objective.alpha=0.9", "set.objective.temperature={kind: linear, start: 12, end: 1}"]
    presets.run_tuning(path, outside)
    other = searched[-1][0]
    assert other.space.build_run(other.build_sampler().ask(0)) == other.base
    for sample in plan.space.draw_covering(4):
        assert plan.space.build_run(sample).objective.terms[0].lambda_schedule.bounds()[1] == 1.0  # type: ignore[union-attr]


def journal_of(folder: Path, scores: dict[tuple[str, int], float | None]) -> Journal:
    """The journal after every arm was trained with its trials; None is one that failed."""
    journal = Journal(folder / "trials.jsonl")
    for index, ((arm, trial), score) in enumerate(scores.items()):
        name = f"{arm}-trial{trial}"
        journal.record_begin(name, index, {"arm": arm, "seed": 0, "trial": trial}, name)
        if score is not None:
            result = {"evaluation": 1, "trained_steps": 12, "total_steps": 12, "score": score, "nll": 0.5}
            journal.record_result(name, {**result, "objective": score, "trained_s": 1.0, "cpu_s": 0.5})
        journal.record_end(name, "failed" if score is None else "finished")
    return journal


def test_every_arm_chooses_among_as_many_trials_by_its_validation_score(tmp_path: Path) -> None:
    rates = [{"train": {"learning_rate": 0.002}}, {"train": {"learning_rate": 0.008}}]
    plan = experiment(
        generate=["no_teachers"],
        trials=[{**rate, "objective": {"alpha": 0.3}} for rate in rates],
        trials_without_teachers=rates,
        seeds=[1, 2],
    ).share_teachers()
    assert plan.tuning_samples == [
        {"arm": "base", "seed": 0, "trial": 0},
        {"arm": "no_teachers", "seed": 0, "trial": 0},
        {"arm": "base", "seed": 0, "trial": 1},
        {"arm": "no_teachers", "seed": 0, "trial": 1},
    ]
    one = plan.build_run({"arm": "base", "seed": 0, "trial": 1})
    assert (one.seed, one.train.learning_rate) == (0, 0.008) and one.objective.alpha.value_at(0.0) == 0.3
    fixed = plan.fix_steps(55)
    assert {run.train.steps for arm in fixed.arms for run in (arm.run, *arm.trials)} == {55}
    journal = Journal(tmp_path / "none.jsonl")
    assert is_choosing(plan, journal)
    with pytest.raises(SweepError, match="no trial of the arm base"):
        choose_trials(plan, journal, {})
    scores = {("base", 0): 0.7, ("no_teachers", 0): 0.6, ("base", 1): 0.8, ("no_teachers", 1): None}
    journal = journal_of(tmp_path, scores)
    assert not is_choosing(plan, journal)
    assert choose_trials(plan, journal, {}) == {"base": 1, "no_teachers": 0}
    assert choose_trials(plan, journal, {"base": 0}) == {"base": 0, "no_teachers": 0}, "a choice stays"
    arm = plan.arms[0].choose_trial(1)
    assert arm.run.train.learning_rate == 0.008 and "chosen: train.learning_rate=0.008" in arm.changes


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"trials": [{}], "trials_without_teachers": [{}, {}]}, "tuned more than another"),
        ({"trials": [{}], "tuning_seed": 2}, "tuning_seed 2 is one of seeds"),
        ({"trials": [{"data": {"undrawn": "unlabeled"}}]}, "trial 0 of the arm base changes data"),
        ({"trials": [{"train": {"steps": 3}}]}, "trains longer or shorter"),
    ],
)
def test_trials_that_would_not_be_fair_are_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        experiment(**keys)


def test_a_folder_stands_for_its_experiment_to_which_seeds_are_added(tmp_path: Path) -> None:
    found = experiment(arms={"soft": {"objective": {"temperature": 4.0}}}, seeds=2)
    folder = tmp_path / "moved"
    folder.mkdir()
    (folder / "experiment.yaml").write_text(found.yaml, encoding="utf-8")
    (folder / "run.yaml").write_text(dump_run(found.base), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps({"status": "finished"}), encoding="utf-8")
    again = load_experiment(folder, ["seeds=4"])
    assert (again.name, again.output, again.seeds) == ("moved", str(tmp_path), (1, 2, 3, 4))
    assert again.fingerprint() == found.fingerprint()


def test_a_short_copy_has_all_arms_two_seeds_few_steps_and_a_folder_of_its_own(tmp_path: Path) -> None:
    long = load_experiment(
        {
            "name": "x",
            "base": base(output=str(tmp_path)),
            "generate": ["each_teacher", "no_teachers"],
            "seeds": 9,
        }
    )
    short = shorten_experiment(long)
    assert (short.name, short.output, short.seeds) == ("x-smoke", str(tmp_path), (1, 2))
    assert [arm.name for arm in short.arms] == [arm.name for arm in long.arms]
    assert {arm.run.train.steps for arm in short.arms} == {4} and short.base.smoke == "x"
    assert len({arm.run.fingerprint() for arm in short.arms}) == len(long.arms)


def test_every_preset_and_generator_stands_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text(encoding="utf-8")
    for name in presets.PRESET_NAMES:
        assert f"| `{name}` |" in page, name
    for key in Generator.model_fields:
        assert re.search(rf"\b{key}\b", page), key


def test_a_run_of_several_tasks_is_compared_too() -> None:
    keys = {"generate": ["no_teachers", {"weightings": ["uniform"]}, {"sizes": [2]}]}
    hot = {"task": {"tasks": {"names": {"objective": {"temperature": 5.0}}}}}
    found = load_experiment({"name": "m", "base": two_tasks(), "arms": {"hot": hot}, **keys})
    shared = found.share_teachers().fix_steps(9)
    assert [arm.name for arm in shared.arms] == ["base", "hot", "no_teachers", "weighting_uniform", "size_2"]
    members = {arm.name: arm.run.members for arm in shared.arms}
    assert {m.train.steps for by_task in members.values() for m in by_task.values()} == {9}
    assert members["hot"]["names"].objective.temperature.value_at(0.0) == 5.0
    assert members["hot"]["opinion"].objective == members["base"]["opinion"].objective
    taught = {
        name: [t.name for m in by_task.values() for t in m.teachers] for name, by_task in members.items()
    }
    assert taught.pop("no_teachers") == [] and set(map(tuple, taught.values())) == {("en", "tagger")}
    with pytest.raises(ConfigError, match=r"each_teacher needs teachers[\s\S]*1 teachers at most for a task"):
        load_experiment({"name": "m", "base": two_tasks(), "generate": ["each_teacher"]})


def test_generators_over_several_tasks_change_the_task_that_they_are_about() -> None:
    tree = two_tasks()
    tree["teachers"] = [*tree["teachers"], {**tree["teachers"][0], "name": "second"}]
    tree["task"]["tasks"]["names"]["objective"] = {"terms": [{"divergence": {"kind": "reverse_kl"}}]}
    keys = {
        "generate": ["each_teacher", "leave_one_out", {"divergences": ["jensen_shannon"]}, {"labelled": [7]}],
        "resample_labelled": True,
    }
    found = load_experiment({"name": "m", "base": tree, **keys})
    taught = {
        arm.name: {task: [t.name for t in m.active_teachers] for task, m in arm.run.members.items()}
        for arm in found.arms
    }
    # The tagger is the only teacher of its task, so it stays, and is no arm of its own.
    assert taught["only_en"] == {"opinion": ["en"], "names": ["tagger"]}
    assert taught["only_second"] == taught["without_en"] == {"opinion": ["second"], "names": ["tagger"]}
    assert "only_tagger" not in taught and "without_tagger" not in taught
    kinds = {task: m.objective.weighting.kind for task, m in found.find_arm("only_en").run.members.items()}
    assert (
        kinds["opinion"] == "uniform"
        and kinds["names"] == found.base.members["names"].objective.weighting.kind
    )
    divergent = found.find_arm("divergence_jensen_shannon").run.members.values()
    assert [m.objective.terms[0].divergence.kind for m in divergent] == ["jensen_shannon"] * 2
    few = found.build_run({"arm": "labelled_7", "seed": 3})
    drawn = [(m.data.labelled_per_language, m.data.labelled_seed) for m in few.members.values()]
    assert drawn == [(7, 3), (7, 3)] and taught["labelled_7_no_teachers"] == {"opinion": [], "names": []}
    other = {"task": {"tasks": {"names": {"data": {"languages": ["en", "zh"]}}}}}
    with pytest.raises(ConfigError, match=r"other rows[\s\S]*another task\.tasks\.names\.data\.languages"):
        load_experiment({"name": "m", "base": two_tasks(), "arms": {"other": other}})


def test_the_base_stays_an_arm_where_the_baseline_is_generated() -> None:
    found = experiment(generate=["no_teachers"], baseline="no_teachers")
    assert [arm.name for arm in found.arms] == ["base", "no_teachers"] and found.baseline == "no_teachers"
    assert found.find_reference(found.arms[0]) == "no_teachers"
    named = experiment(arms={"distilled": {}}, generate=["no_teachers"], baseline="no_teachers")
    assert [arm.name for arm in named.arms] == ["distilled", "no_teachers"]
    written = experiment(
        arms={"soft": {"objective": {"alpha": 0.5}}, "hard": {"objective": {"alpha": 0.9}}}, baseline="hard"
    )
    assert [arm.name for arm in written.arms] == ["soft", "hard"], (
        "who writes the baseline says which arms there are"
    )


def test_select_teachers_of_nothing_says_how_a_run_without_teachers_is_written() -> None:
    with pytest.raises(ConfigError, match=r"select_teachers \[\].*a run without any has teachers: \[\]"):
        experiment(arms={"none": {"select_teachers": []}})


def test_a_resume_with_fewer_seeds_or_others_trains_those_alone() -> None:
    found = experiment(generate=["no_teachers"], seeds=[1, 2])
    sampler = found.build_sampler()
    for sample in ({"arm": "base", "seed": 3}, {"arm": "gone", "seed": 1}):
        assert not sampler.is_wanted(sample)
    sampler.restore(0, {"arm": "base", "seed": 1}, None, finished=False)
    assert sampler.is_wanted({"arm": "base", "seed": 1}), "what was begun is wanted"
    assert sampler.is_wanted({"arm": "base", "seed": 0, "trial": 1}), "and what an arm chooses among"


def test_a_key_of_the_run_is_answered_with_its_place_under_set() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown key 'train'[\s\S]*next: +it is a key of the run: set.train="
    ):
        load_experiment({"name": "x", "base": base(), "seeds": 2}, ["train.steps=3"])
