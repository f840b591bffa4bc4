"""From a directory or a hub name to a model: checked first, loaded after.

Decision record: every check of `raykd.models.inspection` runs before weights are read. `trust_remote_code` is always
passed on as True or False: left out, transformers asks on the terminal and an actor without one hangs. A weight that
is missing in the checkpoint is an error, because transformers would only warn and answer with a random head.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.head import Head
from raykd.models.inspection import inspect_model, missing_weights_error
from raykd.models.textmodel import TextModel
from raykd.networks.heads import find_auto_class, register
from raykd.pretrained import files
from raykd.pretrained.adapters import find_adapter, is_adapter, list_label_changes, merge_adapter
from raykd.pretrained.hub import raise_as_model_error, resolve_model
from raykd.pretrained.starts import fill_start
from raykd.pretrained.structure import silence_transformers
from raykd.pretrained.tokenizers import load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from raykd.text.tokens import Tokenizer


def load_model(
    path: str | Path,
    *,
    head: Head | None = None,
    task: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: torch.dtype | None = None,
) -> TextModel:
    """A model in evaluation mode on the CPU, with its tokenizer and labels.

    Args:
        path: a local directory or a hub name.
        head: the kind of task that it has to serve; None is the directory's own, or classification where it does
            not tell.
        task: which one of a directory that holds several (`raykd.models.multi`), by its name.
        revision: of a hub name: branch, tag or commit.
        trust_remote_code: run Python code that comes with the model.
        dtype: of the weights; None is the checkpoint's own.

    Raises:
        ModelError: it is missing, must not be loaded (pickled weights, code of its own), is not complete, or has a
            head of another kind.
    """
    folder = resolve_model(path, revision=revision, trust_remote_code=trust_remote_code)
    folder = files.folder_of(folder, task)
    looked = inspect_model(folder, head, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    model, missing = _read(folder, looked.head, trust_remote_code, "auto" if dtype is None else dtype)
    if missing:
        raise missing_weights_error(folder, looked.head, missing)
    name_padding(model, tokenizer)
    return TextModel(
        model=model.eval(),
        tokenizer=tokenizer,
        labels=looked.labels,
        kind=looked.kind,
        task=looked.head,
        max_length=looked.trained_length,
        languages=looked.languages,
        no_answer=looked.no_answer,
        positions=looked.positions,
        settings=looked.settings,
    )


def _read(
    folder: Path, head: Head, trust_remote_code: bool, dtype: object
) -> tuple[PreTrainedModel, list[str]]:
    """As `read_model`; of an adapter the model that it is merged into, and what both lack."""
    if not is_adapter(folder):
        return read_model(folder, head, trust_remote_code, dtype=dtype)
    adapter, changes = find_adapter(folder), list_label_changes(files.read_config(folder), head)
    base = files.find_config_folder(folder)
    if base == folder:  # its own config.json, the base's weights
        changes = {"config": _config(folder, trust_remote_code, changes)}
    model, missing = read_model(
        adapter.base, head, trust_remote_code, dtype=dtype, ignore_mismatched_sizes=True, **changes
    )
    brought = adapter.whole_weights()
    with raise_as_model_error(f"the adapter {folder} cannot be merged into {adapter.base}"):
        return merge_adapter(model, adapter), [name for name in missing if name not in brought]


def _config(folder: Path, trust_remote_code: bool, changes: dict[str, object]) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(
        str(folder), trust_remote_code=trust_remote_code, local_files_only=True, **changes
    )


def name_padding(model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """Tell a model which id is padding where only its tokenizer says so, in memory.

    Heads that look for a text's last token then take several rows at once. A pad token that has another meaning (an
    end token, say) is left out: the head would overlook it at the end of a text.
    """
    config: Any = model.config.get_text_config()
    pad = getattr(tokenizer, "pad_token_id", None)
    others = {
        getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "unk", "sep", "cls", "mask")
    }
    if getattr(config, "pad_token_id", None) is None and pad is not None and pad not in others:
        config.pad_token_id = pad


def read_model(
    folder: Path, head: Head, trust_remote_code: bool, *, dtype: Any, **settings: Any
) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the names of the weights that the checkpoint lacked or had in another shape."""
    files.check_directory(folder, trust_remote_code=trust_remote_code)
    register()
    with raise_as_model_error(f"the model {folder} cannot be loaded"), silence_transformers():
        model, found = find_auto_class(head).from_pretrained(
            str(folder),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            dtype=dtype,
            **settings,
        )
        if head == "seq2seq":
            fill_start(model, folder)
        mismatched = [key[0] if isinstance(key, tuple) else key for key in found["mismatched_keys"]]
        return model, sorted({*found["missing_keys"], *mismatched})
