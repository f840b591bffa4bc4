"""Several threads answer at once: the same bytes, each text computed once, and only while threads are lent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch

from raykd import models
from raykd.answers.source import AnswerSlots
from raykd.errors import NonFiniteError
from raykd.models.lm import Headless
from raykd.runs import labelling
from raykd.tasks import Classification
from raykd.teachers.actor import STAGES, Coalescer, TeacherActor
from raykd.teachers.backends.modules import ModulePool
from raykd.teachers.groups import Group
from raykd.teachers.replicas import ReplicaSet
from raykd.teachers.teacher import Teacher
from raykd.teachers.threads import LentThreads
from raykd.teachers.wire import GroupRequest
from tests.fakes import LABELS, answer_slots, model_spec, save_transformer, text_batch, texts_and_labels

TASK = Classification(max_length=64)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_transformer(tmp_path_factory.mktemp("models") / "teacher")


def teacher(directory: Path, **changes: Any) -> Teacher:
    settings = {"name": "t", "path": str(directory), "labels": LABELS, "task": TASK, "dtype": "float32"}
    return Teacher(model_spec(**{**settings, **changes}))


def request(rows: int, token: bytes = b"") -> GroupRequest:
    texts = [f"{token.decode()} {i}" for i in range(rows)]
    return GroupRequest(text_batch(texts), np.ones((1, rows), dtype=bool), token=token)


def wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(500):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 5 s")


def test_threads_give_the_same_bytes_as_one_and_compute_each_text_once(
    directory: Path, tmp_path: Path
) -> None:
    texts = texts_and_labels(48)[0]
    # Batches overlap, so that several threads are asked for one text at the same moment.
    batches = [text_batch(texts[at : at + 16]) for at in (0, 8, 16, 24, 32, 0)]
    plain = teacher(directory)
    wanted = {
        text: body
        for at in (0, 16, 32)
        for text, body in zip(texts[at:], plain.answer(text_batch(texts[at : at + 16])).bodies, strict=False)
    }
    shared = teacher(directory, store=str(tmp_path / "store"))
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(shared.answer, batches))
    for batch, slots in zip(batches, answers, strict=True):
        for text, body in zip(batch.texts, slots.bodies, strict=True):
            own, reference = (np.frombuffer(b or b"", np.float32, offset=14) for b in (body, wanted[text]))
            np.testing.assert_allclose(own, reference, atol=1e-6)
    counters = shared.counters()
    assert counters["forwarded"] == len(set(texts)) == sum(slots.forwarded for slots in answers)
    assert counters["answered"] == 96 and shared.stored == len(set(texts))


def test_one_request_alone_and_beside_others_is_the_same_to_the_bit(directory: Path) -> None:
    texts, shared = texts_and_labels(48)[0], teacher(directory)
    parts = [text_batch(texts[at : at + 12]) for at in range(0, 48, 12)]
    alone = [shared.answer(part).bodies for part in parts]
    with ThreadPoolExecutor(4) as threads:
        assert [slots.bodies for slots in threads.map(shared.answer, parts)] == alone


def test_a_text_of_a_request_that_failed_is_computed_by_the_other_one(
    directory: Path, tmp_path: Path
) -> None:
    shared = teacher(directory, store=str(tmp_path / "store"))
    compute, gate, begun = shared.backend.compute, threading.Event(), threading.Event()

    def failing(batch: Any) -> list[bytes]:
        if "bad" in batch.texts:
            begun.set()
            gate.wait(5)
            raise NonFiniteError("bad")
        return compute(batch)

    shared.backend.compute = failing  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(shared.answer, text_batch(["good", "bad"]))
        begun.wait(5)
        second = threads.submit(shared.answer, text_batch(["good", "fine"]))
        wait_until(lambda: shared.stored == 1)
        gate.set()
        with pytest.raises(NonFiniteError):
            first.result()
        assert second.result().answered_B.all() and second.result().forwarded == 2
    assert not shared._computing


@pytest.mark.parametrize("headless", [False, True])
def test_a_twin_shares_the_weights_and_nothing_that_changes(directory: Path, headless: bool) -> None:
    model = models.load_model(directory).model.eval()
    module: Any = model
    if headless:
        from transformers import GPT2Config, GPT2LMHeadModel

        sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 50, "n_positions": 32}
        module = Headless(GPT2LMHeadModel(GPT2Config(**sizes)).eval())
    pool = ModulePool(module, 2)
    inputs = {
        "input_ids": torch.arange(1, 9).view(1, 8),
        "attention_mask": torch.ones(1, 8, dtype=torch.long),
    }
    with pool.borrow() as first, pool.borrow() as second, torch.no_grad():
        assert first is module and second is not module
        assert [p.data_ptr() for p in first.parameters()] == [p.data_ptr() for p in second.parameters()]
        assert {m for m in first.modules()}.isdisjoint(second.modules())
        name = "hidden" if headless else "logits"
        assert torch.equal(getattr(first(**inputs), name), getattr(second(**inputs), name))


def test_a_model_that_cannot_be_copied_is_run_in_turns() -> None:
    module = torch.nn.Linear(2, 2)
    module.lock = threading.Lock()  # type: ignore[assignment]  # no lock can be copied
    pool, seen = ModulePool(module, 4), []

    def run(number: int) -> None:
        with pool.borrow() as own:
            seen.append(own is module)

    with ThreadPoolExecutor(3) as threads:
        with pool.borrow():
            waiting = [threads.submit(run, number) for number in range(3)]
            time.sleep(0.05)
            assert not seen
        for each in waiting:
            each.result(5)
    assert seen == [True] * 3
    with pool.borrow_all() as own:
        assert own is module


def test_a_loan_ends_with_its_request_and_is_void_after_it() -> None:
    lent = LentThreads()
    with lent.open_request(b"a"), lent.open_request(b"b"):
        assert lent.lend(b"a", 1) and lent.lend(b"b", 2) and lent.lend(b"a", 1) and lent.count() == 3
    assert lent.count() == 0 and not lent.lend(b"a", 1) and lent.count() == 0
    with lent.open_request(b""):  # whose sender lends nothing
        assert not lent.lend(b"", 1)


def test_a_second_request_is_answered_beside_the_first_only_while_threads_are_lent() -> None:
    lent, gate = LentThreads(), threading.Event()
    at_once: list[int] = []
    active = 0

    def answer(asked: GroupRequest) -> list[AnswerSlots]:
        nonlocal active
        active += 1
        at_once.append(active)
        gate.wait(5)
        active -= 1
        return [answer_slots("t", np.zeros((len(asked.batch), 2)))]

    coalescer = Coalescer(answer, count_spare=lent.count)

    def ask(token: bytes) -> list[AnswerSlots]:
        with lent.open_request(token):
            return coalescer.ask(request(9, token))

    with ThreadPoolExecutor(3) as clients:
        waiting = [clients.submit(ask, token) for token in (b"a", b"b", b"c")]
        wait_until(lambda: len(at_once) == 1 and len(coalescer._waiting) == 2)
        time.sleep(0.05)
        assert at_once == [1]
        assert lent.lend(b"a", 1)
        coalescer.wake()
        wait_until(lambda: len(at_once) == 2)
        gate.set()
        assert all(len(each.result(5)[0]) == 9 for each in waiting)
    assert at_once[:2] == [1, 2] and max(at_once) == 2


def test_an_actor_takes_further_requests_with_as_many_threads_as_it_has(directory: Path) -> None:
    specs = [teacher(directory).spec]
    actor = TeacherActor(specs, threads=2)
    with actor._lent.open_request(b"a"):
        assert actor._count_spare() == 0
        actor.lend(b"a", 3)
        assert actor._count_spare() == 1  # a further request needs two threads
    torch.set_num_threads(1)
    on_gpu = TeacherActor([model_spec(name="t", path="", labels=LABELS, task=TASK, device="cuda")], threads=1)
    assert on_gpu._count_spare() == STAGES - 1


def test_a_worker_lends_its_threads_to_the_replica_on_its_node_that_it_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[int, bytes, int]] = []

    def replica(number: int) -> Any:
        return SimpleNamespace(
            lend=SimpleNamespace(remote=lambda token, threads: told.append((number, token, threads)))
        )

    group = Group("g", (0,), (), 2, 1.0, 0.0, {})
    handle: Any = SimpleNamespace(
        groups=(group,), replicas=((replica(0), replica(1)),), nodes=(("here", "away"),), pool=None
    )
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: (refs if refs[0] == "there" else [], refs))
    lender = ReplicaSet(handle, 0, idle_threads=2)
    token = lender.make_token()
    lender.lend_threads(0, 0, token, "later")  # type: ignore[arg-type]
    lender.lend_threads(0, 0, token, "there")  # type: ignore[arg-type]
    lender.lend_threads(0, 1, token, "later")  # type: ignore[arg-type]
    lender.lend_threads(0, 0, b"", "later")  # type: ignore[arg-type]
    assert told == [(0, token, 2)] and len(token) == 8
    handle.pool = "named"
    assert ReplicaSet(handle, 0, idle_threads=2).make_token() == b"" == ReplicaSet(handle, 0).make_token()


def test_labelling_lends_idle_cpus_to_the_oldest_request_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lent: list[str] = []

    def ticket(name: str) -> Any:
        return SimpleNamespace(calls=[SimpleNamespace(lend_threads=lambda: lent.append(name))])

    stream = labelling._Stream(limit=3, sent=[(ticket("a"), 1), (ticket("b"), 1)])
    stream.lend_threads()
    stream.lend_threads()
    assert lent == ["a"]
    stream.sent.pop(0)
    stream.lend_threads()
    stream.sent.clear()
    stream.lend_threads()
    assert lent == ["a", "b"]
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.34, "memory": 9.0})
    monkeypatch.setattr(ray, "nodes", lambda: [{}])
    assert labelling._count_idle_cpus() == 1
    monkeypatch.setattr(ray, "nodes", lambda: [{}, {}])
    assert labelling._count_idle_cpus() == 0
