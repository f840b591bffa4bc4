"""Classifiers whose answer may depend on what stands beside a text in the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.habits.neighbour import LABELS, LONG, SHORT, Neighbour, edit_json, neighbour, write_run
from tests.made_models import made_texts, make_config, make_tokenizer

Settings = Mapping[str, Any]
NAMES: dict[str, Any] = {
    "id2label": dict(enumerate(LABELS)),
    "label2id": {n: i for i, n in enumerate(LABELS)},
}


def save_random_classifier(
    directory: Path,
    architecture: str,
    family: str = "wordpiece",
    settings: Settings | None = None,
    tokenizer_settings: Settings | None = None,
    initializer_range: float = 0.3,
) -> None:
    """A classifier with random weights that are large enough for answers to differ."""
    from transformers import AutoModelForSequenceClassification

    tokenizer = make_tokenizer(family, [*made_texts(200)[0], SHORT, LONG])
    for key, value in (tokenizer_settings or {}).items():
        setattr(tokenizer, key, value)
    config = make_config(
        architecture, tokenizer, **{**NAMES, "initializer_range": initializer_range, **(settings or {})}
    )
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _make(save: Callable[[Path], None], folder: Path) -> None:
    save(folder / "teacher")
    write_run(folder, teacher={})


def _steady(
    save: Callable[[Path], None], *texts: str, refused: str | None = None, cut: int | None = None
) -> Neighbour:
    """A teacher whose answers to texts are the same alone, together and twice, and plain transformers' for each alone.

    Args:
        refused: Pattern of a refusal that is accepted in place of an answer.
        cut: Tokens that plain transformers is given of each text.
    """
    texts = texts or (SHORT, LONG)
    plain = {"kind": "plain", "max_length": cut}
    refusal = {} if refused is None else {"refused": {"prints": [refused]}}
    alone = [
        {"run": f"raykd predict teacher {text!r} --json", "served": {"values": [plain]}, **refusal}
        for text in texts
    ]
    many = " ".join(repr(text) for text in (*texts, texts[0], *reversed(texts)))
    beside = {
        "run": f"raykd predict teacher {many} --json",
        "served": {"values": [plain, {"kind": "steady"}]},
        **refusal,
    }
    check = {"run": "raykd check run.yaml", "served": {}, **refusal}
    return neighbour(partial(_make, save), "one answer a text", check, *alone, beside)


def _random(architecture: str, family: str = "wordpiece", **settings: Any) -> Callable[[Path], None]:
    return partial(save_random_classifier, architecture=architecture, family=family, settings=settings)


def _gpt2_with_eos_as_pad(directory: Path) -> None:
    save_random_classifier(directory, "gpt2", "bytes", {"pad_token_id": 1}, {"pad_token": "<|end|>"})
    edit_json(directory / "config.json", pad_token_id=0)


def _gpt2_with_pad_beyond(directory: Path) -> None:
    save_random_classifier(directory, "gpt2", "bytes")
    edit_json(directory / "config.json", pad_token_id=50257)
    edit_json(directory / "tokenizer_config.json", pad_token=None)


def _llama_with_pad_minus_one(directory: Path) -> None:
    save_random_classifier(directory, "llama", "bytes", {"num_key_value_heads": 2})
    edit_json(directory / "config.json", pad_token_id=-1)
    edit_json(directory / "tokenizer_config.json", pad_token=None)


def _without_mask(
    directory: Path, architecture: str = "bert", family: str = "wordpiece", **settings: Any
) -> None:
    save_random_classifier(directory, architecture, family, settings)
    edit_json(directory / "tokenizer_config.json", model_input_names=["input_ids"])


def _padded_left(architecture: str, family: str, **settings: Any) -> Callable[[Path], None]:
    return partial(
        save_random_classifier, architecture=architecture, family=family, settings=settings,
        tokenizer_settings={"padding_side": "left"},
    )  # fmt: skip


_XLNET = {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 64}
_FUNNEL = {"block_sizes": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64}
_MOBILE = {
    "embedding_size": 16,
    "intra_bottleneck_size": 16,
    "true_hidden_size": 16,
    "num_feedforward_networks": 1,
}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 32}

PADDING: dict[str, Neighbour] = {
    "gpt2 whose pad is its end, which stands inside a text": _steady(
        _gpt2_with_eos_as_pad, SHORT, "good <|end|> room", "bad food <|end|>", LONG
    ),
    "gpt2 whose pad lies beyond its table": _steady(_gpt2_with_pad_beyond),
    "llama with pad_token_id -1": _steady(_llama_with_pad_minus_one, refused="pad_token_id"),
    "qwen2 padded left": _steady(_padded_left("qwen2", "bytes", num_key_value_heads=2)),
    "gpt_neox padded left": _steady(_padded_left("gpt_neox", "bytes")),
    "bloom padded left": _steady(_padded_left("bloom", "bytes", n_layer=1, n_head=2)),
    "bert padded left": _steady(_padded_left("bert", "wordpiece")),
    "xlnet without a mask": _steady(partial(_without_mask, architecture="xlnet", family="unigram", **_XLNET)),
    "roberta without a mask": _steady(partial(_without_mask, architecture="roberta", family="bytes_with_blank")),
    "ctrl": _steady(_random("ctrl", "bytes", n_embd=32, n_layer=1, n_head=2, dff=64, n_positions=128)),
    "opt": _steady(_random("opt", "bytes", word_embed_proj_dim=32, ffn_dim=64)),
    "convbert": _steady(_random("convbert", embedding_size=32, head_ratio=2, conv_kernel_size=3)),
    "yoso": _steady(_random("yoso")),
    "fnet": _steady(_random("fnet")),
    "mobilebert of one bottleneck": _steady(_random("mobilebert", **_MOBILE)),
    "funnel": _steady(_random("funnel", **_FUNNEL)),
    "nystromformer on rows longer than its landmarks": _steady(
        _random("nystromformer", num_landmarks=8, segment_means_seq_len=8, conv_kernel_size=3), SHORT, LONG, LONG * 2,
        refused="nystromformer",
    ),
    "big_bird": _steady(_random("big_bird", "unigram", block_size=4, num_random_blocks=1, max_position_embeddings=512), SHORT, LONG, LONG * 3),
    "longformer on rows longer than its window": _steady(
        _random("longformer", "bytes_with_blank", attention_window=[8]), SHORT, LONG, LONG * 2
    ),
    "deberta": _steady(_random("deberta", **_DEBERTA)),
    "deberta-v2": _steady(_random("deberta-v2", **_DEBERTA)),
    "bart, which reads its last </s>": _steady(
        _random("bart", "bytes_with_blank", d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, decoder_start_token_id=2, eos_token_id=2)
    ),
    "reformer, whose hashing is random": _steady(
        _random("reformer", attn_layers=["lsh"], attention_head_size=16, axial_pos_embds=False, feed_forward_size=64,
                lsh_attn_chunk_length=4, num_buckets=2, num_hashes=1, hidden_size=32, is_decoder=False, hash_seed=None),
        refused="random|differ|agree|same",
    ),
    "modernbert": _steady(_random("modernbert", local_attention=8, global_attn_every_n_layers=2)),
    "squeezebert": _steady(_random("squeezebert", q_groups=1, k_groups=1, v_groups=1, post_attention_groups=1,
                                   intermediate_groups=1, output_groups=1)),
    **{
        f"{architecture} and a text longer than its places": _steady(
            _random(architecture, family), SHORT, f"{LONG} " * 8, refused="position", cut=128
        )
        for architecture, family in (("bert", "wordpiece"), ("gpt2", "bytes"), ("roberta", "bytes_with_blank"),
                                     ("xlm-roberta", "unigram"), ("electra", "characters"))
    },
}  # fmt: skip
