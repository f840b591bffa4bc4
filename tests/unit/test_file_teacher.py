"""Answers in files teach: found by text or id, whatever their form; what is not understood is refused by name."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import decode_answers
from raykd.config import FileTeacher, RunConfig
from raykd.config.loading import load_run, validate_run
from raykd.data.load import Dataset
from raykd.data.rows import Rows
from raykd.driver.given_answers import check_given_answers
from raykd.driver.pool import make_teacher_spec
from raykd.errors import DataError, LabelMismatchError, ModelError, RaykdError
from raykd.folders.contents import digest_models
from raykd.preflight.teacher_check import check_teacher
from raykd.teachers.backends.files import index, shards
from raykd.teachers.teacher import Teacher
from raykd.text.batch import TextBatch
from tests.fakes import LABELS, logits_of, text_batch, texts_and_labels

TEXTS = ["good", "bad", "so so", "never seen"]
P = np.asarray([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]])
"""Of the first three texts: negative, positive."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "cache"))


def config_of(
    path: object, task: str = "classification", run_labels: Any = LABELS, objective: Any = None, **keys: Any
) -> RunConfig:
    rows = {"kind": "files", "paths": ["x.jsonl"]}
    teacher = {"kind": "file", "name": "t", "languages": "all", "path": str(path), **keys}
    config = validate_run(
        {
            "data": {
                "train": rows,
                "validation": rows,
                "labels": list(run_labels),
                "languages": ["en", "fr"],
            },
            "task": {"kind": task},
            "objective": objective or {},
            "teachers": [teacher],
            "student": {"kind": "transformer" if task == "masked_lm" else "lstm"},
            "serving": {"store": None},
        },
        "test",
    )
    assert isinstance(config, RunConfig)
    return config


def teacher_of(path: object, store: Path | None = None, **keys: Any) -> Teacher:
    config = config_of(path, **keys)
    spec = make_teacher_spec(config, config.teachers[0], {})
    return Teacher(replace(spec, store=None if store is None else str(store)))


def write(path: Path, frame: pd.DataFrame) -> Path:
    """Write a table as its suffix says, as anybody would."""
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    return path


def wide(texts: list[str] = TEXTS[:3]) -> pd.DataFrame:
    """One column per label, in another order than the run's."""
    return pd.DataFrame(P[:, ::-1], columns=["positive", "negative"]).assign(text=texts)


def tables() -> dict[str, tuple[pd.DataFrame, dict[str, Any]]]:
    """Forms of the same answers, and the keys that they need."""
    texts = pd.DataFrame({"text": TEXTS[:3]})
    dicts = [dict(zip(("positive", "negative"), row[::-1], strict=True)) for row in P.tolist()]
    return {
        "a column per label": (wide(), {}),
        "a table per row": (texts.assign(probabilities=dicts), {}),
        "a list per row": (texts.assign(probabilities=P.tolist()), {"labels": LABELS}),
        "an array per row": (texts.assign(logits=list(np.log(P).astype(np.float32))), {"labels": LABELS}),
        "log-probabilities": (np.log(wide().drop(columns="text")).join(texts), {"output": "logits"}),
        "by id": (
            wide().rename(columns={"text": "id"}).assign(id=["t0", "t1", "t2"], extra="kept out"),
            {"by": "id"},
        ),
    }


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("form", tables())
def test_every_form_that_pandas_writes_is_read(form: str, suffix: str, tmp_path: Path) -> None:
    frame, keys = tables()[form]
    teacher = teacher_of(write(tmp_path / f"a{suffix}", frame), tmp_path / "store", **keys)
    slots = teacher.answer(text_batch(TEXTS))
    assert slots.answered_B.tolist() == [True, True, True, False]
    given = np.exp(logits_of(slots)[:3])
    np.testing.assert_allclose(given / given.sum(axis=1, keepdims=True), P, atol=1e-6)
    # A second question is answered by the store; by id that there is no answer is not kept.
    again = teacher.answer(text_batch(TEXTS))
    assert again.forwarded == (1 if keys.get("by") == "id" else 0) and teacher.stored == 4 - again.forwarded


def test_a_script_of_scikit_learn_teaches(tmp_path: Path) -> None:
    texts, labels = texts_and_labels(200)
    texts = list(dict.fromkeys(texts))
    named = [LABELS[1 - label] for label in labels[: len(texts)]]
    counts = CountVectorizer().fit(texts)
    model = LogisticRegression().fit(counts.transform(texts), named)
    # The three lines of docs/teachers.md.
    df = pd.DataFrame(model.predict_proba(counts.transform(texts)), columns=model.classes_)
    df["text"] = texts
    df.to_parquet(tmp_path / "a.parquet")
    got = np.exp(logits_of(teacher_of(tmp_path / "a.parquet").answer(text_batch(texts))))
    order = [list(model.classes_).index(label) for label in LABELS]
    np.testing.assert_allclose(got, model.predict_proba(counts.transform(texts))[:, order], rtol=1e-5)


def test_shards_of_a_folder_a_pattern_and_another_file_system_are_one_teacher(tmp_path: Path) -> None:
    whole = teacher_of(write(tmp_path / "a.parquet", wide())).answer(text_batch(TEXTS))
    folder = tmp_path / "shards"
    (folder / "deep").mkdir(parents=True)
    write(folder / "0.parquet", wide()[:1])
    write(folder / "deep" / "1.jsonl", wide()[1:])
    (folder / "_SUCCESS").touch()
    memory = fsspec.filesystem("memory")
    for name in ("0.parquet", "deep/1.jsonl"):
        memory.pipe(f"/answers/{name}", (folder / name).read_bytes())
    prints = set()
    for path in (folder, f"{folder}/**", "memory://answers", "memory://answers/**/*"):
        teacher = teacher_of(path)
        assert teacher.answer(text_batch(TEXTS)).bodies == whole.bodies, path
        prints.add(teacher.open().fingerprint)
    assert len(prints) == 1


def test_what_makes_answers_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def name(**keys: Any) -> str:
        return teacher_of(path, **keys).open().answers

    path = write(tmp_path / "a.jsonl", wide())
    before, dated = name(), name(version="1")
    digest = digest_models(config_of(path))["teachers.t.path"]
    assert name(by="text", on_unanswered="stop") == before != dated
    write(path, wide(["good", "bad", "so sO"]))
    assert name() != before and name(version="1") == dated
    assert digest_models(config_of(path))["teachers.t.path"] != digest
    assert digest_models(config_of(path, version="1"))["teachers.t.path"] == "version 1"
    # Of large files the size and blocks from end to end count.
    monkeypatch.setattr(shards, "_WHOLE", 1 << 12)
    monkeypatch.setattr(shards, "_BLOCK", 1 << 8)
    content = bytearray(b"x" * 100_000)
    prints = []
    for at in (None, 0, 50_000, 99_999):
        changed = content.copy()
        if at is not None:
            changed[at] += 1
        path.write_bytes(changed)
        prints.append(shards.list_answer_files(str(path), "t").digest())
    assert len(set(prints)) == 3 and prints[0] == prints[2]  # between two blocks nothing is seen


@pytest.mark.parametrize(
    ("change", "keys", "error", "said"),
    [
        (lambda df: df.assign(positive=df.positive * 100, negative=df.negative * 100), {}, ModelError,
         r"row 1\) gave probabilities that sum up to 100[\s\S]*percent: divide them by 100"),
        (lambda df: df.assign(negative=-df.negative), {}, ModelError, r"teachers\.t\.output: logits"),
        (lambda df: df.assign(negative=[0.1, None, 0.5]), {}, ModelError,
         r"row 2\) gave numbers for some of the labels alone[\s\S]*got:    positive[\s\S]*t\.rest: even"),
        (lambda df: df.assign(negative=["a", "b", "c"]), {}, ModelError, "numbers|double"),
        (lambda df: df.rename(columns={"positive": "pos"}), {}, LabelMismatchError, r"\['negative'\]"),
        (lambda df: df.rename(columns={"positive": "p", "negative": "n"}), {}, ModelError,
         r"a column for each of \['negative', 'positive'\][\s\S]*df.rename"),
        (lambda df: df.rename(columns={"text": "review"}), {}, ModelError,
         "do not say which rows they answer[^$]*columns (?:p|n)ositive[^$]*a column text"),
        (lambda df: df, {"by": "id"}, ModelError, "a column id"),
        (lambda df: df.assign(text=["good", None, "so so"]), {}, ModelError, r"row 2\) does not say which row"),
        (lambda df: df.assign(text=["good", "bad", "good"]), {}, ModelError,
         r"stands twice, with different answers[\s\S]*row 1 and .*row 3"),
        (lambda df: df[["text"]].assign(probabilities=P.tolist()), {}, ModelError, "write teachers.t.labels"),
        (lambda df: df[["text"]].assign(probabilities=P.tolist()), {"labels": (*LABELS, "x"),
         "label_map": {"x": None}}, ModelError, "a list of 2 numbers"),
        (lambda df: df.assign(logits=P.tolist(), probabilities=P.tolist()), {}, ModelError, "hold both"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_what_is_not_understood_is_refused_by_name(
    change: Any, keys: dict[str, Any], error: type[RaykdError], said: str, suffix: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"a{suffix}", change(wide()))
    with pytest.raises(error, match=said) as caught:
        teacher_of(path, **keys).answer(text_batch(TEXTS))
    assert "teacher t" in str(caught.value) and caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.jsonl",
            b'{"text": "good", "probabilities": {"negative": 0.1, "positive": NaN}}\n',
            "NaN or infinity",
        ),
        ("a.jsonl", b'{"text": "good"\n', r"a.jsonl:1 is no JSON object"),
        ("a.jsonl", b"\n", "holds no rows"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "good", "negative": 0.1, "positive": 0.9}\n' * 99)[:-9],
            "to its end",
        ),
        ("a.parquet", b"PAR1 cut off", "cannot be read as Parquet"),
        ("a.csv", b"text,negative\n", r"no file of answers[\s\S]*a.csv[\s\S]*\.parquet"),
    ],
)
def test_a_broken_file_is_named(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=said):
        teacher_of(tmp_path / name).answer(text_batch(TEXTS))


def test_a_label_that_only_later_rows_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_SAMPLE", 1)
    lines = [{"text": "a", "probabilities": {"negative": 0.5, "positive": 0.5}},
             {"text": "b", "probabilities": {"neutral": 1.0}}]  # fmt: skip
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(ModelError, match=r"a.jsonl:2 names a label[\s\S]*neutral"):
        teacher_of(path).answer(text_batch(["a"]))


def test_top_k_shares_the_rest_evenly_where_it_is_said(tmp_path: Path) -> None:
    labels = ("a", "b", "c", "d")
    frame = pd.DataFrame({"text": ["x", "y"], "probabilities": [{"a": 0.7, "b": 0.1}, {"c": 0.4, "d": 0.6}]})
    path = write(tmp_path / "a.parquet", frame)
    got = np.exp(logits_of(teacher_of(path, run_labels=labels, rest="even").answer(text_batch(["x", "y"]))))
    np.testing.assert_allclose(got, [[0.7, 0.1, 0.1, 0.1], [0, 0, 0.4, 0.6]], atol=1e-6)
    with pytest.raises(ModelError, match="some of the labels alone"):
        teacher_of(path, run_labels=labels).answer(text_batch(["x"]))


def test_equal_answers_to_a_repeated_text_are_one(tmp_path: Path) -> None:
    frame = pd.concat([wide(), wide()[::-1]])
    frame.iloc[3, 0] += 1e-4
    found = teacher_of(write(tmp_path / "a.parquet", frame)).backend.load()
    assert isinstance(found, index.AnswerIndex) and len(found) == 3


def test_pairs_are_found_by_both_texts(tmp_path: Path) -> None:
    frame = pd.concat([wide(["x"] * 3).assign(text_pair=["a", "b", "c"])])
    batch = replace(text_batch(["x", "x", "a"]), pairs=("b", "a", "x"))
    slots = teacher_of(write(tmp_path / "a.parquet", frame)).answer(batch)
    assert slots.answered_B.tolist() == [True, True, False]
    np.testing.assert_allclose(np.exp(logits_of(slots)[:2]), P[[1, 0]], rtol=1e-5)


TAGS = ("O", "B-PER", "I-PER")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_taggers_answer_word_by_word_and_may_leave_words_out(suffix: str, tmp_path: Path) -> None:
    words = [{"O": 0.1, "B-PER": 0.9, "I-PER": 0.0}, None, {"O": 1.0, "B-PER": 0.0, "I-PER": 0.0}]
    frame = pd.DataFrame({"tokens": [["Anna", "B.", "ran"], ["He"]], "probabilities": [words, None]})
    batch = replace(
        text_batch(["Anna B. ran", "He"]), words=(((0, 4), (5, 7), (8, 11)), ((0, 2),)), modes=("split",) * 2
    )
    path = write(tmp_path / f"a{suffix}", frame)
    slots = teacher_of(path, task="token_classification", run_labels=TAGS).answer(batch)
    answer, units = decode_answers(slots.bodies)
    assert isinstance(answer, DenseAnswer) and units.tolist() == [3, 0]
    assert answer.covered_N.tolist() == [True, False, True]
    assert answer.logits_NC[[0, 2]].argmax(axis=1).tolist() == [1, 0]
    shorter = replace(batch, words=(((0, 4), (5, 11)), ((0, 2),)))
    with pytest.raises(ModelError, match=r"3 for 1 rows such as t0[\s\S]*wanted: 2, one for each word"):
        teacher_of(path, task="token_classification", run_labels=TAGS).answer(shorter)


def test_several_labels_stand_alone(tmp_path: Path) -> None:
    """Probabilities of multi_label need not sum up to 1; a label that the files lack is not covered."""
    labels = ("a", "b", "c")
    frame = pd.DataFrame({"text": ["x", "y"], "b": [0.9, 0.2], "a": [0.8, 0.0]})
    path = write(tmp_path / "a.parquet", frame)
    teacher = teacher_of(path, task="multi_label", run_labels=labels, missing=["c"])
    answer, units = decode_answers(teacher.answer(text_batch(["x", "y", "z"])).bodies)
    assert isinstance(answer, DenseAnswer) and units.tolist() == [3, 3, 0]
    assert answer.covered_N.tolist() == [True, True, False] * 2
    p = 1 / (1 + np.exp(answer.logits_NC[:, 0] - answer.logits_NC[:, 1]))
    np.testing.assert_allclose(p[answer.covered_N], [0.8, 0.9, 0.0, 0.2], atol=1e-6)
    for bad, said in (([0.9, 1.2], "numbers from 0 to 1"), ([0.9, None], "some of the labels alone")):
        again = write(tmp_path / "b.parquet", frame.assign(b=bad))
        with pytest.raises(ModelError, match=rf"row 2\)[\s\S]*{said}"):
            teacher_of(again, task="multi_label", run_labels=labels, missing=["c"], rest="even").answer(
                text_batch(["x"])
            )
    twice = pd.concat([frame, frame.assign(a=[0.7, 0.0])])
    with pytest.raises(ModelError, match="stands twice"):
        teacher_of(
            write(tmp_path / "c.parquet", twice), task="multi_label", run_labels=labels, missing=["c"]
        ).load()


def test_values_of_a_regression_are_read_and_scaled(tmp_path: Path) -> None:
    keys = {
        "task": "regression",
        "run_labels": (),
        "objective": {"terms": [{"divergence": {"kind": "logit_mse"}}]},
    }
    frame = pd.DataFrame({"text": ["x", "y"], "value": [0.25, 1.0]})
    path = write(tmp_path / "a.jsonl", frame)
    got = teacher_of(path, scale={"factor": 4.0, "offset": 1.0}, **keys).answer(text_batch(["y", "z", "x"]))
    assert got.answered_B.tolist() == [True, False, True]
    assert logits_of(got)[[0, 2], 0].tolist() == [5.0, 2.0]
    with pytest.raises(ModelError, match="a column value"):
        teacher_of(write(tmp_path / "b.jsonl", frame.rename(columns={"value": "score"})), **keys).open()
    with pytest.raises(ModelError, match="stands twice"):
        teacher_of(write(tmp_path / "c.jsonl", frame.assign(text="x")), **keys).load()


def test_language_models_are_refused_with_the_next_step(tmp_path: Path) -> None:
    config = config_of(write(tmp_path / "a.parquet", wide()), "masked_lm", ())
    with pytest.raises(ModelError, match=r"cannot teach masked_lm from files[\s\S]*kind: model"):
        check_teacher(config.teachers[0], config)


def dataset(train: TextBatch, validation: TextBatch) -> Dataset:
    rows = [Rows(**vars(batch)) for batch in (train, validation)]
    return Dataset(train=rows[0], validation=rows[1], test=None)


def test_a_check_counts_the_rows_that_have_an_answer(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", wide())
    config = config_of(path, languages=["en"])
    (teacher,) = config.teachers
    assert isinstance(teacher, FileTeacher)
    assert check_teacher(teacher, config) == "file, labels positive, negative, float32 on cpu"
    data = dataset(text_batch(TEXTS, ["en", "en", "fr", "en"]), text_batch(["good"]))
    line, is_whole = check_given_answers(teacher, config, data)
    assert line == "answers to 2 of 3 training rows, 1 of 1 validation rows" and not is_whole
    with pytest.raises(DataError, match=r"2 of 3 training rows[\s\S]*none to t3"):
        strict = config_of(path, languages=["en"], on_unanswered="stop")
        check_given_answers(strict.teachers[0], strict, data)
    nothing = dataset(text_batch(["other"]), text_batch(["another"]))
    with pytest.raises(
        DataError, match=r"0 of 1 training rows[\s\S]*text 'other', the files 'good'[\s\S]*by: id"
    ):
        check_given_answers(teacher, config, nothing)


@pytest.mark.parametrize(
    ("second", "said"),
    [("t2", "ids t0 and t1|ids t1 and t0"), ("t0", ""), ("t9", "which has none")],
)
def test_ids_of_equal_texts_need_one_answer(second: str, said: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(P, columns=list(LABELS)).assign(id=["t0", "t1", "t2"])
    if second == "t0":
        frame.loc[1] = [*frame.loc[0][:2], "t1"]
    config = config_of(
        write(tmp_path / "a.parquet", frame[frame.id != "t1"] if second == "t9" else frame), by="id"
    )
    data = dataset(text_batch(["same", "same", "other"]), text_batch(["other", "other", "other"]))
    data = replace(data, validation=replace(data.train))
    if said:
        with pytest.raises(DataError, match=f"equal texts have different answers[\\s\\S]*{said}"):
            check_given_answers(config.teachers[0], config, data)  # type: ignore[arg-type]
    else:
        assert check_given_answers(config.teachers[0], config, data)[1]  # type: ignore[arg-type]


def test_paths_begin_at_the_run_file_and_urls_stay(tmp_path: Path) -> None:
    run = """
data: {labels: [a, b], languages: [en], train: {kind: files, paths: [x.jsonl]}, validation: {kind: files, paths: [x.jsonl]}}
student: {kind: lstm}
teachers:
  - {kind: file, name: here, languages: all, path: "answers/*.parquet"}
  - {kind: file, name: there, languages: all, path: "memory://answers"}
"""
    (tmp_path / "run.yaml").write_text(run, encoding="utf-8")
    here, there = load_run(tmp_path / "run.yaml").teachers
    assert (here.path, there.path) == (f"{tmp_path}/answers/*.parquet", "memory://answers")  # type: ignore[attr-defined]
