"""A language model behind a server teaches as the same weights do in this process, and what goes wrong is said."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raykd.answers.answer import TopKAnswer
from raykd.answers.codec import decode_answers
from raykd.config import RunConfig, TrainConfig
from raykd.config.loading import validate_run
from raykd.data.rows import Rows
from raykd.distill.vocabulary_signals import TopKSignal
from raykd.driver.loop import make_task_model
from raykd.driver.pool import make_teacher_spec
from raykd.errors import ConfigError, ModelError, RaykdError, TeacherError
from raykd.models import DecoderStudent
from raykd.preflight.combinations import check_combinations
from raykd.preflight.teacher_check import check_teacher
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import fit_tokenizer, prepare_rows
from raykd.tasks import CausalLM
from raykd.tasks.answer_forms import TopKAnswers
from raykd.teachers.backends.http.replies import TokenScores, build_answer
from raykd.teachers.backends.http.server import TRIED
from raykd.teachers.backends.http.tokens import HttpTokensBackend
from raykd.teachers.source import LocalSource
from raykd.teachers.teacher import Teacher
from raykd.text.batch import TextBatch
from tests.fake_server import FakeServer, serve
from tests.fakes import logits_of, model_spec, text_batch
from tests.made_models import made_texts, make_tokenizer, save_decoder

PROMPTS = ("good morning, where is it", "we said", "the river and", "it was")
TARGETS = ("it was near the river.", "good", "we were there, and it was good", "the sea")
K = 12


@pytest.fixture(scope="module", params=["bytes", "unigram"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder that plain transformers saved, with a tokenizer of bytes or of sentencepiece's kind."""
    texts = [*PROMPTS, *TARGETS, *made_texts(60)[0], TRIED, "N/A [MASK]"]
    return save_decoder(tmp_path_factory.mktemp(request.param), request.param, texts)


@pytest.fixture
def server(folder: Path) -> Iterator[FakeServer]:
    with serve(FakeServer.of(folder)) as running:
        yield running


def batch(*rows: int) -> TextBatch:
    picked = rows or range(len(PROMPTS))
    ids, texts = tuple(f"r{i}" for i in picked), tuple(PROMPTS[i] for i in picked)
    return TextBatch(
        ids, texts, ("en",) * len(ids), np.zeros(len(ids), np.int64), tuple(TARGETS[i] for i in picked)
    )


def config_of(url: str, folder: Path | str, **keys: Any) -> RunConfig:
    rows = {"kind": "files", "paths": ["x.jsonl"]}
    task = {
        "kind": "causal_lm",
        "max_length": 64,
        "max_target_length": 24,
        "answers": {"kind": "top_k", "k": K},
    }
    teacher = {"name": "t", "languages": "all", "url": url, "tokenizer": str(folder), "retry_s": 5, **keys}
    found = validate_run(
        {
            "data": {"train": rows, "validation": rows, "languages": ["en"]},
            "task": task,
            "teachers": [teacher],
            "student": {"kind": "decoder"},
            "objective": {"temperature": 1.0},
        },
        "test",
    )
    assert isinstance(found, RunConfig)
    return found


def teacher_of(server: FakeServer, folder: Path | str, store: Path | None = None, **keys: Any) -> Teacher:
    config = config_of(server.url, folder, **keys)
    spec = make_teacher_spec(config, config.teachers[0], {})
    return Teacher(replace(spec, store=None if store is None else str(store)))


def answer_of(teacher: Teacher, rows: TextBatch) -> TopKAnswer:
    found, _ = decode_answers(teacher.answer(rows).bodies)
    assert isinstance(found, TopKAnswer)
    return found


def probabilities(answer: TopKAnswer, vocab: int) -> Any:
    """Per unit the probability of every token at T = 1, nan for those in the tail, and the tail."""
    signal = TopKSignal(
        ids_NK=torch.from_numpy(answer.ids_NK).long(), vocab=vocab, logits_NK=torch.from_numpy(answer.logits_NK).float(),
        lse_NG=torch.from_numpy(answer.lse_NG), temperatures=answer.temperatures,
    )  # fmt: skip
    p = signal.target(1.0)[0].numpy()
    wide = np.full((len(answer), vocab), np.nan)
    for i, ids in enumerate(answer.ids_NK):
        wide[i, ids[ids >= 0]] = p[i, :-1][ids >= 0]
    return wide, p[:, -1]


def local_answer(folder: Path) -> TopKAnswer:
    task = CausalLM(max_length=64, max_target_length=24, answers=TopKAnswers(k=K, temperatures=(1.0,)))
    return answer_of(Teacher(model_spec("local", str(folder), (), task, dtype="float32")), batch())


@pytest.mark.parametrize("ways", [("prompt_logprobs",), ("echo",), ("echo_text",)], ids=lambda ways: ways[0])
def test_it_answers_as_the_same_weights_in_this_process(
    server: FakeServer, folder: Path, ways: tuple[str, ...]
) -> None:
    server.ways = ways
    teacher = teacher_of(server, folder)
    served, local = answer_of(teacher, batch()), local_answer(folder)
    assert ways[0] in teacher.open().dtype_reason
    covered_N = served.covered_N
    is_end_N = np.append(np.diff(served.offsets_N) < 0, True)  # the last unit of each row
    assert served.offsets_N is not None and local.offsets_N is not None
    assert (covered_N == (~is_end_N if ways[0] == "echo_text" else True)).all()
    np.testing.assert_array_equal(served.offsets_N, local.offsets_N)
    own, tail = probabilities(served, local.vocab)
    other, other_tail = probabilities(local, local.vocab)
    both = np.isfinite(own) & np.isfinite(other) & covered_N[:, None]
    np.testing.assert_allclose(own[both], other[both], atol=1e-4)
    np.testing.assert_allclose(served.gold_logp_N[covered_N], local.gold_logp_N[covered_N], atol=1e-3)
    counted = teacher.counters()
    if ways[0] == "prompt_logprobs":  # named by ids, so that all are there
        assert both.sum() == len(local) * K and counted["few_units"] == 0
        np.testing.assert_allclose(tail, other_tail, atol=1e-4)
    # Whatever is missing is in the tail, never elsewhere.
    known = np.where(np.isfinite(own), own, 0.0).sum(axis=1)
    np.testing.assert_allclose((known + tail)[covered_N], 1.0, atol=1e-4)
    assert both.sum() > 0.9 * covered_N.sum() * K
    assert counted["unusable_units"] == int((~covered_N).sum())


def test_a_second_teacher_asks_nothing(server: FakeServer, folder: Path, tmp_path: Path) -> None:
    first = teacher_of(server, folder, tmp_path)
    first.answer(batch())
    first.close()
    asked = len(server.asked)
    again = teacher_of(server, folder, tmp_path)
    assert again.answer(batch()).forwarded == 0 and again.counters()["requests"] == 0
    assert len(server.asked) == asked
    counted = first.counters()
    assert counted["requests"] == asked and counted["forwarded"] == 4
    assert counted["real_tokens"] == sum(len(body["prompt"]) + 1 for _, body in server.asked[-4:]), (
        "the server's usage, one token generated for each row"
    )


def test_another_server_or_version_is_another_key(server: FakeServer, folder: Path) -> None:
    def key(**keys: Any) -> str:
        return teacher_of(server, folder, **keys).open().answers

    before = key()
    server.said["created"] = 5
    assert key() == before
    versions = [key(version=v) for v in ("1", "2", "1")]
    assert versions[0] == versions[2] != versions[1] and versions[0] != before
    server.said["root"] = "models/other"
    stale = teacher_of(server, folder)
    assert stale.open().answers == before, "it was not asked"
    with pytest.raises(
        ModelError, match=r"not the one whose answers are stored[\s\S]*models/other[\s\S]*models/tiny"
    ):
        stale.answer(batch(0))
    assert "asked for anew" in teacher_of(server, folder).backend.try_out(batch())
    assert key() != before
    teacher_of(server, folder, version="1").answer(batch(0))  # a name of one's own is not compared


def test_a_stamp_that_changes_ends_the_run(server: FakeServer, folder: Path) -> None:
    server.stamp = "fp_1"
    teacher = teacher_of(server, folder, model_name="tiny")
    teacher.answer(batch(0))
    server.stamp = "fp_2"
    with pytest.raises(ModelError, match=r"fp_2[\s\S]*fp_1[\s\S]*teachers\.t\.version"):
        teacher.answer(batch(1))


def test_slow_busy_and_broken_replies_are_asked_again(server: FakeServer, folder: Path) -> None:
    teacher = teacher_of(server, folder, timeout_s=0.6)
    teacher.open()
    server.faults.extend(["busy", 503, "drop", "no json", "empty"])
    served = answer_of(teacher, batch())
    counted = teacher.counters()
    assert served.covered_N.all() and counted["retries"] == 4, "an empty reply is asked again without a pause"
    server.slow_s = 0.9
    with pytest.raises(TeacherError, match=r"no reply within 0.6 s[\s\S]*asked \d times in 1 s"):
        slow = teacher_of(server, folder, timeout_s=0.6, retry_s=1)
        slow.open()
        slow.answer(batch(0))


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("other tokens", ModelError, r"answers for other tokens than were sent"),
        ("probabilities", TeacherError, r"cannot be read[\s\S]*no log-probabilities"),
        ("empty", TeacherError, r"cannot be read[\s\S]*no choices"),
        ("elsewhere", ModelError, r"sends its clients elsewhere[\s\S]*307 to example.org"),
        (401, ModelError, r"wants a key[\s\S]*api_key_env"),
        (500, TeacherError, r"does not answer[\s\S]*500 status 500"),
    ],
    ids=str,
)
def test_wrong_replies_are_refused_by_name(
    server: FakeServer, folder: Path, fault: Any, error: type[RaykdError], said: str
) -> None:
    teacher = teacher_of(server, folder, retry_s=0.2)
    teacher.open()
    server.faults.extend([fault] * 3)
    with pytest.raises(error, match=said) as caught:
        teacher.answer(batch(0))
    assert "teacher t" in str(caught.value)


def test_rows_that_a_server_refuses_are_not_covered(server: FakeServer, folder: Path) -> None:
    teacher = teacher_of(server, folder, concurrency=1)
    teacher.open()
    server.faults.append(400)
    with pytest.raises(
        TeacherError, match="refuses a request for"
    ):  # the first one: nothing of it ever worked
        teacher.answer(batch(0))
    teacher.answer(batch(0))
    server.faults.append(400)
    served = answer_of(teacher, batch(1, 2))
    row_N = np.repeat([0, 1], decode_answers(teacher.answer(batch(1, 2)).bodies)[1])
    assert not served.covered_N[row_N == 0].any() and served.covered_N[row_N == 1].all()
    assert teacher.counters()["unusable_units"] == int((row_N == 0).sum())


def test_too_few_log_probabilities_leave_a_larger_tail_and_are_counted(
    server: FakeServer, folder: Path
) -> None:
    server.few = 3
    teacher = teacher_of(server, folder)
    served, local = answer_of(teacher, batch()), local_answer(folder)
    assert served.ids_NK.shape[1] in (3, 4) and served.covered_N.all()
    own, tail = probabilities(served, local.vocab)
    other, _ = probabilities(local, local.vocab)
    both = np.isfinite(own) & np.isfinite(other)
    np.testing.assert_allclose(own[both], other[both], atol=1e-4)
    np.testing.assert_allclose(np.nansum(own, axis=1) + tail, 1.0, atol=1e-4)
    assert teacher.counters()["few_units"] == len(served)
    assert "fewer than task.answers.k = 12" in teacher_of(server, folder).backend.try_out(batch())


def test_units_without_numbers_are_not_covered() -> None:
    full = TokenScores({i: float(np.log(0.1)) for i in range(4)}, float(np.log(0.1)))
    poor = TokenScores({0: float(np.log(0.5))}, float(np.log(0.5)))
    answer, width = build_answer([full] * 30 + [poor, None], np.arange(32), 9)
    assert width == 4 and answer.covered_N.tolist() == [True] * 30 + [False] * 2
    answer, width = build_answer([full] * 10 + [poor] * 10, np.arange(20), 9)
    assert width == 1 and answer.covered_N.all()
    p = np.exp(answer.logits_NK[:, 0].astype(np.float64) - answer.lse_NG[:, 0])
    np.testing.assert_allclose(p, [0.1] * 10 + [0.5] * 10, rtol=1e-6)


def test_a_server_that_shifts_its_numbers_is_refused(server: FakeServer, folder: Path) -> None:
    server.shift = 1
    with pytest.raises(
        ModelError, match=r"not those of the tokens beside them[\s\S]*of \d+ tokens that it wrote"
    ):
        teacher_of(server, folder, model_name="tiny").open()


def test_another_tokenizer_is_refused(server: FakeServer, folder: Path, tmp_path: Path) -> None:
    other = make_tokenizer("unigram", ["qu qu que qui quo", "brown fox", *made_texts(50, seed=3)[0]], 90)
    other.save_pretrained(tmp_path)
    server.ways = ("echo",)
    with pytest.raises(ModelError, match=r"cuts texts into other tokens[\s\S]*where the tokenizer has"):
        teacher_of(server, tmp_path).open()


def test_generation_only_is_said_and_still_writes(server: FakeServer, folder: Path) -> None:
    server.ways = ()
    config = config_of(server.url, folder)
    assert "gives generation only" in check_teacher(config.teachers[0], config)
    teacher = teacher_of(server, folder)
    with pytest.raises(ModelError, match=r"generation only[\s\S]*echo is not supported[\s\S]*--sequences"):
        teacher.backend.check_ready()
    task = CausalLM(max_length=64, max_target_length=24)
    local = Teacher(model_spec("local", str(folder), (), task, dtype="float32"))
    own = teacher.generate(batch(), beams=1, max_new_tokens=6)
    if "unigram" in folder.name:  # a text's first blank is the tokenizer's
        own = [text.strip() for text in own]
    assert own == [text.strip() if "unigram" in folder.name else text for text in
                   local.generate(batch(), beams=1, max_new_tokens=6)]  # fmt: skip
    with pytest.raises(TeacherError, match="5 beams"):
        teacher.generate(batch(), beams=5, max_new_tokens=6)


def test_a_server_started_anew_with_more_is_asked_again(server: FakeServer, folder: Path) -> None:
    server.ways = ()
    with pytest.raises(ModelError, match="generation only"):
        teacher_of(server, folder).backend.check_ready()
    server.ways = ("echo",)
    assert answer_of(teacher_of(server, folder), batch(0)).covered_N.all()


def test_a_server_that_scores_otherwise_than_it_did_is_to_be_asked_anew(
    server: FakeServer, folder: Path
) -> None:
    server.ways = ("echo_text",)
    teacher_of(server, folder).open()
    server.ways = ("prompt_logprobs",)
    with pytest.raises(TeacherError, match=r"echo is not supported[\s\S]*echo_text[\s\S]*raykd check"):
        teacher_of(server, folder).answer(batch(0))
    teacher_of(server, folder).backend.try_out(batch(0))
    assert answer_of(teacher_of(server, folder), batch(0)).covered_N.all()


def test_too_many_log_probabilities_are_refused_with_the_servers_words(
    server: FakeServer, folder: Path
) -> None:
    server.most = 5
    with pytest.raises(ModelError, match=r"greater than max allowed: 5[\s\S]*lower task\.answers\.k"):
        teacher_of(server, folder).backend.try_out(batch())


def test_a_server_that_is_down_is_refused_before_anything_starts(folder: Path, tmp_path: Path) -> None:
    with serve(FakeServer(None, None)) as gone:
        pass
    config = config_of(gone.url, folder)
    with pytest.raises(TeacherError, match=r"does not answer[\s\S]*connection refused[\s\S]*start it"):
        check_teacher(config.teachers[0], config)


def test_a_server_that_went_down_is_refused_where_answers_are_missing(
    folder: Path, server: FakeServer
) -> None:
    teacher = teacher_of(server, folder)
    teacher.open()
    down = teacher_of(server, folder)
    down.open()
    backend = down.backend
    assert isinstance(backend, HttpTokensBackend)
    backend.client._teacher = backend.teacher.model_copy(update={"url": "http://127.0.0.1:9/v1"})
    with pytest.raises(TeacherError, match="connection refused"):
        backend.check_ready()


def test_the_key_is_sent_and_never_shown(
    server: FakeServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    (tmp_path / ".netrc").write_text("default login me password of-netrc\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    caplog.set_level(logging.DEBUG)
    monkeypatch.delenv("OUR_API_KEY", raising=False)
    with pytest.raises(ModelError, match=r"the variable OUR_API_KEY is not set"):
        teacher_of(server, folder, api_key_env="OUR_API_KEY", model_name="tiny").backend.check_ready()
    monkeypatch.setenv("OUR_API_KEY", "sk-very-secret")
    teacher = teacher_of(server, folder, api_key_env="OUR_API_KEY", retry_s=0)
    teacher.open()
    assert server.headers["Authorization"] == "Bearer sk-very-secret"
    server.faults.append(500)
    with pytest.raises(TeacherError) as caught:
        teacher.answer(batch(0))
    assert "sk-very-secret" not in str(caught.value) + caplog.text
    teacher_of(server, folder).answer(batch(0))
    assert "Authorization" not in server.headers, "nor what stands in ~/.netrc"


def test_a_budget_stops_before_it_is_passed_and_what_was_paid_for_stays(
    server: FakeServer, folder: Path, tmp_path: Path
) -> None:
    probe = teacher_of(server, folder)
    probe.answer(batch())
    costs = [len(body["prompt"]) + 1 for _, body in server.asked[-4:]]
    keys = {"budget": {"tokens": sum(costs) - 1}, "concurrency": 1}
    teacher = teacher_of(server, folder, tmp_path, **keys)
    with pytest.raises(TeacherError, match=rf"budget is used up[\s\S]*at most {sum(costs) - 1:,} tokens"):
        teacher.answer(batch())
    assert teacher.stored == 2, "rows are stored two at a time"
    teacher.close()
    (spent,) = (json.loads(path.read_text()) for path in tmp_path.glob("spent-*.json"))
    assert spent["tokens"] == teacher.counters()["real_tokens"] < sum(costs)
    more = teacher_of(server, folder, tmp_path, budget={"tokens": sum(costs)}, concurrency=1)
    assert more.answer(batch()).forwarded == 2
    money = {"budget": {"money": 0.5}, "price": {"per_million_tokens": 2.0}}
    assert config_of(server.url, folder, **money).teachers[0].most_tokens == 250_000  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"url": "ftp://x"}, "http://127.0.0.1:8000/v1"),
        ({"url": "http://me:secret@x/v1"}, "holds a secret"),
        ({"api_key_env": "OPENAI"}, "ends with API_KEY"),
        ({"budget": {"money": 1.0}}, "per_million_tokens"),
        ({"path": "models/x"}, "needs one of path"),
        ({"words": {"a": "b", "c": "d"}}, "template and words go together"),
    ],
    ids=str,
)
def test_wrong_keys_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        config_of(keys.pop("url", "http://h/v1"), "x", **keys)
    assert "me:secret" not in str(caught.value)


def test_what_log_probabilities_at_one_temperature_cannot_serve_is_refused(folder: Path) -> None:
    config = config_of("http://h/v1", folder)
    check_combinations(config)
    for objective, said in (
        ({"temperature": 2.0}, r"objective.temperature: 1"),
        ({"temperature": 1.0, "weighting": {"kind": "entropy"}}, "entropy"),
    ):
        tree = config.model_dump() | {"objective": objective}
        with pytest.raises(ConfigError, match=said):
            check_combinations(validate_run(tree, "test"))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="names no tokenizer"):
        bare = config.teachers[0].model_copy(update={"tokenizer": None})
        check_teacher(bare, config)


def words_config(url: str, folder: Path | str, **keys: Any) -> RunConfig:
    rows = {"kind": "files", "paths": ["x.jsonl"]}
    words = {"negative": ["said", "the river"], "positive": "good"}
    teacher = {"name": "t", "languages": "all", "template": "{text} we {label}.", "words": words, **keys}
    own = {"path": str(folder)} if not url else {"url": url, "tokenizer": str(folder), "retry_s": 5}
    found = validate_run(
        {
            "data": {
                "train": rows, "validation": rows, "languages": ["en"], "labels": ["positive", "negative"],
            },
            "task": {"kind": "classification", "max_length": 12},
            "teachers": [{**teacher, **own}],
            "student": {"kind": "linear"},
            "serving": {"dtype": "float32", "store": None},
        },
        "test",
    )  # fmt: skip
    assert isinstance(found, RunConfig)
    return found


@pytest.mark.parametrize("calibrate", ["none", "content_free"])
@pytest.mark.parametrize("ways", [("prompt_logprobs",), ("echo",), ("echo_text",)], ids=lambda ways: ways[0])
def test_words_are_scored_as_a_local_model_scores_them(
    server: FakeServer, folder: Path, ways: tuple[str, ...], calibrate: str
) -> None:
    server.ways = ways
    texts = text_batch([*PROMPTS, *TARGETS])
    config = words_config(server.url, folder, calibrate=calibrate, length_normalise=calibrate != "none")
    assert config.teachers[0].kind == "http"
    assert "labels negative, positive; " not in check_teacher(config.teachers[0], config)
    served = Teacher(make_teacher_spec(config, config.teachers[0], {}))
    own = words_config("", folder, calibrate=calibrate, length_normalise=calibrate != "none")
    local = Teacher(make_teacher_spec(own, own.teachers[0], {}))
    a, b = logits_of(served.answer(texts)), logits_of(local.answer(texts))
    np.testing.assert_allclose(a, b, atol=1e-4)
    assert np.ptp(a[:, 0] - a[:, 1]) > 0.1, "the texts differ"
    counted = served.counters()
    assert counted["unusable_units"] == 0 and counted["forwarded"] == len(texts)
    assert "1 of 1 units of a row are usable" in served.backend.try_out(texts)


def test_a_row_whose_words_cannot_be_scored_is_not_covered(server: FakeServer, folder: Path) -> None:
    config = words_config(server.url, folder, concurrency=1)
    teacher = Teacher(make_teacher_spec(config, config.teachers[0], {}))
    teacher.answer(text_batch(["we said"]))
    server.faults.append(400)
    found, _ = decode_answers(teacher.answer(text_batch(["it was", "the sea"])).bodies)
    assert found is not None and found.covered_N.tolist() == [False, True]
    assert teacher.counters()["unusable_units"] == 1


def train(config: RunConfig, teacher: Teacher) -> list[float]:
    """Train the run's student in this process, and return its losses."""
    fields = {name: getattr(batch(), name) for name in ("ids", "texts", "languages", "labels_B", "pairs")}
    rows = Rows(**fields)
    source = LocalSource([teacher], config.objective.weighting)
    tokenizer = fit_tokenizer(config.student, [(config.task, rows)], source)
    points: list[Any] = []
    loop = TrainingLoop(
        config, prepare_rows(config, rows, rows, tokenizer), make_task_model(config, tokenizer), source,
        publish=points.append,
    )  # fmt: skip
    loop.run()
    return [p.values["train/loss"] for p in points if "train/loss" in p.values]


def test_a_slow_busy_server_teaches_what_its_weights_teach_and_a_second_run_asks_nothing(
    server: FakeServer, folder: Path, tmp_path: Path
) -> None:
    config = config_of(server.url, folder).model_copy(
        update={
            "student": DecoderStudent(
                layers=1, hidden=16, heads=2, vocab_size=600, dropout=0.0, max_positions=96
            ),
            "train": TrainConfig(
                steps=6, batch_size=2, evaluations=1, metric="perplexity", learning_rate=0.01
            ),
        }
    )
    local = Teacher(model_spec("t", str(folder), (), config.task, dtype="float32"))
    expected = train(config, local)
    teacher = teacher_of(server, folder, tmp_path)
    teacher.open()
    server.slow_s = 0.05
    server.faults.extend(["busy", 503, "drop", "no json", "busy"])
    np.testing.assert_allclose(train(config, teacher), expected, rtol=1e-3)
    assert expected[-1] < expected[0] and teacher.counters()["retries"] == 5
    teacher.close()
    asked, again = len(server.asked), teacher_of(server, folder, tmp_path)
    np.testing.assert_allclose(train(config, again), expected, rtol=1e-3)
    assert len(server.asked) == asked and again.counters()["requests"] == 0
