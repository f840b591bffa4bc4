"""What a resume goes on from: the folder that is named, wherever it lies; which settings may change; what is said."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from raykd.checkpoint.find import checkpoint_name
from raykd.checkpoint.manifest import CheckpointInfo, describe_files, write_manifest
from raykd.checkpoint.storage import StorageFolder
from raykd.config.home import find_folder, find_student, is_raykd_folder, refuse_folder_beside, relocate_paths
from raykd.config.loading import dump_run, load_any_run, load_run
from raykd.driver.growth import Growth, plan_growth
from raykd.driver.jobs import make_jobs
from raykd.driver.teacher_counts import TeacherCounts, sum_counters
from raykd.errors import ConfigError, ModelError, ResourceError
from raykd.folders.changes import FREE, compare_trees
from raykd.folders.contents import digest_folder
from raykd.folders.folder import RunFolder, check_run_folder, open_run_folder, read_finished_run
from raykd.preflight.folder_check import describe_folder
from raykd.tuning.checks.resume import compare_sweep, explain_sweep
from raykd.tuning.config import dump_sweep, load_sweep
from raykd.tuning.journal import Journal
from tests.worlds import build_loop, run_config

ROWS = [{"text": f"a text that is {'good' if i % 2 else 'bad'} {i}", "label": ["no", "yes"][i % 2], "lang": "en"}
        for i in range(64)]  # fmt: skip


def project(folder: Path, **changes: Any) -> Path:
    """A project with a run file, rows and a teacher's folder beside it; returns the run file."""
    (folder / "data").mkdir(parents=True)
    for name, rows in (("train", ROWS), ("validation", ROWS[:16])):
        lines = "\n".join(json.dumps(row) for row in rows)
        (folder / "data" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "teacher").mkdir()
    (folder / "teacher" / "config.json").write_text("{}", encoding="utf-8")
    tree = {
        "name": "r",
        "output": "runs",
        "data": {
            "labels": ["no", "yes"], "languages": ["en"],
            "train": {"kind": "files", "paths": ["data/train.jsonl"]},
            "validation": {"kind": "files", "paths": ["data/validation.jsonl"]},
        },
        "student": {"kind": "linear", "buckets": 64},
        "teachers": [{"name": "t", "languages": "all", "path": "teacher"}],
        "objective": {"alpha": 0.3},
        "train": {"steps": 20, "batch_size": 8, "evaluations": 4},
    }  # fmt: skip
    run = folder / "run.yaml"
    run.write_text(yaml.safe_dump({**tree, **changes}), encoding="utf-8")
    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    return monkeypatch.chdir


def begin(run: Path, overrides: tuple[str, ...] = (), *, resume: bool = False, **state: Any) -> RunFolder:
    """As `train` opens its folder."""
    config = load_any_run(run, overrides)
    earlier = check_run_folder(config, resume=resume, overwrite=False)
    rows = make_jobs(config, Path("none"))[1][-1].fingerprints()
    folder = open_run_folder(
        config, rows, {"run.yaml": dump_run(config)}, earlier=earlier, base=config, overwrite=False
    )
    folder.write_state(mlflow_run_id="m1", **state)
    return folder


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.batch_size=16", "train.batch_size 16 (was 8)"),
        ("train.gradient_accumulation=4", "train.gradient_accumulation 4 (was 1)"),
        ("train.gradient_clipping=0.1", "train.gradient_clipping 0.1 (was 1.0)"),
        ("train.zero_stage=2", "train.zero_stage 2 (was 0)"),
        ("objective.alpha=0.5", "objective.alpha 0.5 (was 0.3)"),
        ("objective.temperature={kind: linear, start: 3.0, end: 1.0}",
         "objective.temperature {kind: linear, start: 3.0, end: 1.0} (was"),
        ("data.labelled_per_language=5", "data.labelled_per_language 5 (was null)"),
        ("teachers.t.label_map={a: no}", "teachers.t.label_map.a no (was not there)"),
        ("seed=3", "seed 3 (was 0)"),
    ],
)  # fmt: skip
def test_a_changed_key_is_named_with_both_values_and_what_can_be_done(
    override: str, said: str, tmp_path: Path, here: Any
) -> None:
    run = project(tmp_path)
    here(tmp_path)
    begin(run)
    with pytest.raises(ConfigError) as caught:
        check_run_folder(load_run(run, [override]), resume=True, overwrite=False)
    text = str(caught.value)
    assert said in text and "settings have changed" in text and "name=r-2" in text and "--overwrite" in text
    assert not re.search(r"[0-9a-f]{12}", text.replace(str(tmp_path), "")), "no hash"
    detail, argument = describe_folder(load_run(run, [override]), ())
    assert said in detail and argument == "name=r-2"
    (tmp_path / "runs" / "r" / "student").mkdir()
    with pytest.raises(ConfigError, match=r"pretrained, path: .*runs/r/student"):
        check_run_folder(load_run(run, [override]), resume=True, overwrite=False)


def test_what_changes_nothing_that_is_learnt_may_change(tmp_path: Path, here: Any) -> None:
    run = project(tmp_path)
    here(tmp_path)
    begin(run)
    free = ["ray.num_cpus=3", "tracking.experiment=other", "train.max_failures=4", "train.evaluations=9",
            "teachers.t.actor.num_cpus=2", "teachers.t.on_poor=warn", "serving.prefetch=3", "data.on_bad_row=skip"]  # fmt: skip
    earlier = check_run_folder(load_run(run, free), resume=True, overwrite=False)
    assert {c.key for c in earlier.changes.free} == {f.partition("=")[0] for f in free}
    assert "tracking.experiment null -> other" in map(str, earlier.changes.free)


@pytest.mark.parametrize("stage", ["pretraining", "teachers.t.training.pretraining"])
def test_texts_of_a_pretraining_may_lie_elsewhere(stage: str) -> None:
    assert FREE.match(f"{stage}.texts.paths") and FREE.match(f"{stage}.validation.columns.text")
    assert not FREE.match(f"{stage}.texts") and not FREE.match(f"{stage}.max_length")


def test_secrets_are_not_repeated() -> None:
    changes = compare_trees(
        {"train": {"deepspeed": {"api_key": "CANARY1"}}}, {"train": {"deepspeed": {"api_key": "CANARY2"}}}
    )
    assert "CANARY" not in str(changes.refused[0]) and "api_key" in str(changes.refused[0])


# moved, copied, renamed, named ------------------------------------------------------------------------------------


def test_a_moved_project_goes_on_and_what_lies_in_it_is_found_again(tmp_path: Path, here: Any) -> None:
    run = project(tmp_path / "old")
    here(tmp_path / "old")
    begin(run)
    (tmp_path / "old" / "runs" / "r" / "notes.yaml").write_text("a stranger's: [", encoding="utf-8")
    shutil.move(tmp_path / "old", tmp_path / "new")
    new = tmp_path / "new"
    here(tmp_path)
    config = load_run(new / "runs" / "r" / "run.yaml")  # from anywhere
    assert config.data.train.paths == (str(new / "data" / "train.jsonl"),)  # type: ignore[union-attr]
    assert config.teachers[0].path == str(new / "teacher")
    assert Path(config.output) == new / "runs"
    here(new)
    folder = begin(new / "run.yaml", resume=True)
    assert folder.changes == () and folder.state["folder"] == str(new / "runs" / "r")
    assert "it lay in" in folder.notes[0] and str(tmp_path / "old") in folder.notes[0]
    assert str(tmp_path / "old") not in (folder.path / "run.yaml").read_text("utf-8")
    assert (folder.path / "notes.yaml").read_text("utf-8") == "a stranger's: ["
    assert begin(new / "run.yaml", resume=True).notes == (), "said once"


def test_a_folder_under_another_name_is_itself(tmp_path: Path, here: Any) -> None:
    run = project(tmp_path)
    here(tmp_path)
    begin(run)
    (tmp_path / "runs" / "r").rename(tmp_path / "runs" / "r2")
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "r2")
    for place in ("runs/r2/run.yaml", "runs/r2", "runs/r2/", "link", "link/run.yaml", "runs/../runs/r2"):
        config = load_any_run(Path(place))
        assert (config.name, Path(config.output)) == ("r2", tmp_path / "runs")
        assert check_run_folder(config, resume=True, overwrite=False).changes.allowed == ()
    (tmp_path / "runs" / "r2").rename(tmp_path / "runs" / "r 2")
    with pytest.raises(ConfigError, match="rename the folder"):
        load_any_run(tmp_path / "runs" / "r 2")


def test_a_copy_gets_a_record_of_its_own_and_a_copied_project_keeps_its(tmp_path: Path, here: Any) -> None:
    run = project(tmp_path / "p")
    here(tmp_path / "p")
    folder = begin(run, children={"t0": "c0"})
    (folder.path / "mlflow_spool.jsonl").write_text("", encoding="utf-8")
    shutil.copytree(folder.path, folder.path.with_name("r-copy"))
    config = load_any_run(Path("runs/r-copy"))
    earlier = check_run_folder(config, resume=True, overwrite=False)
    rows = make_jobs(config, Path("none"))[1][-1].fingerprints()
    copy = open_run_folder(config, rows, {}, earlier=earlier, base=config, overwrite=False)
    assert "an MLflow run of its own" in copy.notes[0] and not (copy.path / "mlflow_spool.jsonl").exists()
    assert not {"mlflow_run_id", "children"} & set(copy.state)
    shutil.copytree(tmp_path / "p", tmp_path / "q")  # with its own database
    here(tmp_path / "q")
    again = begin(tmp_path / "q" / "run.yaml", resume=True)
    assert again.state["children"] == {"t0": "c0"} and "it lay in" in again.notes[0]


def test_a_file_named_from_another_folder_does_not_begin_anew_there(tmp_path: Path, here: Any) -> None:
    run = project(tmp_path / "p")
    here(tmp_path / "p")
    begin(run)
    refuse_folder_beside(Path("run.yaml"), "runs", "other", "raykd train {} --resume")
    here(tmp_path)
    with pytest.raises(ConfigError, match=r"no runs/r in .*[\s\S]*raykd train .*/p/runs/r --resume"):
        refuse_folder_beside(Path("p/run.yaml"), "runs", "r", "raykd train {} --resume")


def test_paths_outside_of_the_project_stay_and_those_that_are_gone_are_looked_for(tmp_path: Path) -> None:
    for folder in ("far", "b/p/runs", "b/p/data", "b/shared"):
        (tmp_path / folder).mkdir(parents=True)
    before, now = tmp_path / "a/p/runs/r", tmp_path / "b/p/runs/r2"
    tree = {"far": str(tmp_path / "far"), "in": [str(tmp_path / "a/p/data")], "by": str(tmp_path / "a/shared"),
            "gone": str(tmp_path / "a/p/none"), "text": "/", "label": "a/p"}  # fmt: skip
    found = relocate_paths(tree, before, now)
    assert found == {**tree, "in": [str(tmp_path / "b/p/data")], "by": str(tmp_path / "b/shared")}


def test_models_are_compared_by_what_they_hold(tmp_path: Path, here: Any) -> None:
    run = project(tmp_path)
    here(tmp_path)
    begin(run)
    shutil.copytree(tmp_path / "teacher", tmp_path / "elsewhere")
    moved = load_run(run, ["teachers.t.path=elsewhere"])
    assert check_run_folder(moved, resume=True, overwrite=False).changes.refused == ()
    (tmp_path / "teacher" / "config.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"teachers.t.path .*its files are other ones"):
        check_run_folder(load_run(run), resume=True, overwrite=False)


def test_a_digest_sees_any_block_of_large_weights(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(5 << 20))
    before = digest_folder(tmp_path)
    for at in (0, 5 << 19, (5 << 20) - 1):
        with weights.open("r+b") as file:
            file.seek(at)
            file.write(b"x")
        assert digest_folder(tmp_path) != before
        weights.write_bytes(bytes(5 << 20))
    (tmp_path / "README.md").write_text("x", encoding="utf-8")
    assert digest_folder(tmp_path) == before


def test_a_model_file_that_cannot_be_read_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")

    def refused(path: Path, *_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(ModelError, match=r"cannot be read[\s\S]*model\.safetensors"):
        digest_folder(tmp_path)


def test_changed_rows_are_named_by_their_part(tmp_path: Path, here: Any) -> None:
    run = project(tmp_path)
    here(tmp_path)
    begin(run)
    file = tmp_path / "data" / "validation.jsonl"
    file.rename(tmp_path / "data" / "held-out.jsonl")
    begin(run, ("data.validation.paths=[data/held-out.jsonl]",), resume=True)  # the same rows elsewhere
    file.write_text("\n".join(json.dumps(row) for row in ROWS[1:17]), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"other rows in data.validation\n"):
        begin(run, resume=True)


def test_a_folder_of_an_earlier_version_goes_on(tmp_path: Path, here: Any) -> None:
    run = project(tmp_path)
    here(tmp_path)
    folder = begin(run)
    state = json.loads((folder.path / "run.json").read_text("utf-8"))
    old = {"fingerprint": "of then", "data": state["rows"]["data"], "status": "interrupted", "num_workers": 1}
    (folder.path / "run.json").write_text(json.dumps(old), encoding="utf-8")
    tree = yaml.safe_load((folder.path / "run.yaml").read_text("utf-8"))
    del tree["train"]["max_failures"]  # a key of today
    (folder.path / "run.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert begin(run, resume=True).state["rows"] == state["rows"]
    (folder.path / "run.yaml").write_text("unknown: 1", encoding="utf-8")
    with pytest.raises(ConfigError, match="settings that it was made with cannot be read"):
        begin(run, ("train.batch_size=16",), resume=True)


@pytest.mark.parametrize("content", ["", "{", '{"status": "runn'])
def test_a_state_that_is_cut_off_is_one_message(content: str, tmp_path: Path, here: Any) -> None:
    run = project(tmp_path)
    here(tmp_path)
    folder = begin(run)
    (folder.path / "run.json").write_text(content, encoding="utf-8")
    (folder.path / "log.txt").write_text("", encoding="utf-8")
    for read in (
        lambda: load_any_run(folder.path),
        lambda: load_any_run(folder.path / "run.yaml"),
        lambda: find_folder(Path("r")),
    ):
        with pytest.raises(ConfigError, match=r"run.json cannot be read"):
            read()
    with pytest.raises(ConfigError, match=r"run.json cannot be read[\s\S]*name=") as caught:
        check_run_folder(load_run(run), resume=True, overwrite=False)
    assert "not a run folder" not in str(caught.value)


def test_a_full_disk_leaves_the_state_as_it_was(
    tmp_path: Path, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = project(tmp_path)
    here(tmp_path)
    folder = begin(run)
    before = (folder.path / "run.json").read_bytes()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=r"run.json cannot be written[\s\S]*No space left"):
        folder.write_state(status="finished")
    assert (folder.path / "run.json").read_bytes() == before


def test_folders_go_by_name_too(tmp_path: Path, here: Any) -> None:
    run = project(tmp_path)
    here(tmp_path)
    begin(run)
    assert is_raykd_folder(tmp_path / "runs" / "r") and not is_raykd_folder(tmp_path)
    assert find_folder(Path("r")) == Path("runs/r") and find_folder(Path("none")) == Path("none")
    assert find_student(Path("r")) == Path("runs/r/student") and find_student(Path("teacher")) == Path(
        "teacher"
    )


# longer -----------------------------------------------------------------------------------------------------------


def last_checkpoint(folder: RunFolder, step: int, stale: int, job: str = "student") -> Path:
    mark = CheckpointInfo(job, "any", 1, step)
    made = folder.path / "ray" / "student-1" / checkpoint_name(mark, 1)
    (made / "loop").mkdir(parents=True)
    state = {"step": step, "stale": stale, "stopped": False}
    (made / "loop" / "state.json").write_text(json.dumps(state), encoding="utf-8")
    place = StorageFolder(str(made))
    write_manifest(place, describe_files(place, mark))
    return made


def planned(run: Path, overrides: list[str]) -> Growth:
    config = load_any_run(run, overrides)
    earlier = check_run_folder(config, resume=True, overwrite=False)
    path = Path(config.output).resolve() / config.name
    return plan_growth(earlier, config, make_jobs(config, path)[1], path)


def test_a_finished_run_trains_on_and_keeps_its_student(tmp_path: Path, here: Any) -> None:
    run = project(tmp_path)
    here(tmp_path)
    folder = begin(run, status="finished")
    student = folder.path / "student"
    student.mkdir()
    (student / "config.json").write_text("{}", encoding="utf-8")
    assert read_finished_run(load_run(run)) is not None
    assert read_finished_run(load_run(run, ["train.steps=40"])) is None
    with pytest.raises(
        ConfigError, match=r"last checkpoint is gone[\s\S]*pretrained, path: .*runs/r/student"
    ):
        planned(run, ["train.steps=40"])
    last_checkpoint(folder, 20, 0)
    for longer in (["train.steps=40"], ["train.steps=null", "train.epochs=5"]):
        growth = planned(run, longer)
        assert "trains on from step 20" in growth.notes[0] and "40 steps" in growth.notes[1]
    growth.set_aside()
    assert not student.exists() and (folder.path / "student-20-steps" / "config.json").is_file()
    assert planned(run, ["train.steps=null", "train.epochs=2.5"]) == Growth(), "as many steps in other words"


def test_a_baseline_whose_checkpoints_are_gone_is_trained_anew(tmp_path: Path, here: Any) -> None:
    run = project(tmp_path, baseline=True)
    here(tmp_path)
    folder = begin(run, status="finished")
    for name in ("baseline", "student"):
        (folder.path / name).mkdir()
        (folder.path / name / "config.json").write_text("{}", encoding="utf-8")
    last_checkpoint(folder, 20, 0)
    growth = planned(run, ["train.steps=40"])
    assert [then.name for _, then in growth.aside] == ["baseline-20-steps", "student-20-steps"]
    assert "trained anew, 40 steps" in growth.notes[0]


@pytest.mark.parametrize(
    ("override", "said"),
    [("train.steps=10", "train.steps 10 (was 20)"), ("train.patience=3", "train.patience 3 (was null)")],
)
def test_shorter_is_answered_by_name(override: str, said: str, tmp_path: Path, here: Any) -> None:
    run = project(tmp_path)
    here(tmp_path)
    begin(run)
    with pytest.raises(ConfigError, match=r"fewer steps|less patience") as caught:
        planned(run, [override])
    assert said in str(caught.value) and "name=r-2" in str(caught.value)


def test_more_patience_goes_on_where_a_run_was_stopped_early(tmp_path: Path, here: Any) -> None:
    run = project(tmp_path, train={"steps": 100, "batch_size": 8, "patience": 2})
    here(tmp_path)
    folder = begin(run, status="finished")
    (folder.path / "student").mkdir()
    (folder.path / "student" / "config.json").write_text("{}", encoding="utf-8")
    last_checkpoint(folder, 50, 2)
    assert "from step 50" in planned(run, ["train.patience=6"]).notes[0]
    assert planned(run, ["train.patience=null"]).aside
    assert planned(run, ["train.steps=200"]).aside == (), "patience is out all the same"


def test_the_loop_that_has_more_patience_or_steps_goes_on(tmp_path: Path) -> None:
    first = build_loop(run_config(patience=1, evaluations=6, learning_rate=1e-9))
    first.run()
    assert first.state.stopped and first.state.step < 12
    first.save(tmp_path)
    more = build_loop(run_config(patience=3, evaluations=6, learning_rate=1e-9, steps=24))
    more.load(tmp_path)
    assert not more.state.stopped
    done = more.state.step
    more.advance()
    assert more.state.step > done
    same = build_loop(run_config(patience=1, evaluations=6, learning_rate=1e-9))
    same.load(tmp_path)
    assert same.state.stopped and not same.advance()
    assert torch.isfinite(next(iter(more.student.model.parameters()))).all()


# sweeps -----------------------------------------------------------------------------------------------------------


def a_sweep(folder: Path) -> Path:
    project(folder)
    space = {"name": "sw", "base": "run.yaml", "space": {"objective": {"alpha": {"uniform": [0.0, 0.9]}}},
             "scheduler": {"kind": "fifo"}, "num_samples": 3}  # fmt: skip
    (folder / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    return folder / "space.yaml"


def begin_sweep(space: Path) -> Path:
    plan = load_sweep(space)
    files = {"space.yaml": dump_sweep(plan), "run.yaml": dump_run(plan.base)}
    earlier = check_run_folder(plan, resume=False, overwrite=False)
    folder = open_run_folder(plan, {"data": "x"}, files, earlier=earlier, base=plan.base, overwrite=False)
    folder.write_state(mlflow_run_id="m")
    return folder.path


def test_a_sweep_lies_where_its_folder_lies(tmp_path: Path, here: Any) -> None:
    space = a_sweep(tmp_path / "p")
    here(tmp_path / "p")
    folder = begin_sweep(space)
    here(tmp_path)
    assert load_sweep(folder / "space.yaml").output == str(tmp_path / "p" / "runs")
    shutil.move(tmp_path / "p", tmp_path / "q")
    (tmp_path / "q" / "runs" / "sw").rename(tmp_path / "q" / "runs" / "sw2")
    plan = load_sweep(tmp_path / "q" / "runs" / "sw2")
    assert (plan.name, plan.output) == ("sw2", str(tmp_path / "q" / "runs"))
    assert plan.base.data.train.paths == (str(tmp_path / "q" / "data" / "train.jsonl"),)  # type: ignore[union-attr]
    assert plan.config.base_dir == str(tmp_path / "q")
    changes, _ = compare_sweep(plan, tmp_path / "q" / "runs" / "sw2", {})
    assert changes.refused == changes.free == ()
    own = load_sweep(tmp_path / "q" / "space.yaml", (), tmp_path / "q" / "runs" / "sw2")
    assert (own.name, own.output) == (plan.name, plan.output)


def test_a_sweep_goes_on_with_more_samples_and_names_what_may_not_change(tmp_path: Path, here: Any) -> None:
    space = a_sweep(tmp_path)
    here(tmp_path)
    folder = begin_sweep(space)
    journal = Journal(folder / "trials.jsonl")
    for index in range(3):
        journal.record_begin(f"t{index}", index, {"objective.alpha": 0.1}, f"tune{index}")
    more, _ = compare_sweep(
        load_sweep(space, ["num_samples=8", "time_budget_s=9", "set.ray.num_cpus=2"]), folder, {}
    )
    assert more.refused == () and len(more.free) == 3
    wrong = ["num_samples=2", "set.train.steps=40", "space.objective.alpha={uniform: [0.0, 0.5]}"]
    changes, _ = compare_sweep(load_sweep(space, wrong), folder, {})
    text = str(explain_sweep(folder, changes))
    assert "base.train.steps 40 (was 20)" in text and "fewer than the 3 trials" in text
    assert (
        "space.objective.alpha.uniform [0.0, 0.5] (was [0.0, 0.9])" in text
        and "name=sw-2 search.warm_start=" in text
    )


# counters ---------------------------------------------------------------------------------------------------------


class Pool:
    """A teacher with a store, that is killed now and then."""

    def __init__(self, kept: int = 0) -> None:
        self.kept, self.done = kept, 0

    def answer(self, rows: int) -> None:
        self.done += rows
        self.kept += rows

    def counters(self) -> dict[str, dict[str, int]]:
        return {"t": {"answered": self.done, "forwarded": self.done, "loaded": 1}}

    def stored(self) -> dict[str, int]:
        return {"t": self.kept}


def test_counters_over_starts_that_were_killed_are_those_of_an_unbroken_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {})
    first = Pool(kept=7)  # of another run
    counts = TeacherCounts(folder, [first])  # type: ignore[list-item]
    first.answer(100)
    counts.keep()
    first.answer(30)  # and is killed before it was written
    state = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert sum_counters(state)["t"]["forwarded"] == 100
    second = Pool(kept=first.kept)
    again = TeacherCounts(RunFolder(tmp_path, state), [second])  # type: ignore[list-item]
    assert again.completed == [{"t": {"answered": 130, "forwarded": 130, "loaded": 1}}], (
        "for a sweep's journal"
    )
    with again.watch():
        second.answer(270)
    assert again.totals() == {"t": {"answered": 400, "forwarded": 400, "loaded": 1}}
    third = TeacherCounts(
        RunFolder(tmp_path, json.loads((tmp_path / "run.json").read_text("utf-8"))), [Pool(407)]
    )  # type: ignore[list-item]
    assert third.totals()["t"]["answered"] == 400 and third.completed == []


def test_what_other_runs_put_into_the_stores_meanwhile_is_not_this_ones(tmp_path: Path) -> None:
    folder, pool = RunFolder(tmp_path, {}), Pool()
    counts = TeacherCounts(folder, [pool])  # type: ignore[list-item]
    pool.answer(260)
    counts.mark_filled()  # and is killed while trials run; another run asks 60 other texts
    state = json.loads((tmp_path / "run.json").read_text("utf-8"))
    again = TeacherCounts(RunFolder(tmp_path, state), [Pool(kept=320)])  # type: ignore[list-item]
    assert again.totals()["t"]["forwarded"] == 260


def test_what_is_said_of_a_resume_is_shown_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    console = Console(record=True, width=200)
    with caplog.at_level("INFO"):
        RunFolder(tmp_path, {}, notes=("going on in x",)).say(console, ["[more]"])
    assert "going on in x\n[more]" in console.export_text() and "[more]" in caplog.text
