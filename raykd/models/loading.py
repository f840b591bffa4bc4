"""Load a model from a directory or by its hub name, after every check of `raykd.models.inspection`.

Decision record: `trust_remote_code` is always passed on as True or False. If it were left out, transformers would ask
on the terminal, and an actor, which has none, would hang. A weight that is missing in the checkpoint is an error;
transformers would only warn and answer with a random head.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raykd.head import Head
from raykd.models.inspection import drop_unread_weights, inspect_model, missing_weights_error
from raykd.models.textmodel import TextModel
from raykd.networks.heads import find_auto_class, register
from raykd.pretrained import files
from raykd.pretrained.adapters import (
    LANGUAGES,
    find_adapters,
    is_adapter,
    join_adapters,
    list_label_changes,
    merge_adapter,
)
from raykd.pretrained.errors import raise_as_model_error
from raykd.pretrained.hub import resolve_model
from raykd.pretrained.sentences.modules import read_sentence_modules
from raykd.pretrained.starts import fill_start
from raykd.pretrained.structure import read_auto_config, silence_transformers
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
    """Load a model in evaluation mode onto the CPU, with its tokenizer and labels.

    Args:
        path: A local directory or a hub name.
        head: What the model has to serve; None is its own head, or classification if its files do not say.
        task: The name of a task, for a directory that holds several (`raykd.models.multi`).
        revision: Branch, tag or commit of a hub name.
        trust_remote_code: Whether Python code that comes with the model may run.
        dtype: Of the weights; None keeps the checkpoint's.

    Raises:
        ModelError: The model is missing or incomplete, must not be loaded (pickled weights, code of its own), or has
            another head.
    """
    folder = resolve_model(path, revision=revision, trust_remote_code=trust_remote_code)
    folder = files.find_task_folder(folder, task)
    looked = inspect_model(folder, head, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    model, missing = _read(folder, looked.head, trust_remote_code, "auto" if dtype is None else dtype)
    if missing := drop_unread_weights(missing, looked.head):
        raise missing_weights_error(folder, looked.head, missing)
    if looked.head == "embedding":
        model = load_sentence_modules(model, folder)
    _set_padding_id(model, tokenizer)
    return TextModel(
        model=model.eval(),
        tokenizer=tokenizer,
        labels=looked.labels,
        kind=looked.kind,
        task=looked.head,
        max_length=looked.trained_length,
        languages=looked.languages,
        no_answer=looked.no_answer,
        pairs=looked.pairs,
        positions=looked.positions,
        settings=looked.settings,
    )


def load_sentence_modules(encoder: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return an encoder with what its folder holds behind it, to make sentence vectors; pooled by mean where nothing.

    Raises:
        ModelError: As `read_sentence_modules`.
    """
    from safetensors.torch import load_file

    from raykd.networks.sentences import add_sentence_modules

    modules = read_sentence_modules(folder)
    model = add_sentence_modules(encoder, modules)
    for layer, made in zip(model.dense, modules.dense, strict=True):
        stored = load_file(folder / made.folder / "model.safetensors")
        layer.load_state_dict({name.removeprefix("linear."): weight for name, weight in stored.items()})
    model.dense.to(dtype=encoder.dtype)
    return model


def _read(
    folder: Path, head: Head, trust_remote_code: bool, dtype: object
) -> tuple[PreTrainedModel, list[str]]:
    """Return a model and the weights that it lacks; for adapters, their base.

    An adapter is merged into it; of several, each stays beside it and serves its language.
    """
    if not is_adapter(folder):
        return read_model(folder, head, trust_remote_code, dtype=dtype)
    adapters, changes = find_adapters(folder), list_label_changes(files.read_config(folder), head)
    base = files.find_config_folder(folder)
    if base == folder:  # its own config.json, the base's weights
        changes = {"config": read_auto_config(folder, trust_remote_code=trust_remote_code, **changes)}
    model, missing = read_model(
        adapters[0].base, head, trust_remote_code, dtype=dtype, ignore_mismatched_sizes=True, **changes
    )
    lacking = [name for name in missing if any(name not in each.whole_weights() for each in adapters)]
    with raise_as_model_error(f"the adapter {folder} cannot be loaded beside {adapters[0].base}"):
        if (folder / LANGUAGES).is_file():
            return join_adapters(model, adapters), lacking
        return merge_adapter(model, adapters[0]), lacking


def _set_padding_id(model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """Set the padding id of a model, in memory, if only its tokenizer has one.

    Heads that look for a text's last token need it to take several rows at once. A padding token with a second meaning
    (the end, for example) is not set, because the head would skip it where it ends a text.
    """
    config = model.config.get_text_config()
    pad = tokenizer.pad_token_id
    others = {
        getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "unk", "sep", "cls", "mask")
    }
    if getattr(config, "pad_token_id", None) is None and pad is not None and pad not in others:
        config.pad_token_id = pad


def read_model(
    folder: Path, head: Head, trust_remote_code: bool, *, dtype: object, **settings: object
) -> tuple[PreTrainedModel, list[str]]:
    """Read a whole model; what the checkpoint lacks is drawn at random.

    Args:
        folder: Its directory.
        head: What it has to serve.
        trust_remote_code: Whether code that comes with it may run.
        dtype: Of the weights: a torch dtype, or "auto" for the checkpoint's.
        **settings: Changes to its configuration, and other arguments of `from_pretrained`.

    Returns:
        The model, and the names of the weights that the checkpoint lacks or has in another shape.
    """
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
        if head == "token_classification":
            _restore_crf(model, folder)
        mismatched = [key[0] if isinstance(key, tuple) else key for key in found["mismatched_keys"]]
        return model, sorted({*found["missing_keys"], *mismatched})


def _restore_crf(model: PreTrainedModel, folder: Path) -> None:
    """Give a tagger the chain of its checkpoint, if that has one; its scores are 0 for other tags than its own."""
    from raykd.networks import crf

    if getattr(model.config, crf.CONFIG_KEY, False):
        chain = crf.find_crf(crf.add_crf(model))
        assert chain is not None
        if tuple(files.read_labels(folder)) == crf.list_tags(model):
            from safetensors import safe_open

            with safe_open(files.read_stored_weights(folder)[crf.WEIGHT].path, "pt") as stored:
                chain.scores_XC.data.copy_(stored.get_tensor(crf.WEIGHT))
