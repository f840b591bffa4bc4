"""Tiny random models of transformers' families, for tests of what a checkpoint says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCABULARY = 99
POSITIONS = 24

_SETTINGS: dict[str, Any] = {
    "vocab_size": VOCABULARY, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "qkv_size", "word_embed_proj_dim"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 1),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "d_head"), 8),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner", "d_inner", "hidden_dim", "dff", "feed_forward_size"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), POSITIONS),
    "rotary_dim": 4,
}  # fmt: skip
_OWN: dict[str, dict[str, Any]] = {
    "falcon": {"head_dim": None},
    "funnel": {"num_hidden_layers": None, "block_sizes": [1, 1]},
    "gpt_neo": {"attention_types": [[["global"], 1]], "num_layers": 1},
    "gptj": {"rotary_dim": 4},
    "xlnet": {"max_position_embeddings": None},
    "prophetnet": {"num_hidden_layers": None},
}
CLASSIFIERS = (
    "albert", "bart", "bert", "big_bird", "biogpt", "bloom", "camembert", "canine", "convbert", "ctrl", "data2vec-text",
    "deberta", "deberta-v2", "diffllama", "distilbert", "electra", "ernie", "esm", "eurobert", "exaone4", "falcon",
    "flaubert", "fnet", "funnel", "gemma", "gemma2", "gemma3_text", "glm", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox",
    "gte", "helium", "ibert", "jina_embeddings_v3", "llama", "longformer", "mbart", "megatron-bert", "ministral",
    "mistral", "mixtral", "mobilebert", "modernbert", "modernbert-decoder", "mpnet", "mpt", "mra", "nemotron",
    "nomic_bert", "nystromformer", "olmo2", "openai-gpt", "opt", "persimmon", "phi", "phi3", "plbart", "qwen2", "qwen3",
    "rembert", "roberta", "roberta-prelayernorm", "roformer", "smollm3", "squeezebert", "stablelm", "starcoder2", "t5",
    "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "yoso",
)  # fmt: skip
"""Model types whose tiny classifiers are built, saved and read in tests."""
TRANSLATORS = (
    "bart",
    "blenderbot",
    "m2m_100",
    "marian",
    "mbart",
    "mt5",
    "mvp",
    "nllb-moe",
    "pegasus",
    "plbart",
    "t5",
)
QUICK = frozenset(
    [
        "albert",
        "bart",
        "bert",
        "deberta-v2",
        "distilbert",
        "electra",
        "gpt2",
        "llama",
        "mixtral",
        "modernbert",
        "mpnet",
        "nystromformer",
        "qwen3",
        "roberta",
        "t5",
        "xlnet",
        "canine",
        "falcon",
        "gemma2",
        "squeezebert",
    ]
)
"""Those that are looked at in every run of the tests; the others at night."""


def tiny(model_type: str, auto: Any, **changes: Any) -> Any:
    """A random model of this type, small enough to be made in milliseconds."""
    from transformers import AutoConfig

    known = AutoConfig.for_model(model_type)
    asked = {**_SETTINGS, **_OWN.get(model_type, {}), **changes}
    settings = {
        key: value
        for key, value in asked.items()
        if value is not None and (key in changes or hasattr(known, key))
    }
    torch.manual_seed(0)
    return auto.from_config(AutoConfig.for_model(model_type, **settings)).eval()


def save(model: Any, folder: Path, **how: Any) -> Path:
    """The directory that plain transformers writes."""
    model.save_pretrained(str(folder), **how)
    return folder
