"""What `raykd submit` sends, what it refuses to send, and how it follows a job; the Jobs API is a fake."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from raykd.cli import main
from raykd.deploy.package import SHOWN, list_package
from raykd.deploy.rayjobs import Jobs, exit_code
from raykd.deploy.render import RenderOptions, render_manifests
from raykd.deploy.request import read_request
from raykd.deploy.submission import new_submission_id, prepare_submission
from raykd.errors import ClusterError, ConfigError

ROOT = Path(__file__).parents[2]
RUN = ROOT / "cluster" / "run.yaml"
CANARY = "canary0123456789"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder: a run, a sweep, data, and much that is nobody's business."""
    where = tmp_path / "project"
    for name, text in {
        "run.yaml": RUN.read_text(),
        "space.yaml": (RUN.parent / "space.yaml").read_text(),
        "data/train.jsonl": "x" * 3000,
        "data/runs/kept.txt": "a folder that is called so elsewhere",
        ".gitignore": "ignored/\n*.tmp\n",
        "ignored/large.bin": "x" * 9000,
        "note.tmp": "x",
        ".git/config": "x",
        ".venv/lib.py": "x",
        "runs/old/log.txt": "x",
        "__pycache__/a.pyc": "x",
        ".env": f"HF_TOKEN={CANARY}",
        "keys/server.pem": CANARY,
        "mlflow.db": "x",
    }.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(text)
    return where


def test_what_is_uploaded_is_what_ray_would_pack(folder: Path, tmp_path: Path) -> None:
    """The list is compared with a package that Ray itself makes with the same `excludes`."""
    from zipfile import ZipFile

    from ray._private.runtime_env.packaging import create_package

    found = list_package(folder)
    assert set(found.files) == {
        "run.yaml",
        "space.yaml",
        "data/train.jsonl",
        "data/runs/kept.txt",
        ".gitignore",
    }
    assert list(found.files.values()) == sorted(found.files.values(), reverse=True)
    create_package(
        str(folder), tmp_path / "package.zip", include_gitignore=True, excludes=list(found.excludes)
    )
    with ZipFile(tmp_path / "package.zip") as packed:
        names = {entry.filename: entry.file_size for entry in packed.infolist() if not entry.is_dir()}
    assert names == found.files and found.size == sum(names.values())


def test_the_largest_files_are_named(tmp_path: Path) -> None:
    for at in range(14):
        (tmp_path / f"{at:02}.bin").write_bytes(b"x" * (100 + at))
    lines = list_package(tmp_path).describe()
    assert lines[0].startswith("uploads 14 files, 1.49 kB") and "10 largest" in lines[0]
    assert [line.split()[-1] for line in lines[1:]] == [f"{at:02}.bin" for at in range(13, 3, -1)]
    assert len(lines) == 1 + SHOWN


def test_a_folder_that_is_too_large_is_refused_before_it_is_packed(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(GCS_STORAGE_MAX_SIZE)  # a hole: it takes no disk
    with pytest.raises(ConfigError, match=r"(?s)too large to upload.*huge\.bin.*--working-dir"):
        list_package(tmp_path)


def test_the_command_can_be_sent_again(folder: Path) -> None:
    one, two = (prepare_submission(read_request(folder / "run.yaml", ["name=again"])) for _ in range(2))
    assert one.id != two.id and one.id.startswith("again-")
    sent = prepare_submission(read_request(folder / "run.yaml", ["objective.alpha=0.3"]), output="/far")
    assert sent.entrypoint == (
        "raykd", "train", "run.yaml", "objective.alpha=0.3", "output=/far", "ray.address=auto", "--resume"
    )  # fmt: skip
    sweep = prepare_submission(read_request(folder / "space.yaml", ["num_samples=3"]), output="/far")
    assert sweep.entrypoint == (
        "raykd", "sweep", "space.yaml", "num_samples=3", "set.output=/far", "set.ray.address=auto", "--resume"
    )  # fmt: skip
    assert sweep.id.startswith("small-search-")
    experiment = {"name": "arms", "base": "run.yaml", "arms": {"soft": {"objective": {"temperature": 4.0}}}}
    (folder / "arms.yaml").write_text(json.dumps(experiment), encoding="utf-8")
    request = read_request(folder / "arms.yaml", ["seeds=3"])
    assert (folder / "run.yaml").resolve() in request.files
    compared = prepare_submission(request, output="/far")
    assert compared.entrypoint == (
        "raykd", "compare", "arms.yaml", "seeds=3", "set.output=/far", "set.ray.address=auto", "--resume"
    )  # fmt: skip
    with pytest.raises(ConfigError, match="raykd submit"):
        render_manifests(request, RenderOptions())


def test_the_printed_command_is_what_would_be_sent(folder: Path) -> None:
    sent = prepare_submission(
        read_request(folder / "run.yaml", ["tracking.experiment=it is"]),
        environment=["MLFLOW_TRACKING_URI=http://m:5000"],
    )
    words = shlex.split(sent.command("http://h:8265", follow=False))
    at = words.index("--")
    options = dict(zip(words[3 : at - 1 : 2], words[4 : at - 1 : 2], strict=True))
    assert words[:3] == ["ray", "job", "submit"] and words[at - 1] == "--no-wait"
    assert options["--address"] == "http://h:8265" and options["--submission-id"] == sent.id
    assert options["--working-dir"] == str(folder) and tuple(words[at + 1 :]) == sent.entrypoint
    assert json.loads(options["--runtime-env-json"]) == sent.runtime_env
    assert sent.runtime_env["env_vars"] == {"MLFLOW_TRACKING_URI": "http://m:5000"}


@pytest.mark.parametrize(
    "environment",
    [f"HF_TOKEN={CANARY}", f"DB_PASSWORD={CANARY}", f"URI=http://me:{CANARY}@host/", f"X=hf_{CANARY}", f"my_api_key={CANARY}"],
)  # fmt: skip
def test_no_secret_is_sent_as_environment(folder: Path, environment: str) -> None:
    with pytest.raises(ConfigError, match="secret") as refused:
        prepare_submission(read_request(folder / "run.yaml"), environment=[environment])
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    "override", [f"tracking.uri=http://me:{CANARY}@host:5000", f"tracking.experiment=hf_{CANARY}"]
)
def test_no_secret_is_sent_as_an_override(folder: Path, override: str) -> None:
    with pytest.raises(ConfigError) as refused:
        prepare_submission(read_request(folder / "run.yaml", [override]))
    assert CANARY not in str(refused.value)


def test_output_must_outlive_the_job(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)output would be lost.*--output"):
        prepare_submission(read_request(folder / "run.yaml", ["output=runs"]))
    assert (
        prepare_submission(read_request(folder / "run.yaml", ["output=runs"]), output="/far").entrypoint[4]
        == "output=/far"
    )


def test_the_file_of_a_function_and_answers_go_along_or_are_named(folder: Path, tmp_path: Path) -> None:
    text = (folder / "run.yaml").read_text()
    begin = text.index("teachers:")
    end = text.index("\n\n", begin) if "\n\n" in text[begin:] else len(text)
    for function, answers in (("own.py", "answers/*.parquet"), ("../own.py", "../answers")):
        teachers = f"""teachers:
  - {{name: f, languages: all, function: "{function}:predict"}}
  - {{kind: file, name: a, languages: all, path: "{answers}"}}
  - {{kind: file, name: s, languages: all, path: "s3://bucket/answers"}}"""
        (folder / "run.yaml").write_text(text[:begin] + teachers + text[end:])
        if function == "own.py":
            assert prepare_submission(read_request(folder / "run.yaml")).notes == ()
            continue
        with pytest.raises(ConfigError, match=r"(?s)answers.*own\.py|own\.py.*answers"):
            prepare_submission(read_request(folder / "run.yaml"))


def test_files_that_would_stay_behind_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.jsonl").write_text("{}")
    text = (folder / "run.yaml").read_text().replace(
        "train: {kind: embedded, split: train, rows_per_language: 400}",
        "train: {kind: files, paths: [../outside.jsonl, /far/away.jsonl]}",
    )  # fmt: skip
    (folder / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"(?s)outside\.jsonl.*--working-dir"):
        prepare_submission(read_request(folder / "run.yaml"))
    sent = prepare_submission(read_request(folder / "run.yaml"), working_dir=tmp_path)
    assert sent.entrypoint[2] == "project/run.yaml"
    assert sent.notes == (
        "not uploaded, as it is written from the root: /far/away.jsonl (every node must see it)",
    )


def test_ids_are_fresh() -> None:
    ids = {new_submission_id("run") for _ in range(50)}
    assert len(ids) > 45 and all(one.startswith("run-20") for one in ids)


@dataclass
class FakeJobs:
    """Ray's client, with a job whose log comes in pieces and whose connection may drop."""

    pieces: list[str] = field(default_factory=list)
    drops: list[int] = field(default_factory=list)
    status: str = "SUCCEEDED"
    code: int | None = 0
    tails: int = 0
    interrupt: bool = False

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        self.tails += 1
        until = self.drops.pop(0) if self.drops else len(self.pieces)
        for piece in self.pieces[:until]:
            yield piece
        if self.interrupt:
            raise KeyboardInterrupt
        if until < len(self.pieces):
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    def get_job_info(self, job: str) -> Any:
        if self.drops:
            raise ConnectionError("the head is busy")
        return SimpleNamespace(
            status=JobStatus(self.status), driver_exit_code=self.code, message=f"HF_TOKEN={CANARY}"
        )

    def get_job_logs(self, job: str) -> str:
        return "".join(self.pieces)


def test_a_head_that_is_only_just_up_is_given_time(folder: Path) -> None:
    answers = ["500: No available agent to submit job, please try again later..", "", "500: another matter"]
    sent: list[dict[str, Any]] = []

    def submit_job(**job: Any) -> None:
        sent.append(job)
        told = answers.pop(0)
        if told:
            raise RuntimeError(told)

    jobs = Jobs(SimpleNamespace(submit_job=submit_job), "http://h", pause_s=0.0)
    one = prepare_submission(read_request(folder / "run.yaml"))
    jobs.send(one)
    assert [job["submission_id"] for job in sent] == [one.id, one.id]
    assert shlex.split(sent[1]["entrypoint"]) == list(one.entrypoint)
    assert sent[1]["runtime_env"]["working_dir"] == str(folder)
    with pytest.raises(ClusterError, match=r"(?s)refused.*another matter"):
        jobs.send(one)


def follow(client: FakeJobs) -> tuple[int, str]:
    told: list[str] = []
    return Jobs(client, "http://h", pause_s=0.0).follow("job", told.append), "".join(told)


def test_a_log_is_followed_once_though_its_connection_drops() -> None:
    client = FakeJobs(["one\n", "two\n", "three\n"], drops=[1, 0, 2])
    code, told = follow(client)
    assert (code, told) == (0, "one\ntwo\nthree\n") and client.tails >= 3


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", 4, 4), ("FAILED", None, 5), ("FAILED", -9, 5), ("STOPPED", -15, 130)],
)  # fmt: skip
def test_the_exit_code_is_the_job_s(status: str, driver: int | None, code: int) -> None:
    assert exit_code(status, driver) == code
    found, told = follow(FakeJobs(["x\n"], status=status, code=driver))
    assert found == code and CANARY not in told
    assert (status == "SUCCEEDED") == (told == "x\n")


def test_a_cluster_that_is_gone_is_not_waited_for_for_ever() -> None:
    with pytest.raises(ClusterError, match="no Ray dashboard answers"):
        follow(FakeJobs(["one\n"], drops=[0] * 1000))


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: exit code, output, errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["raykd", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return call


def test_ctrl_c_leaves_the_job_and_says_how_to_end_it(
    command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    fake = Jobs(FakeJobs(["one\n"], interrupt=True), "http://h:8265")
    monkeypatch.setattr(fake.client, "submit_job", lambda **_: None, raising=False)
    monkeypatch.setattr(Jobs, "connect", classmethod(lambda cls, address: fake))
    code, out, err = command("submit", str(folder / "run.yaml"))
    assert code == 130 and "one\n" in out and "interrupted" in err
    assert "The job goes on. raykd jobs stop small-" in out


def test_no_cluster_is_said_clearly(command: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    code, _, err = command("submit", str(folder / "run.yaml"))
    assert code == 2 and "no cluster is named" in err and "--address" in err
    code, _, err = command("jobs", "--address", "http://127.0.0.1:1")
    assert code == 5 and "no Ray dashboard answers at http://127.0.0.1:1" in err
    assert "RAY_ADDRESS" not in os.environ


def test_print_only_sends_nothing_and_says_what_it_would_upload(
    command: Callable[..., tuple[int, str, str]], folder: Path
) -> None:
    code, out, err = command("submit", str(folder / "space.yaml"), "--print-only", "--output", "/far")
    assert code == 0 and out.startswith("ray job submit --submission-id small-search-")
    assert "uploads 5 files" in err and "data/train.jsonl" in err and CANARY not in out + err


def test_a_run_is_the_same_wherever_it_lies(tmp_path: Path) -> None:
    """Ray's folder changes with the session and with every uploaded file; rows have a fingerprint of their own."""
    text = RUN.read_text().replace(
        "train: {kind: embedded, split: train, rows_per_language: 400}",
        "train: {kind: files, paths: [data/a.jsonl]}",
    )
    prints = []
    for place in (
        "s1/working_dir_files/_ray_pkg_0a1b",
        "s2/working_dir_files/_ray_pkg_ff00",
        "own/one",
        "own/two",
    ):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "run.yaml").write_text(text)
        prints.append(read_request(tmp_path / place / "run.yaml").run.fingerprint())
    assert len({*prints}) == 1
