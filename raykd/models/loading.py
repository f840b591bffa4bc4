"""From a directory or a hub name to a model: checked first, loaded after.

Decision record: a hub name becomes a local directory of JSON, vocabulary and safetensors files (pickles are
not even downloaded), so there is one way in and every check of `raykd.models.files` runs before anything is
imported or loaded. `trust_remote_code` is always passed on as True or False: left out, transformers asks on
the terminal and an actor without one hangs. A weight that is missing in the checkpoint is an error, because
transformers would only warn and answer with a random head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from raykd.errors import ModelError, RaykdError
from raykd.models import files
from raykd.models.heads import LABELLED, LANGUAGE, Head, auto_class, head_of, label_settings
from raykd.models.ngrams import FILE as NGRAMS
from raykd.models.ngrams import HashedNgrams
from raykd.models.starts import fill_start
from raykd.models.textmodel import TextModel, no_progress_bars
from raykd.models.union import FILE as UNION
from raykd.models.union import UnionTokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from raykd.text.tokens import Tokenizer

_DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.model"]
_SECRET = re.compile(r"(?<=://)[^/@\s]+@|hf_[A-Za-z0-9]{8,}")


def register() -> None:
    """Makes `raykd_linear` and `raykd_lstm` known to transformers' auto classes; takes seconds."""
    from raykd.models import networks  # noqa: F401  (registers when imported)


def load(
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
    folder = resolve(path, revision=revision, trust_remote_code=trust_remote_code)
    folder = files.folder_of(folder, task)
    info = files.inspect_directory(folder, trust_remote_code=trust_remote_code)
    own = served(folder, info.task, head)
    labels = files.read_labels(folder) if own in LABELLED else ()
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    model, missing = _model(folder, own, trust_remote_code, dtype="auto" if dtype is None else dtype)
    if missing:
        raise ModelError(
            f"{folder} is not a complete {own} model; these weights are not in it",
            got=", ".join(missing[:8]),
            next_step="fine-tune it (a student of kind pretrained), or name a checkpoint that was fine-tuned",
        )
    if own in LABELLED and model.config.num_labels != len(labels):
        raise ModelError(
            f"{folder}: id2label does not fit the head",
            got=labels,
            wanted=f"{model.config.num_labels} labels",
        )
    name_padding(model, tokenizer)
    return TextModel(
        model=model.eval(),
        tokenizer=tokenizer,
        labels=labels,
        kind=info.kind,
        task=own,
        max_length=info.max_length,
        languages=info.languages,
        no_answer=info.no_answer,
        settings=info.settings,
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


def load_tokenizer(
    path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> Tokenizer:
    """The tokenizer of a directory (weights need not be there) or of a hub name.

    Raises:
        ModelError: there is none, or it wants to run code of its own.
    """
    folder = resolve(path, revision=revision, trust_remote_code=trust_remote_code)
    files.check_code(folder, trust_remote_code=trust_remote_code)
    if (folder / NGRAMS).is_file():
        return cast("Tokenizer", HashedNgrams.from_pretrained(folder))
    if (folder / UNION).is_file():
        return UnionTokenizer.from_pretrained(folder)
    if not any((folder / name).is_file() for name in files.TOKENIZERS) and not list(folder.glob("*.model")):
        raise ModelError(f"{folder} holds no tokenizer", wanted=f"one of {', '.join(files.TOKENIZERS)}")
    config = folder / files.CONFIG
    if config.is_file() and str(files.read_json(config).get("model_type")).startswith("raykd_"):
        register()
    with _told(f"the tokenizer of {folder} cannot be loaded"):
        from transformers import AutoTokenizer

        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=trust_remote_code, local_files_only=True
        )
        return tokenizer


def load_for_training(
    path: str | Path,
    labels: tuple[str, ...],
    head: Head = "classification",
    *,
    revision: str | None,
    trust_remote_code: bool,
    layers: tuple[int, ...] | None,
) -> PreTrainedModel:
    """A checkpoint as a float32 student: with a new head where its task or its labels differ, perhaps fewer layers.

    What is drawn anew comes from torch's CPU generator, which the caller seeds.

    Raises:
        ModelError: as `load`; or the head or the layers cannot be told from the rest.
    """
    import torch

    folder = resolve(path, revision=revision, trust_remote_code=trust_remote_code)
    config = files.read_json(folder / files.CONFIG) if (folder / files.CONFIG).is_file() else {}
    own, own_head = files.label_names(config), head_of(config)
    if head in LANGUAGE:
        served(folder, own_head, head)
    settings = label_settings(labels, head)
    model, missing = _model(
        folder, head, trust_remote_code, dtype=torch.float32, ignore_mismatched_sizes=True, **settings
    )
    outside = [name for name in missing if not _in_encoder(model, name)]
    lost = [name for name in missing if _in_encoder(model, name) and "pooler" not in name]
    if lost or len(missing) == len(model.state_dict()) or (outside and head in LANGUAGE):
        raise ModelError(
            f"{folder} does not hold the weights of a model for {head} that fit these labels",
            got=f"missing or of another shape: {', '.join(missing[:8])}",
            wanted=f"a checkpoint with a {head} head"
            if head in LANGUAGE
            else "a checkpoint of this encoder; of a linear model, one with the same labels",
        )
    if head in LABELLED and (own, own_head or head) != (labels, head) and not outside:
        _new_head(model, folder)
    if layers is not None:
        _keep_layers(model, layers, folder)
    return model


def resolve(path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Path:
    """The local directory of a path or hub name; hub files are downloaded, or taken from the hub's cache.

    Raises:
        ModelError: the path does not exist, or the hub does not give it.
    """
    name = str(path)
    try:
        folder = Path(path).expanduser()
        if folder.is_dir():
            return folder
    except (OSError, RuntimeError) as error:  # a name that is too long, a home of nobody
        raise ModelError(
            "the path of a model is none",
            got=str(error)[:200],
            wanted="a directory",
            next_step="check the path",
        ) from None
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name) or isinstance(path, Path):
        raise ModelError(
            f"there is no model directory {folder}",
            next_step="check the path; on a cluster it must exist on every node that loads it",
        )
    with _told(
        f"{name} is neither a directory here ({Path.cwd()}) nor a model that the Hugging Face hub gives",
        next_step="check the spelling, the network and HF_HUB_OFFLINE, or give a local directory",
    ):
        from huggingface_hub import snapshot_download

        patterns = [*_DOWNLOADED, "*.py"] if trust_remote_code else _DOWNLOADED
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"])
        )


def served(folder: Path, own: Head | None, wanted: Head | None) -> Head:
    """The head to load: what is wanted, if the checkpoint has it or does not tell.

    Raises:
        ModelError: the checkpoint has a head of another kind than is wanted.
    """
    if own is not None and wanted is not None and own != wanted:
        raise ModelError(
            f"{folder} was made for another task: its head does not answer this one",
            got=own,
            wanted=wanted,
            next_step="name a checkpoint that was fine-tuned for this task, or train one "
            "(a student of kind pretrained keeps the encoder)",
        )
    return wanted or own or "classification"


def _model(
    folder: Path, head: Head, trust_remote_code: bool, *, dtype: Any, **settings: Any
) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the names of the weights that the checkpoint lacked or had in another shape."""
    files.check_directory(folder, trust_remote_code=trust_remote_code)
    register()
    with _told(f"the model {folder} cannot be loaded"), no_progress_bars():
        model, found = auto_class(head).from_pretrained(
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


def _new_head(model: PreTrainedModel, folder: Path) -> None:
    """Draws the last layer anew: its old columns stand for other labels, or for the same in another order."""
    import torch
    from torch import nn

    heads = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == model.config.num_labels
        and not _in_encoder(model, name)
    ]
    if len(heads) != 1:
        raise ModelError(
            f"the head of {folder} cannot be told from the rest, and its labels are not the run's",
            got=list(files.read_labels(folder)),
            wanted=str(list((model.config.id2label or {}).values())),
        )
    with torch.no_grad():
        heads[0].weight.normal_(std=getattr(model.config, "initializer_range", 0.02))
        if heads[0].bias is not None:
            heads[0].bias.zero_()


def _in_encoder(model: PreTrainedModel, name: str) -> bool:
    """Whether a weight or module belongs to the encoder; the rest is the head."""
    return bool(model.base_model_prefix) and name.startswith(f"{model.base_model_prefix}.")


def _keep_layers(model: PreTrainedModel, layers: tuple[int, ...], folder: Path) -> None:
    """Keeps these layers, in this order (DistilBERT's initialisation, arXiv:1910.01108).

    A layer of a decoder knows its place, under which it caches what it saw; places are counted anew.
    """
    from torch import nn

    count = getattr(model.config, "num_hidden_layers", None)
    stacks = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count and name in ("layer", "layers", "h")
    ]
    if len(stacks) != 1 or max(layers) >= len(getattr(*stacks[0])) or hasattr(model.config, "layer_types"):
        raise ModelError(
            f"layers {list(layers)} cannot be taken from {folder}",
            got=f"{count} layers" if stacks else "no stack of layers",
            wanted="an encoder such as BERT or a decoder such as GPT-2, with layers counted from 0",
        )
    parent, name = stacks[0]
    stack = getattr(parent, name)
    kept = nn.ModuleList(stack[i] for i in layers)
    setattr(parent, name, kept)
    for place, layer in enumerate(kept):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", place)  # noqa: B010  (mypy takes attributes of modules for tensors)
    model.config.num_hidden_layers = len(layers)


@contextmanager
def _told(what: str, next_step: str | None = None) -> Iterator[None]:
    """Whatever transformers, safetensors or the hub raise becomes a ModelError, without secrets."""
    try:
        yield
    except RaykdError:
        raise
    except Exception as error:  # a dozen types of four libraries, and broken files of any kind
        reason = _SECRET.sub("***", f"{type(error).__name__}: {error}")
        raise ModelError(
            what,
            got=reason.strip()[:1000],
            wanted="whole files of one model, as save_pretrained writes them",
            next_step=next_step or "copy or download it again; was it cut off, or put together from several?",
        ) from None
