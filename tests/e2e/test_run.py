"""One run from files to report, through everything that is real; what it leaves, and what it must not leave."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from raykd import models
from raykd.config.loading import flatten_run
from raykd.driver.command import Start
from raykd.errors import ConfigError, ModelError, NonFiniteError
from raykd.runs.train import run_training
from raykd.scoring.outcome import Outcome
from raykd.timeline import OTHER, TRAINING, compute_shares, read_trace
from tests.e2e.conftest import CANARY, World, still_held
from tests.fakes import BAD, GOOD, LABELS


@pytest.fixture(scope="module")
def recorded(first: Outcome, world: World):  # type: ignore[no-untyped-def]
    """A client of the run's database, and the run."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{world.folder}/runs/mlflow.db")
    return client, client.get_run(first.mlflow_run_id)


def test_the_table_has_every_system(first: Outcome) -> None:
    systems = [(p.role, p.name) for p, _ in first.table.systems]
    assert systems == [
        ("teacher", "en"),
        ("teacher", "multi"),
        ("ensemble", "teacher ensemble"),
        ("baseline", "undistilled student"),
        ("student", "student"),
    ]
    for role in ("ensemble", "baseline", "student"):
        assert 0.5 < first.macro(role)["accuracy"] <= 1.0
    assert all(p.ms_per_1000 and p.ms_per_1000 > 0 for p, _ in first.table.systems)


def test_teachers_are_scored_before_they_teach_and_a_poor_one_is_told_of(
    first: Outcome, recorded, world: World
) -> None:  # type: ignore[no-untyped-def]
    client, run = recorded
    log = (world.run("first") / "log.txt").read_text(encoding="utf-8")
    scored, fitted = log.index("teachers on the validation rows"), log.index("workers for baseline, student")
    assert scored < fitted
    (history,) = client.get_metric_history(run.info.run_id, "teacher/multi/validation/accuracy")
    assert history.step == 0
    (note,) = [n for n in first.notes if "teacher multi is worse on the validation rows" in n]
    assert f"accuracy {100 * history.value:.1f} %" in note and "WARNING raykd.runs: " + note in log
    assert run.data.tags["raykd.teacher.multi.poor"] == note
    assert note in (world.run("first") / "results.md").read_text(encoding="utf-8")


def test_swapped_labels_stop_the_run_before_the_student(first: Outcome, world: World) -> None:
    (path,) = (world.folder / "runs" / "teachers").glob("en-*")
    turned = {"negative": "positive", "positive": "negative"}
    teachers = [
        {"name": "en", "languages": ["en"], "path": str(path)},
        {"name": "turned", "languages": ["en", "fr"], "path": str(path), "label_map": turned},
    ]
    defaults = {"actor": {"num_cpus": 0.5, "group": "teachers"}}
    config = world.config("turned", teachers=teachers, teacher_defaults=defaults, baseline=False)
    with pytest.raises(ModelError) as raised:
        run_training(config)
    said = str(raised.value)
    assert raised.value.exit_code == 3
    for part in (
        r"teacher turned is worse on the validation rows than one label for everything",
        r"accuracy [0-9.]+ % \(95 % interval [0-9.]+ to [0-9.]+\) of 120 labelled texts \(en .* %, fr .* %\)",
        r"always (negative|positive), the most frequent label, would be right in 5\d\.\d %",
        r"its labels look swapped: without a label_map it would reach 9\d\.\d %: check teachers.turned.label_map",
    ):
        assert re.search(part, said), said
    log = (world.run("turned") / "log.txt").read_text(encoding="utf-8")
    assert "workers for" not in log and world.state("turned")["status"] == "failed"
    assert still_held() == []


def test_the_report_needs_no_network(first: Outcome) -> None:
    page = first.report.read_text(encoding="utf-8")
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-" in page
    markup = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    loads = re.findall(r"""(?:src|href)\s*=\s*["']([^"'#][^"']*)["']|url\(([^)#]+)\)|@import""", markup)
    assert not [part for part in loads if not "".join(part).startswith("data:")]
    assert page.count('<div class="chart">') >= 3 and "undistilled student" in page


def test_the_student_is_a_model_that_anybody_can_load(first: Outcome, world: World, capsys) -> None:  # type: ignore[no-untyped-def]
    from raykd.scoring.model import Model

    assert models.load_model(first.student).labels == LABELS
    texts = [f"the food was very {word} here" for word in (*GOOD, *BAD)]
    answers = [row["label"] for row in Model.load(first.student).predict(texts)]
    wanted = ["positive"] * len(GOOD) + ["negative"] * len(BAD)
    assert sum(a == w for a, w in zip(answers, wanted, strict=True)) >= 7


def test_mlflow_holds_parameters_tags_and_artifacts(recorded, world: World) -> None:  # type: ignore[no-untyped-def]
    client, run = recorded
    assert run.info.status == "FINISHED"
    flat = flatten_run(world.config("first"))
    assert run.data.params == flat
    tags = run.data.tags
    assert re.fullmatch("[0-9a-f]{64}", tags["raykd.data.fingerprint"])
    assert len({tags[f"raykd.teacher.{name}.fingerprint"] for name in ("en", "multi")}) == 2
    assert tags["raykd.fingerprint"] == world.config("first").fingerprint()
    found = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {
        "results.json",
        "classes.json",
        "confusions.json",
        "results.md",
        "run.yaml",
        "environment.json",
        "report.html",
    } <= found


def test_mlflow_holds_the_curves_of_the_run_and_of_its_children(recorded) -> None:  # type: ignore[no-untyped-def]
    client, run = recorded
    names = {
        "train/loss", "train/hard", "train/soft/forward_kl", "train/alpha", "train/temperature",
        "train/lambda/forward_kl", "teacher/en/weight", "teacher/multi/weight", "teacher/en/latency_s",
        "eval/mean/accuracy", "eval/en/accuracy", "eval/fr/nll", "test/mean/accuracy", "test/fr/macro_f1",
        "teacher/multi/validation/accuracy", "ensemble/test/mean/accuracy", "baseline/test/mean/accuracy",
    }  # fmt: skip
    assert names - set(run.data.metrics) == set()
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == list(range(1, 61))
    assert run.data.metrics["train/alpha"] == pytest.approx(0.3)
    assert run.data.metrics["train/temperature"] == pytest.approx(2.0)
    children = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    assert {(c.info.run_name, c.info.status) for c in children} == {
        ("teacher-en", "FINISHED"),
        ("teacher-multi", "FINISHED"),
        ("baseline", "FINISHED"),
    }
    assert all("train/loss" in child.data.metrics for child in children)


def test_the_logged_model_answers(recorded, first: Outcome, world: World) -> None:  # type: ignore[no-untyped-def]
    import mlflow
    import pandas

    from raykd.scoring.model import Model

    client, run = recorded
    every = client.search_logged_models([run.info.experiment_id])
    (model,) = [model for model in every if model.source_run_id == run.info.run_id]
    assert model.source_run_id == run.info.run_id
    texts = ["the room was very good", "the food was awful today"]
    answered = mlflow.pyfunc.load_model(model.artifact_location).predict(pandas.DataFrame({"text": texts}))
    direct = Model.load(first.student).predict(texts)
    assert list(answered["label"]) == [row["label"] for row in direct]
    for label in LABELS:
        assert list(answered[f"p_{label}"]) == pytest.approx(
            [row["probabilities"][label] for row in direct], abs=1e-5
        )


def test_nothing_of_the_run_is_left_in_the_cluster(first: Outcome) -> None:
    assert still_held() == []


def test_no_secret_of_the_environment_is_in_anything_written(first: Outcome, world: World) -> None:
    """Run folder, report, log, model, MLflow's database and artifacts, and the logs of Ray's session."""
    import ray

    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    files = [p for folder in (world.folder, session / "logs") for p in folder.rglob("*") if p.is_file()]
    assert world.folder / "runs" / "mlflow.db" in files and sum("logs" in p.parts for p in files) > 5
    assert [p for p in files if CANARY.encode() in p.read_bytes()] == []


def test_the_same_folder_is_refused_without_a_flag(first: Outcome, world: World) -> None:
    before = first.report.read_bytes()
    with pytest.raises(ConfigError, match=r"exists already[\s\S]*finished[\s\S]*--resume"):
        run_training(world.config("first"))
    with pytest.raises(ConfigError, match=r"seed 5 \(was 0\)"):
        run_training(world.config("first", seed=5), Start(resume=True))
    assert first.report.read_bytes() == before


def test_resuming_a_finished_run_says_so_at_once(first: Outcome, world: World, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    from raykd.cli import main

    monkeypatch.setattr("sys.argv", ["raykd", "train", str(world.write("first")), "--resume"])
    begun = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and time.monotonic() - begun < 5.0
    shown = capsys.readouterr().out
    assert "finished already" in shown and str(first.student) in shown and "distilled student" in shown


def test_a_loss_that_is_not_finite_names_step_and_rows_and_keeps_what_was_written(
    recorded, world: World
) -> None:  # type: ignore[no-untyped-def]
    """The rate jumps after the first half: two checkpoints are good, the third is never reached."""
    broken = {
        "steps": 20, "batch_size": 16, "evaluations": 4, "learning_rate": 1e38, "max_failures": 1,
        "lr_schedule": {"kind": "step", "values": [1e-40, 1.0], "at": [0.5]},
    }  # fmt: skip
    config = world.config("overflow", teachers=[], baseline=False, objective={"alpha": 1.0}, train=broken)
    with pytest.raises(NonFiniteError) as raised:
        run_training(config)
    found = re.search(r"at step (\d+) of 20, rows \['(en|fr)-train:\d+'", str(raised.value))
    assert found and 10 <= int(found[1]) <= 13
    assert len(world.checkpoints("overflow")) == 2
    assert world.state("overflow")["status"] == "failed"
    log = (world.run("overflow") / "log.txt").read_text(encoding="utf-8")
    assert log.count("workers for student") == 1 and "training is not finite" in log
    client, _ = recorded
    assert client.get_run(world.state("overflow")["mlflow_run_id"]).info.status == "FAILED"
    assert still_held() == [], "though the error that holds the run's frames is still here"


def test_the_time_of_the_run_adds_up_and_is_on_the_page(first: Outcome, world: World) -> None:
    spans = read_trace(world.run("first") / "timeline.json")
    shares = {share.name: share.seconds for share in compute_shares(spans)}
    driver = [span for span in spans if span.process == "driver" and span.thread == "main"]
    wall = max(span.end_s for span in driver) - min(span.begin_s for span in driver)
    assert sum(shares.values()) == pytest.approx(wall, rel=1e-3)
    assert shares[OTHER] < 0.1 * wall
    assert {
        "check", "rows read", "Ray connected", "teachers opened", "teachers reviewed", "worker's imports", "tokens",
        "student made", "training steps", "evaluation", "checkpoints", "student saved", "scoring and report",
        "MLflow ended", TRAINING,
    } <= set(shares)  # fmt: skip
    assert not any(span.is_part for span in spans)  # no profile was asked for
    (opened,) = [span for span in spans if span.name == "MLflow opened"]
    assert opened.thread.startswith("mlflow")
    page = first.report.read_text(encoding="utf-8")
    widths = [float(width) for width in re.findall(r'<div style="width: ([\d.]+)%; background', page)]
    assert sum(widths) == pytest.approx(100.0, abs=0.01)


def test_a_teacher_may_be_trained_on_all_cpus_of_the_cluster(first: Outcome, world: World) -> None:
    """Its worker, which no student could use, does not keep those CPUs from the teachers that then answer."""
    import ray

    teacher = {"model": {"kind": "linear"}, "train": {"steps": 4}, "workers": {"num_cpus": 2}}
    other = ray.util.placement_group([{"CPU": 2}])
    assert other.wait(30)
    assert ray.available_resources()["CPU"] == 2, "the worker and the teachers do not fit together"
    config = world.config(
        "wide",
        teachers=[{"name": "en", "languages": ["en", "fr"], "training": teacher}],
        ray={"wait_s": 20},
        train={"steps": 4},
        baseline=False,
    )
    assert run_training(config).student.is_dir()
    ray.util.remove_placement_group(other)
    assert still_held() == []


def test_a_run_goes_on_from_another_and_says_what_it_forgot(first: Outcome, world: World) -> None:
    """With French rows, a label more and no teacher but the old student; the student learns only the new label."""
    source = {"kind": "files", "paths": ["fr-train.jsonl"]}
    held_out = {"kind": "files", "paths": ["fr-validation.jsonl"]}
    labels = ["neither", *LABELS]
    data = {"train": source, "validation": held_out, "labels": labels, "languages": ["fr"]}
    config = world.config(
        "further",
        from_run=str(world.run("first")),
        data=data,
        teachers=[],
        baseline=False,
        train={"steps": 20, "batch_size": 16, "learning_rate": 0.002, "evaluations": 2},
    )
    assert [t.name for t in config.teachers] == ["old_student"] and config.student.kind == "pretrained"
    outcome = run_training(config)
    assert outcome.forgetting is not None and outcome.forgetting.replayed == 16, (
        "a fifth of 40 rows a language"
    )
    lines = {line.what: line for line in outcome.forgetting.lines}
    assert list(lines)[:2] == ["en", "fr"] and lines["en"].rows == 80
    before = next(s for p, s in first.table.systems if p.role == "student")
    assert lines["en"].before == before.by_language["en"]["accuracy"], (
        "the old student, as its own table has it"
    )
    assert abs(lines["en"].change) < 0.1 and lines["en"].low is not None
    written = (world.run("further") / "results.md").read_text(encoding="utf-8")
    page = (world.run("further") / "report.html").read_text(encoding="utf-8")
    assert "What the old student knew" in written and 'id="forgetting"' in page
    student = models.load_model(world.run("further") / "student")
    assert student.labels == tuple(labels)
