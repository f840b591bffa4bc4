"""`SentenceEncoder`: an encoder of transformers, and what makes one vector of its output.

Decision record: the encoder is the bare class (`AutoModel`), so its checkpoints are compared with that class and saved
as sentence-transformers expects them; pooling, dense layers and normalisation stand around it. BERT's pooler is left
out, since neither pooling reads it. The vector is called `logits`, as every head's output that tasks read.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from raykd.head import Pooling
from raykd.networks.heads import use_seed
from raykd.networks.sentence_modules import CONFIG_KEY, DenseLayer, SentenceModules, write_sentence_modules


class SentenceEncoder(PreTrainedModel):
    """Gives a vector ``[S, D]`` for each text.

    Args:
        config: The encoder's, with the modules under `CONFIG_KEY`.
        encoder: The encoder; None builds one with random weights.
    """

    config_class = PreTrainedConfig
    base_model_prefix = "encoder"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: PreTrainedConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.encoder = AutoModel.from_config(config) if encoder is None else encoder
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None
        self.modules_behind = SentenceModules.from_json(getattr(config, CONFIG_KEY))
        self.dense = nn.ModuleList(nn.Linear(d.inputs, d.outputs, d.bias) for d in self.modules_behind.dense)
        self._reads_types = "token_type_ids" in inspect.signature(type(self.encoder).forward).parameters

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return the vectors as `logits`."""
        types = {} if token_type_ids is None or not self._reads_types else {"token_type_ids": token_type_ids}
        states_SLD = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types)[0]
        vectors_SD = pool_tokens(states_SLD, attention_mask, self.modules_behind.pooling)
        for layer, made in zip(self.dense, self.modules_behind.dense, strict=True):
            vectors_SD = layer(vectors_SD)
            vectors_SD = torch.tanh(vectors_SD) if made.activation == "tanh" else vectors_SD
        if self.modules_behind.normalize:
            vectors_SD = F.normalize(vectors_SD.float(), dim=-1)
        return SequenceClassifierOutput(logits=vectors_SD)

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        dense = self.modules_behind.dense
        return dense[-1].outputs if dense else int(self.encoder.config.hidden_size)

    def get_input_embeddings(self) -> nn.Module:
        """Return the encoder's table of tokens."""
        return self.encoder.get_input_embeddings()

    def save_pretrained(self, save_directory: str, **settings: Any) -> None:  # type: ignore[override]
        """Write the encoder as transformers does, and the files of sentence-transformers beside it."""
        self.encoder.save_pretrained(save_directory, **settings)
        width = self.encoder.config.hidden_size
        folders = write_sentence_modules(Path(save_directory), self.modules_behind, width)
        for folder, layer in zip(folders, self.dense, strict=True):
            weights = {
                f"linear.{name}": w.detach().cpu().contiguous() for name, w in layer.named_parameters()
            }
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pool_tokens(
    states_SLD: torch.Tensor, attention_mask: torch.Tensor | None, pooling: Pooling
) -> torch.Tensor:
    """Return one vector per text: the mean over its tokens in float32, or its first token.

    Args:
        states_SLD: The encoder's last hidden states.
        attention_mask: ``[S, L]``, 0 at padding; None where nothing is padding.
        pooling: Which of the two.
    """
    if attention_mask is None:
        return states_SLD.float().mean(dim=1) if pooling == "mean" else states_SLD[:, 0]
    if pooling == "cls":  # padding may stand on the left
        first_S = attention_mask.argmax(dim=1)
        return states_SLD[torch.arange(len(first_S), device=first_S.device), first_S]
    mask_SL1 = attention_mask.unsqueeze(-1).float()
    return (states_SLD.float() * mask_SL1).sum(dim=1) / mask_SL1.sum(dim=1).clamp_min(1e-9)


def add_sentence_modules(encoder: PreTrainedModel, modules: SentenceModules) -> SentenceEncoder:
    """Return an encoder with modules behind it; dense layers are drawn from torch's generator."""
    setattr(encoder.config, CONFIG_KEY, modules.to_json())
    return SentenceEncoder(encoder.config, encoder)


def shape_sentence_encoder(
    model: PreTrainedModel, seed: int, pooling: Pooling | None, dimension: int | None
) -> SentenceEncoder:
    """Give a student the pooling and the width that its task asks for; its vectors have length 1.

    Args:
        model: The student as it was built or loaded.
        seed: For the weights that are drawn.
        pooling: None keeps the checkpoint's own modules.
        dimension: Width of the vectors; None keeps that of the model.
    """
    assert isinstance(model, SentenceEncoder)
    before, encoder = model.modules_behind, model.encoder
    kept = before if pooling in (None, before.pooling) else SentenceModules(pooling or "mean")
    width = kept.dense[-1].outputs if kept.dense else encoder.config.hidden_size
    if dimension not in (None, width):
        kept = replace(kept, dense=(*kept.dense, DenseLayer(width, int(dimension or 0), bias=False)))
    with use_seed(seed):
        made = add_sentence_modules(encoder, replace(kept, normalize=True))
    if kept.dense[: len(before.dense)] == before.dense:
        for new, old in zip(made.dense, model.dense, strict=False):
            new.load_state_dict(old.state_dict())
    return made
