"""Read the JSON files by which sentence-transformers makes a vector of an encoder's output.

Decision record: modules.json names the modules in their order, and each module's folder says the rest. What is read is
an encoder in the folder itself, pooling by mean or first token, dense layers, and a normalisation at the end; anything
else (other poolings, prompts, modules of other packages) would give other vectors and is refused by name. An encoder
without modules.json is pooled by mean. Needs neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from raykd.errors import ModelError
from raykd.head import Pooling
from raykd.networks.sentence_modules import ACTIVATIONS, MODULES, OLD_POOLING, DenseLayer, SentenceModules
from raykd.pretrained.jsonfile import parse_file, read_json
from raykd.pretrained.weights import StoredTensor, read_headers

_FIELD = "sentence_embedding"
"""Where modules hand the vector on."""


def is_sentence_folder(folder: Path) -> bool:
    """Return whether sentence-transformers (or raykd) saved a folder as a model of sentence vectors.

    Newer cross-encoders have the file too, with their encoder alone; an empty list is a leftover.

    Raises:
        ModelError: The file is broken.
    """
    path = folder / MODULES
    listed = parse_file(path) if path.is_file() else []
    modules = listed if isinstance(listed, list) else [listed]
    return any(not isinstance(one, dict) or "Transformer" not in str(one.get("type")) for one in modules)


def read_sentence_length(folder: Path) -> int | None:
    """Return the tokens after which a saved model cuts a text; None where it names none."""
    path = folder / "sentence_bert_config.json"
    length = read_json(path).get("max_seq_length") if path.is_file() else None
    return length if isinstance(length, int) else None


def read_sentence_modules(folder: Path) -> SentenceModules:
    """Read what makes the vectors of a saved model.

    Raises:
        ModelError: A module, a pooling, an activation or a prompt that raykd does not compute; or a file is broken.
    """
    if not is_sentence_folder(folder):
        return SentenceModules()
    _check_texts(folder)
    listed = parse_file(folder / MODULES)
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise ModelError(f"{folder / MODULES} is no list of modules", got=str(listed)[:100])
    pooling: Pooling | None = None
    dense: list[DenseLayer] = []
    normalize = False
    for at, module in enumerate(listed):
        kind, path = str(module.get("type")), str(module.get("path") or "")
        name = kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind
        if name == "Transformer" and at == 0 and not path:
            continue
        if name == "Pooling" and at == 1:
            pooling = _read_pooling(folder / path)
        elif name == "Dense" and pooling is not None and not normalize:
            dense.append(_read_dense(folder, path))
        elif name == "Normalize" and pooling is not None:
            normalize = True
        else:
            raise ModelError(
                f"{folder}: raykd does not compute module {at} of {MODULES}",
                got=f"{kind} in {path or 'the folder itself'}",
                wanted="an encoder in the folder itself, then Pooling, then perhaps Dense and Normalize",
                next_step="save the model with a newer sentence-transformers, or name another",
            )
    if pooling is None:
        raise ModelError(f"{folder / MODULES} names no pooling", wanted="a module Pooling behind the encoder")
    return SentenceModules(pooling, tuple(dense), normalize)


def _check_texts(folder: Path) -> None:
    """Refuse models that change a text before it is cut into tokens."""
    prompts, bert = folder / "config_sentence_transformers.json", folder / "sentence_bert_config.json"
    default = read_json(prompts).get("default_prompt_name") if prompts.is_file() else None
    if default is not None:
        raise ModelError(
            f"{folder} puts a prompt before each text, which raykd does not",
            got=f"default_prompt_name {default!r} in {prompts.name}",
            wanted="null",
            next_step="write the prompt into the texts and set default_prompt_name to null in a copy of the folder",
        )
    tokenizer = folder / "tokenizer_config.json"
    lowers = tokenizer.is_file() and read_json(tokenizer).get("do_lower_case") is True
    if bert.is_file() and read_json(bert).get("do_lower_case") is True and not lowers:
        raise ModelError(
            f"{folder} lowercases texts before its tokenizer, which raykd does not",
            got=f"do_lower_case true in {bert.name}",
            wanted="false, or a tokenizer that lowercases (do_lower_case true in tokenizer_config.json)",
        )


def _read_pooling(folder: Path) -> Pooling:
    config = read_json(folder / "config.json")
    found = config.get("pooling_mode")
    if found is None:  # as versions before 6 wrote it
        modes = [key.removeprefix(OLD_POOLING) for key, value in config.items() if value is True]
        names = {"cls_token": "cls", "mean_tokens": "mean"}
        found = [names.get(mode, mode) for mode in modes if f"{OLD_POOLING}{mode}" in config]
    mode = found[0] if isinstance(found, list) and len(found) == 1 else found
    if mode not in ("mean", "cls"):
        raise ModelError(
            f"{folder.parent}: raykd does not compute this pooling", got=str(found), wanted="mean or cls"
        )
    return cast("Pooling", mode)


def _read_dense(folder: Path, path: str) -> DenseLayer:
    config = read_json(folder / path / "config.json")
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    shapes = {name: tensor.shape for name, tensor in read_dense_weights(folder, path).items()}
    inputs, outputs, bias = (config.get(key) for key in ("in_features", "out_features", "bias"))
    bias = bias is not False
    wanted: dict[str, tuple[object, ...]] = {"linear.weight": (outputs, inputs)}
    if bias:
        wanted["linear.bias"] = (outputs,)
    renamed = [k for k in ("module_input_name", "module_output_name") if config.get(k, _FIELD) != _FIELD]
    if activation not in ACTIVATIONS or {k: tuple(v) for k, v in shapes.items()} != wanted or renamed:
        raise ModelError(
            f"{folder / path}: raykd does not compute this dense layer",
            got=f"activation {activation}, weights {shapes}, {renamed or 'the vector of the text'}",
            wanted=f"activation {' or '.join(ACTIVATIONS)}, weights {wanted}, the vector of the text",
        )
    return DenseLayer(int(str(inputs)), int(str(outputs)), bias, ACTIVATIONS[activation], path)


def read_dense_weights(folder: Path, path: str) -> dict[str, StoredTensor]:
    """Read names, shapes and places of a dense layer's weights.

    Raises:
        ModelError: It has no safetensors file.
    """
    file = folder / path / "model.safetensors"
    if not file.is_file():
        raise ModelError(
            f"{folder / path} holds no model.safetensors",
            wanted="the weights of the dense layer as safetensors",
            next_step="save the model with a newer sentence-transformers",
        )
    return read_headers([file])
