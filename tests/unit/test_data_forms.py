"""Rows of tagging, question answering and writing: what is read, and each thing that can be wrong with a row."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raykd.config import DataConfig
from raykd.data.load import load_data
from raykd.data.read import Tally, read_rows
from raykd.data.rows import Rows
from raykd.data.summary import summarize_rows
from raykd.distill.signals import UNLABELLED
from raykd.errors import DataError

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
NAMED = {"tokens": ["Ann", "Lee", "saw", "Rome"], "tags": ["B-PER", "I-PER", "O", "B-LOC"], "lang": "en"}
ASKED = {
    "question": "Who?",
    "context": "Ann saw Bo and Bo.",
    "answers": {"text": ["Ann"], "answer_start": [0]},
    "lang": "en",
}
PAIR = {"src": "good day", "tgt": "bonjour", "src_lang": "en", "tgt_lang": "fr"}
DATA = os.environ.get("RAYKD_TEST_DATA")
"""Folder of real rows (ner, qa, translation by language), where there is one."""


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def config_of(path: Path, form: str, **more: Any) -> DataConfig:
    source = {"kind": "files", "paths": [str(path)], "columns": more.pop("columns", {})}
    labels = {"labels": TAGS} if form == "words" else {}
    return DataConfig.model_validate(
        {"train": source, "validation": source, "languages": ["en", "fr", "zh"], **labels, **more}
    )


def read(path: Path, form: Any, labelled: bool = True, **more: Any) -> Rows:
    config = config_of(path, form, **more)
    config.check(form)
    return read_rows(config.train, config, base_dir=Path("/nowhere"), labelled=labelled, form=form)


def bad(tmp_path: Path, form: str, row: dict[str, Any], **more: Any) -> str:
    path = write(tmp_path / "rows.jsonl", [row])
    with pytest.raises(DataError) as caught:
        read(path, form, **more)
    assert f"{path}:1: " in str(caught.value) and "1 of 1 rows cannot be used" in str(caught.value)
    return str(caught.value)


# what is read -------------------------------------------------------------------------------------------------


def test_tokens_become_a_text_with_spans_and_tags_indices(tmp_path: Path) -> None:
    chinese = {"tokens": ["王小明", "在", "罗马"], "tags": ["B-PER", "O", "B-LOC"], "lang": "zh"}
    rows = read(write(tmp_path / "a.jsonl", [NAMED, chinese]), "words")
    assert rows.texts == ("Ann Lee saw Rome", "王小明在罗马")
    assert rows.words == (((0, 3), (4, 7), (8, 11), (12, 16)), ((0, 3), (3, 4), (4, 6)))
    assert rows.golds == ((1, 2, 0, 3), (1, 0, 3)) and rows.labels_B.tolist() == [0, 0] and rows.pairs is None


def test_unlabelled_words_from_tokens_or_from_raw_text(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.jsonl", [{"text": "Ann, 罗马", "lang": "zh"}]), "words", labelled=False)
    assert rows.words == (((0, 3), (3, 4), (5, 6), (6, 7)),) and rows.golds == ((),)
    assert rows.labels_B.tolist() == [UNLABELLED]
    bare = {"tokens": NAMED["tokens"], "lang": "en"}
    assert read(write(tmp_path / "b.jsonl", [bare]), "words", labelled=False).texts == ("Ann Lee saw Rome",)


def test_questions_contexts_and_answers_in_both_layouts(tmp_path: Path) -> None:
    two = {"text": ["Bo", "Bo", "Ann saw"], "answer_start": [8, 8, 0]}
    pairs = [{"text": "Bo", "answer_start": 15}]
    rows = read(
        write(tmp_path / "a.jsonl", [ASKED, {**ASKED, "answers": two}, {**ASKED, "answers": pairs}]),
        "answers",
    )
    assert rows.texts == ("Who?",) * 3 and rows.pairs == (ASKED["context"],) * 3
    assert rows.golds == ((0, 3), (8, 10, 0, 7), (15, 17)) and rows.labels_B.tolist() == [0, 0, 0]
    hidden = read(tmp_path / "a.jsonl", "answers", labelled=False)
    assert hidden.golds == ((), (), ()) and not hidden.labelled.any()


def test_translations_go_by_the_language_that_is_written(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.jsonl", [PAIR]), "source_target")
    assert (rows.texts, rows.pairs, rows.languages) == (("good day",), ("bonjour",), ("fr",))
    assert rows.golds is None and rows.labels_B.tolist() == [0]
    by_source = read(tmp_path / "a.jsonl", "source_target", columns={"language": "src_lang"})
    assert by_source.languages == ("en",)


def test_prompts_may_be_empty_or_not_there(tmp_path: Path) -> None:
    rows = [{"prompt": p, "tgt": "so be it", "lang": "en"} for p in ("Hi", "", None)]
    assert read(write(tmp_path / "a.jsonl", rows), "target").texts == ("Hi", "", "")
    plain = write(tmp_path / "b.jsonl", [{"text": "once upon", "lang": "en"}])
    found = read(plain, "target", columns={"target": "text"})
    assert found.texts == ("",) and found.pairs == ("once upon",)
    with pytest.raises(DataError, match=r"no column 'ask' \(data\.columns\.source\)"):
        read(plain, "target", columns={"target": "text", "source": "ask"})


def test_values_of_texts_and_of_pairs(tmp_path: Path) -> None:
    scored = [{"text": "a b", "text_pair": "c", "score": v, "lang": "en"} for v in (2.5, 4, "0.5", -1, None)]
    path = write(tmp_path / "a.jsonl", scored)
    rows = read(path, "value", columns={"text_pair": "text_pair"}, empty_label="unlabeled")
    assert rows.values == ((2.5,), (4.0,), (0.5,), (-1.0,), ()) and rows.pairs == ("c",) * 5
    assert rows.labels_B.tolist() == [0, 0, 0, 0, UNLABELLED]
    single = read(path, "value", labelled=False)
    assert single.pairs is None and single.values == ((),) * 5 and not single.labelled.any()
    changed = replace(rows, values=((2.5,), (4.0,), (0.5,), (-1.0001,), ()))
    assert rows.fingerprint() != changed.fingerprint() != rows.without_labels().fingerprint()
    assert rows.without_labels().values == ((),) * 5
    assert Rows.concat([rows, rows]).values == tuple(rows.values) * 2 and rows.take([3, 0]).values == (
        (-1.0,),
        (2.5,),
    )
    with pytest.raises(ValueError, match="some rows have values"):
        Rows.concat([rows, replace(rows, values=None)])
    numbers = {"mean": 1.5, "deviation": 1.9039, "least": -1.0, "largest": 4.0}
    assert summarize_rows(rows, "value")["languages"] == {
        "en": {"labelled": 4, "rows": 5, "unlabelled": 1, **numbers}
    }
    for wrong in ("high", "3,5", True, [2.5], "inf"):
        said = bad(tmp_path, "value", {**scored[0], "score": wrong})
        assert "wanted a number, as 3.5" in said and "skip" not in said, "no row would be left"
    assert "column 'score': got None, wanted a number" in bad(tmp_path, "value", {**scored[0], "score": None})


def test_lists_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('tokens,tags,lang\nAnn saw,B-PER O,en\n"[""a b"", ""c""]","[""O"", ""O""]",en\n')
    rows = read(path, "words")
    assert rows.texts == ("Ann saw", "a b c") and rows.words == (((0, 3), (4, 7)), ((0, 3), (4, 5)))
    path.write_text(
        'question,context,answers,lang\nWho?,Ann,"{""text"": [""Ann""], ""answer_start"": [0]}",en\n'
    )
    assert read(path, "answers").golds == ((0, 3),)


def test_parquet_lists_class_labels_and_tables(tmp_path: Path) -> None:
    import datasets

    names = datasets.ClassLabel(names=TAGS)
    features = datasets.Features(
        tokens=datasets.Sequence(datasets.Value("string")),
        tags=datasets.Sequence(names),
        lang=datasets.Value("string"),
    )
    table = {"tokens": [NAMED["tokens"]], "tags": [[1, 2, 0, 3]], "lang": ["en"]}
    datasets.Dataset.from_dict(table, features=features).to_parquet(str(tmp_path / "a.parquet"))
    assert read(tmp_path / "a.parquet", "words").golds == ((1, 2, 0, 3),)
    columns = {key: [value] for key, value in ASKED.items()}
    datasets.Dataset.from_dict(columns).to_parquet(str(tmp_path / "b.parquet"))
    assert read(tmp_path / "b.parquet", "answers").golds == ((0, 3),)
    squad = datasets.Features(
        question=datasets.Value("string"),
        context=datasets.Value("string"),
        answers=datasets.Sequence(
            {"text": datasets.Value("string"), "answer_start": datasets.Value("int32")}
        ),
        lang=datasets.Value("string"),
    )
    datasets.Dataset.from_dict(columns, features=squad).save_to_disk(str(tmp_path / "saved"))
    config = config_of(tmp_path, "answers", train={"kind": "hub", "name": "saved"})
    rows = read_rows(config.train, config, base_dir=tmp_path, labelled=True, form="answers")
    assert rows.golds == ((0, 3),)


# bad rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tags": ["O"]}, "got 1 tags for 4 tokens"),
        ({"tags": ["B-PER", "I-PER", "O", "b-loc"]}, "tag 4 of 4: got 'b-loc'"),
        ({"tags": ["B-PER", "I-PER", "O", "b-loc"]}, "did you mean 'B-LOC'?"),
        ({"tags": ["O", "I-PER", "O", "O"]}, "tag 2 of 4 is 'I-PER' after 'O'"),
        ({"tags": ["B-PER", "I-LOC", "O", "O"]}, "tag 2 of 4 is 'I-LOC' after 'B-PER'"),
        ({"tags": ["I-PER", "O", "O", "O"]}, "tag 1 of 4 is 'I-PER' first"),
        ({"tokens": ["Ann", " ", "saw", "Rome"]}, "token 2 of 4 is ' '"),
        ({"tokens": ["Ann", 3, "saw", "Rome"]}, "token 2 of 4 is 3"),
        ({"tokens": [], "tags": []}, "got no tokens"),
        ({"tokens": "Ann Lee saw Rome"}, "wanted a list"),
        ({"tags": None}, "column 'tags': got None, wanted a list"),
    ],
)
def test_bad_tags(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    assert message in bad(tmp_path, "words", {**NAMED, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": {"text": ["Zoe"], "answer_start": [0]}}, "'Zoe' is not in its context"),
        ({"answers": {"text": ["ANN"], "answer_start": [0]}}, "is not in its context (but 'Ann' at 0)"),
        (
            {"answers": {"text": ["Ann"], "answer_start": [1]}},
            "not at its offset 1, where 'nn ' is; it stands at 0",
        ),
        ({"answers": {"text": ["Bo"], "answer_start": [-1]}}, "it stands at 2 other places"),
        (
            {"answers": {"text": ["Ann"], "answer_start": [0]}, "is_impossible": True},
            "says that there is none",
        ),
        ({"answers": None}, "got None"),
        ({"answers": {"text": ["Ann"], "answer_start": []}}, "got 1 texts and 0 offsets"),
        ({"answers": {"text": ["Ann", ""], "answer_start": [0, 0]}}, "got the answer ''"),
        ({"answers": {"text": ["Ann"], "answer_start": ["0"]}}, "got the offset '0'"),
        ({"answers": ["Ann"]}, "wanted {text: [...], answer_start: [...]}"),
        ({"question": " "}, "column 'question': got an empty text"),
        ({"context": ""}, "column 'context': got an empty text"),
    ],
)
def test_bad_answers(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    assert message in bad(tmp_path, "answers", {**ASKED, **change})


def test_bad_targets(tmp_path: Path) -> None:
    for form in ("target", "source_target"):
        assert "column 'tgt': got an empty text" in bad(tmp_path, form, {**PAIR, "tgt": "\n"})
    assert "column 'src': got an empty text" in bad(tmp_path, "source_target", {**PAIR, "src": " "})
    assert "language: got 'de'" in bad(tmp_path, "target", {**PAIR, "tgt_lang": "de"})


def test_loose_inside_tags_may_begin_an_entity_and_are_counted(tmp_path: Path) -> None:
    iob1 = {**NAMED, "tags": ["I-PER", "I-PER", "O", "I-LOC"]}
    path = write(tmp_path / "a.jsonl", [iob1, NAMED])
    tally = Tally()
    config = config_of(path, "words", on_loose_inside="begin")
    rows = read_rows(config.train, config, base_dir=tmp_path, labelled=True, form="words", tally=tally)
    assert rows.golds == ((1, 2, 0, 3), (1, 2, 0, 3)) and tally.mended == {f"tags I- of {path} read as B-": 2}
    assert (
        load_data(config, tmp_path, "words").left_out[f"train: tags I- of {path} read as B- (rows kept)"] == 2
    )


def test_other_schemes_are_judged_and_never_mended(tmp_path: Path) -> None:
    bilou = ["O", "B-PER", "I-PER", "L-PER", "U-PER"]
    row = {"tokens": ["a", "b", "c"], "tags": ["B-PER", "L-PER", "U-PER"], "lang": "en"}
    assert read(write(tmp_path / "a.jsonl", [row]), "words", labels=bilou).golds == ((1, 3, 4),)
    options = {"labels": bilou, "on_loose_inside": "begin"}
    assert "'L-PER' after 'O'" in bad(tmp_path, "words", {**row, "tags": ["O", "L-PER", "O"]}, **options)
    assert "its entity does not end" in bad(
        tmp_path, "words", {**row, "tags": ["O", "O", "B-PER"]}, **options
    )


# what a config can combine wrongly ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("words", {"labels": []}, r"data\.labels is missing: the task chooses one tag a word"),
        ("text", {}, r"data\.labels is missing: the task chooses the class of a row"),
        ("words", {"labels": ["O", "PER"]}, r"no tags of entities: 'PER' is no tag"),
        ("answers", {"labels": ["a", "b"]}, r"data\.labels \['a', 'b'\]: the task has no labels"),
        ("answers", {"columns": {"label": "y"}}, r"data\.train\.columns\.label plays no part in this task"),
        (
            "target",
            {"unlabeled": {"kind": "files", "paths": ["x"], "columns": {"tags": "t"}}},
            r"unlabeled\.columns\.tags",
        ),
    ],
)
def test_labels_and_columns_that_do_not_fit_the_task(form: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(Path("x"), form, **change).check(form)


def test_renamed_columns_of_all_sources_are_checked_too_and_a_dump_reads_back() -> None:
    source = {"kind": "embedded"}
    tree = {"train": source, "validation": source, "languages": ["en"], "columns": {"answers": "a"}}
    config = DataConfig.model_validate(tree)
    with pytest.raises(ValueError, match=r"data\.columns\.answers plays no part"):
        config.check("target")
    again = DataConfig.model_validate(config.model_dump())
    again.check("answers")
    assert again == config


# loading ------------------------------------------------------------------------------------------------------


def test_unlabelled_sources_of_held_out_rows_are_left_out(tmp_path: Path) -> None:
    other = {**PAIR, "tgt": "salut"}
    train = write(tmp_path / "t.jsonl", [{**PAIR, "src": "bread"}])
    held = write(tmp_path / "v.jsonl", [PAIR])
    spare = write(tmp_path / "u.jsonl", [{**other, "src": "Good  day"}, {**other, "src": "wine"}])
    config = config_of(
        train,
        "source_target",
        validation={"kind": "files", "paths": [str(held)]},
        unlabeled={"kind": "files", "paths": [str(spare)]},
    )
    data = load_data(config, tmp_path, "source_target")
    assert data.train.texts == ("bread", "wine") and data.train.labels_B.tolist() == [0, UNLABELLED]
    assert data.left_out == {"unlabeled: also in validation or test": 1}
    write(spare, [{"src": "wine", "tgt_lang": "fr"}])
    with pytest.raises(DataError, match=r"have no target[\s\S]*raykd label --sequences"):
        load_data(config, tmp_path, "source_target")
    assert load_data(config, tmp_path, "source_target", targets_needed=False).train.pairs == ("bonjour", "")


def test_same_question_of_another_context_stays(tmp_path: Path) -> None:
    far = {**ASKED, "context": "Cy ran."}
    config = config_of(
        write(tmp_path / "t.jsonl", [ASKED]),
        "answers",
        unlabeled={"kind": "files", "paths": [str(write(tmp_path / "u.jsonl", [ASKED, far]))]},
    )
    data = load_data(config, tmp_path, "answers")
    assert data.train.pairs == (ASKED["context"], "Cy ran.") and data.train.golds == ((0, 3), ())


def test_summaries_count_in_the_form_s_units(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.jsonl", [NAMED, NAMED]), "words")
    assert summarize_rows(rows, "words", TAGS)["languages"] == {
        "en": {"labelled": 2, "words": 8, "entities": 4}
    }
    rows = read(write(tmp_path / "a.jsonl", [ASKED, ASKED]), "answers")
    assert summarize_rows(rows, "answers")["languages"]["en"] == {
        "labelled": 2, "questions": 2, "answers": 2, "contexts": 1,
    }  # fmt: skip
    rows = read(write(tmp_path / "a.jsonl", [PAIR]), "target")
    assert summarize_rows(rows, "target")["languages"]["fr"] == {
        "labelled": 1, "pairs": 1, "without prompt": 0, "target characters": 7,
    }  # fmt: skip


# real rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "name", "code", "rows", "counted"),
    [
        ("words", "ner/fr", "fr", 456, ("entities", 481)),
        ("words", "ner/zh", "zh", 500, ("words", 12012)),
        ("answers", "qa/zh", "zh", 196, ("contexts", 40)),
        ("source_target", "translation/en-fr", "fr", 610, ("pairs", 610)),
    ],
)
def test_real_files_hold_no_bad_row(
    form: Any, name: str, code: str, rows: int, counted: tuple[str, int]
) -> None:
    path = Path(DATA or "") / name / "test.jsonl"
    if DATA is None or not path.exists():
        pytest.skip("no real rows: set RAYKD_TEST_DATA")
    tags = [*TAGS, "B-ORG", "I-ORG"]
    found = read(path, form, **({"labels": tags} if form == "words" else {}))
    assert len(found) == rows and set(found.languages) == {code}
    assert summarize_rows(found, form, tags)["languages"][code][counted[0]] == counted[1]


@pytest.mark.parametrize(
    ("scheme", "labels", "tags", "wanted"),
    [
        ("IOB1", TAGS, ["I-PER", "B-PER", "O", "I-LOC"], ["B-PER", "B-PER", "O", "B-LOC"]),
        ("BIO", ["O", "I-PER", "I-LOC"], ["B-PER", "I-PER", "O", "B-LOC"], ["I-PER", "I-PER", "O", "I-LOC"]),
        ("BMES", TAGS, ["B-PER", "E-PER", "O", "S-LOC"], ["B-PER", "I-PER", "O", "B-LOC"]),
        ("BMEWO", TAGS, ["B-PER", "E-PER", "O", "W-LOC"], ["B-PER", "I-PER", "O", "B-LOC"]),
        ("IO", TAGS, ["I-PER", "I-PER", "O", "I-LOC"], ["B-PER", "I-PER", "O", "B-LOC"]),
        (
            "auto",
            ["O", "B-PER", "M-PER", "E-PER", "S-PER"],
            ["B-PER", "M-PER", "E-PER", "S-PER"],
            ["B-PER", "M-PER", "E-PER", "S-PER"],
        ),
    ],
)
def test_files_may_have_another_scheme_than_the_labels(
    tmp_path: Path, scheme: str, labels: list[str], tags: list[str], wanted: list[str]
) -> None:
    path = write(tmp_path / "a.jsonl", [{**NAMED, "tags": tags}])
    rows = read(path, "words", labels=labels, scheme=scheme)
    assert rows.golds is not None and [labels[i] for i in rows.golds[0]] == wanted
    assert rows.modes == ("split",)


def test_a_tag_that_is_not_of_the_files_scheme_is_bad(tmp_path: Path) -> None:
    message = bad(tmp_path, "words", {**NAMED, "tags": ["B-PER", "O", "O", "O"]}, scheme="BMES")
    assert "does not end" in message and "(data.scheme: BMES)" in message
    with pytest.raises(ValueError, match="plays no part"):
        read(write(tmp_path / "b.jsonl", [ASKED]), "answers", scheme="BIO")


NONE = {**ASKED, "answers": {"text": [], "answer_start": []}}


@pytest.mark.parametrize(
    "row",
    [
        NONE,
        {**ASKED, "answers": []},
        {**ASKED, "answers": {"text": [""], "answer_start": [-1]}},
        {**ASKED, "answers": None, "is_impossible": True},
        {**ASKED, "answers": [], "is_impossible": True},
    ],
)
def test_a_question_without_an_answer_makes_none_a_choice(tmp_path: Path, row: dict[str, Any]) -> None:
    config = config_of(write(tmp_path / "a.jsonl", [ASKED, row]), "answers")
    data = load_data(config, tmp_path, "answers")
    assert data.train.golds == ((0, 3), ()) and data.train.labels_B.tolist() == [0, 0]
    assert data.train.modes == data.validation.modes == ("optional",) * 2
    assert summarize_rows(data.train, "answers")["languages"]["en"]["without answer"] == 1


def test_whether_none_is_a_choice_can_be_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [ASKED])
    assert load_data(config_of(path, "answers"), tmp_path, "answers").train.modes != ("optional",)
    always = load_data(config_of(path, "answers", no_answer="always"), tmp_path, "answers")
    assert always.train.modes == ("optional",)
    assert "data.no_answer: never" in bad(tmp_path, "answers", NONE, no_answer="never")
    bare = write(tmp_path / "b.jsonl", [NONE])
    with pytest.raises(DataError, match=r"no question of data\.train has an answer"):
        load_data(config_of(bare, "answers"), tmp_path, "answers")
