"""Turn a path or a hub name into a local directory.

Decision record:

- A hub name becomes a local directory of JSON, vocabulary and safetensors files; pickles are not even downloaded. So
  every model goes through the checks of `raykd.pretrained.files` before anything is imported.
- A process asks once which commit a revision is, so that weights, tokenizer and configuration are of one commit.
- A check needs no weights. `preview_model` makes a directory of the small files and of safetensors files that have
  their header and size and no content, which every inspection reads like the whole model.
- Downloads are those of `huggingface_hub`, which locks each file: processes of a node wait for one download. It alone
  reads the token (HF_TOKEN, or `hf auth login`); raykd never sees it.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import re
import shutil
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from raykd.compat.hub_private import read_range, silence_progress
from raykd.errors import ModelError
from raykd.pretrained.errors import raise_as_hub_error

log = logging.getLogger("raykd.models")

_SMALL = ["*.json", "*.txt", "*.model", "*.spm", "*.bpe", "[0-9]_Dense/*.safetensors"]
_WEIGHTS = "*.safetensors"
_IGNORED = ["[!0-9]*/*", "consolidated*.safetensors", "*.fp16.safetensors"]
"""What is never downloaded: other folders, and second copies of the same weights."""
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")
"""Weights in forms that raykd does not load."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HEADER = 8
"""Bytes of the length of a safetensors header."""
_LARGEST_HEADER = 100_000_000
"""What the safetensors library itself accepts."""

_PREVIEWS: set[Path] = set()
"""Directories of this process that `preview_model` made."""


@dataclass(frozen=True)
class HubModel:
    """A commit of a model on the hub. Made by `find_hub_model`.

    Attributes:
        name: The hub name.
        commit: Its hash.
        sizes: Bytes of each file in its top folder; None where the hub was not reached and the cache answers.
    """

    name: str
    commit: str
    sizes: Mapping[str, int] | None

    @property
    def weights(self) -> dict[str, int]:
        """Bytes of its safetensors files, by name."""
        names = (name for name in self.sizes or {} if Path(name).match(_WEIGHTS))
        kept = (name for name in names if not any(Path(name).match(pattern) for pattern in _IGNORED[1:]))
        return {name: (self.sizes or {})[name] for name in kept}


def is_commit(revision: str) -> bool:
    """Return whether a revision is a commit's whole hash, which no branch can move."""
    return _COMMIT.fullmatch(revision) is not None


def is_preview(folder: Path) -> bool:
    """Return whether a directory was made by `preview_model` and holds no weights."""
    return folder in _PREVIEWS


def find_local(path: str | Path) -> Path | None:
    """Return the directory that a path names; None where it is a hub name.

    Raises:
        ModelError: It is neither a directory nor a hub name.
    """
    try:
        folder = Path(path).expanduser()
        if folder.is_dir():
            return folder
    except (OSError, RuntimeError) as error:  # a name that is too long, a home of nobody
        raise ModelError(
            "this cannot be the path of a model",
            got=str(error)[:200],
            wanted="a directory",
            next_step="check the path",
        ) from None
    if isinstance(path, Path) or not _NAME.fullmatch(path):
        raise ModelError(
            f"there is no model directory {folder}",
            got=str(path),
            wanted="a directory with config.json and safetensors weights, or a hub name",
            next_step="check the path; on a cluster it must exist on every node that loads it",
        )
    return None


def resolve_model(path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Path:
    """Find the local directory of a path or hub name. Files of the hub are downloaded, or taken from its cache.

    Args:
        path: A directory or a hub name. A `Path` is always a directory.
        revision: Branch, tag or commit of a hub name.
        trust_remote_code: Whether to download Python code too.

    Raises:
        ModelError: The path does not exist, the hub does not give the model, or its weights are no safetensors.
    """
    folder = find_local(path)
    if folder is not None:
        return folder
    patterns = [*_choose_patterns(trust_remote_code), _WEIGHTS]
    if revision is not None and is_commit(revision):
        with contextlib.suppress(ModelError):  # a commit that is here whole needs no word of the hub
            return _download(HubModel(str(path), revision, None), patterns, here=True)
    found = find_hub_model(str(path), revision)
    _refuse_pickles(found)
    return _download(found, patterns)


def resolve_small_files(
    path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> Path:
    """Find the directory of a model's configuration and tokenizer as `resolve_model` does, without the weights."""
    folder = find_local(path)
    if folder is not None:
        return folder
    return _download(find_hub_model(str(path), revision), _choose_patterns(trust_remote_code))


def preview_model(path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Path:
    """Return a directory as `resolve_model` does, from which a model can be inspected and not loaded."""
    folder = find_local(path)
    if folder is not None:
        return folder
    found = find_hub_model(str(path), revision)
    if found.sizes is None:
        return resolve_model(path, revision=revision, trust_remote_code=trust_remote_code)
    _refuse_pickles(found)
    small = _download(found, _choose_patterns(trust_remote_code))
    if all((small / name).is_file() for name in found.weights):
        return small
    return _make_preview(found.name, found.commit, small, tuple(found.weights.items()))


def describe_hub_model(path: str, revision: str | None) -> str:
    """Describe a hub name for people: its commit, and what is still to be downloaded; "" for a directory."""
    if find_local(path) is not None:
        return ""
    found = find_hub_model(path, revision)
    at = f"{path} of the hub, commit {found.commit[:12]}"
    if found.sizes is None:
        return f"{at} (from the cache, since the hub was not reached)"
    here = _find_snapshot(found)
    missing = [size for name, size in found.weights.items() if here is None or not (here / name).is_file()]
    return f"{at}, {f'{sum(missing) / 1e6:,.1f} MB of weights to download' if missing else 'in the cache'}"


@lru_cache(maxsize=256)
def find_hub_model(name: str, revision: str | None = None) -> HubModel:
    """Find which commit a revision is; asks the hub once in a process, and the cache where the hub is not reached.

    Args:
        name: The hub name.
        revision: Branch, tag or commit; None is the main branch.

    Raises:
        ModelError: The hub does not give the model, or neither hub nor cache can be asked.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    with raise_as_hub_error(name, revision):
        commit = revision if revision is not None and is_commit(revision) else None
        if (
            commit is None
        ):  # notes in the cache which commit it is, and reads that where the hub is not reached
            commit = HfApi().resolve_revision(name, revision=revision).resolved
        try:
            info = HfApi().model_info(
                name, revision=commit, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
        except Exception as error:  # of many types: refusals, no network, time-outs, HF_HUB_OFFLINE
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise
            log.warning("the hub was not reached; %s is taken from its cache, commit %s", name, commit)
            return HubModel(name, commit, None)
        files = {each.rfilename: each.size or 0 for each in info.siblings or ()}
        return HubModel(name, commit, {own: size for own, size in files.items() if "/" not in own})


def _choose_patterns(trust_remote_code: bool) -> list[str]:
    return [*_SMALL, "*.py"] if trust_remote_code else _SMALL


def _download(found: HubModel, patterns: list[str], *, here: bool = False) -> Path:
    """Return the snapshot of a commit, with the files of these patterns; `here` asks the cache alone."""
    from huggingface_hub import snapshot_download

    with raise_as_hub_error(found.name, found.commit):
        return Path(
            snapshot_download(
                found.name,
                revision=found.commit,
                allow_patterns=patterns,
                ignore_patterns=_IGNORED,
                local_files_only=here,
                tqdm_class=None if _WEIGHTS in patterns else silence_progress(),  # of small files
            )
        )


def _find_snapshot(found: HubModel) -> Path | None:
    """Return the folder of a commit in the hub's cache, whole or in part; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    known = try_to_load_from_cache(found.name, "config.json", revision=found.commit)
    return Path(known).parent if isinstance(known, str) else None


def _refuse_pickles(found: HubModel) -> None:
    """Refuse a model on the hub whose weights are there, but not as safetensors.

    Raises:
        ModelError: Names the files.
    """
    others = sorted(name for name in found.sizes or {} if Path(name).suffix in _PICKLED)
    if found.sizes is not None and not found.weights and others:
        raise ModelError(
            f"{found.name} holds no safetensors weights, and loading a pickle runs code of whoever wrote it",
            got=", ".join(others[:8]),
            wanted="model.safetensors",
            next_step="name a revision with safetensors (the hub's conversion bot offers one as refs/pr/N: revision); "
            "or, if you trust the files, convert them once, in a place apart, and name that folder: the auto class of "
            "its task: .from_pretrained(name).save_pretrained(path)",
        )


@lru_cache(maxsize=64)
def _make_preview(name: str, commit: str, small: Path, weights: tuple[tuple[str, int], ...]) -> Path:
    """Make a directory with links to the small files, and weights that are a header and holes.

    Args:
        name: The hub name.
        commit: Its commit.
        small: The snapshot that holds the small files.
        weights: Names and sizes of the safetensors files.
    """
    root = tempfile.mkdtemp(prefix="raykd-preview-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    folder = Path(root, name)  # as messages show it
    folder.mkdir(parents=True)
    _PREVIEWS.add(folder)
    for path in small.iterdir():
        if path.suffix != ".safetensors":  # folders are those of modules of sentence vectors
            (folder / path.name).symlink_to(path.resolve())
    for file, size in weights:
        with raise_as_hub_error(name, commit), (folder / file).open("wb") as out:
            out.write(_read_header(name, commit, file))
            out.truncate(size)
    return folder


def _read_header(name: str, commit: str, file: str) -> bytes:
    """Return the length and the header of a safetensors file on the hub."""
    length = read_range(name, commit, file, 0, _HEADER)
    size = struct.unpack("<Q", length)[0] if len(length) == _HEADER else 0
    if not 0 < size <= _LARGEST_HEADER:
        raise ModelError(
            f"{file} of {name} is no safetensors file",
            got=f"a header of {size} bytes",
            next_step="name another revision",
        )
    return length + read_range(name, commit, file, _HEADER, size)
