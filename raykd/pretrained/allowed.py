"""Decide which models may be loaded, by their JSON files alone and before transformers' models are imported.

Decision record: only model types for text are allowed, because each further type is more code that reads what a
stranger wrote. Configurations nest, and a nested one has been used to bring in code that the outer one could not
(CVE-2026-5241), so every level is searched. A kernel named in a configuration (``attn_implementation: org/name``) is
code from the hub, whatever `trust_remote_code` says to transformers (CVE-2026-4372), so it counts as code.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from raykd.errors import ModelError
from raykd.pretrained.jsonfile import parse_file, read_json

log = logging.getLogger("raykd.models")

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
_OBJECTS = frozenset(
    {"config.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json"}
    | {"preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"}
)
"""JSON files that must be objects. Others may be anything (data_config.json of sentence-transformers is a list); they
are searched for code too."""
_TRUSTED: set[Path] = set()


def check_code(folder: Path, *, trust_remote_code: bool) -> None:
    """Refuse a directory that wants to run code of its own or has an unknown model type, unless the user trusts it.

    Args:
        folder: The directory.
        trust_remote_code: Whether the user trusts it, which is logged as a warning, once per process.

    Raises:
        ModelError: Names the code or the type.
    """
    naming = [f"{keys} in {name}" for name, keys in find_code_files(folder)]
    unknown = (
        find_unknown_types(read_json(folder / "config.json")) if (folder / "config.json").is_file() else []
    )
    if not naming and not unknown:
        return
    if trust_remote_code:
        if folder not in _TRUSTED:
            _TRUSTED.add(folder)
            what = f"{', '.join(naming)} of" if naming else f"a model of type {', '.join(unknown)} in"
            log.warning("trust_remote_code: code that raykd did not look at is run for %s %s", what, folder)
        return
    if naming:
        raise ModelError(
            f"{folder} wants to run code of its own",
            got="; ".join(naming),
            wanted="a model of transformers' own, or code that you trust",
            next_step="read that code; if you trust it set trust_remote_code: true for this model",
        )
    raise ModelError(
        f"{folder} is a model of a type that raykd does not load unasked",
        got=", ".join(unknown),
        wanted="a model for text, such as bert, xlm-roberta, modernbert, gpt2, llama, qwen3, t5, marian",
        next_step="if it is one for text and you trust it, set trust_remote_code: true for this model",
    )


def find_code_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Find the JSON files in a directory that bring in code at any level, and the keys that do."""
    for path in sorted(folder.glob("*config*.json")):
        try:
            keys = find_code_keys(parse_file(path))
        except ModelError:
            if path.name in _OBJECTS:
                raise
            continue
        if keys:
            yield path.name, ", ".join(keys)


def find_unknown_types(config: object) -> list[str]:
    """List the values of ``model_type`` at any level of a configuration that are not allowed.

    An empty value is skipped, because transformers writes it for an unknown type.
    """
    found = [value for key, value in walk_items(config) if key == "model_type" and value not in ("", None)]
    return sorted({str(v)[:60] for v in found if not isinstance(v, str) or v not in MODEL_TYPES})


def find_code_keys(config: object) -> list[str]:
    """List the keys at any level of a configuration that bring in code: ``auto_map``, and kernels of the hub."""
    found = [key for key, value in walk_items(config) if key == "auto_map" or _is_kernel(key, value)]
    return sorted(set(found))


def _is_kernel(key: str, value: object) -> bool:
    if key in ("use_kernels", "kernel_config"):
        return bool(value)
    if "_implementation" not in key:
        return False
    named = value.values() if isinstance(value, dict) else [value]
    return any(isinstance(one, str) and not one.replace("_", "").isalnum() for one in named)


def walk_items(tree: object) -> Iterator[tuple[str, object]]:
    """Yield every key and value at any level of a JSON value."""
    # Not recursive, because a file may nest more deeply than Python's stack.
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield from node.items()
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
