"""Turn a path or a hub name into a local directory, and other libraries' errors into raykd's.

Decision record: a hub name becomes a local directory of JSON, vocabulary and safetensors files; pickles are not even
downloaded. So every model goes through the checks of `raykd.pretrained.files` before anything is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raykd.errors import ModelError, RaykdError

_DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.bpe"]
_SECRET = re.compile(r"(?<=://)[^/@\s]+@|hf_[A-Za-z0-9]{8,}")


def resolve_model(path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Path:
    """Find the local directory of a path or hub name. Files of the hub are downloaded, or taken from its cache.

    Args:
        path: A directory or a hub name. A `Path` is always a directory.
        revision: Branch, tag or commit of a hub name.
        trust_remote_code: Whether to download Python code too.

    Raises:
        ModelError: The path does not exist, or the hub does not have the model.
    """
    name = str(path)
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
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name) or isinstance(path, Path):
        raise ModelError(
            f"there is no model directory {folder}",
            next_step="check the path; on a cluster it must exist on every node that loads it",
        )
    with raise_as_model_error(
        f"{name} is neither a directory here ({Path.cwd()}) nor a model that the Hugging Face hub gives",
        next_step="check the spelling, the network and HF_HUB_OFFLINE, or give a local directory",
    ):
        from huggingface_hub import snapshot_download

        patterns = [*_DOWNLOADED, "*.py"] if trust_remote_code else _DOWNLOADED
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"])
        )


@contextmanager
def raise_as_model_error(what: str, next_step: str | None = None) -> Iterator[None]:
    """Turn whatever transformers, safetensors or the hub raise into a ModelError without secrets.

    Args:
        what: The message.
        next_step: What the user can do; None advises to copy or download the model again.
    """
    try:
        yield
    except RaykdError:
        raise
    except Exception as error:  # a dozen types of four libraries, and broken files of any kind
        reason = _SECRET.sub("***", f"{type(error).__name__}: {error}")
        if isinstance(error, ImportError):
            next_step = "install the package that is named there (pip install NAME)"
        raise ModelError(
            what,
            got=reason.strip()[:1000],
            wanted="whole files of one model, as save_pretrained writes them",
            next_step=next_step or "copy or download it again; was it cut off, or put together from several?",
        ) from None
