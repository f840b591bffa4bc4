"""`fingerprint`: what a model answers, as a name. Answers are stored under it.

Decision record: it covers all that changes an answer (weights, configuration, labels, tokenizer) and nothing
else (file names, folders, versions). The weights of a directory are read as bytes, tensor by tensor, so that
a store can be asked before a model is loaded. A tokenizer is told by its serialised content, because the
files that transformers writes for one tokenizer differ between its versions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.compat.transformers_private import ATTENTION_KEY, ORIGIN_KEY, list_computed_weights
from raykd.errors import ModelError
from raykd.models.textmodel import TextModel
from raykd.pretrained import files
from raykd.pretrained.adapters import find_adapter, is_adapter
from raykd.pretrained.tokenizers import load_tokenizer
from raykd.pretrained.weights import count_numbers, read_headers
from raykd.tokenizers.ngrams import HashedNgrams
from raykd.tokenizers.pieces import PieceTokenizer, describe_slow_tokenizer
from raykd.tokenizers.union import UnionTokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from raykd.text.tokens import Tokenizer

_VOLATILE = frozenset(
    {ORIGIN_KEY, "architectures", "attn_implementation", ATTENTION_KEY, "dtype", "torch_dtype"}
    | {"transformers_version", "problem_type", "label2id", "num_labels", "use_cache"}
)
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def fingerprint(model: str | Path | TextModel, *, trust_remote_code: bool = False) -> str:
    """sha256 (hex) over weights, configuration, labels and tokenizer.

    A model that `save_model` wrote has the fingerprint of its directory, as long as it is loaded in the dtype it
    was saved in. Directories of other origin have one too, which need not be that of the loaded model
    (transformers renames old weights when it loads them).

    Raises:
        ModelError: a directory that must not be loaded, or that is broken.
    """
    if isinstance(model, TextModel):
        config = json.loads(model.model.config.to_json_string(use_diff=True))
        weights, tokenizer = _loaded_weights(model), model.tokenizer
    else:
        folder = Path(model)
        files.check_directory(folder, trust_remote_code=trust_remote_code)
        config = files.read_config(folder)
        weights, tokenizer = (
            _stored_weights(folder),
            load_tokenizer(folder, trust_remote_code=trust_remote_code),
        )
    digest = hashlib.sha256(b"raykd model 1")
    for part in (_settings(config), describe_tokenizer(tokenizer)):
        digest.update(hashlib.sha256(json.dumps(part, sort_keys=True).encode()).digest())
    for name, weight in weights:
        digest.update(name.encode() + b"\0" + weight)
    return digest.hexdigest()


def stored_parameters(folder: Path) -> int:
    """Count the numbers in the weights of a directory, whole numbers (buffers) left out; reads headers only.

    Raises:
        ModelError: A file is cut short or is no safetensors file.
    """
    return count_numbers(files.read_stored_weights(folder))


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, object]:
    """All that decides which ids a text gets, as JSON; padding and truncation belong to the call."""
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
        "backend": {key: value for key, value in content.items() if key not in ("padding", "truncation")},
        "specials": {
            name: str(token) for name, token in getattr(tokenizer, "special_tokens_map", {}).items()
        },
        "inputs": list(getattr(tokenizer, "model_input_names", ())),
        "pad": tokenizer.pad_token_id,
    }


def _settings(config: Mapping[str, object]) -> dict[str, object]:
    """The configuration without what does not change an answer; id2label carries the labels."""
    return {key: value for key, value in config.items() if key not in _VOLATILE and value is not None}


def _loaded_weights(text_model: TextModel) -> Iterator[tuple[str, bytes]]:
    """Name and digest of each weight; of weights that are one tensor, only what a checkpoint holds."""
    absent = set(getattr(text_model.model, "all_tied_weights_keys", None) or ())
    absent |= list_computed_weights(text_model.model)
    for name, tensor in sorted(text_model.model.state_dict().items()):
        if name not in absent:
            digest = _described(_DTYPES[str(tensor.dtype).removeprefix("torch.")], list(tensor.shape))
            digest.update(_bytes(tensor))
            yield name, digest.digest()


def _bytes(tensor: torch.Tensor) -> NDArray[np.uint8]:
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _stored_weights(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The same from safetensors files."""
    found = read_headers(files.list_weight_files(folder))
    if is_adapter(folder):
        adapter = find_adapter(folder)
        settings = json.dumps(adapter.settings, sort_keys=True).encode()
        yield "adapter", hashlib.sha256(settings).digest()
        found |= {f"adapter {name}": tensor for name, tensor in adapter.weights().items()}
    for name, tensor in sorted(found.items()):
        digest = _described(tensor.dtype, list(tensor.shape))
        for chunk in tensor.chunks():
            digest.update(chunk)
        yield name, digest.digest()


def _described(dtype: str, shape: list[int]) -> Any:
    return hashlib.sha256(f"{dtype} {shape}\0".encode())
