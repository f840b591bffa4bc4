"""PEFT adapters: a folder that holds a few weights and names the base model that they belong to.

Decision record: an adapter is served if its base is a directory or a model of the hub, and the package peft is
installed. The base is loaded, and the adapter is merged into it in memory. The head is often in the adapter alone, and
neither file names the labels, so they are LABEL_0 and so on unless a config.json in the folder names them. Adapters
that cannot be merged (prompts and prefixes) are refused by name. A student starts from a whole model only.

A folder may also hold an adapter for each of several languages, all of one base (`LANGUAGES`). What is said of it alone
(labels, shapes) is the first adapter's; in memory all stand beside the base, and none is merged.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.errors import ModelError
from raykd.head import Head
from raykd.networks.heads import LABELLED
from raykd.networks.routing import name_adapter, route_adapters
from raykd.parse import JsonObject
from raykd.pretrained.hub import is_preview, preview_model, resolve_model
from raykd.pretrained.jsonfile import read_json
from raykd.pretrained.labels import read_label_names
from raykd.pretrained.weights import StoredTensor, read_header

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
LANGUAGES = "adapters.json"
"""The folder of each language's adapter, in a folder that holds several."""
MERGEABLE = frozenset(
    {"LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "HRA", "FOURIERFT", "RANDLORA"}
)
"""Kinds of adapters whose weights can be added to those of the base."""
_HEADS: dict[str, tuple[Head, str]] = {
    "SEQ_CLS": ("classification", "AdaptedForSequenceClassification"),
    "TOKEN_CLS": ("token_classification", "AdaptedForTokenClassification"),
    "QUESTION_ANS": ("question_answering", "AdaptedForQuestionAnswering"),
    "CAUSAL_LM": ("causal_lm", "AdaptedForCausalLM"),
    "SEQ_2_SEQ_LM": ("seq2seq", "AdaptedForConditionalGeneration"),
}
"""The head for each of peft's tasks, and an architecture that `read_head` maps to it."""
TASK_TYPES: dict[Head, str] = {head: name for name, (head, _) in _HEADS.items()}
"""peft's task for each head that it has one for."""
_ADDED = ("lora_", "ia3_", "hada_", "lokr_", "oft_", "boft_", "vera_", "hra_", "fourierft_", "randlora_")
"""How the names of weights begin that adapters add."""
_OUTPUTS = ("classifier", "score", "out_proj", "qa_outputs")
"""Names of the last module of a head; the rows of its weight are the outputs."""
_MERGE = (
    "merge the adapter into its base (peft: merge_and_unload), save that, and name the folder; a run with "
    "student.tuning.merged: true saves whole models"
)


@dataclass(frozen=True)
class Adapter:
    """An adapter that can be merged. Made by `find_adapter`.

    Attributes:
        folder: Its directory.
        base: The directory of its base model.
        settings: Its adapter_config.json.
    """

    folder: Path
    base: Path
    settings: JsonObject

    def weights(self) -> dict[str, StoredTensor]:
        """Read the names and shapes of its weights.

        Raises:
            ModelError: The file is cut short.
        """
        return read_header(self.folder / WEIGHTS)

    def whole_weights(self) -> dict[str, StoredTensor]:
        """Read the weights that replace the base's (mostly a head), by the base's names."""
        found = {name.removeprefix("base_model.model."): tensor for name, tensor in self.weights().items()}
        plain = {name.replace(".modules_to_save", ""): tensor for name, tensor in found.items()}
        return {name: tensor for name, tensor in plain.items() if not _is_added(name)}


def is_adapter(folder: Path) -> bool:
    """Return whether a directory holds an adapter, or several, and no whole model."""
    held = (folder / FILE).is_file() or (folder / LANGUAGES).is_file()
    return held and not (folder / "model.safetensors").is_file()


def explain_merging(folder: Path) -> str:
    """Return how to come from an adapter to a whole model, for an error's next step."""
    merged = sorted(str(path.parent) for path in folder.glob("merged/*/config.json"))
    return f"name a whole model in it: {' or '.join(merged[:3])}" if merged else _MERGE


def read_adapter_folders(folder: Path) -> dict[str, Path]:
    """Read the folder of each language's adapter, where a directory holds several; else {}.

    Raises:
        ModelError: The file names no folders inside the directory.
    """
    if not (folder / LANGUAGES).is_file():
        return {}
    named = {str(language): str(place) for language, place in read_json(folder / LANGUAGES).items()}
    lost = [place for place in named.values() if ".." in Path(place).parts or not (folder / place).is_dir()]
    if lost or not named:
        raise ModelError(
            f"{folder / LANGUAGES} does not name adapters",
            got=", ".join(lost) or "no language",
            wanted="for each language a folder of an adapter in the same directory",
            next_step="copy the directory again",
        )
    return {language: folder / place for language, place in named.items()}


def find_adapters(folder: Path) -> list[Adapter]:
    """Find the adapters that a directory holds: none, one, or one for each language in the order of `LANGUAGES`.

    Raises:
        ModelError: As `find_adapter`; or they are of several bases.
    """
    if not is_adapter(folder):
        return []
    found = [find_adapter(each) for each in read_adapter_folders(folder).values() or (folder,)]
    bases = {str(adapter.base.resolve()) for adapter in found}
    if len(bases) > 1:
        raise ModelError(
            f"the adapters in {folder} are of several bases", got=", ".join(sorted(bases)), wanted="one base"
        )
    return found


def find_adapter(folder: Path) -> Adapter:
    """Find an adapter and its base; of several adapters the first.

    Raises:
        ModelError: It cannot be merged, its base is not here, or peft is not installed.
    """
    whole, folder = folder, next(iter(read_adapter_folders(folder).values()), folder)
    settings = read_json(folder / FILE)
    name, kind = settings.get("base_model_name_or_path"), str(settings.get("peft_type"))
    what = f"{folder} holds an adapter, not a whole model; its base model is {name or 'not named'}"
    if kind.upper() not in MERGEABLE:
        raise ModelError(
            what,
            got=f"peft_type {kind}, which cannot be merged into its base",
            wanted=f"one of {', '.join(sorted(MERGEABLE))}",
            next_step="name a whole model",
        )
    base = _find_base(folder, name, settings)
    if base is None:
        raise ModelError(
            what,
            got="the base is neither a directory here nor a model that the hub gives",
            wanted="the base beside the adapter",
            next_step=f"{explain_merging(folder)}; or correct base_model_name_or_path in its {FILE}",
        )
    if not (folder / WEIGHTS).is_file():
        raise ModelError(
            what,
            got=f"no {WEIGHTS}",
            wanted=WEIGHTS,
            next_step=f"convert its weights; or {explain_merging(folder)}",
        )
    check_peft(what, f"; or {explain_merging(whole)}")
    return Adapter(folder, base, settings)


def read_adapted_config(adapter: Adapter) -> dict[str, object]:
    """Build the config.json of the merged model: the folder's or the base's, with the adapter's task and labels."""
    own = adapter.folder / "config.json"
    config = read_json(own if own.is_file() else adapter.base / "config.json")
    known = _HEADS.get(str(adapter.settings.get("task_type")))
    if known is None:
        return config
    head, architecture = known
    config["architectures"] = [architecture]
    outputs = _count_outputs(adapter) if head in LABELLED else None
    labels = read_label_names(config)
    if outputs is not None and (labels is None or len(labels) != outputs):
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(outputs)}
        config["label2id"] = {f"LABEL_{i}": i for i in range(outputs)}
        config.pop("num_labels", None)
    return config


def list_label_changes(config: dict[str, object], head: Head) -> dict[str, object]:
    """List the settings with which the base has to be loaded, so that the adapter's head fits."""
    labels = read_label_names(config) if head in LABELLED else None
    if labels is None:
        return {}
    numbered = dict(enumerate(labels))
    return {"num_labels": len(labels), "id2label": numbered, "label2id": {v: k for k, v in numbered.items()}}


def merge_adapter(model: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """Merge an adapter into its loaded base.

    Args:
        model: The base with the head that the adapter was trained with.
        adapter: The adapter.
    """
    from peft import PeftModel

    with silence_peft():
        wrapped = PeftModel.from_pretrained(model, str(adapter.folder), local_files_only=True)
        merged: PreTrainedModel = wrapped.merge_and_unload()
    return merged


def join_adapters(model: PreTrainedModel, adapters: Sequence[Adapter]) -> PreTrainedModel:
    """Load adapters beside their base, in place, and route rows to them in this order.

    Args:
        model: The base with the head that the adapters were trained with.
        adapters: Of one base.
    """
    from peft import PeftModel

    first, *others = [str(adapter.folder) for adapter in adapters]
    with silence_peft():
        wrapped = PeftModel.from_pretrained(model, first, adapter_name=name_adapter(0), local_files_only=True)
        for number, folder in enumerate(others, 1):
            wrapped.load_adapter(folder, name_adapter(number), local_files_only=True)
    joined: PreTrainedModel = wrapped.get_base_model()
    return route_adapters(joined)


@contextmanager
def silence_peft() -> Iterator[None]:
    """Keep peft's warnings about names of transformers that will change off the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def check_peft(what: str, otherwise: str = "") -> None:
    """Refuse what needs peft where it is not installed.

    Args:
        what: What needs it.
        otherwise: What else the user can do.

    Raises:
        ModelError: It is not installed.
    """
    if not is_installed("peft"):
        raise ModelError(
            what,
            got="the package peft, which handles adapters, is not installed",
            wanted="peft, or a whole model",
            next_step=f'pip install "raykd[peft]" (or: pip install peft){otherwise}',
        )


def is_installed(name: str) -> bool:
    """Return whether a package can be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _find_base(folder: Path, name: object, settings: JsonObject) -> Path | None:
    """Find the directory of an adapter's base; None if it is neither here nor given by the hub."""
    if not isinstance(name, str) or not name:
        return None
    for path in (Path(name).expanduser(), folder / name, folder.parent / name):
        if path.is_dir() and path.resolve() != folder.resolve():
            return path
    find = preview_model if is_preview(folder) else resolve_model
    with suppress(ModelError):
        return find(name, revision=settings.get("revision"))
    return None


def _count_outputs(adapter: Adapter) -> int | None:
    """Count the outputs of an adapter's head; None if it has none."""
    for name, tensor in adapter.whole_weights().items():
        if name.endswith(".weight") and name.split(".")[-2] in _OUTPUTS and len(tensor.shape) == 2:
            return tensor.shape[0]
    return None


def _is_added(name: str) -> bool:
    """Return whether a weight is added to the base's; others replace one of them."""
    return any(part.startswith(_ADDED) for part in name.split("."))
