"""Pretraining of the student itself: what it starts from, who shares it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd import models
from raykd.config import RunConfig
from raykd.config.loading import validate_run
from raykd.config.rewriting.pretraining import STUDENT, make_pretraining_run
from raykd.config.smoke import shorten_run
from raykd.driver.jobs import make_first_jobs, make_jobs, make_student_stages, start_student
from raykd.driver.loop import make_task_model
from raykd.errors import ConfigError, RaykdError
from raykd.experiments.config import load_experiment
from raykd.experiments.starts import plan_starts
from raykd.preflight.disk import compute_disk
from raykd.preflight.teacher_check import check_pretrained_student
from raykd.student.prepare import fit_tokenizer
from raykd.tuning.config import load_sweep
from raykd.tuning.driver import read_base_jobs
from raykd.tuning.trial_rank import PretrainedRuns
from tests.unit.test_pretraining import DECODER, SHORT, SMALL, STAGE, run_of, save_masked_lm, train

LSTM = {"kind": "lstm", "embedding": 12, "hidden": 10, "vocab_size": 200}
HARD = {"alpha": 1.0}


def pretrained(
    folder: Path, *teachers: Any, stage: dict[str, Any] | None = None, **changes: Any
) -> RunConfig:
    """A run whose student is pretrained, with a teacher for each of the teachers' stages."""
    own = {**STAGE, **(stage or {})}
    objective = {} if teachers else {"objective": HARD}
    return run_of(folder, *teachers, **{"student": SMALL, "pretraining": own, **objective, **changes})


def folder_of(run: RunConfig) -> Path:
    return make_student_stages(run)[-1].output


@pytest.mark.parametrize("student", [SMALL, LSTM, DECODER, "checkpoint"])
def test_student_and_baseline_start_from_one_pretraining(student: Any, tmp_path: Path) -> None:
    if student == "checkpoint":
        student = {"kind": "pretrained", "path": str(save_masked_lm(tmp_path / "model")), "dropout": 0.0}
    stage = {"objective": "causal_lm" if student is DECODER else "masked_lm"}
    run = pretrained(tmp_path, None, stage=stage, student=student, baseline=True)
    assert "first learns" in check_pretrained_student(run) and compute_disk(run).teachers > 0
    first, students = make_jobs(run, tmp_path / "run")
    assert [(job.name, job.role) for job in first] == [(STUDENT, "pretraining"), ("teacher-t0", "teacher")]
    assert [job.name for job in students] == ["baseline", "student"] and first[0].config.plain
    train(first[0])
    before = models.load_model(first[0].output)
    assert before.task == stage["objective"]
    trunk = before.model.base_model.state_dict() if student is not LSTM else before.model.state_dict()
    for job in students:
        (part,) = job.tasks.values()
        started = make_task_model(part.config, fit_tokenizer(part.config.student, []))
        assert started.tokenizer.get_vocab() == before.tokenizer.get_vocab()
        own = started.model.base_model.state_dict()
        shared = {name for name in own if name in trunk and "pooler" not in name}
        assert len(shared) >= 5 and all(torch.equal(own[name], trunk[name]) for name in shared)
    train(students[0])
    saved = models.load_model(students[0].output)
    assert saved.labels == run.data.labels, "an ordinary model"
    assert first[0].output.name in (students[0].output / "README.md").read_text(encoding="utf-8")


def test_the_stage_is_named_by_what_it_learns(tmp_path: Path) -> None:
    one = folder_of(pretrained(tmp_path))
    assert one.name.startswith("pretraining-")
    same: list[dict[str, Any]] = [
        {"seed": 7},
        {"train": {**SHORT, "steps": 9}},
        {"workers": {"num_workers": 2}},
    ]
    assert {folder_of(pretrained(tmp_path, **change)) for change in same} == {one}
    assert folder_of(pretrained(tmp_path, None)) == one, "with teachers as without"
    other: list[dict[str, Any]] = [{"seed": 1}, {"share": 0.3}, {"texts": "train"}]
    assert len({one, *(folder_of(pretrained(tmp_path, stage=change)) for change in other)}) == 4
    # A teacher that is the same model with the same stage shares it, and it is trained once.
    run = pretrained(tmp_path, STAGE)
    assert [job.name for job in make_first_jobs(run)] == [STUDENT, "teacher-t0"]
    assert make_first_jobs(run)[1].config.student.path == str(one)  # type: ignore[union-attr]


def test_a_chain_of_tags_and_adapters_are_of_the_task(tmp_path: Path) -> None:
    run = pretrained(tmp_path)
    tagged = run.model_copy(update={"student": run.student.model_copy(update={"crf": True})})
    assert not make_pretraining_run(tagged).student.crf and start_student(tagged, Path("x")).student.crf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": {"kind": "linear", "buckets": 64}}, "pretraining: a model of kind linear cannot learn masked_lm"),
        ({"student": DECODER}, "a model of kind decoder cannot learn masked_lm"),
        ({"pretraining": {"max_length": 64}}, "max_length 64 is larger than model.max_positions 40"),
        ({"pretraining": {"distillation": {"alpha": 0.5}}}, "distillation plays no part without"),
        ({"peer": {"student": SMALL}}, "peer begins at other weights"),
        ({"student": {"kind": "pretrained", "path": "teacher:t0"}}, "is a teacher, which knows its task"),
        ({"pretraining": {"teachers": [{"name": "t0", "languages": "all", "path": "m"}]}}, "t0 is a teacher of the run"),
    ],
)  # fmt: skip
def test_what_cannot_be_pretrained_is_refused_by_name(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrained(tmp_path, None, **changes)


def test_language_models_teach_the_stage(tmp_path: Path) -> None:
    folder = save_masked_lm(tmp_path / "model")
    lm = {"name": "lm", "languages": "all", "path": str(folder)}
    made = {"name": "made", "languages": "all", "training": {"model": SMALL, "train": SHORT}}
    student = {"kind": "pretrained", "path": str(folder)}
    stage = {"teachers": [lm, made], "distillation": {"alpha": 0.5, "temperature": 1.0}}
    run = pretrained(tmp_path, None, stage=stage, student=student)
    *before, job = make_student_stages(run)
    assert [one.name for one in before] == ["teacher-made"], "what teaches is trained first"
    own = job.tasks[""].config
    assert getattr(own.task, "replacement") == "mask" and not own.plain  # noqa: B009
    assert [t.model_path for t in own.active_teachers] == [str(folder), str(before[0].output)]
    assert "teacher lm: " in check_pretrained_student(run)
    # What they are counts, where they lie and what trains them does not.
    alone = folder_of(pretrained(tmp_path, None, student=student))
    assert len({alone, job.output, folder_of(run)}) == 2
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("0.02", "0.03"))
    assert folder_of(run) != job.output
    classifier = {**lm, "path": str(tmp_path / "none")}
    with pytest.raises(RaykdError, match="pretraining: teacher lm"):
        check_pretrained_student(
            pretrained(tmp_path, None, stage={"teachers": [classifier]}, student=student)
        )


def test_arms_share_their_pretraining(tmp_path: Path) -> None:
    base = pretrained(tmp_path, None).model_dump(mode="json")
    arms = {
        "plain": {"pretraining": None},
        "without": {"teachers": [], "objective": HARD},
        "longer": {"pretraining": {"train": {"steps": 4}}},
        "longer_too": {"pretraining": {"train": {"steps": 4}}, "objective": {"temperature": 3.0}},
    }
    plan = load_experiment({"name": "x", "base": base, "arms": arms, "seeds": 2}).share_teachers()
    jobs, _ = read_base_jobs(plan.base)
    more, start = plan_starts(plan, jobs)
    assert [job.name for job in jobs] == [STUDENT, "teacher-t0"]
    assert [job.name for job in more] == [f"{STUDENT}-longer"]
    started = {arm.name: getattr(start(arm.run).student, "path", None) for arm in plan.arms}
    first, second = str(jobs[0].output), str(more[0].output)
    assert started == {"base": first, "plain": None, "without": first, "longer": second, "longer_too": second}


def test_trials_share_their_pretraining_and_cannot_change_it(tmp_path: Path) -> None:
    run = pretrained(tmp_path, None)
    space: dict[str, Any] = {"objective": {"alpha": {"uniform": [0.0, 0.5]}}}
    sweep = load_sweep({"name": "s", "base": run.model_dump(mode="json"), "space": space, "num_samples": 2})
    jobs, _ = read_base_jobs(sweep.base)
    sample = sweep.space.draw(0, 0)
    trial = PretrainedRuns(sweep.space, jobs[0].output).build_run(sample)
    assert getattr(trial.student, "path") == str(jobs[0].output)  # noqa: B009
    assert sweep.space.build_run(sample).pretraining == run.pretraining, (
        "the best run is written as it was asked for"
    )
    for wrong in (
        {"pretraining": {"share": {"uniform": [0.1, 0.3]}}},
        {"student": {"hidden": {"choice": [8, 16]}}},
        {"data": {"select_languages": {"choice": [["en"], None]}}},
    ):
        with pytest.raises(ConfigError, match=r"all trials share it|changes what is pretrained"):
            load_sweep({"name": "s", "base": run.model_dump(mode="json"), "space": wrong, "num_samples": 2,
                        "label": "on_demand"})  # fmt: skip


def test_a_short_copy_shortens_the_stage_and_keeps_it_apart(tmp_path: Path) -> None:
    run = pretrained(tmp_path, stage={"train": {**SHORT, "steps": 900, "evaluations": 9}})
    stage = shorten_run(run).pretraining
    assert stage is not None and (stage.train.steps, stage.train.evaluations) == (4, 2)
    short = validate_run({**run.model_dump(mode="json"), "smoke": "run"}, "run")
    assert folder_of(short).parent == tmp_path / "runs" / "run-smoke" / "teachers"
    assert json.loads(run.model_dump_json())["pretraining"]["seed"] == 0
