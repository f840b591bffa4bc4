"""Whatever bytes come in, a reader gives a right value or an error of raykd: drawn inputs, and the fuzzer's corpus."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import fuzz
from benchmarks.fuzz_targets import Target, targets
from raykd import models
from raykd.config import check_name
from raykd.config.loading import set_path
from raykd.data.files.records import read_file_records
from raykd.errors import RaykdError
from raykd.keys import make_mlflow_key
from raykd.parse import parse_json, parse_yaml
from raykd.pretrained.files import check_directory, read_labels
from raykd.redaction import redact, redact_value
from raykd.scoring.inputs import read_inputs
from raykd.teachers.store.values import make_text_key

quick = settings(max_examples=60, deadline=None, database=None)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [
        "model_type",
        "id2label",
        "architectures",
        "auto_map",
        "task",
        "tasks",
        "languages",
        "max_length",
        "kind",
    ]
)
CONFIGS = st.dictionaries(KEYS, TREES, max_size=5)


def answered(read: Callable[[], Any]) -> Any:
    """What a reader gives; None where it refuses as raykd does."""
    try:
        return read()
    except RaykdError as error:
        assert error.exit_code in (2, 3) and str(error)
        return None


@quick
@given(st.text(max_size=120))
def test_a_name_that_is_taken_is_one_part_of_a_path(name: str) -> None:
    try:
        check_name(name)
    except ValueError:
        return
    path = Path("/a") / name
    assert path.parent == Path("/a") and path.name == name and len(name.encode()) <= 100


@quick
@given(st.text(max_size=60), TREES)
def test_yaml_of_a_tree_is_the_tree_and_any_text_is_answered(text: str, tree: Any) -> None:
    answered(lambda: parse_yaml(text, "it"))
    written = json.dumps(tree)
    assert answered(lambda: parse_json(written, "it")) == (tree if "\\u0000" not in written else None)


@quick
@given(st.text(max_size=40), st.dictionaries(st.text("abc.", max_size=3), TREES, max_size=3))
def test_an_override_changes_its_key_alone_or_is_refused(assignment: str, tree: dict[str, Any]) -> None:
    before = json.dumps(tree)
    changed = answered(lambda: set_path(tree, assignment))
    assert json.dumps(tree) == before
    if changed is not None:
        touched = assignment.partition("=")[0].partition(".")[0]
        assert {k: v for k, v in changed.items() if k != touched} == {
            k: v for k, v in tree.items() if k != touched
        }


@quick
@given(st.binary(max_size=200), st.sampled_from([".jsonl", ".csv", ".tsv", ".parquet", ".doc"]))
def test_any_data_file_is_read_or_refused(data: bytes, ending: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{ending}"
        path.write_bytes(data)
        for record in answered(lambda: list(read_file_records(path))) or ():
            assert isinstance(record.values, dict) and str(path) in record.place


@quick
@given(st.binary(max_size=120))
def test_any_lines_for_predict_are_read_or_refused(data: bytes) -> None:
    import sys

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.jsonl"
        path.write_bytes(data)
        asked = answered(lambda: read_inputs(None, path, None, None, sys.stdin))
        if asked is not None:
            rows = asked.texts or asked.tokens or []
            assert len(rows) <= len(data.splitlines()), "a row a line at most: none is made up"


@quick
@given(CONFIGS | TREES, CONFIGS | TREES, st.booleans())
def test_any_model_folder_is_told_of_or_refused(config: Any, card: Any, weights: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "raykd.json").write_text(json.dumps(card))
        if weights:
            (folder / "model.safetensors").write_bytes(b"x")
        info = models.inspect_directory(folder)
        refused = answered(lambda: (check_directory(folder, trust_remote_code=False), True)[1]) is None
        assert info.problems if refused else True
        answered(lambda: read_labels(folder))
        answered(lambda: models.list_tasks(folder))


@quick
@given(
    st.text(max_size=20),
    st.none() | st.text(max_size=20),
    st.text(max_size=20),
    st.none() | st.text(max_size=20),
)
def test_two_texts_share_a_key_only_if_they_are_equal(a: str, b: str | None, c: str, d: str | None) -> None:
    assert (make_text_key(a, b) == make_text_key(c, d)) == ((a, b) == (c, d))


@quick
@given(st.text(max_size=300))
def test_a_key_for_mlflow_is_one_that_it_takes(key: str) -> None:
    import posixpath

    made = make_mlflow_key(key)
    assert 0 < len(made) <= 250 and posixpath.normpath(made) == made
    assert not made.startswith(("/", "..")) and ".." not in made.split("/")


@quick
@given(st.text("abcdefgh0123456789", min_size=8, max_size=20), st.text("xyz", min_size=1, max_size=6))
def test_a_secret_is_hidden_wherever_it_stands(secret: str, word: str) -> None:
    forms = (f"http://{word}:{secret}@host/x", f"password={secret}", f'"api_key": "{secret}"', f"hub_token: {secret}",
             f"Authorization: Bearer {secret}", f"MLFLOW_TRACKING_PASSWORD={secret} {word}")  # fmt: skip
    for form in forms:
        assert secret not in redact(f"{word} {form} {word}"), form
    assert redact_value(f"a.{word}.token", secret) == "***" and redact_value("train.max_tokens", "16") == "16"


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_what_the_fuzzer_knows_is_read_or_refused(target: Target) -> None:
    found = fuzz(target, 0.15, seed=1)
    assert found.faults == {} and found.executions >= len(target.seeds) and found.lines > 3


def test_a_header_alone_cannot_ask_for_all_memory() -> None:
    """Once a fault: 14 bytes were believed to hold so many units, and as much memory was asked for."""
    from raykd.answers.codec import _HEADER, VERSION, decode_answers

    bare = _HEADER.pack(VERSION, 0, 0, 0, 2**32 - 1, 8, 8)
    with pytest.raises(ValueError, match="more units than its bytes can hold"):
        decode_answers([bare])
    for length in range(len(bare)):
        with pytest.raises(ValueError, match=r"layout nothing|shorter than its header"):
            decode_answers([bare[:length]])
