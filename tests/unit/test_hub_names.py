"""Models by their names on a hub: what is asked for, what is downloaded, what is refused and what is recorded."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raykd import models
from raykd.config import RunConfig
from raykd.config.loading import dump_run, flatten_run, validate_run
from raykd.config.rewriting.pinning import pin_revisions
from raykd.driver.pool import make_teacher_spec
from raykd.errors import ModelError, RaykdError
from raykd.folders.changes import Changes
from raykd.folders.contents import digest_models
from raykd.folders.earlier_start import add_model_changes
from raykd.preflight.check import check_student
from raykd.preflight.sizes import count_student_parameters
from raykd.preflight.teacher_check import check_teacher
from raykd.pretrained import hub as resolving
from raykd.tasks import Classification
from raykd.teachers.teacher import Teacher
from tests.fake_hub import TOKEN, FakeHub, serve_hub
from tests.fakes import LABELS, logits_of, text_batch
from tests.made_models import plain_probabilities, save_classifier

TEXTS = ["the room was good", "bad food"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What plain transformers saved."""
    return save_classifier(tmp_path_factory.mktemp("hub") / "saved", "wordpiece", steps=10)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    resolving.find_hub_model.cache_clear()
    resolving._make_preview.cache_clear()
    with serve_hub(tmp_path / "cache", monkeypatch) as served:
        yield served
    resolving.find_hub_model.cache_clear()


def forget() -> None:
    """Forget what this process knows of the hub, as a new process does."""
    resolving.find_hub_model.cache_clear()


def config_of(path: str = "acme/reviews", student: dict[str, Any] | None = None, **teacher: Any) -> RunConfig:
    rows = {"kind": "files", "paths": ["x.jsonl"]}
    config = validate_run(
        {
            "data": {"train": rows, "validation": rows, "labels": list(LABELS), "languages": ["en"]},
            "teachers": [{"name": "t", "languages": "all", "path": path, **teacher}],
            "student": student or {"kind": "lstm"},
            "serving": {"store": None, "dtype": "float32"},
        },
        "test",
    )
    assert isinstance(config, RunConfig)
    return config


def answer(config: RunConfig) -> np.ndarray:
    """The probabilities of the run's teacher."""
    logits_NC = logits_of(
        Teacher(make_teacher_spec(config, config.teachers[0], {})).answer(text_batch(TEXTS))
    )
    shares = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def test_a_hub_name_answers_as_the_folder_does(hub: FakeHub, folder: Path) -> None:
    hub.add("acme/reviews", folder)
    np.testing.assert_allclose(answer(config_of()), plain_probabilities(folder, TEXTS), atol=1e-5)
    assert hub.count_whole(".safetensors") == 1
    # A second process asks which commit it is, and for no file; with the commit it asks nothing.
    config = pin_revisions(config_of())
    for again, asked in ((config_of(), True), (config, False)):
        forget()
        hub.asked.clear()
        models.load_model("acme/reviews", revision=again.teachers[0].model_dump()["revision"])
        assert bool(hub.asked) is asked and not [path for _, path, _, _ in hub.asked if "resolve" in path]
    assert hub.count_whole(".safetensors") == 1


def test_a_check_downloads_no_weights_and_says_what_there_is(hub: FakeHub, folder: Path) -> None:
    commit = hub.add("acme/reviews", folder)
    config = config_of(student={"kind": "pretrained", "path": "acme/reviews"})
    said = check_teacher(config.teachers[0], config)
    size = (folder / "model.safetensors").stat().st_size
    assert said.startswith(
        f"acme/reviews of the hub, commit {commit[:12]}, {size / 1e6:.1f} MB of weights to download"
    )
    assert "bert; labels negative, positive" in said
    assert "acme/reviews of the hub" in check_student(config)
    counted = count_student_parameters(config.student, Classification(), LABELS)
    from transformers import AutoModelForSequenceClassification

    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    assert counted == sum(each.numel() for each in plain.parameters())
    assert hub.count_whole(".safetensors") == 0
    ranges = [wanted for method, _, wanted, _ in hub.fetched if method == "GET"]
    assert ranges and all(wanted.startswith("bytes=") for wanted in ranges)
    answer(config)
    assert "in the cache" in check_teacher(config.teachers[0], config)


def test_a_check_refuses_other_labels_before_a_download(hub: FakeHub, folder: Path) -> None:
    hub.add("acme/reviews", folder)
    config = config_of(label_map={"negative": "positive", "positive": None})
    with pytest.raises(RaykdError, match="teacher t"):
        check_teacher(config.teachers[0], config)
    assert hub.count_whole(".safetensors") == 0


def test_a_revision_is_pinned_in_every_record(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    first = hub.add("acme/reviews", folder)
    config = pin_revisions(
        config_of(student={"kind": "pretrained", "path": "acme/reviews", "revision": "main"})
    )
    assert flatten_run(config)["teachers.t.revision"] == flatten_run(config)["student.revision"] == first
    assert dump_run(config).count(first) == 2
    before = answer(config)
    # The branch moves on: the run does not.
    other = save_classifier(tmp_path / "other", "wordpiece", steps=3, seed=5)
    second = hub.add("acme/reviews", other)
    forget()
    np.testing.assert_array_equal(answer(config), before)
    moved = pin_revisions(config_of())
    assert moved.teachers[0].model_dump()["revision"] == second
    np.testing.assert_allclose(answer(moved), plain_probabilities(other, TEXTS), atol=1e-5)
    # A resume with the moved branch is refused, one with the commit goes on.
    state = {"models": digest_models(config)}
    assert state["models"] == {"teachers.t.path": first, "student.path": first}
    refused = add_model_changes(Changes(), config, moved, state).refused
    assert [change.key for change in refused] == ["teachers.t.path"]
    assert first in str(refused[0]) and second in str(refused[0])
    assert not add_model_changes(Changes(), config, pin_revisions(config_of(revision=first)), state).refused


def test_the_cache_serves_without_a_hub(
    hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import huggingface_hub.constants

    commit = hub.add("acme/reviews", folder)
    before = answer(config_of())
    forget()
    hub.is_down = True
    np.testing.assert_array_equal(answer(config_of()), before)
    assert f"taken from its cache, commit {commit}" in caplog.text
    forget()
    hub.is_down = False
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    config = pin_revisions(config_of())
    assert flatten_run(config)["teachers.t.revision"] == commit
    np.testing.assert_array_equal(answer(config), before)
    assert "from the cache" in check_teacher(config_of().teachers[0], config)
    assert hub.asked == []
    config = config_of("acme/absent")
    with pytest.raises(ModelError, match=r"teacher t: acme/absent is neither[\s\S]*hf download acme/absent"):
        check_teacher(config.teachers[0], config)


def test_a_check_alone_is_no_model_in_the_cache(
    hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    hub.add("acme/reviews", folder)
    check_teacher(config_of().teachers[0], config_of())
    forget()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="acme/reviews"):
        check_teacher(config_of().teachers[0], config_of())


@pytest.mark.parametrize(
    ("needs", "token", "said"),
    [
        ("gated", None, r"acme/reviews is gated[\s\S]*accept its terms[\s\S]*set HF_TOKEN"),
        ("gated", "hf_StrangerStranger", r"acme/reviews is gated[\s\S]*HF_TOKEN is of that account"),
        ("private", None, r"nor a model that the hub shows[\s\S]*where it is private, set HF_TOKEN"),
        ("private", "hf_StrangerStranger", r"HF_TOKEN must be of an account that may read it"),
    ],
)
def test_what_the_hub_refuses_names_the_next_step(
    hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch, needs: str, token: str | None, said: str
) -> None:
    hub.add("acme/reviews", folder, needs=needs)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    for act in (
        lambda: check_teacher(config_of().teachers[0], config_of()),
        lambda: models.load_model("acme/reviews"),
    ):
        with pytest.raises(ModelError, match=said) as caught:
            act()
        assert "hf_Stranger" not in str(caught.value)
    assert hub.count_whole(".safetensors") == 0


@pytest.mark.parametrize("needs", ["gated", "private"])
def test_a_token_opens_it_and_goes_to_no_other_host_and_into_no_record(
    hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, needs: str
) -> None:
    hub.add("acme/reviews", folder, needs=needs)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    caplog.set_level("DEBUG")
    config = pin_revisions(config_of())
    said = check_teacher(config.teachers[0], config)
    answer(config)
    assert any(token for *_, token in hub.asked)
    assert hub.fetched and not any(token for *_, token in hub.fetched)
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("raykd"))
    assert TOKEN not in said + dump_run(config) + ours


def test_other_refusals(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    hub.add("acme/reviews", folder)
    with pytest.raises(ModelError, match=r"acme/reviews has no revision v9[\s\S]*correct revision"):
        models.load_model("acme/reviews", revision="v9")
    with pytest.raises(ModelError, match="check the spelling"):
        models.load_model("acme/absent")
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    hub.add("acme/pickled", pickled)
    config = config_of("acme/pickled")
    for act in (lambda: models.load_model("acme/pickled"), lambda: check_teacher(config.teachers[0], config)):
        with pytest.raises(
            ModelError, match=r"no safetensors weights[\s\S]*pytorch_model\.bin[\s\S]*refs/pr"
        ):
            act()
    assert not [path for _, path, _, _ in hub.fetched if "pickled" in path]
    hub.is_down = True
    forget()
    with pytest.raises(ModelError, match=r"503[\s\S]*the network"):
        models.load_model("acme/reviews")


def test_pickles_code_and_second_copies_are_not_downloaded(
    hub: FakeHub, folder: Path, tmp_path: Path
) -> None:
    full = shutil.copytree(folder, tmp_path / "full")
    for name in ("pytorch_model.bin", "modeling.py", "consolidated.safetensors"):
        (full / name).write_bytes(b"x" * 64)
    hub.add("acme/reviews", full)
    assert models.load_model("acme/reviews").labels == LABELS
    kept = {path.name for path in models.resolve_model("acme/reviews").iterdir()}
    assert "model.safetensors" in kept
    assert not kept & {"pytorch_model.bin", "modeling.py", "consolidated.safetensors"}
    assert (models.resolve_model("acme/reviews", trust_remote_code=True) / "modeling.py").is_file()


def test_processes_of_a_node_share_one_download(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    """Replicas and workers start together: one fetches, the others wait for its lock."""
    hub.add("acme/reviews", folder)
    hub.repos["acme/reviews"].wait_s = 1.0
    code = "import sys; from raykd import models; print(models.resolve_model('acme/reviews'))"
    env = {
        "HF_ENDPOINT": hub.address,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": ":".join(sys.path),
        "HOME": str(tmp_path),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    assert len({out for out, _ in ended}) == 1
    assert hub.count_whole(".safetensors") == 1


def test_threads_of_a_process_share_one_download(hub: FakeHub, folder: Path) -> None:
    hub.add("acme/reviews", folder)
    hub.repos["acme/reviews"].wait_s = 0.3
    threads = [threading.Thread(target=models.resolve_model, args=("acme/reviews",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hub.count_whole(".safetensors") == 1


def test_an_adapter_and_its_base_are_both_of_the_hub(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification

    hub.add("acme/base", folder)
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.manual_seed(0)
    joined = peft.get_peft_model(plain, peft.LoraConfig(task_type="SEQ_CLS", r=2)).eval()
    for name, weight in joined.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    joined.peft_config["default"].base_model_name_or_path = "acme/base"
    joined.save_pretrained(tmp_path / "adapter")
    hub.add("acme/adapter", tmp_path / "adapter")
    config = config_of("acme/adapter")
    assert "labels negative, positive" in check_teacher(config.teachers[0], config)
    assert hub.count_whole(".safetensors") == 0
    found = answer(config)
    inputs = models.load_tokenizer(folder)(list(TEXTS), padding=True, return_tensors="pt")  # type: ignore[call-arg]
    with torch.inference_mode():
        wanted = joined(**inputs).logits.softmax(-1).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert hub.count_whole(".safetensors") == 2


def test_a_student_starts_from_a_hub_name(hub: FakeHub, folder: Path) -> None:
    hub.add("acme/reviews", folder)
    config = config_of(student={"kind": "pretrained", "path": "acme/reviews", "vocabulary": "trimmed"})
    student = config.student
    assert isinstance(student, models.PretrainedStudent)
    tokenizer = student.fit_tokenizer(["the room was good"])
    assert len(tokenizer) < len(student.load_tokenizer())
    assert hub.count_whole(".safetensors") == 0  # a tokenizer needs no weights
    built = student.build(tokenizer, LABELS, 0)
    assert built.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert hub.count_whole(".safetensors") == 1
