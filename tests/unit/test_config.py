"""RunConfig and its YAML: every wrong key is one clear error, every file in the tree parses."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from raykd.config import ModelTeacher, RunConfig, TrainedTeacher, overlay
from raykd.config.dsfile import check_switches
from raykd.config.explain import _list_models
from raykd.config.loading import (
    dump_run,
    flatten_run,
    load_any_run,
    load_run,
    parse_yaml,
    set_path,
    validate_run,
)
from raykd.config.multi import MultiRun
from raykd.errors import ConfigError, DataError, LabelMismatchError, RaykdError
from raykd.tuning.config import SweepConfig
from tests.golden.record import trees as golden_trees

ROOT = Path(__file__).parents[2]
RUNS = [*sorted((ROOT / "raykd" / "presets").glob("*.yaml")), *sorted((ROOT / "examples").glob("*.yaml"))]


def tree(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "data": {
            "train": {"kind": "embedded"}, "validation": {"kind": "embedded", "split": "validation"},
            "labels": ["negative", "positive"], "languages": ["zh", "en", "fr"],
        },
        "student": {"kind": "linear"},
        "teachers": [{"name": "zh", "languages": ["zh"], "path": "somewhere"}],
    }  # fmt: skip
    return {**base, **changes}


def message(**changes: Any) -> str:
    with pytest.raises(ConfigError) as error:
        validate_run(tree(**changes), "RUN.yaml")
    return str(error.value)


@pytest.mark.parametrize("path", RUNS, ids=[p.name for p in RUNS])
def test_every_run_file_of_the_tree_is_valid(path: Path, tmp_path: Path) -> None:
    config = load_any_run(path)
    (tmp_path / "again.yaml").write_text(dump_run(config), encoding="utf-8")
    assert load_any_run(tmp_path / "again.yaml") == config


def test_there_are_run_files() -> None:
    assert {p.name for p in RUNS} >= {"demo.yaml", "sentiment_zh_en_fr.yaml"}


def test_unknown_key_is_answered_with_path_allowed_keys_and_a_guess() -> None:
    text = message(objective={"alhpa": 0.3})
    assert "objective.alhpa" in text and "did you mean 'alpha'" in text and "temperature" in text


def test_all_wrong_keys_are_told_at_once() -> None:
    text = message(seed="x", train={"batch_size": 0, "nonsense": 1})
    assert (
        "3 keys are wrong" in text
        and "train.batch_size" in text
        and "train.nonsense" in text
        and "seed" in text
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"kind": "files"}}, "data.train.paths: this key is missing"),
        ({"train": {"kind": "files", "paths": "a"}}, "  data.train.paths\n    wanted:  a list"),
        ({"train": {"kind": "files", "paths": ["a"], "path": "a"}}, "  data.train.path\n"),
        ({"train": {"paths": ["a"]}}, "keys with values, among them kind: embedded | files | hub"),
        ({"train": "a.jsonl"}, "keys with values, among them kind: embedded | files | hub"),
        ({"train": {"kind": "file"}}, "wanted:  kind: embedded | files | hub"),
    ],
)
def test_keys_are_named_as_they_are_written(change: dict[str, Any], said: str) -> None:
    assert said in message(data=change)


def test_where_a_schedule_may_stand_a_number_is_what_is_wanted_first() -> None:
    assert "wanted:  a number, or keys with values, among them kind: constant" in message(
        objective={"alpha": ".5"}
    )


def test_a_list_of_wrong_items_is_not_told_to_be_short() -> None:
    text = message(objective={"terms": [{"divergence": {"kind": "forwardkl"}}]})
    assert "1 key is wrong" in text and "objective.terms.0.divergence" in text and "forward_kl |" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../evil"}, "letters, digits"),
        ({"name": "/abs"}, "letters, digits"),
        ({"student": {"kind": "forest"}}, "linear"),
        ({"train": {"epochs": 1, "steps": 2}}, "not both"),
        ({"train": {"learning_rate": "0.1"}}, "wanted:  a number"),
        ({"train": {"steps": True}}, "wanted:  a whole number"),
        ({"train": {"learning_rate": float("nan")}}, "finite"),
        ({"teachers": []}, "objective.alpha: 1"),
        ({"teachers": [{"name": "a", "languages": ["de"], "path": "x"}]}, "['de'], not in data.languages"),
        ({"teachers": [{"name": "a", "languages": "all"}]}, "path (a model that exists), training"),
        ({"teachers": [{"name": "a", "languages": "all", "path": "x"}] * 2}, "same name"),
        ({"objective": {"alpha": 1.5}}, "alpha"),
        ({"objective": {"temperature": 0}}, "temperature"),
        ({"objective": {"terms": []}}, "terms"),
        ({"objective": {"weighting": {"kind": "fixed", "by_teacher": {"en": 1.0}}}}, "en"),
        ({"train": {"batch_size": 3}, "workers": {"num_workers": 4}}, "batch_size 3"),
        ({"data": {**tree()["data"], "labels": ["a", "a"]}}, "twice"),
        ({"data": {**tree()["data"], "select_languages": ["de"]}}, "select_languages"),
    ],
)
def test_wrong_values_are_told(changes: dict[str, Any], words: str) -> None:
    assert words in message(**changes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "stands twice, line 2"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: [1", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_unsafe_or_broken_yaml_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_yaml(text, "RUN.yaml")


def test_scientific_numbers_are_numbers() -> None:
    assert parse_yaml("a: [1e-3, 2E5, -1.5e+2, .5e1, 1e, e3]", "x")["a"] == [
        1e-3,
        2e5,
        -150.0,
        5.0,
        "1e",
        "e3",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("On", "On"), ("y", "y"), ("010", 10), ("1:30", "1:30"), ("1_000", "1_000"), ("0x1f", 31),
        ("0o17", 15), ("0b1", "0b1"), ("2020-01-02", "2020-01-02"), ("True", True), ("FALSE", False), ("~", None),
        ("null", None), ("", None), ("5.", 5.0), ("+3", 3), ("-.inf", float("-inf")), ("=", "="), ("<<", "<<"),
        ("12e03", 12000.0),
    ],
)  # fmt: skip
def test_plain_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_yaml(f"a: {text}", "x")["a"]
    assert found == value and isinstance(found, type(value))


def test_a_field_of_texts_takes_what_is_written() -> None:
    run = parse_yaml(
        "languages: [no, on, 010]\nlabels: [0, 1.10, true, 1e3]\nlabel_map: {1: a, true: b, 010: c}", "x"
    )
    data = {**tree()["data"], "languages": run["languages"], "labels": run["labels"]}
    config = validate_run(tree(data=data, teachers=[], objective={"alpha": 1}, name=7), "x")
    assert config.data.languages == ("no", "on", "010") and config.data.labels == ("0", "1.10", "true", "1e3")
    mapped = type(config.data).model_validate({**data, "label_map": {0: "1.10", True: None}})
    assert mapped.label_map == {"0": "1.10", "true": None}, "keys of a mapping of Python's"
    assert config.name == "7" and run["label_map"] == {"1": "a", "true": "b", "010": "c"}
    assert validate_run(parse_yaml(dump_run(config), "x"), "again") == config
    assert (
        validate_run(tree(baseline="no"), "x").baseline is False
        and validate_run(tree(baseline=True), "x").baseline
    )
    assert 'in quotes: "null"' in message(name=None)


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("a=x #y", "x #y"), ('a="x #y"', "x #y"), ("a=#1", "#1"), ("a=[x #1, 'y # 2']", ["x #1", "y # 2"]),
        ("a={b #c: d}", {"b #c": "d"}), ("a=7", 7), ("a=no", "no"), ("a=x=y", "x=y"), ("a=\ue000#", "\ue000#"),
    ],
)  # fmt: skip
def test_no_comment_begins_in_an_override(assignment: str, value: Any) -> None:
    assert set_path({}, assignment) == {"a": value}


def test_a_combination_is_a_sentence_without_the_whole_file() -> None:
    data = {**tree()["data"], "labels": ["O", "X-PER"]}
    text = message(data=data, task={"kind": "token_classification"})
    assert "\n  data.labels are no tags of entities: 'X-PER' is no tag" in text
    assert "student" not in text and max(map(len, text.splitlines())) < 160
    with pytest.raises(
        ConfigError, match=r"train\.deepspeed\.a\.b is a text, not true or false\n  got: +off"
    ):
        check_switches({"a": {"b": "off"}}, "train.deepspeed")


def test_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run file"):
        load_run(tmp_path / "none.yaml")


def test_overrides_reach_keys_list_items_by_name_and_whole_branches() -> None:
    changed: Any = tree()
    for assignment in (
        "objective.alpha=0.5",
        "teachers.zh.path=other",
        "teachers.0.languages=[zh, en]",
        "student={kind: lstm, hidden: 32}",
        "train.learning_rate=1e-4",
    ):
        changed = set_path(changed, assignment)
    config = validate_run(changed, "x")
    assert config.objective.alpha.value_at(0.3) == 0.5
    assert isinstance(config.teachers[0], ModelTeacher)
    assert (config.teachers[0].path, config.teachers[0].languages) == ("other", ("zh", "en"))
    assert config.student.kind == "lstm" and config.train.learning_rate == 1e-4
    with pytest.raises(ConfigError, match="no item"):
        set_path(tree(), "teachers.xx.path=1")
    with pytest.raises(ConfigError, match=r"key\.path=value"):
        set_path(tree(), "seed")


def test_overlay_merges_keys_and_replaces_another_kind() -> None:
    assert overlay({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}
    assert overlay({"kind": "linear", "buckets": 4}, {"kind": "lstm"}) == {"kind": "lstm"}
    teachers = [{"name": "a", "path": "x"}, {"name": "b", "path": "y"}, "c"]
    assert overlay(teachers, {"b": {"path": "z"}}) == [teachers[0], {"name": "b", "path": "z"}, "c"]
    assert overlay(teachers, {"d": {}}) == {"d": {}} and overlay(teachers, ["d"]) == ["d"]
    assert overlay({"kind": "linear", "buckets": 4}, {"kind": "linear", "lowercase": False}) == {
        "kind": "linear", "buckets": 4, "lowercase": False,
    }  # fmt: skip


def test_teacher_defaults_lie_under_every_teacher() -> None:
    defaults = {"languages": "all", "actor": {"group": "g", "num_cpus": 0.5}, "training": {"seed": 7}}
    teachers = [
        {"name": "a", "training": {"train": {"steps": 3}}},
        {"name": "b", "path": "x", "actor": {"num_cpus": 2.0}},
    ]
    config = validate_run(tree(teachers=teachers, teacher_defaults=defaults), "x")
    a, b = config.teachers
    assert isinstance(a, TrainedTeacher) and isinstance(b, ModelTeacher)
    assert (a.training.seed, a.training.train.steps, a.actor.num_cpus) == (7, 3, 0.5)
    assert (b.actor.group, b.actor.num_cpus, b.languages) == ("g", 2.0, "all")
    assert validate_run(yaml.safe_load(dump_run(config)), "again") == config


def teachers_of(*teachers: dict[str, Any], **defaults: Any) -> tuple[Any, ...]:
    named = [{"name": f"t{at}", "languages": "all", **teacher} for at, teacher in enumerate(teachers)]
    return validate_run(tree(teachers=named, teacher_defaults=defaults), "x").teachers


def test_the_kind_of_a_teacher_is_written_down_where_a_file_leaves_it_out() -> None:
    trained = {"training": {"seed": 3}}
    found = teachers_of(
        {"path": "m"}, trained, {"kind": "model", "path": "m"}, {"kind": "trained", **trained}
    )
    assert [t.kind for t in found] == ["model", "trained"] * 2
    dumped = [t.model_dump(exclude={"name"}) for t in found]
    assert dumped[:2] == dumped[2:]
    # As a run.yaml of an earlier version has them: the keys of both kinds, and no kind.
    before = {"path": None, "revision": None, "trust_remote_code": False, "training": None}
    old = teachers_of({**before, "path": "m"}, {**before, **trained, "trust_remote_code": True})
    assert [t.model_dump(exclude={"name"}) for t in old] == dumped[:2]
    config = validate_run(tree(), "x")
    assert yaml.safe_load(dump_run(config))["teachers"][0]["kind"] == "model"


def test_defaults_of_a_kind_are_for_teachers_of_that_kind() -> None:
    made, model = teachers_of({}, {"path": "m"}, training={"seed": 5}, revision="r", on_poor="warn")
    assert (made.kind, made.training.seed, made.on_poor) == ("trained", 5, "warn")
    assert (model.kind, model.revision, model.on_poor) == ("model", "r", "warn")
    made, model = teachers_of({}, {"path": "m"}, kind="trained")
    assert (made.kind, made.training.seed, model.kind) == ("trained", 0, "model")


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({}, r"teachers\.0: a teacher needs one of path \(a model that exists\), training"),
        ({"path": "m", "training": {}}, "a teacher needs one of path"),
        (
            {"kind": "trained", "path": "m"},
            "a teacher of kind trained has no path; leave it out, or write kind: model",
        ),
        ({"kind": "model", "path": "m", "training": {}}, "a teacher of kind model has no training"),
        ({"kind": "model"}, r"teachers\.0\.path: this key is missing"),
        ({"kind": "trained", "revision": "r"}, r"teachers\.0\.revision\s+got:\s+an unknown key 'revision'"),
        ({"kind": "modle", "path": "m"}, r"wanted:\s+kind: callable \| (?:\w+ \| )*model \| trained"),
        ({"path": "m", "task": "topic"}, "task topic is for a run of several tasks"),
    ],
)
def test_a_teacher_without_one_kind_is_refused(teacher: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        teachers_of(teacher)


def test_runs_of_before_teachers_had_kinds_are_the_same_runs() -> None:
    # The fingerprint is in the folders of finished runs, and names those of trained teachers.
    known = {
        "classification": "4bedf3ac59a129c6e0a977692f1d7f61c0d2a92a37454392b49f257822063884",
        "seq2seq": "a9875439c2f6dde031fc2e2a19f79329273188ac93aa3e656a37666a240371c4",
    }
    for name, fingerprint in known.items():
        assert validate_run(golden_trees()[name], name).fingerprint() == fingerprint
    mixed = golden_trees()["classification"]
    mixed["teachers"][0] |= {"path": "/models/fr", "revision": "abc"}
    mixed["teachers"][1]["training"] = {"seed": 4}
    assert validate_run(mixed, "x").fingerprint() == (
        "28322ed617b145081d06dfef8f2f13cef8fedc6fb17a9dc7ec0af53e712f8275"
    )


@pytest.mark.parametrize(
    ("student", "fingerprint"),
    [
        ({"kind": "pretrained", "path": "m"}, "c0360aa1c220"),
        ({"kind": "lstm"}, "ebbfde8bd04b"),
        ({"kind": "transformer"}, "0392c3f9a437"),
        ({"kind": "linear"}, "67736eb1d689"),
    ],
)
def test_a_new_key_of_a_student_leaves_earlier_runs_as_they_were(
    student: dict[str, Any], fingerprint: str
) -> None:
    """If this fails after a key was added: name it in `_NEW_IN_STUDENTS`, or all trained teachers are trained anew."""
    assert validate_run(tree(student=student), "x").fingerprint()[:12] == fingerprint


def test_flat_names_are_those_of_the_yaml() -> None:
    flat = flatten_run(validate_run(tree(), "x"))
    assert flat["teachers.zh.path"] == "somewhere" and flat["train.batch_size"] == "32"
    assert flat["objective.weighting.kind"] == "by_language"


def test_relative_paths_are_relative_to_the_yaml_and_deepspeed_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 1}}')
    run = tree(train={"deepspeed": "ds.json"})
    run["data"] = {**run["data"], "train": {"kind": "files", "paths": ["a/b.jsonl"]}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    config = load_run(tmp_path / "run.yaml")
    assert config.data.train.paths == (str(tmp_path / "a" / "b.jsonl"),)  # type: ignore[union-attr]
    assert config.train.deepspeed == {"zero_optimization": {"stage": 1}}
    with pytest.raises(ConfigError, match=r"train\.deepspeed"):
        load_run(tmp_path / "run.yaml", ["train.deepspeed=none.json"])


def test_fingerprint_follows_what_changes_the_result() -> None:
    base = validate_run(tree(), "x")
    assert validate_run(tree(name="other", output="elsewhere"), "x").fingerprint() == base.fingerprint()
    for change in ({"seed": 1}, {"objective": {"alpha": 0.2}}, {"train": {"steps": 5}}):
        assert validate_run(tree(**change), "x").fingerprint() != base.fingerprint()


@pytest.mark.parametrize("kind", [ConfigError, DataError, LabelMismatchError])
def test_errors_survive_pickling(kind: type[RaykdError]) -> None:
    import pickle

    error = kind("what", got=[1], wanted="w", next_step="n")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == str(error) and again.exit_code == kind.exit_code


def test_config_import_is_light() -> None:
    import subprocess
    import sys

    code = "import sys, raykd.config.loading, raykd.cli; print([m for m in ('ray', 'deepspeed', 'mlflow', 'transformers', 'datasets') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_run_config_round_trips_through_yaml() -> None:
    config = validate_run(tree(objective={"alpha": {"kind": "cosine", "start": 0.9, "end": 0.1}}), "x")
    assert RunConfig.model_validate(yaml.safe_load(dump_run(config))) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "leave one of the two out"),
        ("a: &x 1\nb: *x\n", "write the value out"),
        ("a:\n\tb: 1\n", "blanks, not with tabs"),
        ('a: "C:\\data"\n', "a backslash in double quotes"),
        ("a: 1\n---\nb: 1\n", "a file is one run"),
        ("a: [1\n", "goes into quotes"),
    ],
)
def test_advice_on_yaml_fits_its_error(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_yaml(text, "RUN.yaml")


def test_truth_values_are_shown_as_yaml_has_them() -> None:
    assert "got:    true" in str(ConfigError("x", got=True)) and "got:    1" in str(ConfigError("x", got=1))


READ_AS_MAPPING = {"teacher_defaults": "raykd/config/run.py", "question": "raykd/data/columns.py",
                   "tail": "raykd/data/columns.py", "direction": "raykd/data/columns.py",
                   "relevances": "raykd/data/columns.py", "query_id": "raykd/data/files/candidates.py",
                   "candidate": "raykd/data/files/candidates.py", "relevance": "raykd/data/files/candidates.py",
                   "positive": "raykd/data/files/candidates.py",
                   "negative": "raykd/data/files/candidates.py"}  # fmt: skip
"""Keys that no code reads as an attribute, with the place that reads them. The last ones are keys of `data.columns`."""


def test_every_key_is_read_as_an_attribute_of_its_name() -> None:
    """`git grep` for a key with a dot before it then leads from a YAML to the code."""
    read = {
        node.attr
        for path in (ROOT / "raykd").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    waiting: list[type[BaseModel]] = [RunConfig, MultiRun, SweepConfig]
    models: set[type[BaseModel]] = set()
    while waiting:
        model = waiting.pop()
        if model not in models and model.__module__.startswith("raykd."):  # a test may add a kind
            models.add(model)
            waiting += [below for field in model.model_fields.values() for below in _list_models(field)]
    assert len(models) > 60, "the whole tree"
    keys = {key for model in models for key in model.model_fields}
    assert keys - read == set(READ_AS_MAPPING)
    for key, place in READ_AS_MAPPING.items():
        text = (ROOT / place).read_text(encoding="utf-8")
        assert key in text or "columns.model_dump()" in text
