"""Which kinds of models may be loaded, judged from JSON alone before anything of transformers' models is imported.

Decision record: an allow-list of model types for text, because each further type is further code that reads what a
stranger wrote; configurations nest, and a nested one has been used to bring in code that the outer one had no right
to (CVE-2026-5241), so every level is looked at. A kernel named in a configuration (``attn_implementation: org/name``)
is code from the hub, whatever `trust_remote_code` says to transformers (CVE-2026-4372), so it counts as code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MODEL_TYPES = frozenset(
    """
    albert apertus arcee bart bert bert-generation big_bird bigbird_pegasus biogpt bitnet blenderbot blenderbot-small
    bloom camembert canine codegen cohere cohere2 convbert ctrl data2vec-text deberta deberta-v2 deepseek_v2
    deepseek_v3 diffllama distilbert electra encoder-decoder ernie ernie4_5 ernie4_5_moe esm eurobert exaone4 falcon
    falcon_h1 falcon_mamba flaubert fnet funnel gemma gemma2 gemma3 gemma3_text glm glm4 glm4_moe gpt-sw3 gpt2
    gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj granite granitemoe gte helium hunyuan_v1_dense ibert
    internlm3 jamba jina_embeddings_v3 led lfm2 llama longformer longt5 luke m2m_100 mamba mamba2 marian mbart
    megatron-bert ministral mistral mixtral mobilebert modernbert modernbert-decoder mpnet mpt mra mt5 mvp nanochat
    nemotron nezha nllb-moe nomic_bert nystromformer olmo olmo2 olmo3 olmoe openai-gpt opt pegasus pegasus_x persimmon
    phi phi3 phimoe plbart prophetnet qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next recurrent_gemma reformer rembert
    roberta roberta-prelayernorm roc_bert roformer rwkv seed_oss smollm3 splinter squeezebert stablelm starcoder2
    switch_transformers t5 t5gemma umt5 xglm xlm xlm-roberta xlm-roberta-xl xlnet xlstm xmod yoso zamba zamba2
    raykd_linear raykd_lstm
    """.split()  # noqa: SIM905
)
"""Model types of transformers for text, and raykd's own."""


def find_unknown_types(config: object) -> list[str]:
    """Values of ``model_type`` at any level of a configuration that are not in the list; empty if there are none.

    A value that is no name is given as what it is; an empty one, which transformers writes for "not said", counts as
    none.
    """
    found = [value for key, value in walk_items(config) if key == "model_type" and value not in ("", None)]
    return sorted({str(v)[:60] for v in found if not isinstance(v, str) or v not in MODEL_TYPES})


def find_code_keys(config: object) -> list[str]:
    """Keys at any level of a configuration that bring in code: ``auto_map``, kernels of the hub; empty if none."""
    found = [key for key, value in walk_items(config) if key == "auto_map" or _is_kernel(key, value)]
    return sorted(set(found))


def _is_kernel(key: str, value: object) -> bool:
    if key in ("use_kernels", "kernel_config"):
        return bool(value)
    if "_implementation" not in key:
        return False
    named = value.values() if isinstance(value, dict) else [value]
    return any(isinstance(one, str) and not one.replace("_", "").isalnum() for one in named)


def walk_items(tree: object) -> Iterator[tuple[str, Any]]:
    """Every key and value at any level; not recursive, since a file may nest as deep as it likes."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield from node.items()
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
