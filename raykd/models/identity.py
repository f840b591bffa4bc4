"""Compute a model's `fingerprint`, under which its answers are stored.

Decision record: it covers everything that changes an answer (weights, configuration, labels, tokenizer) and nothing
else (file names, folders, versions). The weights of a directory are read as bytes, tensor by tensor, so a store can be
asked before a model is loaded. A tokenizer is identified by its serialised content, because the files that
transformers writes for it differ between versions of transformers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.compat.transformers_private import ATTENTION_KEY, ORIGIN_KEY, list_computed_weights
from raykd.errors import ModelError
from raykd.models.textmodel import TextModel
from raykd.networks.sentence_modules import CONFIG_KEY
from raykd.pretrained import files
from raykd.pretrained.adapters import find_adapters
from raykd.pretrained.sentences.modules import is_sentence_folder, read_dense_weights, read_sentence_modules
from raykd.pretrained.tokenizers import load_tokenizer
from raykd.pretrained.weights import count_numbers, read_headers
from raykd.text.tokens import list_adapters
from raykd.tokenizers.ngrams import HashedNgrams
from raykd.tokenizers.pieces import PieceTokenizer, describe_slow_tokenizer
from raykd.tokenizers.union import UnionTokenizer

if TYPE_CHECKING:
    import torch

    from raykd.text.tokens import Tokenizer

_VOLATILE = frozenset(
    {ORIGIN_KEY, "architectures", "attn_implementation", ATTENTION_KEY, "dtype", "torch_dtype"}
    | {"transformers_version", "problem_type", "label2id", "num_labels", "use_cache"}
)
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip

WEIGHTS = (".safetensors", ".bin", ".pt", ".onnx", ".gguf")
"""Endings of files with weights."""


def fingerprint(model: str | Path | TextModel, *, trust_remote_code: bool = False) -> str:
    """Compute the sha256 (hex) of weights, configuration, labels and tokenizer.

    A directory that `save_model` wrote and the model loaded from it have one fingerprint, if the model keeps the dtype
    that it was saved in. For other directories the two may differ, because transformers renames old weights when it
    loads them.

    Args:
        model: A directory, or a loaded model.
        trust_remote_code: Whether code that comes with the directory may run.

    Raises:
        ModelError: The directory must not be loaded, or is broken.
    """
    if isinstance(model, TextModel):
        config = json.loads(model.model.config.to_json_string(use_diff=True))
        weights, tokenizer = _loaded_weights(model), model.tokenizer
    else:
        folder = Path(model)
        files.check_directory(folder, trust_remote_code=trust_remote_code)
        config = files.read_config(folder)
        if is_sentence_folder(folder):
            config |= {CONFIG_KEY: read_sentence_modules(folder).to_json()}
        weights = _stored_weights(folder)
        tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    digest = hashlib.sha256(b"raykd model 1")
    for part in (_settings(config), describe_tokenizer(tokenizer)):
        digest.update(hashlib.sha256(json.dumps(part, sort_keys=True).encode()).digest())
    for name, weight in weights:
        digest.update(name.encode() + b"\0" + weight)
    return digest.hexdigest()


def count_stored_parameters(folder: Path) -> int:
    """Count the floating-point numbers in the weights of a directory; reads headers only.

    Raises:
        ModelError: A file is cut short or is no safetensors file.
    """
    beside = sum(count_numbers(adapter.weights()) for adapter in find_adapters(folder)[1:])
    return count_numbers(files.read_stored_weights(folder)) + beside


def measure_stored_megabytes(folder: Path) -> float | None:
    """Return the size of the files with weights in a model's folder, or below it; None where there are none."""
    sizes = [
        file.stat().st_size for ending in WEIGHTS for file in folder.glob(f"**/*{ending}") if file.is_file()
    ]
    return sum(sizes) / 1e6 if sizes else None


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, object]:
    """Return everything that decides which ids a text gets, as JSON; padding and truncation belong to the call.

    Raises:
        ModelError: The tokenizer has no serialised form.
    """
    if isinstance(tokenizer, HashedNgrams):
        return {"hashed_ngrams": repr(tokenizer)}
    if isinstance(tokenizer, UnionTokenizer | PieceTokenizer):
        return tokenizer.content()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        if type(tokenizer).__module__.startswith("transformers."):
            return describe_slow_tokenizer(tokenizer)
        raise ModelError(
            "this tokenizer has no serialised form",
            got=type(tokenizer).__name__,
            wanted="a fast tokenizer, or one of transformers' own",
            next_step="save it as tokenizer.json, or name a model with a fast tokenizer",
        )
    content = json.loads(backend.to_str())
    return {
        **({"adapters": list_adapters(tokenizer)} if list_adapters(tokenizer) else {}),
        "backend": {key: value for key, value in content.items() if key not in ("padding", "truncation")},
        "specials": {name: str(t) for name, t in getattr(tokenizer, "special_tokens_map", {}).items()},
        "inputs": list(getattr(tokenizer, "model_input_names", ())),
        "pad": tokenizer.pad_token_id,
    }


def _settings(config: Mapping[str, object]) -> dict[str, object]:
    """Return the settings of a configuration that change an answer; id2label carries the labels."""
    return {key: value for key, value in config.items() if key not in _VOLATILE and value is not None}


def _loaded_weights(text_model: TextModel) -> Iterator[tuple[str, bytes]]:
    """Yield name and digest of each weight that a checkpoint holds; tied weights are stored once."""
    absent = set(getattr(text_model.model, "all_tied_weights_keys", None) or ())
    absent |= list_computed_weights(text_model.model)
    named = text_model.model.state_dict().items()
    if hasattr(text_model.model.config, CONFIG_KEY):  # an encoder is saved by the names that it has alone
        named = {name.removeprefix("encoder."): tensor for name, tensor in named}.items()
    for name, tensor in sorted(named):
        if name not in absent:
            dtype = _DTYPES[str(tensor.dtype).removeprefix("torch.")]
            digest = hashlib.sha256(_describe_shape(dtype, list(tensor.shape)))
            digest.update(_bytes(tensor))
            yield name, digest.digest()


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _stored_weights(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and digest of each weight in a directory's safetensors files."""
    found = read_headers(files.list_weight_files(folder))
    for at, adapter in enumerate(find_adapters(folder)):
        title = f"adapter {at}" if at else "adapter"
        settings = json.dumps(adapter.settings, sort_keys=True).encode()
        yield title, hashlib.sha256(settings).digest()
        found |= {f"{title} {name}": tensor for name, tensor in adapter.weights().items()}
    for at, layer in enumerate(read_sentence_modules(folder).dense):
        own = read_dense_weights(folder, layer.folder)
        found |= {f"dense.{at}.{name.removeprefix('linear.')}": tensor for name, tensor in own.items()}
    for name, tensor in sorted(found.items()):
        digest = hashlib.sha256(_describe_shape(tensor.dtype, list(tensor.shape)))
        for chunk in tensor.chunks():
            digest.update(chunk)
        yield name, digest.digest()


def _describe_shape(dtype: str, shape: list[int]) -> bytes:
    return f"{dtype} {shape}\0".encode()
