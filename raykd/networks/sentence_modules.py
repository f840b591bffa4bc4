"""Describe what makes a vector of an encoder's output, and write it as sentence-transformers reads it.

Importing this module imports neither torch nor transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from raykd.head import Pooling

MODULES = "modules.json"
POOLING, DENSE, NORMALIZE = "1_Pooling", "{}_Dense", "{}_Normalize"
"""Folders of the modules; Dense and Normalize by their place."""
CONFIG_KEY = "sentence_modules"
"""Attribute of a sentence encoder's configuration, from which `type(model)(model.config)` builds it again."""
ACTIVATIONS = {"Identity": "identity", "Tanh": "tanh"}
"""Activations of dense layers that are computed: torch's name, and ours."""
OLD_POOLING = "pooling_mode_"
"""How the keys of a pooling begin that versions of sentence-transformers before 6 wrote, and all versions read."""


@dataclass(frozen=True)
class DenseLayer:
    """A linear layer behind the pooling.

    Attributes:
        inputs: Width that it reads.
        outputs: Width that it gives.
        bias: Whether it adds one.
        activation: "tanh" or "identity".
        folder: The folder of its weights, beside modules.json.
    """

    inputs: int
    outputs: int
    bias: bool = True
    activation: str = "identity"
    folder: str = ""


@dataclass(frozen=True)
class SentenceModules:
    """What makes a vector of an encoder's output. Made by `read_sentence_modules`.

    Attributes:
        pooling: The mean over a text's tokens, or its first token.
        dense: Layers behind it, in order.
        normalize: Whether vectors have length 1.
    """

    pooling: Pooling = "mean"
    dense: tuple[DenseLayer, ...] = ()
    normalize: bool = False

    def to_json(self) -> dict[str, object]:
        """Return plain data, without folders, which change no vector."""
        layers = [{k: v for k, v in asdict(layer).items() if k != "folder"} for layer in self.dense]
        return {"pooling": self.pooling, "dense": layers, "normalize": self.normalize}

    @classmethod
    def from_json(cls, tree: Mapping[str, object]) -> SentenceModules:
        """Return what `to_json` gave."""
        layers = tuple(DenseLayer(**layer) for layer in cast("list[dict[str, object]]", tree["dense"]))  # type: ignore[arg-type]
        return cls(cast("Pooling", tree["pooling"]), layers, bool(tree["normalize"]))


def write_sentence_modules(folder: Path, modules: SentenceModules, width: int) -> list[Path]:
    """Write the files by which sentence-transformers reads an encoder in a folder.

    Args:
        folder: Holds the encoder already.
        modules: What is behind it.
        width: Of the encoder's output.

    Returns:
        The folder of each dense layer, for its weights.
    """
    places = [("", "Transformer"), (POOLING, "Pooling")]
    places += [(DENSE.format(2 + i), "Dense") for i in range(len(modules.dense))]
    places += [(NORMALIZE.format(len(places)), "Normalize")] if modules.normalize else []
    listed = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{name}"}
        for at, (path, name) in enumerate(places)
    ]
    _write(folder / MODULES, listed)
    old = {
        f"{OLD_POOLING}{name}": modules.pooling == mode
        for name, mode in (("cls_token", "cls"), ("mean_tokens", "mean"))
    }
    _write(folder / POOLING / "config.json", {"word_embedding_dimension": width, **old})
    folders = []
    for at, layer in enumerate(modules.dense):
        own = folder / DENSE.format(2 + at)
        names = {short: full for full, short in ACTIVATIONS.items()}
        module = {"Identity": "linear", "Tanh": "activation"}[names[layer.activation]]
        _write(
            own / "config.json",
            {
                "in_features": layer.inputs,
                "out_features": layer.outputs,
                "bias": layer.bias,
                "activation_function": f"torch.nn.modules.{module}.{names[layer.activation]}",
            },
        )
        folders.append(own)
    if modules.normalize:
        (folder / places[-1][0]).mkdir()
    return folders


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
