"""What a named pool and a run compare, and a pool as a run sees it that takes some of its teachers; no Ray."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from raykd.config import ActorConfig, ServingConfig
from raykd.errors import ConfigError, TeacherError
from raykd.tasks import Classification
from raykd.teachers.actor import ReplicaStatus
from raykd.teachers.handle import PoolHandle
from raykd.teachers.pools.attached_pool import _subtract, compare_teachers, refuse_differences
from raykd.teachers.pools.named_pool import NamedPool, sum_resources_by_node
from raykd.teachers.pools.own_pool import Placement, group_placements
from raykd.teachers.spec import TeacherInfo, TeacherSpec
from tests.fakes import model_spec

NAMES = ("zh", "en", "multi")
GROUPS = {"zh": "pair", "en": None, "multi": "pair"}


def spec(name: str, **changes: Any) -> TeacherSpec:
    languages = None if name == "multi" else frozenset({name})
    settings = {
        "name": name,
        "path": f"models/{name}",
        "labels": ("no", "yes"),
        "task": Classification(),
        "languages": languages,
        "dtype": "float32",
        "store": "s",
    }
    return model_spec(**{**settings, **changes})


def info(name: str, **changes: Any) -> TeacherInfo:
    return replace(TeacherInfo(name, f"{name}-weights", 10, "float32", "as configured", "cpu", 64), **changes)


def served(specs: dict[str, Any] | None = None, infos: dict[str, Any] | None = None) -> NamedPool:
    """A pool of three: zh and multi in one process, en in another of two replicas."""
    placed = [
        Placement(
            spec(name, **(specs or {})),
            ActorConfig(num_cpus=0.5, group=GROUPS[name], replicas=2 if name == "en" else 1),
        )
        for name in NAMES
    ]
    groups = group_placements(placed)
    handle = PoolHandle(
        groups=tuple(groups),
        replicas=(("zm",), ("e0", "e1")),
        teachers=NAMES,
        teacher_languages=tuple(p.spec.languages for p in placed),
        timeout_s=300.0,
        nodes=(("n0",), ("n0", "n1")),
        answers=((("a-zh", "a-multi"),), (("a-en",), ("a-en",))),
        pool="kept",
    )
    return NamedPool("kept", handle, tuple(info(name, **(infos or {})) for name in NAMES), 0.0)


def test_equal_teachers_have_no_difference_whatever_changes_no_answer() -> None:
    elsewhere = {
        "path": "other/place",
        "revision": "v2",
        "max_tokens": 1,
        "store": "elsewhere",
        "device": "cuda",
    }
    wanted = [(spec(name, **elsewhere), info(name, device="cuda", parameters=11)) for name in reversed(NAMES)]
    assert compare_teachers(wanted, served(), exactly=True) == []
    assert compare_teachers(wanted[:1], served()) == []


@pytest.mark.parametrize(
    ("what", "in_spec", "in_info"),
    [
        ("fingerprint", {}, {"fingerprint": "others"}),
        ("labels", {"labels": ("yes", "no")}, {}),
        ("label_map", {"label_map": {"LABEL_0": "no"}}, {}),
        ("languages", {"languages": frozenset({"zh", "en"})}, {}),
        ("languages", {"languages": None}, {}),
        ("max_length", {"max_length": 32}, {"max_length": 32}),
        ("dtype", {"dtype": "bfloat16"}, {"dtype": "bfloat16"}),
        ("dtype", {"dtype": "auto"}, {"dtype": "bfloat16"}),
    ],
)
def test_what_changes_an_answer_is_a_difference(what: str, in_spec: Any, in_info: Any) -> None:
    wanted = [(spec("zh", **in_spec), info("zh", **in_info))]
    found = compare_teachers(wanted, served())
    assert [(d.teacher, d.what) for d in found] == [("zh", what)] and found[0].got != found[0].wanted
    back = compare_teachers([(spec("zh"), info("zh"))], served(in_spec, in_info))
    assert [(d.teacher, d.what, d.got, d.wanted) for d in back] == [
        ("zh", what, found[0].wanted, found[0].got)
    ]


def test_auto_of_both_is_the_same_request_wherever_it_is_decided() -> None:
    pool = served({"dtype": "auto"}, {"dtype": "bfloat16"})
    assert compare_teachers([(spec("zh", dtype="auto"), info("zh"))], pool) == []
    assert (
        compare_teachers([(spec("zh", dtype="auto"), info("zh"))], served()) == []
    )  # and here it would be float32


def test_a_run_that_keeps_answers_wants_a_pool_that_does() -> None:
    bare = served({"store": None})
    assert [d.what for d in compare_teachers([(spec("zh"), info("zh"))], bare)] == ["store"]
    assert compare_teachers([(spec("zh", store=None), info("zh"))], served()) == []


def test_absent_and_surplus_teachers() -> None:
    wanted = [(spec("zh"), info("zh")), (spec("fr"), info("fr"))]
    assert [(d.teacher, d.got) for d in compare_teachers(wanted, served())] == [("fr", "not in the pool")]
    exactly = compare_teachers(wanted, served(), exactly=True)
    assert [(d.teacher, d.got) for d in exactly] == [
        ("fr", "not in the pool"), ("en", "in the pool"), ("multi", "in the pool")]  # fmt: skip


def test_a_refusal_names_all_differences_and_the_next_step() -> None:
    refuse_differences("kept", [], "nothing")
    found = compare_teachers([(spec("zh", labels=("yes", "no")), info("zh", fingerprint="x"))], served())
    with pytest.raises(TeacherError) as error:
        refuse_differences("kept", found, "raykd teachers down kept")
    assert error.value.got == "zh: fingerprint zh-weights; zh: labels ['no', 'yes']"
    assert error.value.wanted == "zh: fingerprint x; zh: labels ['yes', 'no']"
    assert error.value.next_step == "raykd teachers down kept"


def test_a_view_has_the_runs_order_and_asks_each_process_in_its_own() -> None:
    view = served().handle.select(("multi", "en"), 5.0)
    assert view.teachers == ("multi", "en") and view.teacher_languages == (None, frozenset({"en"}))
    assert (view.timeout_s, view.pool) == (5.0, "kept")
    pair, alone = view.groups
    assert (pair.members, [s.name for s in pair.specs], pair.places) == ((0,), ["multi"], (1,))
    assert (alone.members, alone.places) == ((1,), (0,))
    assert view.answers == ((("a-multi",),), (("a-en",), ("a-en",)))
    asked_MB = np.asarray([[True, False, True], [False, True, True]])
    np.testing.assert_array_equal(pair.select_rows(asked_MB), [[False, False, False], [True, False, True]])
    np.testing.assert_array_equal(alone.select_rows(asked_MB), [[False, True, True]])


def test_a_view_leaves_out_processes_that_the_run_does_not_need() -> None:
    view = served().handle.select(("en",), 5.0)
    assert [g.name for g in view.groups] == ["teacher:en"] and view.replicas == (("e0", "e1"),)
    whole = served().handle.select(NAMES, 5.0)
    everything = np.eye(3, dtype=bool)
    np.testing.assert_array_equal(whole.groups[0].select_rows(everything), everything[[0, 2]])
    again = served().handle.select(("multi", "zh"), 5.0).select(("zh",), 5.0)
    np.testing.assert_array_equal(again.groups[0].select_rows(np.ones((1, 2), dtype=bool)), [[1, 1], [0, 0]])
    with pytest.raises(ConfigError, match="fr"):
        served().handle.select(("fr",), 5.0)


def test_what_was_done_before_attaching_is_not_counted() -> None:
    before = ReplicaStatus("n", 1, 0, {"zh": {"answered": 5, "forwarded": 2, "loaded": 1}}, {})
    now = ReplicaStatus("n", 1, 0, {"zh": {"answered": 9, "forwarded": 3, "loaded": 1}}, {})
    assert _subtract(before, now) == {"zh": {"answered": 4, "forwarded": 1, "loaded": 1}}


def test_what_a_pool_holds_by_node() -> None:
    assert sum_resources_by_node(served()) == {"n0": {"CPU": 1.5, "GPU": 0.0}, "n1": {"CPU": 0.5, "GPU": 0.0}}


def test_the_key_takes_names_only() -> None:
    assert ServingConfig().pool is None and ServingConfig(pool="a-b.c").pool == "a-b.c"
    with pytest.raises(ValidationError, match="a name starts with"):
        ServingConfig(pool="a/b")
