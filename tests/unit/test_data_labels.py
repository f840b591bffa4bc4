"""Labels as files have them: numbers, truth values, maps, rows without one, and what becomes of rows that are not
drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.config import DataConfig
from raykd.data.cells import BadRowError, is_blank_text
from raykd.data.files.textfiles import UnreadValue, require_file
from raykd.data.labels import ExcludedLabelError, NoLabelError, UnknownLabelError, find_label_index
from raykd.data.load import Dataset, load_data
from raykd.data.read import Tally, read_rows
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED
from raykd.errors import DataError


def config_of(labels: list[str], **more: Any) -> DataConfig:
    source = {"kind": "files", "paths": ["train.jsonl"]}
    tree = {"train": source, "validation": source, "labels": labels, "languages": ["en"], **more}
    return DataConfig.model_validate(tree)


def write(folder: Path, rows: list[Any], name: str = "train.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / name


def parquet(path: Path, **columns: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def read(folder: Path, config: DataConfig, form: Any = "text", tally: Tally | None = None) -> Rows:
    config.check(form)
    return read_rows(config.train, config, base_dir=folder, labelled=True, form=form, tally=tally)


# one value -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "labels", "index"),
    [
        (1, ["0", "1"], 1), (1.0, ["0", "1"], 1), ("1.0", ["0", "1"], 1), (0.0, ["0", "1"], 0), (1, ["0.0", "1.0"], 1),
        (1.0, ["1", "1.0"], 1), ("1", ["1", "1.0"], 0), (True, ["false", "true"], 1), (True, ["False", "True"], 1),
        (False, ["0", "1"], 0), ("True", ["false", "true"], 1), ("FALSE", ["0", "1"], 0), ("true", ["True", "true"], 1),
        (-1, ["-1", "0", "1"], 0), (-1.0, ["-1", "0"], 0), ("-1", ["-1", "0"], 0), ("007", ["007", "7"], 0),
        (True, ["true", "True"], 0),
    ],
)  # fmt: skip
def test_a_number_or_truth_value_is_the_label_that_it_means(
    value: Any, labels: list[str], index: int
) -> None:
    assert find_label_index(value, config_of(labels)) == index


@pytest.mark.parametrize(
    ("value", "labels", "said"),
    [
        (0.5, ["0", "1"], "got 0.5, wanted one of ['0', '1']"),
        (2, ["0", "1"], "got 2"),
        (1, ["false", "true"], "got 1"),
        ("01", ["0", "1"], "got '01'"),
        ("true ", ["false", "true"], "did you mean 'true'?"),
        ("\ufeffgood", ["good", "bad"], "did you mean 'good'?"),
        ("TRUE", ["True", "1"], "it could be 'True' or '1'"),
        ([1], ["0", "1"], "got [1]"),
        ("x", [str(i) for i in range(100)], "'11'] and 88 more"),
    ],
)
def test_what_means_no_label_or_two_is_a_bad_row(value: Any, labels: list[str], said: str) -> None:
    with pytest.raises(BadRowError) as caught:
        find_label_index(value, config_of(labels))
    assert said in str(caught.value) and not isinstance(caught.value, NoLabelError)


@pytest.mark.parametrize("value", [None, "", "  ", float("nan"), -1, "-1", -1.0])
def test_what_says_that_there_is_no_label(value: Any) -> None:
    with pytest.raises(NoLabelError, match="it is no gold label"):
        find_label_index(value, config_of(["0", "1"]))


def test_a_map_joins_renames_and_leaves_out() -> None:
    stars = {"1": "bad", "2": "bad", "3": None, "4": "good", "5": "good"}
    config = config_of(["bad", "good"], label_map=stars)
    assert [find_label_index(v, config) for v in (1, "2", 4.0, 5, "good", "5.0")] == [0, 0, 1, 1, 1, 1]
    with pytest.raises(ExcludedLabelError, match="3"):
        find_label_index(3.0, config)
    with pytest.raises(BadRowError, match=r"or of data\.label_map"):
        find_label_index(6, config)


def test_a_map_of_ranges_makes_labels_of_scores() -> None:
    """Both ends belong to a range; where two share one, the first of the map has it. A label's own name comes first."""
    scores = {"0..2": "bad", "4..5": "good", "2..4": None, "-1..-0.5": "bad"}
    config = config_of(["bad", "good"], label_map=scores)
    assert [find_label_index(v, config) for v in (0, 2, "1.75", 4, 5.0, "4.2", -1, -0.75, "good")] == [
        0, 0, 0, 1, 1, 1, 0, 0, 1]  # fmt: skip
    for value in (2.001, 3, "3.9"):
        with pytest.raises(ExcludedLabelError, match=r"2\.\.4"):
            find_label_index(value, config)
    for value in (5.1, -0.2, True, "high", float("nan")):
        with pytest.raises(BadRowError):
            find_label_index(value, config)


@pytest.mark.parametrize(
    ("form", "change", "said"),
    [
        ("text", {"label_map": {"x": "c"}}, r"data\.label_map leads from 'x' to 'c', not in data\.labels"),
        ("words", {"label_map": {"X": None}, "labels": ["O", "B-A"]}, "map tags to O"),
        ("answers", {"label_map": {"x": "a"}, "labels": []}, "plays no part"),
        ("target", {"empty_label": "drop", "labels": []}, r"data\.empty_label plays no part"),
    ],
)
def test_maps_that_lead_nowhere(form: Any, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config_of(**{"labels": ["a", "b"], **change}).check(form)


# files ---------------------------------------------------------------------------------------------------------


def test_pandas_makes_fractions_of_labels_where_one_is_missing(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": [0, None, 1]})
    source = {"kind": "files", "paths": ["x"]}
    for name, save in (("x.csv", frame.to_csv), ("x.parquet", frame.to_parquet)):
        save(tmp_path / name, index=False)
        files = {**source, "paths": [name]}
        rows = read(tmp_path, config_of(["0", "1"], train=files, empty_label="unlabeled"))
        assert rows.labels_B.tolist() == [0, UNLABELLED, 1]
        tally = Tally()
        assert len(read(tmp_path, config_of(["0", "1"], train=files, empty_label="drop"), tally=tally)) == 2
        assert list(tally.without_label.values()) == [1]
        with pytest.raises(
            DataError, match=r"1 of 3 rows cannot be used[\s\S]*next: +rows without a label are texts"
        ):
            read(tmp_path, config_of(["0", "1"], train=files))


def test_columns_that_nobody_asked_for_may_hold_anything(tmp_path: Path) -> None:
    import pyarrow as pa

    odd = {
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32())),
        "image": pa.array([b"\xff"], pa.binary()),
        "vector": pa.array([[0.5]], pa.list_(pa.float32())),
        "when": pa.array([0], pa.timestamp("s")),
        "price": pa.array(["1.5"]).cast(pa.decimal128(3, 1)),
        "nested": pa.array([{"a": {"b": b"x"}}]),
    }
    label = pa.array(["a"]).dictionary_encode()
    parquet(tmp_path / "x.parquet", text=pa.array(["fine"], pa.large_string()), label=label, **odd)
    config = config_of(["a", "b"], train={"kind": "files", "paths": ["x.parquet"]})
    assert read(tmp_path, config).texts == ("fine",)
    for name, kind in (
        ("map", "map<string, int32"),
        ("image", "binary"),
        ("vector", "list<element: float>"),
    ):
        source = {"kind": "files", "paths": ["x.parquet"], "columns": {"text": name}}
        with pytest.raises(DataError, match=f"column '{name}': got a value of type {kind}"):
            read(tmp_path, config_of(["a", "b"], train=source))


def test_a_key_twice_in_a_row(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "x", "label": "a", "label": "b"}\n{"text": "y", "label": "a"}\n')
    with pytest.raises(DataError) as caught:
        read(tmp_path, config_of(["a", "b"]))
    assert "train.jsonl:1: label: got 2 values, as the key stands 2 times: ['a', 'b']" in str(caught.value)
    path.write_text('{"text": "x", "more": 1, "more": 2, "label": "a", "label": "a"}\n')
    assert read(tmp_path, config_of(["a", "b"])).labels_B.tolist() == [0]


def saved(folder: Path, **splits: list[int]) -> Path:
    import datasets

    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["bad", "good"])
    )
    made = {
        name: datasets.Dataset.from_dict(
            {"text": [f"{name} {i}" for i in range(len(labels))], "label": labels},
            features=features,
            split=datasets.NamedSplit(name),
        )
        for name, labels in splits.items()
    }
    if set(splits) == {"alone"}:
        made["alone"].save_to_disk(str(folder / "alone"))
    else:
        datasets.DatasetDict(made).save_to_disk(str(folder / "set"))
    return folder


def test_saved_sets_are_read_by_split_and_slice(tmp_path: Path) -> None:
    saved(tmp_path, train=[0, 1, 1, 0], dev=[1, 1])
    saved(tmp_path, alone=[0, 1, 1, 0])

    def texts(name: str, split: str) -> tuple[str, ...]:
        config = config_of(["bad", "good"], train={"kind": "hub", "name": name, "split": split})
        return read(tmp_path, config).texts

    assert texts("set", "train[:50%]") == ("train 0", "train 1") and texts("set", "train[-1:]") == (
        "train 3",
    )
    assert (
        texts("set", "train[1:3]+dev[:1]") == ("train 1", "train 2", "dev 0")
        and len(texts("set", "dev")) == 2
    )
    assert len(texts("alone", "train")) == 4 and texts("alone", "alone[:25%]") == ("alone 0",)
    for name, split, said in (
        ("set", "test[:1]", r"no split 'test\[:1\]'[\s\S]*one of \['dev', 'train'\]"),
        ("alone", "test", "'alone', the one that was saved"),
        ("set", "train[:x]", "cannot be loaded"),
    ):
        with pytest.raises(DataError, match=said):
            texts(name, split)
    source = {"kind": "files", "paths": ["set"]}
    with pytest.raises(DataError, match=r"written by save_to_disk: name it as \{kind: hub"):
        read(tmp_path, config_of(["bad", "good"], train=source))


def test_held_back_classes_are_no_gold(tmp_path: Path) -> None:
    saved(tmp_path, train=[0, 1, -1], test=[-1, -1])
    sources = {k: {"kind": "hub", "name": "set", "split": k} for k in ("train", "test")}
    tree = {**sources, "validation": sources["train"]}
    with pytest.raises(DataError, match=r"row 3: label: got -1[\s\S]*next: +rows without a label are texts"):
        load_data(config_of(["bad", "good"], **tree), tmp_path)
    assert load_data(config_of(["bad", "good"], empty_label="unlabeled", **tree), tmp_path).judged == (
        "test",
    )
    tree |= {"test": None, "validation": {**sources["train"], "split": "train[:2]"}}
    data = load_data(config_of(["bad", "good"], empty_label="unlabeled", **tree), tmp_path)
    assert data.train.labels_B.tolist() == [0, 1, UNLABELLED]
    broken = read(tmp_path, config_of(["good", "bad"], empty_label="unlabeled", **tree))
    assert broken.labels_B.tolist() == [1, 0, UNLABELLED]


def test_tags_go_through_the_map_by_tag_or_type(tmp_path: Path) -> None:
    row = {"tokens": list("abcd"), "tags": ["B-PERSON", "M-PERSON", "B-MISC", "O"]}
    write(tmp_path, [row, {**row, "tags": None}, {**row, "tags": [1, 2, 0, 0]}])
    names = {"M-PERSON": "I-PER", "PERSON": "PER", "B-MISC": "O", "0": "O", "1": "B-PER", "2": "I-PER"}
    config = config_of(["O", "B-PER", "I-PER"], label_map=names, empty_label="unlabeled")
    rows = read(tmp_path, config, "words")
    assert rows.golds == ((1, 2, 0, 0), (), (1, 2, 0, 0)) and rows.labels_B.tolist() == [0, UNLABELLED, 0]


# whole runs ----------------------------------------------------------------------------------------------------


def loaded(folder: Path, **more: Any) -> Dataset:
    rows = [{"text": f"t{i}", "label": ["a", "b", None, "c"][i % 4]} for i in range(40)]
    write(folder, rows)
    write(folder, [{"text": "t2", "label": "a"}, {"text": "t1", "label": "b"}, {"text": "v"}], "v.jsonl")
    held = {"kind": "files", "paths": ["v.jsonl"]}
    return load_data(
        config_of(["a", "b"], validation=held, empty_label="unlabeled", label_map={"c": None}, **more), folder
    )


def test_labelled_and_unlabelled_rows_of_one_file(tmp_path: Path) -> None:
    data = loaded(tmp_path)
    assert int(data.train.labelled.sum()) == 20 and len(data.train) == 20 + 9 and len(data.validation) == 2
    assert data.left_out == {
        "train: label 'c', left out by data.label_map": 10,
        "train: without a label, used as text without labels": 10,
        "validation: without a label, left out": 1,
        "train: labelled and also in validation or test (kept)": 1,
        "unlabeled: also in validation or test": 1,
    }
    assert "10 rows: train: label 'c', left out by data.label_map" in data.remarks()


def test_rows_that_are_not_drawn_may_become_texts(tmp_path: Path) -> None:
    dropped = loaded(tmp_path, labelled_per_language=6)
    kept = loaded(tmp_path, labelled_per_language=6, undrawn="unlabeled")
    assert len(dropped.train) == 6 + 9
    assert kept.train.texts[:15] == dropped.train.texts
    rest = set(kept.train.texts) - set(dropped.train.texts)
    everything = {f"t{i}" for i in range(40) if i % 4 < 2}
    assert rest | set(dropped.train.texts[:6]) | {"t1"} == everything and "t1" not in rest
    assert kept.train.labels_B.tolist()[6:] == [UNLABELLED] * (len(kept.train) - 6)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(width=16)
    | st.text("ab1.0 \u200b", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "role", "x"]), inner)
    ),
    max_leaves=6,
)
KEYS = ["text", "label", "tokens", "tags", "question", "context", "answers", "src", "tgt", "messages"]


@settings(max_examples=150, deadline=None, database=None)
@given(
    st.lists(st.fixed_dictionaries(dict.fromkeys(KEYS, JSON)), min_size=1, max_size=3),
    st.sampled_from(["text", "words", "answers", "target", "source_target", "plain"]),
    st.sampled_from(["fail", "unlabeled", "drop"]),
)
def test_any_row_is_read_or_refused(rows: list[dict[str, Any]], form: Any, empty: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        write(Path(name), rows)
        labels = {"text": ["a", "1"], "words": ["O", "B-a"]}.get(form, [])
        keys = {"label_map": {"b": "a"}, "empty_label": empty} if form == "text" else {}
        config = config_of(labels, on_bad_row="skip", max_bad_rows=1.0, **keys)
        try:
            found = read(Path(name), config, form)
        except DataError as error:
            assert "chats" in str(error)
            return
        assert len(found) <= len(rows)
        assert all(not is_blank_text(text) for text in found.texts) or form == "target"
        gold = set(found.labels_B.tolist()) - ({UNLABELLED} if empty == "unlabeled" else set())
        assert gold <= ({0, 1} if form == "text" else {0})


# texts that hold nothing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["\u200b", "\u200b \ufeff", "\xad", "\ufe0f", "\u2060\n", "\u200e\u202b", "\u3164", "\u2800", "\x07"]
)  # fmt: skip
def test_a_text_of_nothing_that_can_be_seen_is_empty(text: str, tmp_path: Path) -> None:
    write(tmp_path, [{"text": text, "label": "a"}])
    with pytest.raises(DataError, match="column 'text': got an empty text"):
        read(tmp_path, config_of(["a", "b"]))
    assert (
        not is_blank_text(text + "a")
        and not is_blank_text("\ue000")
        and not is_blank_text("👍🏽")
        and not is_blank_text(".")
    )


def test_chats_are_told_what_to_do_with(tmp_path: Path) -> None:
    write(tmp_path, [{"messages": [{"role": "user", "content": "x"}], "lang": "en"}])
    with pytest.raises(DataError) as caught:
        read(tmp_path, config_of([]), "target")
    message = str(caught.value)
    assert message.partition("\n")[0].endswith(
        "'messages' holds chats, which have to be rendered to texts first"
    )
    assert "apply_chat_template" in message and "bos" in message and "eos" in message


def test_chats_of_a_task_without_targets_are_to_be_one_text(tmp_path: Path) -> None:
    write(tmp_path, [{"messages": [{"role": "user", "content": "x"}], "label": "a"}])
    with pytest.raises(DataError, match="text = apply_chat_template") as caught:
        read(tmp_path, config_of(["a", "b"]))
    assert "src" not in str(caught.value)


@pytest.mark.parametrize("value", [["a"], {"a": 1}, ["a", "b"], UnreadValue("a value of type timestamp[us]")])
def test_what_no_map_can_lead_from_is_not_told_to_be_mapped(value: Any) -> None:
    with pytest.raises(BadRowError, match="no text or number") as caught:
        find_label_index(value, config_of(["a", "b"]))
    assert not isinstance(caught.value, UnknownLabelError | NoLabelError)
    assert ("without the list" in str(caught.value)) == (value == ["a"])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"version": 1, "data": [{"text": "x", "label": "a"}]}], 'the rows seem to stand inside "data"'),
        ([{"data": {"text": "x"}, "label": "a"}] * 2, "'text' stands inside \"data\""),
        ([[{"text": "x", "label": "a"}]], "each part of the list as a line of its own"),
    ],
)
def test_rows_that_stand_inside_something_are_found(rows: list[Any], said: str, tmp_path: Path) -> None:
    write(tmp_path, rows)
    with pytest.raises(DataError) as caught:
        read(tmp_path, config_of(["a", "b"]))
    assert said in str(caught.value)


def test_paths_that_others_would_fill_in(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="variables of the shell"):
        require_file(tmp_path / "$DATA/a.jsonl")


def test_rows_that_are_all_left_out_are_told_why(tmp_path: Path) -> None:
    write(tmp_path, [{"text": "x", "label": "a"}, {"text": "y", "label": "a"}])
    config = config_of(["b", "c"], label_map={"a": None})
    with pytest.raises(DataError, match=r"2 rows: train: label 'a', left out by data\.label_map"):
        load_data(config, tmp_path)


def test_translations_by_language_are_to_be_columns(tmp_path: Path) -> None:
    write(tmp_path, [{"translation": {"en": "x", "fr": "y"}}])
    with pytest.raises(DataError, match='inside "translation" by language: write them as "src" and "tgt"'):
        read(tmp_path, config_of([]), "source_target")


def test_a_column_of_texts_that_is_named_as_chats_are_is_none(tmp_path: Path) -> None:
    write(tmp_path, [{"conversation": "plain", "label": "a"}])
    with pytest.raises(DataError, match=r"name it: data\.columns\.text"):
        read(tmp_path, config_of(["a", "b"]))
