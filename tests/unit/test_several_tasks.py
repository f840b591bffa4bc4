"""Several tasks in one student: the order of steps, one encoder, one loop; against identities and exact counts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from raykd import models
from raykd.config import MultiRun
from raykd.config.loading import load_any_run, load_run, validate_run
from raykd.data.rows import Rows
from raykd.data.stream import BatchStream
from raykd.data.task_order import TaskOrder
from raykd.driver.loop import make_student_model
from raykd.errors import ConfigError, DataError, ModelError
from raykd.models.multi import MultiModel, load_tasks, save_tasks, share_encoder
from raykd.point import Point
from raykd.report.results import Predictions
from raykd.scoring.several_tasks import compute_joint_scores, describe_joint_scores, select_task_points
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from raykd.tasks import build_task
from raykd.teachers.teacher import Teacher
from raykd.text.words import find_word_spans
from raykd.tuning.config import Sweep, dump_sweep, load_sweep
from raykd.tuning.driver import find_shared_weightings
from raykd.tuning.journal import Journal, Trial
from raykd.tuning.outcome import build_best_run
from tests.fakes import LABELS, FixedSource, logits_of, model_spec, text_batch, texts_and_labels
from tests.worlds import build_loop, rows, run_config

TAGS = ("O", "B-PER", "I-PER")
STUDENTS: dict[str, dict[str, Any]] = {
    "bert": {"kind": "transformer", "layers": 1, "hidden": 16, "heads": 2, "vocab_size": 150, "max_positions": 64},
    "distilbert": {
        "kind": "transformer", "architecture": "distilbert", "layers": 1, "hidden": 16, "heads": 2, "vocab_size": 150,
        "max_positions": 64,
    },
    "lstm": {"kind": "lstm", "embedding": 8, "hidden": 8, "vocab_size": 120},
}  # fmt: skip


def stream(count: int, batch: int = 8) -> BatchStream:
    return BatchStream(rows(count, 1), np.ones(count, dtype=np.int64), global_batch=batch, seed=3)


def task_order(power: float, seed: int = 0, **counts: int) -> TaskOrder:
    return TaskOrder({name: stream(n) for name, n in counts.items()}, counts, power=power, seed=seed)


# the order of steps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_an_epoch_has_each_tasks_share_of_steps(power: float) -> None:
    order = task_order(power, large=1600, small=400)
    drawn = Counter(order.at(step)[0] for step in range(order.steps_per_epoch))
    large, small = 1600**power, 400**power
    assert order.steps_per_epoch == 250
    assert drawn["large"] == pytest.approx(250 * large / (large + small), abs=0.5) and drawn.total() == 250


def test_a_step_is_a_function_of_seed_and_step_and_counts_its_own_tasks_steps() -> None:
    one, other = task_order(0.5, large=320, small=80), task_order(0.5, large=320, small=80)
    in_order = [one.at(step) for step in range(150)]
    assert [other.at(step) for step in reversed(range(150))] == in_order[::-1]
    for name in ("large", "small"):
        assert [at for task, at in in_order if task == name] == list(
            range(sum(t == name for t, _ in in_order))
        )
    another = task_order(0.5, seed=1, large=320, small=80)
    assert in_order != [another.at(step) for step in range(150)]
    assert [t for t, _ in in_order[:50]] != [t for t, _ in in_order[50:100]], (
        "each epoch has an order of its own"
    )


def test_a_task_that_would_never_be_drawn_is_refused() -> None:
    with pytest.raises(DataError, match=r"task small would never be trained") as error:
        task_order(3.0, large=400, small=8)
    assert "power 3" in str(error.value)


# configuration -------------------------------------------------------------------------------------------------


def tree(**changes: Any) -> dict[str, Any]:
    """Opinions, and the same texts as names to tag."""
    files = {"kind": "files", "paths": ["unused.jsonl"]}
    data = {"train": files, "validation": files, "languages": ["en", "zh", "fr"]}
    single = run_config().model_dump(mode="json")
    tasks = {
        "opinion": {"task": single["task"], "data": {**data, "labels": list(LABELS)}},
        "names": {
            "task": {"kind": "token_classification"},
            "data": {**data, "labels": list(TAGS)},
            "objective": {"alpha": 0.4},
        },
    }
    own = {key: single[key] for key in ("student", "train", "objective")}
    teachers = [
        {"name": "en", "task": "opinion", "languages": ["en"], "path": "en"},
        {"name": "tagger", "task": "names", "languages": "all", "path": "tagger"},
    ]
    own["train"]["metric"] = None
    return {"task": {"kind": "multi", "power": 0.5, "tasks": tasks}, "teachers": teachers, **own, **changes}


def with_task(name: str, **changes: Any) -> dict[str, Any]:
    base = tree()
    tasks = base["task"]["tasks"]
    return {**base, "task": {"kind": "multi", "tasks": {**tasks, name: {**tasks.get(name, {}), **changes}}}}


def test_members_are_the_runs_that_the_tasks_would_be_alone() -> None:
    config = MultiRun.model_validate(tree())
    opinion, names = config.members["opinion"], config.members["names"]
    assert [t.name for t in opinion.teachers] == ["en"] and [t.name for t in names.teachers] == ["tagger"]
    assert (opinion.metric, names.metric, config.metric) == ("accuracy", "f1", "score")
    assert opinion.objective == config.objective and names.objective.alpha.value_at(0.7) == 0.4
    assert names.objective.weighting == config.objective.weighting
    assert opinion.train.batch_size == names.train.batch_size == config.train.batch_size


def test_the_undistilled_run_asks_no_teacher_and_keeps_the_rest() -> None:
    config = MultiRun.model_validate(tree())
    plain = config.without_teachers(7)
    assert plain.plain and not config.plain and plain.train.steps == 7 and not plain.teachers
    assert plain.task.power == 0.5 and plain.student == config.student
    assert plain.fingerprint() != config.fingerprint()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (tree(student={"kind": "linear"}), "no encoder to share"),
        (tree(train={"metric": "f1"}), "judged by the mean"),
        (
            tree(teachers=[{"name": "x", "task": "nothing", "languages": "all", "path": "x"}]),
            "of task nothing",
        ),
        (tree(teachers=tree()["teachers"][:1]), "task names: no teachers"),
        (tree(serving={"pool": "warm"}), "serving.pool"),
        (tree(train={"zero_stage": 3}), "wanted 0, 1 or 2"),
        (with_task("talk", task={"kind": "causal_lm"}), "task talk is causal_lm"),
        (with_task("names", metric="nll"), "cannot be averaged over tasks"),
        (with_task("names", data=tree()["task"]["tasks"]["opinion"]["data"]), "task names: data.labels"),
        (with_task("eval", **tree()["task"]["tasks"]["names"]), "cannot be named eval"),
    ],
)
def test_what_a_mix_cannot_be_is_one_clear_error(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_any_run(path)
    assert words in str(error.value)


def test_a_file_is_read_as_what_it_is_and_refused_where_one_task_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text(json.dumps(tree()), encoding="utf-8")
    config = load_any_run(path, ["task.power=0"])
    assert isinstance(config, MultiRun) and config.task.power == 0.0
    assert config.members["names"].data.train.paths == (str(tmp_path / "unused.jsonl"),)  # type: ignore[union-attr]
    for read in (lambda: load_run(path), lambda: validate_run(tree(), "mix.yaml")):
        with pytest.raises(ConfigError, match="a run of several tasks, which is not offered here"):
            read()


# one encoder ---------------------------------------------------------------------------------------------------


def made(kind: str) -> MultiModel:
    """An untrained model of three tasks."""
    spec: Any = MultiRun.model_validate(tree(student=STUDENTS[kind])).student
    tokenizer = spec.fit_tokenizer(texts_and_labels(200)[0])
    heads: dict[str, tuple[tuple[str, ...], models.Head]] = {
        "opinion": (LABELS, "classification"), "names": (TAGS, "token_classification"), "ask": ((), "question_answering")
    }  # fmt: skip
    return share_encoder(
        {
            name: models.TextModel(
                spec.build(tokenizer, labels, at, head),
                tokenizer,
                labels,
                kind=spec.kind,
                task=head,
                max_length=32,
            )
            for at, (name, (labels, head)) in enumerate(heads.items())
        }
    )


@pytest.mark.parametrize("kind", STUDENTS)
def test_tasks_share_their_encoder_and_nothing_else(kind: str) -> None:
    student = made(kind)
    parts = {name: dict(part.model.named_parameters()) for name, part in student.parts.items()}
    shared = {name for name, weight in parts["opinion"].items() if weight is parts["names"].get(name)}
    assert any("embed" in name for name in shared) and not [n for n in shared if n.startswith("classifier")]
    distinct = {id(weight) for part in parts.values() for weight in part.values()}
    assert sum(1 for _ in student.model.parameters()) == len(student.model.state_dict()) == len(distinct)


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_saved_student_is_a_whole_model_for_each_task(kind: str, tmp_path: Path) -> None:
    student = made(kind)
    folder = save_tasks(student, tmp_path / "student")
    save_tasks(student, folder)  # replaces what raykd wrote
    for name, part in student.parts.items():
        loaded = models.load_model(folder, task=name)
        assert loaded.labels == part.labels and loaded.task == part.task and loaded.max_length == 32
        assert models.fingerprint(folder / name) == models.fingerprint(part) == models.fingerprint(loaded)
        assert models.inspect_directory(folder / name).problems == ()
    files = [next((folder / name).glob("model-00001*")) for name in student.parts]
    assert len({file.stat().st_ino for file in files}) == 1, "the encoder lies on the disk once"
    together = load_tasks(folder)
    assert sum(1 for _ in together.model.parameters()) == sum(1 for _ in student.model.parameters())


def test_a_directory_of_several_tasks_asks_which(tmp_path: Path) -> None:
    folder = save_tasks(made("lstm"), tmp_path / "student")
    for open_it in (
        lambda: models.load_model(folder),
        lambda: models.load_model(folder, task="x"),
        lambda: models.read_labels(folder),
    ):
        with pytest.raises(ModelError, match="one of opinion, names, ask"):
            open_it()
    with pytest.raises(ModelError, match="holds one model only"):
        models.load_model(folder / "names", task="names")
    assert any("several tasks" in problem for problem in models.inspect_directory(folder).problems)


def test_a_task_of_a_saved_student_is_a_teacher(tmp_path: Path) -> None:
    student = made("bert")
    folder = save_tasks(student, tmp_path / "student")
    task = run_config().task
    batch = text_batch(["the food was good", "dull place"])
    said = Teacher(model_spec("t", str(folder / "opinion"), LABELS, task, dtype="float32")).answer(batch)
    part = student.parts["opinion"]
    encoded = task.collate(task.encode(part.tokenizer, batch), [0, 1])
    with torch.no_grad():
        own = part.model.eval()(**encoded.inputs).logits
    np.testing.assert_allclose(logits_of(said), own.numpy(), rtol=1e-5, atol=1e-6)


# one loop ------------------------------------------------------------------------------------------------------


def two_opinions(**train: Any) -> MultiRun:
    """Two classifications over other rows, whose steps are as in `run_config`."""
    base = tree()
    opinion = base["task"]["tasks"]["opinion"]
    base["train"] |= train
    base["task"]["tasks"] = {"first": opinion, "second": {**opinion, "objective": {"alpha": 0.5}}}
    base["teachers"] = [
        {**t, "task": task} for t, task in zip(base["teachers"], ("first", "second"), strict=True)
    ]
    return MultiRun.model_validate(base)


def loop_of(config: MultiRun, points: list[Point] | None = None) -> TrainingLoop:
    tokenizer = config.student.fit_tokenizer(rows(160, 1).texts)
    seen = {
        name: prepare_rows(member, rows(160, 1 + at), rows(60, 2 + at, unlabelled=0.0), tokenizer)
        for at, (name, member) in enumerate(config.members.items())
    }
    sources = {
        name: FixedSource([t.name for t in member.teachers], [t.language_set for t in member.teachers])
        for name, member in config.members.items()
    }
    publish = (lambda point: None) if points is None else points.append
    return TrainingLoop(config, seen, make_student_model(config, tokenizer), sources, publish=publish)


def test_one_task_in_a_mix_is_the_ordinary_run_bit_for_bit() -> None:
    single = run_config()
    base = tree(teachers=[{**t.model_dump(mode="json"), "task": "opinion"} for t in single.teachers])
    base["task"]["tasks"].pop("names")
    alone: list[Point] = []
    mixed: list[Point] = []
    ordinary = build_loop(single, publish=alone.append)
    ordinary.run()
    config = MultiRun.model_validate(base)
    tokenizer = config.student.fit_tokenizer(rows(160, 1).texts)
    member = config.members["opinion"]
    source = FixedSource([t.name for t in member.teachers], [t.language_set for t in member.teachers])
    seen = prepare_rows(member, rows(160, 1), rows(60, 2, unlabelled=0.0), tokenizer)
    several = TrainingLoop(
        config,
        {"opinion": seen},
        make_student_model(config, tokenizer),
        {"opinion": source},
        publish=mixed.append,
    )
    several.run()
    untimed = ("train/wait_s", "latency_s")
    for one, other in zip(alone, mixed, strict=True):
        own = {k.removeprefix("opinion/"): v for k, v in other.values.items() if k.startswith("opinion/")}
        shared = {k: v for k, v in other.values.items() if not k.startswith("opinion/")}
        for name, value in one.values.items():
            if not name.endswith(untimed):
                assert {**shared, **own}[name] == value, (one.step, name)
    assert several.state.best == ordinary.state.best and several.state.best_step == ordinary.state.best_step
    weights, reference = several.best_weights or {}, ordinary.best_weights or {}
    assert all(torch.equal(weights[f"parts.opinion.{name}"], value) for name, value in reference.items())


def test_teachers_are_asked_for_rows_of_their_task_only_and_steps_follow_the_mixture() -> None:
    points: list[Point] = []
    loop = loop_of(two_opinions(), points)
    loop.run()
    drawn = Counter(loop.task_order.at(step)[0] for step in range(12))
    for name, member in loop.trainers.items():
        asked = member.source.submitted  # type: ignore[union-attr]
        assert len(asked) == drawn[name] > 0
        assert {text for batch in asked for text in batch.texts} <= set(member.rows.texts)
    logged = Counter(k.split("/")[0] for p in points for k in p.values if k.endswith("/train/loss"))
    assert logged == drawn, "a task logs the steps that were its own"
    last = loop.state.history[-1]
    both = [last["first/eval/mean/accuracy"], last["second/eval/mean/accuracy"]]
    assert last["eval/mean/score"] == pytest.approx(np.mean(both)) and loop.state.best is not None
    mine = select_task_points(points, "second")
    assert {k for p in mine for k in p.values if k.startswith("eval/")} >= {
        "eval/en/accuracy",
        "eval/mean/nll",
    }


def test_a_head_learns_from_rows_of_its_task_alone() -> None:
    loop = loop_of(two_opinions(weight_decay=0.0, learning_rate=0.01))
    before = {name: weight.clone() for name, weight in loop.student.model.state_dict().items()}
    first = loop.task_order.at(0)[0]
    idle = "second" if first == "first" else "first"
    until = next(step for step in range(12) if loop.task_order.at(step)[0] == idle)
    loop._evaluate_at = {until}
    loop.advance()
    moved = {n for n, weight in loop.student.model.state_dict().items() if not torch.equal(weight, before[n])}
    assert loop.state.step == until
    assert f"parts.{first}.classifier.weight" in moved and any(".embeddings." in name for name in moved)
    assert f"parts.{idle}.classifier.weight" not in moved


def test_a_resumed_mix_goes_on_as_an_unbroken_one(tmp_path: Path) -> None:
    unbroken = loop_of(two_opinions())
    unbroken.run()
    broken = loop_of(two_opinions())
    broken.advance()
    broken.save(tmp_path)
    resumed = loop_of(two_opinions())
    resumed.load(tmp_path)
    resumed.run()
    assert resumed.state.history == unbroken.state.history
    best, other = unbroken.best_student(), resumed.best_student()
    assert isinstance(best, MultiModel) and isinstance(other, MultiModel)
    for one, same in zip(best.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, same)


# a sweep over several tasks ------------------------------------------------------------------------------------


def scored_task(
    kind: str, languages: list[str], texts: list[str], labels: list[str], logits: Any, gold: Any
) -> Any:
    """A student's job of a task and what it answered: a label a text, or a tag for each of the text's two words."""
    task = build_task({"kind": kind})
    tagged = kind == "token_classification"
    words = tuple(tuple(map(tuple, find_word_spans(text).tolist())) for text in texts) if tagged else None
    labels_B = np.zeros(len(texts), np.int64) if tagged else np.asarray(gold)
    golds = tuple(map(tuple, gold)) if tagged else None
    ids = tuple(f"{kind}{i}" for i in range(len(texts)))
    held_out = Rows(ids, tuple(texts), tuple(languages), labels_B, words=words, golds=golds)
    config = SimpleNamespace(task=task, data=SimpleNamespace(labels=tuple(labels)))
    logits_NC = np.eye(len(labels), dtype=np.float32)[logits] * 9
    units = len(logits_NC)
    answered = Predictions(
        "student", "student", logits_NC, np.ones(units, bool), np.zeros(units, np.int64), ("",) * units, 1
    )
    return SimpleNamespace(config=config, held_out=held_out), SimpleNamespace(
        table=SimpleNamespace(systems=[(answered, None)])
    )


def test_texts_that_all_tasks_test_are_right_if_every_task_is() -> None:
    """By hand: of an order's intent and tags both right in a, d and f, the intent alone in b, the tags alone in c."""
    languages = ["en", "en", "en", "fr", "fr"]
    intent = scored_task("classification", languages, ["a b", "b b", "c b", "d b", "f b"], ["x", "y"], [0, 0, 0, 1, 1],
                         [0, 0, 1, 1, 1])  # fmt: skip
    tags = [1, 2, 1, 0, 1, 2, 0, 0, 0, 1]
    gold = [[1, 2], [1, 2], [1, 2], [0, 0], [0, 1]]
    # Rows stand in another order, and blanks differ, as where one file has texts and the other tokens.
    order = [3, 1, 0, 2, 4]
    texts = [["a  b", "b b", "c b", "d b", "f b"][i] for i in order]
    slots = scored_task("token_classification", [languages[i] for i in order], texts, list(TAGS),
                        [t for i in order for t in tags[2 * i : 2 * i + 2]], [gold[i] for i in order])  # fmt: skip
    joint = compute_joint_scores(*({"intent": i, "slots": s} for i, s in zip(intent, slots, strict=True)))
    assert [(one.system, one.rows, one.by_language) for one in joint] == [
        ("student", 5, {"en": pytest.approx(1 / 3), "fr": 1.0})
    ]
    assert joint[0].mean == pytest.approx(2 / 3)
    assert describe_joint_scores(joint) == [
        "right in every task, of 5 texts that all tasks test: student 66.7% (en 33.3%, fr 100.0%)"
    ]
    other = scored_task("classification", languages, list("vwxyz"), ["x", "y"], [0] * 5, [0] * 5)
    apart = compute_joint_scores(*({"intent": i, "slots": s} for i, s in zip(other, slots, strict=True)))
    assert apart == () and describe_joint_scores(apart) == []


def sweep_of(folder: Path, space: dict[str, Any], **keys: Any) -> Sweep:
    path = folder / "space.yaml"
    base = {**tree(), "train": {**tree()["train"], "patience": None}}
    path.write_text(
        json.dumps({"name": "s", "base": base, "space": space, "num_samples": 4, **keys}), encoding="utf-8"
    )
    return load_sweep(path)


KNOBS = {
    "objective": {"alpha": {"uniform": [0.1, 0.9]}},
    "task": {
        "power": {"choice": [0.0, 1.0]},
        "tasks": {"names": {"objective": {"alpha": {"uniform": [0.1, 0.9]}}}},
    },
}


def test_a_trial_of_several_tasks_changes_what_all_share_and_what_one_has(tmp_path: Path) -> None:
    plan = sweep_of(tmp_path, KNOBS)
    assert (plan.metric, plan.mode) == ("score", "max")
    sample = {"objective.alpha": 0.25, "task.power": 1.0, "task.tasks.names.objective.alpha": 0.75}
    run = plan.space.build_run(sample)
    assert run.task_power == 1.0
    alphas = {task: member.objective.alpha.value_at(0.0) for task, member in run.members.items()}
    assert alphas == {"opinion": 0.25, "names": 0.75}
    trial = Trial("t0", 0, sample, total_steps=10)
    best = build_best_run(plan, trial)
    assert best == run.model_copy(update={"name": "s-best"})
    (tmp_path / "again.yaml").write_text(dump_sweep(plan), encoding="utf-8")
    again = load_sweep(tmp_path / "again.yaml")
    assert again.base == plan.base and again.fingerprint() == plan.fingerprint()


@pytest.mark.parametrize(
    ("space", "keys", "why"),
    [
        ({"task": {"tasks": {"names": {"metric": {"choice": ["f1", "recall"]}}}}}, {}, "mean of the tasks'"),
        (
            {"task": {"tasks": {"names": {"task": {"max_length": {"choice": [8, 16]}}}}}},
            {},
            "label: on_demand",
        ),
        (KNOBS, {"scheduler": {"kind": "pbt"}, "search": {"kind": "random"}}, "another scheduler"),
        (KNOBS, {"metric": "f1"}, "judged by the mean"),
    ],
)
def test_what_a_sweep_over_several_tasks_cannot_do_is_refused_by_its_key(
    tmp_path: Path, space: dict[str, Any], keys: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        sweep_of(tmp_path, space, **keys)


def test_teachers_are_asked_alike_unless_trials_differ_in_it() -> None:
    run = MultiRun.model_validate(tree())
    shared = {task: member.objective.weighting for task, member in run.members.items()}
    assert (
        find_shared_weightings(run, ["objective.alpha", "task.tasks.names.objective.temperature"]) == shared
    )
    for key in (
        "task.tasks.names.objective.weighting",
        "objective.weighting.kind",
        "select_teachers",
        "objective",
    ):
        assert find_shared_weightings(run, [key]) == {"opinion": None, "names": None}


def test_a_changed_run_has_members_of_its_own() -> None:
    run = MultiRun.model_validate(tree())
    assert {member.seed for member in run.members.values()} == {run.seed}
    changed = run.model_copy(update={"seed": 17})
    assert {member.seed for member in changed.members.values()} == {17}


def test_passes_are_counted_for_each_task(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trials.jsonl")
    journal.record_labelling(10, 0, "opinion")
    journal.record_labelled(10)
    journal.record_labelling(20, 0, "names")  # cut off after 5 answers
    journal.record_labelling(10, 10, "opinion")
    journal.record_labelled(0)
    journal.record_labelling(20, 5, "names")
    journal.record_labelled(15)
    journal.record_counters({})
    again = Journal(tmp_path / "trials.jsonl")
    assert (again.pairs, again.passes) == (journal.pairs, journal.passes) == (30, 1.0)
