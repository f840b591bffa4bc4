"""What a teacher does for a batch: it waits for its device once, copies an answer once, encodes rows alike."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import raykd
from raykd import models
from raykd.answers import codec
from raykd.answers.answer import DenseAnswer, HiddenAnswer
from raykd.answers.codec import decode_answers, encode_answer, encode_rows
from raykd.answers.compress import compute_hidden
from raykd.models.lm import Headless
from raykd.tasks import CausalLM, Classification
from raykd.tasks.answer_forms import HiddenAnswers, SampledAnswers, TopKAnswers
from raykd.tasks.kinds import language
from raykd.teachers.backends import copies
from raykd.teachers.backends import model as model_backend
from raykd.teachers.backends.token_memory import TokenMemory
from raykd.teachers.teacher import Teacher
from raykd.text.buckets import make_buckets
from tests.fakes import LABELS, model_spec, save_transformer, text_batch, texts_and_labels
from tests.kept_answers import answer_rows
from tests.unit.test_tasks_language import batch, made

_WAITS = ("cpu", "item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero")
"""Methods of a tensor that wait for a GPU on which it lies."""
_PACKAGE = Path(raykd.__file__).parent


@contextmanager
def count_waits() -> Iterator[Counter[str]]:
    """Count raykd's calls that would wait for a GPU; on the CPU, where this runs, nothing waits."""
    seen: Counter[str] = Counter()

    def watch(name: str) -> Any:
        own = getattr(torch.Tensor, name)

        def call(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1).f_code
            # A batch is collated on the host, before it is moved.
            if _PACKAGE in Path(caller.co_filename).parents and caller.co_name != "collate_rows":
                seen[name] += 1
            return own(tensor, *args, **kwargs)

        return mock.patch.object(torch.Tensor, name, call)

    patches = [watch(name) for name in _WAITS]
    for patch in patches:
        patch.start()
    try:
        yield seen
    finally:
        for patch in patches:
            patch.stop()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_transformer(tmp_path_factory.mktemp("models") / "teacher")


def test_a_batch_of_many_passes_waits_once_for_the_device(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Classification(max_length=64)
    teacher = Teacher(
        model_spec(name="t", path=str(directory), labels=LABELS, task=task, dtype="float32", max_tokens=64)
    )
    rows = text_batch(texts_and_labels(40)[0])
    wanted = teacher.answer(rows).bodies  # also tests the padding
    fetched: list[int] = []
    start = model_backend.start_copies

    def counted(tensors: Any, device: torch.device) -> Any:
        fetch = start(tensors, device)
        fetched.append(len(tensors))
        return fetch

    monkeypatch.setattr(model_backend, "start_copies", counted)
    with count_waits() as waits:
        assert teacher.answer(rows).bodies == wanted
    assert fetched[0] > 3 and len(fetched) == 1
    assert not waits


@pytest.mark.parametrize("form", [TopKAnswers(k=5), SampledAnswers(draws=20), HiddenAnswers()])
def test_chunks_of_a_language_model_are_queued_without_a_wait(
    form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tokenizer, model = made("causal_lm")
    task = CausalLM(answers=form)
    encoded = task.collate(task.encode(tokenizer, batch()), [0, 1, 2]).to(torch.device("cpu"))
    headless = Headless(model)
    wanted = decode_answers(answer_rows(task, headless, encoded, ()))[0]
    with torch.no_grad():
        states = headless(**encoded.inputs)
    stub = Mock(return_value=states, head=headless.head)
    monkeypatch.setattr(language, "choose_chunk_units", lambda vocab, device, dtype=None: 2)
    with count_waits() as waits, torch.no_grad():
        pending = task.start_answers(stub, encoded, ())
    # Seeds and vocabulary are read from the batch as the host keeps it.
    assert not waits - Counter({"tolist": 1, "__int__": 1})
    found = decode_answers(pending.encode([tensor.numpy() for tensor in pending.tensors]))[0]
    assert found is not None and wanted is not None
    for name, column in wanted.columns().items():
        np.testing.assert_allclose(found.columns()[name], column, atol=2e-3, err_msg=name)


def test_float16_states_reach_a_body_unclipped_and_by_one_copy() -> None:
    states = torch.linspace(-1e5, 1e5, 12).view(4, 3)
    half = compute_hidden(states).tensors["states_NH"]
    assert float(half.abs().max()) == 65504.0 and half.dtype == torch.float16
    assert compute_hidden(half).tensors["states_NH"].data_ptr() == half.data_ptr()
    answer = HiddenAnswer(states_NH=half.numpy(), covered_N=np.ones(4, bool))
    assert codec._to_float16(answer.states_NH) is answer.states_NH or np.shares_memory(
        codec._to_float16(answer.states_NH), answer.states_NH
    )
    with mock.patch.object(np, "clip", side_effect=AssertionError("clipped again")):
        body = encode_answer(answer)
    decoded = decode_answers([body])[0]
    assert isinstance(decoded, HiddenAnswer)
    np.testing.assert_array_equal(decoded.states_NH, answer.states_NH)


def test_rows_that_are_alike_are_encoded_as_one_by_one() -> None:
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    finite = np.asarray([True, True, False, True, True, True])
    for counts in ([1] * 6, [2] * 3, [3, 3], [1, 2, 3]):
        answer = DenseAnswer(logits_NC=logits, covered_N=np.ones(6, bool))
        apart = [encode_answer(row) for row in answer.rows(counts)]
        good = [part.all() for part in np.split(finite, np.cumsum(counts)[:-1])]
        wanted = [body if whole else None for body, whole in zip(apart, good, strict=True)]
        assert encode_rows(answer, np.asarray(counts), finite) == wanted
    with pytest.raises(ValueError, match="6 units in all"):
        encode_rows(answer, np.asarray([1, 1]), finite)


def test_teachers_that_cut_texts_alike_tokenise_a_batch_once(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = save_transformer(tmp_path / "other")
    (other / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    encoded: list[int] = []
    encode = Classification.encode

    def counted(self: Classification, tokenizer: Any, rows: Any) -> Any:
        encoded.append(len(rows))
        return encode(self, tokenizer, rows)

    task, memory = Classification(max_length=64), TokenMemory()
    monkeypatch.setattr(model_backend, "TOKENS", memory)
    settings: dict[str, Any] = {"labels": LABELS, "task": task, "dtype": "float32"}
    teachers = [Teacher(model_spec(name="t", path=str(path), **settings)) for path in (directory, other)]
    first, second = text_batch(texts_and_labels(20)[0]), text_batch(texts_and_labels(25)[0][20:])
    wanted = [teacher.answer(first).bodies for teacher in teachers]
    memory.__init__()  # type: ignore[misc]  # without what the self-test has asked
    monkeypatch.setattr(Classification, "encode", counted)
    assert [teacher.answer(first).bodies for teacher in teachers] == wanted
    assert encoded == [20] and memory.hits == 1
    teachers[0].answer(second)
    assert encoded == [20, 5]
    longer = Teacher(model_spec(name="t", path=str(other), **{**settings, "max_length": 9}))
    longer.answer(first)
    assert 20 in encoded[2:]  # cut elsewhere, so cut anew


def test_the_memory_of_tokens_is_bounded_and_forgets_the_oldest() -> None:
    class Encoding:
        language = False

        def model_dump_json(self) -> str:
            return ""

        def encode(self, tokenizer: Any, rows: Any) -> Any:
            return Mock(fields={"input_ids": [np.zeros(10, np.int64)] * len(rows)})

    memory, task, tokenizer = TokenMemory(most_bytes=400), Encoding(), object()
    batches = [text_batch([f"{number} {i}" for i in range(2)]) for number in range(3)]  # 160 bytes each
    kept = [memory.encode(task, tokenizer, b"cut", rows) for rows in batches]  # type: ignore[arg-type]
    assert memory.encode(task, tokenizer, b"cut", batches[2]) is kept[2]  # type: ignore[arg-type]
    assert memory.encode(task, tokenizer, b"cut", batches[1]) is kept[1]  # type: ignore[arg-type]
    assert memory.encode(task, tokenizer, b"cut", batches[0]) is not kept[0]  # type: ignore[arg-type]
    assert memory._held <= 400 and memory.hits == 2
    assert memory.encode(task, tokenizer, None, batches[0]) is not kept[0]  # type: ignore[arg-type]
    assert memory.hits == 2


def test_copies_of_a_gpu_wait_for_its_passes_and_the_host_for_them_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The calls in their order; what a GPU does with them is not seen here."""
    calls: list[str] = []

    class Stream(Mock):
        def wait_stream(self, other: object) -> None:
            calls.append(f"wait for {other}")

    class Event:
        def record(self, stream: object) -> None:
            calls.append("record")

        def synchronize(self) -> None:
            calls.append("synchronize")

    own, empty = Stream(), torch.empty
    copies._open_copy_stream.cache_clear()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: own)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "passes")
    monkeypatch.setattr(
        torch.cuda, "stream", lambda stream: nullcontext(calls.append("on the stream of copies"))
    )
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, pin_memory: empty(shape, dtype=dtype))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: calls.append("keep"))
    passes = [(torch.arange(3), torch.ones(2, 2)), (torch.zeros(1),)]
    fetch = copies.start_copies(passes, torch.device("cuda"))
    expected = ["wait for passes", "on the stream of copies", "keep", "keep", "keep", "record"]
    assert calls == expected
    found = fetch()
    assert calls == [*expected, "synchronize"]
    assert [[array.tolist() for array in arrays] for arrays in found] == [
        [[0, 1, 2], [[1, 1], [1, 1]]],
        [[0]],
    ]
    copies._open_copy_stream.cache_clear()


def test_a_model_on_a_gpu_runs_each_shape_once_without_cudnns_attention(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Classification(max_length=64)
    teacher = Teacher(model_spec(name="t", path=str(directory), labels=LABELS, task=task, dtype="float32"))
    rows = text_batch(["a", *texts_and_labels(20)[0]])
    wanted = teacher.answer(rows).bodies
    teacher.backend.has_few_shapes = True
    passes: list[tuple[int, int]] = []
    start = Classification.start_answers

    def counted(self: Any, model: Any, encoded: Any, columns: Any) -> Any:
        passes.append(tuple(encoded.inputs["input_ids"].shape))
        return start(self, model, encoded, columns)

    monkeypatch.setattr(Classification, "start_answers", counted)
    found = teacher.answer(rows).bodies
    shapes = make_buckets(64, 0, 16384).list_shapes()
    assert [passes[at] for at in range(len(shapes))] == [(s.sequences, s.length) for s in shapes]
    assert set(passes[len(shapes) :]) <= set(passes[: len(shapes)])
    for body, other in zip(found, wanted, strict=True):
        own, reference = (np.frombuffer(each or b"", np.float32, offset=14) for each in (body, other))
        np.testing.assert_allclose(own, reference, atol=1e-6)
    before = len(passes)
    teacher.answer(rows)
    assert len(passes) - before < len(shapes)
    on_gpu = Teacher(model_spec(name="t", path=str(directory), labels=LABELS, task=task, device="cuda"))
    switched: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", switched.append)
    modules = on_gpu.backend._get_modules(models.load_model(directory))
    assert switched == [False] and modules._most == 1 and on_gpu.backend.has_few_shapes
