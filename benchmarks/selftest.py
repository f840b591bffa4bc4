"""Which families mix padding into their answers, what the self-test finds, and what it costs.

    python -m benchmarks.selftest [--families NAME ...] [--base]

For each family a small random classifier is made, in float32. `padded` is the largest difference of a probability
between a row alone (plain transformers) and the same row padded beside longer ones, as the model's own configuration
and tokenizer say; `found` is how the self-test lets rows share a forward pass, and `left` what then remains. `--base`
adds the seconds of a first and a second test of models of base size (random weights; two threads).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import torch

from raykd.models import TextModel
from raykd.prediction.findings import compute_finding_key, load_or_test
from raykd.prediction.predictor import build_unlabelled_rows
from raykd.prediction.selftest import PaddingFinding, find_padding
from raykd.tasks import Classification

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "d_model": 32,
    "n_layer": 2, "n_head": 2, "d_inner": 64, "n_embd": 32, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64,
    "emb_dim": 32, "embedding_size": 32, "num_key_value_heads": 2, "head_dim": 16, "attention_window": [8, 8],
    "pad_token_id": 0,
}  # fmt: skip
POSITIONS = {"max_position_embeddings": 128}
FAMILIES = (
    "albert", "bert", "big_bird", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "ernie",
    "fnet", "funnel", "gpt2", "gpt_neox", "ibert", "llama", "longformer", "megatron-bert", "mistral",
    "mobilebert", "modernbert", "mpnet", "mra", "nystromformer", "opt", "qwen2", "qwen3", "rembert", "roberta",
    "roberta-prelayernorm", "roc_bert", "roformer", "squeezebert", "xlm", "xlm-roberta", "xlnet", "xmod", "yoso",
)  # fmt: skip
BASE: dict[str, dict[str, Any]] = {
    "bert": {}, "roberta": {}, "xlm-roberta": {"vocab_size": 250002}, "distilbert": {}, "mobilebert": {}, "gpt2": {},
}  # fmt: skip


def words(count: int) -> list[str]:
    """Different words, all of letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [a + b + c for a in letters for b in letters for c in letters][:count]


def word_tokenizer(count: int) -> Any:
    """A tokenizer of whole words between two special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *words(count)])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )


def build(family: str, settings: dict[str, Any], spread: float | None) -> TextModel:
    """A random classifier of a family; ``spread`` is the width of its weights, None leaves the family's own."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **settings)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    if spread is not None:
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=spread)
    return TextModel(model, word_tokenizer(100), ("a", "b"))


def texts(lengths: tuple[int, ...]) -> list[str]:
    """Texts of so many words."""
    known = words(100)
    return [" ".join(known[(7 * i + 3 * n) % 100] for i in range(n)) for n in lengths]


def look(family: str) -> str:
    """One line of the table."""
    try:
        settings = {**SMALL, "vocab_size": 105, "num_labels": 2} | ({} if family == "xlnet" else POSITIONS)
        model = build(family, settings, 0.2)
        batch = build_unlabelled_rows("text", texts((3, 9, 20, 5, 30)))
        found = find_padding(model, Classification(max_length=64), batch)
    except Exception as error:  # a family that these settings do not make, or one that is refused
        return f"{family:22} {str(error).splitlines()[0][:90]}"
    return f"{family:22} {found.padded:9.1e}  {found.shapes + ', ' + found.side:16} {found.difference:9.1e}"


def cost(family: str, settings: dict[str, Any]) -> str:
    """Seconds of the first and of the second test of a model of base size."""
    torch.set_num_threads(2)
    model = build(family, {"num_labels": 2, "pad_token_id": 0, **settings}, None)
    batch = build_unlabelled_rows("text", texts(tuple(3 + 5 * i for i in range(60))))
    key = compute_finding_key(f"benchmark {family} {time.time()}", "classification", 128, "float32", "cpu")
    spent = []
    for _ in range(2):
        begun = time.perf_counter()
        found: PaddingFinding = load_or_test(
            key, lambda: find_padding(model, Classification(max_length=128), batch)
        )
        spent.append(time.perf_counter() - begun)
    count = sum(p.numel() for p in model.model.parameters()) / 1e6
    return (
        f"{family:22} {count:6.0f} M  first {spent[0]:5.2f} s  second {spent[1]:6.4f} s  {found.shapes}, "
        f"{found.tokens[0]} to {found.tokens[1]} tokens"
    )


def main() -> None:
    """Prints the tables."""
    import os

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="*", default=FAMILIES)
    parser.add_argument("--base", action="store_true")
    asked = parser.parse_args()
    print(f"{'family':22} {'padded':>9}  {'found':16} {'left':>9}")
    for family in asked.families:
        print(look(family), flush=True)
    if asked.base:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["RAYKD_CACHE"] = folder
            for family, settings in BASE.items():
                print(cost(family, settings), flush=True)


if __name__ == "__main__":
    main()
