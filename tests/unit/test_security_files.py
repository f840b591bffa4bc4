"""Nothing that a stranger wrote runs, and nothing leads out of our folders: models, checkpoints, stores, names."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

from raykd import models
from raykd.checkpoint.manifest import CheckpointInfo, describe_files, find_problem, write_manifest
from raykd.checkpoint.ownership import find_foreign_file
from raykd.checkpoint.storage import StorageFolder
from raykd.config import check_name
from raykd.config.loading import load_run, validate_run
from raykd.errors import ConfigError, ModelError, TeacherError
from raykd.parse import MAX_DEPTH, MAX_NODES, parse_json, parse_yaml
from raykd.pretrained.allowed import MODEL_TYPES, check_code, find_code_keys, find_unknown_types
from raykd.teachers.store import SignalStore
from tests.fakes import save_transformer


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "weights.ckpt", "model.pkl"])
def test_a_pickle_is_refused_and_never_read(name: str, tmp_path: Path) -> None:
    folder, marker = save_transformer(tmp_path / "model"), tmp_path / "marker"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(ModelError, match="pickle") as caught:
        models.load_model(folder)
    assert name in str(caught.value) and not marker.exists()
    pickle.loads((folder / name).read_bytes())  # that the bait works is part of the test
    assert marker.exists()


def test_a_pickle_beside_safetensors_is_not_read(tmp_path: Path) -> None:
    folder, marker = save_transformer(tmp_path / "model"), tmp_path / "marker"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(marker)))
    models.load_model(folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "lightglue"}, "lightglue"),
        ({"encoder": {"inner": [{"model_type": "lightglue"}]}}, "lightglue"),
        ({"model_type": ["bert"]}, "bert"),
        ({"attn_implementation": "stranger/kernel"}, "attn_implementation in config.json"),
        ({"sub": {"_attn_implementation": {"text": "a/b:c"}}}, "_attn_implementation"),
        ({"auto_map": {}}, "auto_map in config.json"),
    ],
)
def test_types_and_code_that_are_not_known_are_refused_at_every_level(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    folder = save_transformer(tmp_path / "model")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    for act in (models.load_model, models.load_tokenizer, models.fingerprint):
        with pytest.raises(ModelError, match="trust_remote_code: true") as caught:
            act(folder)
        assert said in str(caught.value)
    assert models.inspect_directory(folder).problems


def test_what_is_trusted_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_transformer(tmp_path / "model")
    (folder / "tokenizer_config.json").write_text('{"auto_map": {}}')
    check_code(folder, trust_remote_code=True)
    check_code(folder, trust_remote_code=True)
    assert [r.levelname for r in caplog.records] == ["WARNING"] and "did not look at" in caplog.text


def test_the_list_of_types_holds_what_raykd_builds_and_no_pictures() -> None:
    assert {"bert", "distilbert", "llama", "gpt2", "m2m_100", "raykd_linear", "raykd_lstm"} <= MODEL_TYPES
    assert not {"vit", "clip", "lightglue", "whisper", "layoutlmv3", "timm_wrapper"} & MODEL_TYPES
    assert find_unknown_types({"model_type": "", "b": {"model_type": None}}) == []
    assert find_code_keys({"attn_implementation": "sdpa", "experts_implementation": "grouped_mm"}) == []


def test_checkpoints_are_ours_alone(tmp_path: Path) -> None:
    folder = tmp_path / "start-1" / "checkpoint_1"
    (folder / "engine").mkdir(parents=True)
    part = folder / "engine" / "state.pt"
    part.write_bytes(b"x")
    for path in (folder.parent, folder, folder / "engine", part):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert find_foreign_file(folder) is None
    for path in (folder.parent, folder, folder / "engine", part):
        before = path.stat().st_mode
        path.chmod(before | 0o002)
        assert "written by everybody" in str(find_foreign_file(folder)), path
        path.chmod(before)
    link = folder / "best.pt"
    link.symlink_to(part)
    assert find_foreign_file(folder) == "checkpoint_1/best.pt is a link"
    link.unlink()
    assert "cannot be looked at" in str(find_foreign_file(tmp_path / "none" / "there"))
    if os.geteuid() == 0:  # only root can give a file away
        os.chown(part, 12345, -1)
        assert "belongs to user 12345" in str(find_foreign_file(folder))


def test_a_whole_checkpoint_is_passed_over_where_others_may_write(tmp_path: Path) -> None:
    folder = tmp_path / "start-1" / "checkpoint_1"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    place = StorageFolder(str(folder))
    write_manifest(place, describe_files(place, CheckpointInfo("student", "f" * 64, 1, 7)))
    assert find_problem(place) is None
    (folder / "state.json").chmod(0o666)
    assert "written by everybody" in str(find_problem(place))


def test_a_store_follows_no_link(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "store", tmp_path / "mine"
    root.mkdir()
    elsewhere.mkdir()
    (elsewhere / "thesis").write_text("years")
    (root / ("a" * 32)).symlink_to(elsewhere)
    with pytest.raises(TeacherError, match="link"):
        SignalStore(root, "a" * 64)
    assert sorted(p.name for p in elsewhere.iterdir()) == ["thesis"]
    for letter, name in (("c", "in-use"), ("d", "answers.sqlite")):
        folder = root / (letter * 32)
        folder.mkdir()
        (folder / name).symlink_to(elsewhere / "thesis")
        with pytest.raises(TeacherError):
            SignalStore(root, letter * 64)
    (root / ".lock").unlink(missing_ok=True)
    (root / ".lock").symlink_to(elsewhere / "thesis")
    with pytest.raises(TeacherError):
        SignalStore(root, "b" * 64)
    assert (elsewhere / "thesis").read_text() == "years"


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/b", "a\\b", "", ".", "..", "a\0", "a\n", "x" * 101, "é", "a b", "-x", "~x", "a%2fb"],
)
def test_no_name_leads_out_of_a_folder(name: str) -> None:
    with pytest.raises(ValueError, match="a name starts"):
        check_name(name)


def test_yaml_is_bounded() -> None:
    bomb = "a: &a [x]\n" + "".join(
        f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdef", "bcdefg", strict=True)
    )
    for text, said in (
        (bomb, "aliases"),
        ("[" * (MAX_DEPTH + 1), f"deeper than {MAX_DEPTH}"),
        ("[" + "1," * (MAX_NODES + 1) + "]", "more than"),
        ("a: " + "x" * 1_000_001, "too large"),
        ("!!python/object/apply:os.system [id]", "tag"),
        ("a: 1\na: 2", "stands twice"),
        ("a: !!timestamp 2020-01-02", "date"),
        ('a: "\\0"', "U+0000"),
    ):
        with pytest.raises(ConfigError, match=r"next|wanted") as caught:
            parse_yaml(text, "it")
        assert said in str(caught.value)
    assert parse_yaml("a: " + "[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2), "it")
    with pytest.raises(ConfigError, match="not valid JSON"):
        parse_json("[" * 100_000, "it")


def test_no_secret_stands_in_a_run_file(tmp_path: Path) -> None:
    for tree in (
        {"tracking": {"uri": "http://u:CANARY@host"}},
        {"data": {"test": {"kind": "hub", "name": "https://u:CANARY@h/x"}}},
        {"train": {"deepspeed": {"wandb": {"api_key": "CANARY"}}}},
    ):
        with pytest.raises(ConfigError, match="holds a secret") as caught:
            validate_run(tree, "it")
        assert "CANARY" not in str(caught.value) and "MLFLOW_TRACKING_PASSWORD" in str(caught.value)
    (tmp_path / "run.yaml").write_text("tracking: {uri: 'postgresql://me:CANARY@db/x'}")
    with pytest.raises(ConfigError, match=r"\*\*\*@db"):
        load_run(tmp_path / "run.yaml")


def test_mlflow_and_transformers_are_above_their_holes() -> None:
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    asked = {r.name: r.specifier for r in map(Requirement, requires("raykd") or ())}
    assert not asked["mlflow"].contains("3.9.0") and not asked["transformers"].contains("5.2.9")
    assert not asked["datasets"].contains("3.9.9") and not asked["torch"].contains("2.5.9")


def test_nothing_downloads_code_or_unpickles_a_model() -> None:
    sources = {p: p.read_text("utf-8") for p in Path(models.__file__).parents[1].rglob("*.py")}
    for call in (
        "evaluate.load(",
        "weights_only=False",
        "yaml.unsafe_load",
        "yaml.full_load",
        "eval(compile",
        "tarfile",
        "zipfile",
    ):
        assert [str(p) for p, text in sources.items() if call in text] == [], call
    loading = {p.name for p, text in sources.items() if "torch.load(" in text}
    assert loading == {"loop.py"}  # our own checkpoints, with weights_only=True
