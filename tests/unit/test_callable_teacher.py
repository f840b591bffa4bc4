"""A Python function is a teacher: its answers are stored, and what it returns is checked by name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import decode_answers
from raykd.config import CallableTeacher, RunConfig
from raykd.config.loading import load_run, validate_run
from raykd.data.rows import Rows
from raykd.driver.pool import make_teacher_spec
from raykd.errors import ConfigError, LabelMismatchError, ModelError
from raykd.folders.changes import Changes
from raykd.folders.contents import digest_models
from raykd.folders.earlier_start import add_model_changes
from raykd.preflight.selftests import NO_ROW, try_out_teacher
from raykd.preflight.teacher_check import check_teacher
from raykd.teachers.backends.backend import describe_teacher
from raykd.teachers.backends.given_numbers import convert_to_logits
from raykd.teachers.teacher import Teacher
from raykd.text.batch import TextBatch
from tests.fakes import LABELS, logits_of, text_batch
from tests.toy_teacher import ConstantTeacher

TEXTS = ["good", "bad", "good good", "so so"]
LENGTHS = """
import numpy as np

def predict(texts):
    p = np.asarray([min(0.9, len(text) / 10) for text in texts])
    return np.stack([1 - p, p], axis=1)

predict.labels = ["positive", "negative"]
"""


def config_of(
    function: str, task: str = "classification", run_labels: Any = LABELS, **teacher: Any
) -> RunConfig:
    rows = {"kind": "files", "paths": ["x.jsonl"]}
    config = validate_run(
        {
            "data": {
                "train": rows,
                "validation": rows,
                "labels": list(run_labels),
                "languages": ["en", "fr"],
            },
            "task": {"kind": task},
            "teachers": [{"name": "t", "languages": "all", "function": function, **teacher}],
            "student": {"kind": "transformer" if task == "masked_lm" else "lstm"},
            "serving": {"store": None},
        },
        "test",
    )
    assert isinstance(config, RunConfig)
    return config


def teacher_of(tmp_path: Path, source: str, store: Path | None = None, **keys: Any) -> Teacher:
    file = tmp_path / "own.py"
    file.write_text(source, encoding="utf-8")
    config = config_of(f"{file}:predict", **keys)
    spec = make_teacher_spec(config, config.teachers[0], {})
    return Teacher(type(spec)(**{**vars(spec), "store": None if store is None else str(store)}))


def test_it_answers_by_label_name_and_its_answers_are_stored(tmp_path: Path) -> None:
    teacher = teacher_of(tmp_path, LENGTHS, tmp_path / "store")
    answers = np.exp(logits_of(teacher.answer(text_batch(TEXTS))))
    p = np.asarray([len(text) / 10 for text in TEXTS])
    np.testing.assert_allclose(answers, np.stack([p, 1 - p], axis=1), rtol=1e-5)
    teacher.close()
    again = teacher_of(tmp_path, LENGTHS, tmp_path / "store")
    assert again.answer(text_batch(TEXTS)).forwarded == 0 and again.counters()["answered"] == 4


def test_what_makes_stored_answers_stale(tmp_path: Path) -> None:
    """The file of the function, its labels and form; or the version alone, where there is one."""
    base = teacher_of(tmp_path, LENGTHS).open()
    for source, keys, same in (
        (LENGTHS, {}, True),
        (LENGTHS + "# touched", {}, False),
        (LENGTHS, {"output": "logits"}, False),
        (LENGTHS, {"version": "1"}, False),
    ):
        assert (teacher_of(tmp_path, source, **keys).open().answers == base.answers) is same
    versions = [teacher_of(tmp_path, LENGTHS + f"# {v}", version=v).open().answers for v in ("1", "1", "2")]
    assert versions[0] == versions[1] != versions[2]
    assert "content " in base.dtype_reason and versions[0] != base.answers


def test_its_file_travels_with_it(tmp_path: Path) -> None:
    """To a node without the file, and to one where the file is another."""
    file, batch = tmp_path / "own.py", text_batch(TEXTS)
    source = LENGTHS.replace("import numpy as np", "import numpy as np\nfrom pathlib import Path")
    source = source.replace("texts])", "texts]) * (Path(__file__).name == 'own.py')")
    before = teacher_of(tmp_path, source)
    sent, expected = pickle.dumps(before.spec), before.answer(batch).bodies
    for there in (None, "raise SystemError('another file')"):
        file.unlink() if there is None else file.write_text(there, encoding="utf-8")
        served = Teacher(pickle.loads(sent))
        assert served.answer(batch).bodies == expected and served.open() == before.open()


def test_labels_in_the_run_file_need_no_import(tmp_path: Path) -> None:
    teacher = teacher_of(tmp_path, "raise SystemError('imported')", labels=LABELS)
    assert teacher.open().labels == LABELS and not teacher.loaded
    with pytest.raises(
        ModelError, match=r"own.py cannot be imported[\s\S]*SystemError: imported[\s\S]*see line 1 of it"
    ):
        teacher.load()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 100 * good(texts)", "percent: divide them by 100"),
        ("return np.log(good(texts))", r"log-probabilities: teachers\.t\.output: logits"),
        ("return good(texts) * 3 - 1", r"if these are logits: teachers\.t\.output: logits"),
        ("return good(texts) * 0.5", "sum up to 0.5"),
        ("return good(texts) * np.nan", "NaN or infinity for 4 units"),
        ("return good(texts)[:, :1]", r"gave 1 numbers a unit[\s\S]*2, one for each of its labels"),
        ("return good(texts)[:2]", r"shape \(2, 2\)[\s\S]*\(4, 2\)"),
        ("return good(texts)[0]", r"shape \(2,\)"),
        ("return ['a']", "ValueError: could not convert"),
        ("return 1 / 0", r"ZeroDivisionError: division by zero \(.*own.py, line"),
        ("return good(texts)[::-1] if len(texts) > 1 else good(texts)", "another order"),
        ("return normal(len(texts))", "draws at random"),
        ("raise SystemExit(3)", r"SystemExit: 3 \(.*own.py, line"),
        (
            "return pandas.DataFrame(good(texts), columns=['bad', 'good'])",
            "columns bad, good[\\s\\S]*negative, positive",
        ),
        ("return good(texts) * 0 + np.asarray([[1 / len(texts), 1 - 1 / len(texts)]])", "beside other texts"),
    ],
)
def test_what_it_returns_is_refused_by_name(tmp_path: Path, body: str, said: str) -> None:
    source = f"""
import numpy as np
import pandas
random = np.random.default_rng(0)

def normal(n):
    p = random.random(n)
    return np.stack([p, 1 - p], axis=1)

def good(texts):
    p = np.asarray([len(text) / 10 for text in texts])
    return np.stack([p, 1 - p], axis=1)

def predict(texts):
    {body}

predict.labels = ["negative", "positive"]
"""
    with pytest.raises(ModelError, match=said) as caught:
        teacher_of(tmp_path, source).answer(text_batch(TEXTS))
    assert "teacher t" in str(caught.value) and caught.value.exit_code == 3


def test_columns_of_a_data_frame_are_its_labels_in_whatever_order(tmp_path: Path) -> None:
    """As an array, the frame would teach each label as the other one."""
    source = """
import pandas

def predict(texts):
    p = [0.1 + len(text) / 100 for text in texts]
    return pandas.DataFrame({"positive": [1 - x for x in p], "negative": p})
"""
    teacher = teacher_of(tmp_path, source, labels=["negative", "positive"])
    answers = np.exp(logits_of(teacher.answer(text_batch(TEXTS))))
    np.testing.assert_allclose(answers[:, 0], [0.1 + len(text) / 100 for text in TEXTS], rtol=1e-5)


def test_a_module_that_ends_the_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be imported[\s\S]*SystemExit: 3[\s\S]*see line 1 of it"):
        teacher_of(tmp_path, "raise SystemExit(3)", labels=LABELS).load()


@pytest.mark.parametrize(
    ("function", "keys", "error", "said"),
    [
        ("raykd.nowhere:predict", {}, ModelError, r"No module named[\s\S]*raykd.nowhere.py:FUNCTION"),
        ("math:square", {"version": "1"}, ModelError, r"no function square[\s\S]*one of \['acos'"),
        ("math:sqrt", {"version": "1"}, ModelError, r"does not say its labels[\s\S]*teachers\.t\.labels"),
        ("sys:exit", {"labels": LABELS}, ModelError, "no file of source"),
        (
            "math:sqrt",
            {"version": "1", "labels": ["a", "b"]},
            LabelMismatchError,
            "other labels than the run",
        ),
        ("sqrt", {}, ConfigError, "function"),
    ],
    ids=str,
)
def test_a_function_that_cannot_be_asked_is_refused(
    function: str, keys: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        config = config_of(function, **keys)
        describe_teacher(make_teacher_spec(config, config.teachers[0], {}))


def test_a_task_without_labels_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(LENGTHS, encoding="utf-8")
    config = config_of(f"{file}:predict", "masked_lm", ())
    with pytest.raises(ModelError, match="cannot teach masked_lm"):
        check_teacher(config.teachers[0], config)


def test_pairs_and_words_are_given_as_two_lists_and_as_lists_of_words(tmp_path: Path) -> None:
    source = LENGTHS.replace("def predict(texts):", "def predict(first, second):\n    texts = second")
    batch = text_batch(["x", "y"])
    pairs = TextBatch(**{**vars(batch), "pairs": ("good", "so so")})
    answers = np.exp(logits_of(teacher_of(tmp_path, source).answer(pairs)))
    np.testing.assert_allclose(answers[:, 0], [0.4, 0.5], rtol=1e-5)
    tags = ("O", "B-PER", "I-PER")
    tagger = """
import numpy as np

def predict(rows):
    return [np.asarray([[0, 5, -5] if word.istitle() else [5, 0, -5] for word in row]) for row in rows]

predict.labels = ["O", "B-PER", "I-PER"]
"""
    words = TextBatch(**{**vars(batch), "texts": ("Anna ran", "he"), "words": (((0, 4), (5, 8)), ((0, 2),))})
    teacher = teacher_of(tmp_path, tagger, task="token_classification", run_labels=tags, output="logits")
    answer, units = decode_answers(teacher.answer(words).bodies)
    assert isinstance(answer, DenseAnswer) and units.tolist() == [2, 1]
    assert answer.logits_NC.argmax(axis=1).tolist() == [1, 0, 0]


def test_tags_of_more_types_and_another_scheme_are_added_up(tmp_path: Path) -> None:
    """As spaCy's pipelines give them: BILOU, with types that the run joins or does not have."""
    tagger = """
import numpy as np

def predict(rows):
    row = np.asarray([0.1, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    return [np.stack([np.roll(row, len(word)) for word in words]) for words in rows]

predict.labels = ["O", *(letter + kind for kind in ("-PERSON", "-DATE") for letter in "BILU")]
"""
    tags, own = ("O", "B-PER", "I-PER"), {"PERSON": "PER", "DATE": "O"}
    teacher = teacher_of(tmp_path, tagger, task="token_classification", run_labels=tags, label_map=own)
    words = TextBatch(**{**vars(text_batch(["a be"])), "words": (((0, 1), (2, 4)),)})
    answer, _ = decode_answers(teacher.answer(words).bodies)
    assert isinstance(answer, DenseAnswer)
    np.testing.assert_allclose(np.exp(answer.logits_NC), [[0.5, 0.2, 0.3]] * 2, rtol=1e-3)


def test_numbers_are_never_repaired() -> None:
    rounded = convert_to_logits(np.asarray([[0.333, 0.667], [0.0, 1.0]]), "probabilities", "x", "k")
    np.testing.assert_allclose(np.exp(rounded), [[0.333, 0.667], [0.0, 1.0]], atol=1e-6)
    logs = np.asarray([[-1.0, -3.0]])
    assert (convert_to_logits(logs, "logits", "x", "k") == logs).all()


def test_a_check_tries_it_out_in_its_languages(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(LENGTHS, encoding="utf-8")
    config = config_of(f"{file}:predict", languages=["en"])
    assert check_teacher(config.teachers[0], config) == "callable, labels positive, negative, float32 on cpu"
    rows = Rows(**vars(text_batch(TEXTS)))
    assert "do not depend on the texts beside them" in try_out_teacher(config.teachers[0], config, rows)
    french = Rows(**vars(text_batch(TEXTS, ["fr"] * 4)))
    assert try_out_teacher(config.teachers[0], config, french) == NO_ROW
    constant = ConstantTeacher(
        name="c", languages="all", probabilities=dict(zip(LABELS, (0.3, 0.7), strict=True))
    )
    assert "up to 0e+00" in try_out_teacher(constant, config, rows)


def test_a_file_is_relative_to_the_run_file_and_its_folder_is_no_part_of_the_run(tmp_path: Path) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "callable_en_fr_de.yaml"
    (teacher,) = load_run(example).teachers
    assert isinstance(teacher, CallableTeacher) and teacher.function == f"{example.parent}/ngrams.py:predict"
    here, there = (config_of(f"{folder}/own.py:predict").fingerprint() for folder in ("/a", "/b"))
    assert here == there != config_of("/a/own.py:other").fingerprint()


def test_a_run_does_not_go_on_with_a_function_that_was_edited(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(LENGTHS, encoding="utf-8")
    config, key = config_of(f"{file}:predict"), "teachers.t.function"
    state = {"models": digest_models(config)}
    assert add_model_changes(Changes(), config, config, state).refused == ()
    file.write_text(LENGTHS + "# edited", encoding="utf-8")
    (change,) = add_model_changes(Changes(), config, config, state).refused
    assert change.key == key and "its files are other ones" in str(change)
    assert digest_models(config_of(f"{file}:predict", version="1")) == {}
