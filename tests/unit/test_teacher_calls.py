"""What a call does when the process that it asked dies, hangs or is killed for memory; processes are scripts here."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray.exceptions

from raykd.answers.source import AnswerSlots
from raykd.errors import TeacherError, TeacherLostError
from raykd.teachers.call import Call, describe_memory_kill
from raykd.teachers.groups import Group
from raykd.teachers.pool_source import PendingPoolBatch
from raykd.teachers.source import TeacherRouter
from raykd.teachers.wire import GroupRequest
from tests.fakes import answer_slots, logits_of, text_batch

OOM = ray.exceptions.OutOfMemoryError(
    "1 worker was killed due to the node running low on memory.\n(actor ID: abc, name=TeacherActor.__init__, pid=4711, "
    "actual memory used=3.20GB, worker ID=ff)\nMemory on the node (IP: 10.0.0.1, ID: ab) was 7.61GB used / 8.00GB "
    "limit (0.951250)\nTop 10 memory users:\nPID\tMEM(GB)\tCOMMAND\n"
    "4711\t3.20\tray::TeacherActor.answer\n12\t0.40\tpython -m raykd"
)
DEAD, AWAY = ray.exceptions.ActorDiedError(), ray.exceptions.ActorUnavailableError("it restarts", b"0" * 16)
LATE = ray.exceptions.GetTimeoutError()


@dataclass
class Scripted:
    """A source whose replicas answer what their scripts say, one entry a request; after its script, a number."""

    scripts: list[list[Any]]
    max_restarts: int = 1
    pool: str | None = None
    on_loss: str = "fail"
    asked: list[tuple[int, bool]] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    calls: int = 0
    retries: int = 0
    hangs: int = 0
    slowest_s: float = 0.0
    begins: int = 0
    reason: str | None = None

    def __post_init__(self) -> None:
        spec: Any = SimpleNamespace(name="zh")
        replicas = [
            SimpleNamespace(answer=SimpleNamespace(remote=self._asks(r))) for r in range(len(self.scripts))
        ]
        self.handle = SimpleNamespace(
            groups=(Group("zh", (0,), (spec,), len(replicas), 1.0, 0.0, {}),), replicas=(tuple(replicas),),
            timeout_s=20.0, pool=self.pool, max_restarts=self.max_restarts,
        )  # fmt: skip
        self.in_flight, self.members, self.dead = [[0] * len(replicas)], [0], set[int]()
        self.router = TeacherRouter(("zh", "multi"), (frozenset({"zh"}), None))

    def _asks(self, replica: int) -> Any:
        def remote(request: GroupRequest) -> Any:
            self.asked.append((replica, request.halved))
            return self.scripts[replica].pop(0) if self.scripts[replica] else float(replica)

        return remote

    def fetch(self, reference: Any, timeout_s: float) -> Any:
        self.waits.append(timeout_s)
        if isinstance(reference, BaseException):
            raise reference
        return [answer_slots("zh", [[reference, reference]], latency_s=9.0, forwarded=1)]

    def lend_threads(self, index: int, replica: int, token: bytes, reference: Any) -> None:
        assert token == b""

    def make_token(self) -> bytes:
        return b""

    def kill(self, index: int, replica: int) -> None:
        self.killed.append(replica)

    def is_starting(self, index: int, replica: int) -> bool:
        return len(self.asked) <= self.begins

    def pick(self, index: int, avoid: int | None = None, node: str | None = None) -> int:
        alive = [r for r in range(len(self.scripts)) if r not in self.dead] or [0]
        return next((r for r in alive if r != avoid), alive[0])

    def find_memory_kill(self, index: int, replica: int, since_s: float) -> str | None:
        return self.reason

    def bury(self, index: int, replica: int) -> bool:
        self.dead.add(replica)
        return len(self.dead) < len(self.scripts)

    def drop_group(self, index: int, error: TeacherLostError) -> None:
        if self.on_loss == "fail":
            raise error
        self.router.drop_teachers(["zh"])

    def submit(self, batch: Any, **asked: Any) -> Any:
        lost = AnswerSlots.empty("zh", len(batch), lost="zh" in self.router.lost)
        return PendingPoolBatch(self, [], [lost], batch)  # type: ignore[arg-type]


def ask(source: Scripted) -> Call:
    request = GroupRequest(text_batch(["a"]), np.ones((1, 1), bool))
    return Call(source, 0, request, np.asarray([0]), None)  # type: ignore[arg-type]


def test_a_process_killed_for_memory_is_asked_again_with_half_as_much_and_the_node_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Scripted([[OOM]])
    assert logits_of(ask(source).result()[0])[0, 0] == 0.0
    assert source.asked == [(0, False), (0, True)] and not source.killed
    for part in (
        "teacher zh",
        "its process 4711 had 3.20 GB",
        "7.61GB of 8.00GB",
        "ray::TeacherActor.answer (pid 4711) 3.20 GB",
    ):
        assert part in caplog.text
    twice = Scripted([[OOM, OOM]])
    with pytest.raises(TeacherLostError, match=r"killed for memory again.*7.61GB of 8.00GB"):
        ask(twice).result()
    assert describe_memory_kill(ray.exceptions.OutOfMemoryError("")) == "the node's memory was full"


def test_a_process_of_which_only_its_restart_is_heard_is_looked_up(caplog: pytest.LogCaptureFixture) -> None:
    detail = "(actor ID: a, name=T, pid=7, actual memory used=3.10GB, worker ID=w)"
    source = Scripted([[AWAY, AWAY, 4.0]], reason=detail)
    with caplog.at_level("WARNING", "raykd.teachers"):
        assert logits_of(ask(source).result()[0]).max() == 4.0
    assert source.asked == [(0, False), (0, True), (0, True)]
    assert "killed for memory (its process 7 had 3.10 GB" in caplog.text and caplog.text.count("killed") == 1


def test_a_process_that_restarts_is_waited_for_and_a_dead_one_is_left_out() -> None:
    source = Scripted([[AWAY, AWAY]])
    call = ask(source)
    call.result()
    assert source.retries == 2 and source.slowest_s == 9.0
    call.release()
    assert source.in_flight == [[0]]
    other = Scripted([[DEAD], [AWAY]])
    assert logits_of(ask(other).result()[0])[0, 0] == 1.0
    assert other.dead == {0} and [r for r, _ in other.asked] == [0, 1, 1]
    with pytest.raises(TeacherLostError, match="is gone: ActorDiedError") as caught:
        ask(Scripted([[DEAD]])).result()
    assert caught.value.exit_code == 5 and "--resume" in str(caught.value)


def test_a_late_answer_ends_its_process_and_a_fresh_one_has_time_to_load() -> None:
    source = Scripted([[LATE]])
    source.slowest_s = 15.0
    ask(source).result()
    assert source.killed == [0] and source.hangs == 1
    assert source.waits == [20.0, 45.0]


def test_a_process_that_is_only_just_being_started_does_not_hang() -> None:
    source = Scripted([[LATE, LATE]], max_restarts=0, begins=2)
    ask(source).result()
    assert not source.killed and source.hangs == 0 and source.retries == 2


@pytest.mark.parametrize(("restarts", "replicas", "kills"), [(0, 1, 1), (2, 1, 3), (0, 2, 2), (1, 2, 3)])
def test_a_text_on_which_models_hang_costs_a_bounded_number_of_restarts(
    restarts: int, replicas: int, kills: int
) -> None:
    source = Scripted([[LATE] * 9 for _ in range(replicas)], max_restarts=restarts)
    with pytest.raises(TeacherLostError, match=f"hung {kills} times"):
        ask(source).result()
    assert len(source.killed) == kills


def test_processes_of_a_named_pool_and_callers_in_a_hurry_kill_nobody() -> None:
    named = Scripted([[LATE]], pool="shared")
    with pytest.raises(TeacherLostError, match="teacher pool shared: teacher zh did not answer in time"):
        ask(named).result()
    hurried = Scripted([[LATE]])
    with pytest.raises(TeacherError, match="did not answer in time") as caught:
        ask(hurried).result(0.0)
    assert not isinstance(caught.value, TeacherLostError)
    assert named.killed == hurried.killed == []


def test_a_lost_teacher_is_dropped_for_this_batch_and_for_those_on_their_way() -> None:
    source = Scripted([[DEAD]], on_loss="drop_and_renormalise")
    batch = text_batch(["a"])
    first, second = (
        PendingPoolBatch(source, [ask(source)], [AnswerSlots.empty("zh", 1)], batch) for _ in range(2)
    )  # type: ignore[arg-type]
    for ticket in (first, second):
        (signal,) = ticket.result()
        assert signal.lost and not signal.answered_B.any()
    assert len(source.waits) == 1  # nobody waits for the second one
    assert source.in_flight == [[0]]


def test_who_decides_himself_whom_to_ask_has_the_loss_as_an_error() -> None:
    source = Scripted([[DEAD]], on_loss="drop_and_renormalise")
    with pytest.raises(TeacherLostError):
        PendingPoolBatch(source, [ask(source)], [AnswerSlots.empty("zh", 1)]).result()  # type: ignore[arg-type]


def test_after_a_loss_routing_turns_to_the_next_class_of_teachers() -> None:
    from raykd.distill.weighting import Fixed
    from raykd.distill.weightings.routing import ByLanguage

    batch = text_batch(["a", "b"], ["zh", "en"])
    for weighting, before, after in (
        (None, [[True, False], [True, True]], [[False, False], [True, True]]),
        (ByLanguage(), [[True, False], [False, True]], [[False, False], [True, True]]),
        (
            Fixed(by_teacher={"zh": 1.0, "multi": 1.0}),
            [[True, False], [True, True]],
            [[False, False], [True, True]],
        ),
    ):
        router = TeacherRouter(("zh", "multi"), (frozenset({"zh"}), None), weighting)
        np.testing.assert_array_equal(router.route(batch), before)
        router.drop_teachers(["zh"])
        np.testing.assert_array_equal(router.route(batch), after)
