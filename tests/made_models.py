"""Tiny models and tokenizers made by plain transformers, as a stranger would hand them over: no line of raykd in them.

Decision record: one tokenizer a family and one architecture a family, so that five combinations meet most of what
recipes differ in: token types, positions that begin after the padding id, heads that read the last token, a blank
before the first word, texts without blanks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

FAMILIES = ("wordpiece", "bytes", "bytes_with_blank", "unigram", "characters")
"""WordPiece, byte-level BPE without and with a blank before the first word, sentencepiece unigram, characters."""
ARCHITECTURES = {
    "wordpiece": "bert", "bytes": "gpt2", "bytes_with_blank": "roberta", "unigram": "xlm-roberta",
    "characters": "electra",
}  # fmt: skip
MOODS = (("bad", "poor", "awful", "Ugly", "难吃"), ("good", "fine", "great", "Lovely", "好吃"))
FILLER = (
    "the",
    "room",
    "was",
    "food",
    "and",
    "place",
    "très",
    "quite",
    "today",
    "naïve",
    "here",
    "we",
    "said",
    "饭店",
)
OTHER_NAMES = {
    "xlnet": ("max_position_embeddings", "num_hidden_layers", "num_attention_heads", "hidden_size"),
    "funnel": ("max_position_embeddings", "num_hidden_layers", "num_attention_heads", "hidden_size"),
    "ctrl": ("max_position_embeddings", "num_hidden_layers", "num_attention_heads", "hidden_size"),
    "bloom": ("max_position_embeddings", "num_hidden_layers", "num_attention_heads"),
    "bart": ("num_hidden_layers", "num_attention_heads", "hidden_size"),
    "pegasus": ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size"),
    "t5": (
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
    ),
}
"""Settings that an architecture has by other names, and that are given by these."""
POSITIONS = 128
"""Longest text of a made model, in tokens."""


def made_texts(count: int, seed: int = 0, longest: int = 14) -> tuple[list[str], list[int]]:
    """Texts whose label is which kind of word they hold; odd blanks, capitals, accents and Chinese among them."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        label = int(rng.integers(2))
        words = [str(word) for word in rng.choice(FILLER, size=int(rng.integers(1, longest)))]
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(MOODS[label])))
        blank = str(rng.choice([" ", " ", " ", "  "]))
        texts.append(blank.join(words))
        labels.append(label)
    return texts, labels


def made_pairs(count: int, seed: int = 0) -> tuple[list[str], list[str], list[int]]:
    """Two texts each; the label is the second one's, whatever the first one's is."""
    first, _ = made_texts(count, seed, 7)
    second, labels = made_texts(count, seed + 1000, 9)
    return first, second, labels


def make_tokenizer(family: str, texts: Sequence[str], size: int = 300) -> Any:
    """A tokenizer of a family, learnt from texts, with the special tokens of its architecture."""
    import tokenizers as tk
    from transformers import PreTrainedTokenizerFast

    if family in ("wordpiece", "characters"):
        specials = {
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        }
        template, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    elif family == "bytes":
        specials = {
            "eos_token": "<|end|>",
            "bos_token": "<|end|>",
            "unk_token": "<|end|>",
            "pad_token": "<pad>",
        }
        template, pair = "$A", "$A <|end|> $B"
    else:
        specials = {
            "bos_token": "<s>",
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "cls_token": "<s>",
            "sep_token": "</s>",
            "mask_token": "<mask>",
        }
        template, pair = "<s> $A </s>", "<s> $A </s> </s> $B </s>"
    names = list(dict.fromkeys(specials.values()))
    core = _learn(family, list(texts), names, size)
    ids = [(name, core.token_to_id(name)) for name in names]
    core.post_processor = tk.processors.TemplateProcessing(single=template, pair=pair, special_tokens=ids)
    inputs = ["input_ids", "attention_mask"]
    if family in ("wordpiece", "characters"):
        inputs.insert(1, "token_type_ids")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, model_input_names=inputs, model_max_length=POSITIONS, **specials
    )


def _learn(family: str, texts: list[str], specials: list[str], size: int) -> Any:
    """The tokenizer of the tokenizers library."""
    import tokenizers as tk
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    if family == "wordpiece":
        core = tk.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        core.normalizer = normalizers.BertNormalizer(lowercase=True)
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        core.decoder = decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(
            vocab_size=size, special_tokens=specials, show_progress=False
        )
    elif family == "characters":
        core = tk.Tokenizer(models.WordLevel(unk_token="[UNK]"))
        core.pre_tokenizer = pre_tokenizers.Split(tk.Regex("."), "isolated")
        core.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer(vocab_size=size, special_tokens=specials, show_progress=False)
    elif family == "unigram":
        core = tk.Tokenizer(models.Unigram())
        core.normalizer = normalizers.NFKC()
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        core.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=specials, unk_token="<unk>", show_progress=False
        )
    else:
        core = tk.Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=family == "bytes_with_blank")
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size + 256, special_tokens=specials, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
    core.train_from_iterator(texts, trainer)
    return core


def make_config(architecture: str, tokenizer: Any, **settings: Any) -> Any:
    """The configuration of a tiny model that fits a tokenizer."""
    from transformers import AutoConfig

    small = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **settings}
    if architecture == "gpt2":
        small = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": POSITIONS, **small}
        small |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    else:
        # RoBERTa's first position comes after the padding id.
        begin = tokenizer.pad_token_id + 1 if architecture in ("roberta", "xlm-roberta") else 0
        small = {
            "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
            "max_position_embeddings": POSITIONS + begin, **small,
        }  # fmt: skip
        if begin:
            small.setdefault("type_vocab_size", 1)
        if architecture in ("electra", "squeezebert"):
            small["embedding_size"] = 32
        for name in OTHER_NAMES.get(architecture, ()):
            del small[name]
    return AutoConfig.for_model(architecture, **small)


def save_classifier(
    directory: Path, family: str, *, pairs: bool = False, steps: int = 40, seed: int = 0
) -> Path:
    """A tiny classifier of a family, trained by a plain loop and saved as transformers saves it."""
    from transformers import AutoModelForSequenceClassification

    if pairs:
        first, second, labels = made_pairs(400, seed)
    else:
        first, labels = made_texts(400, seed)
    tokenizer = make_tokenizer(family, first + (second if pairs else []))
    names = ("different", "same") if pairs else ("negative", "positive")
    config = make_config(
        ARCHITECTURES[family], tokenizer,
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(steps):
        rows = [(step * 32 + i) % len(labels) for i in range(32)]
        batch = tokenizer(
            [first[i] for i in rows], [second[i] for i in rows] if pairs else None,
            padding=True, truncation=True, max_length=POSITIONS, return_tensors="pt",
        )  # fmt: skip
        loss = model(**batch, labels=torch.tensor([labels[i] for i in rows])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_decoder(folder: Path, family: str, texts: Sequence[str]) -> Path:
    """A random decoder and its tokenizer, which writes varied words that its tokenizer cuts into the same tokens again.

    So does a model that has learnt a language. Tokenizers of sentencepiece's kind come out otherwise each time, so
    models are drawn until one does: some repeat a token for ever.
    """
    for seed in range(50):
        model, tokenizer = _draw_decoder(family, texts, seed)
        ids = tokenizer(texts[0], return_tensors="pt", add_special_tokens=False)["input_ids"]
        written = model.generate(ids, max_new_tokens=16, do_sample=False, attention_mask=torch.ones_like(ids))
        again = tokenizer(tokenizer.decode(written[0]), add_special_tokens=False)["input_ids"]
        changes = (written[0, 1:] != written[0, :-1])[ids.shape[1] - 1 :].sum()
        if again == written[0].tolist() and changes > 10:
            break
    else:
        raise AssertionError("no decoder writes varied words")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _draw_decoder(family: str, texts: Sequence[str], seed: int) -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(family, texts, 150)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, initializer_range=0.3, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    words = [tokenizer.decode([i]).strip() for i in range(len(tokenizer))]
    cut = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
    stable = [i for i, ids in enumerate(cut) if ids == [i] and words[i].isalpha()]
    with torch.no_grad():
        scale_V1 = torch.full((len(tokenizer), 1), 0.05)
        scale_V1[stable] = 1.0
        model.lm_head.weight.mul_(scale_V1)
    return model.eval(), tokenizer


def plain_probabilities(
    directory: Path,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    max_length: int = POSITIONS,
    tokenizer: Any = None,
) -> np.ndarray:
    """What transformers' auto classes give for each row alone, ``[N, C]``, in float32 and without padding.

    Args:
        tokenizer: In place of AutoTokenizer's, for a model whose tokenizer is none of transformers'.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    cut = tokenizer or AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
    found = []
    for i, text in enumerate(texts):
        second = None if pairs is None else [pairs[i]]
        inputs = cut([text], second, truncation=True, max_length=max_length)
        with torch.inference_mode():
            logits_BC = model(**{name: torch.tensor(ids) for name, ids in inputs.items()}).logits
        found.append(logits_BC[0].double().softmax(-1).numpy())
    return np.stack(found)


def spm_file(path: Path, texts: Sequence[str]) -> Path:
    """A sentencepiece model of these texts."""
    import pytest

    sentencepiece = pytest.importorskip("sentencepiece")
    rows = path.with_suffix(".txt")
    rows.write_text("\n".join([*texts] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(rows),
        model_prefix=str(path.with_suffix("")),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    rows.unlink()
    made = path.with_suffix(".model")
    if made != path:
        made.rename(path)
    path.with_suffix(".vocab").unlink()
    return path


def make_marian(folder: Path, sources: Sequence[str], targets: Sequence[str], **changes: Any) -> Path:
    """An OPUS-MT folder: two sentencepiece models, one vocabulary for both, a random model."""
    import json

    import sentencepiece
    from transformers import AutoModelForSeq2SeqLM

    from tests.families import save, tiny

    folder.mkdir()
    pieces: dict[str, int] = {"</s>": 0, "<unk>": 1, ">>fra<<": 2}
    for name, texts in (("source.spm", sources), ("target.spm", targets)):
        spm_file(folder / name, texts)
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
        for i in range(3, model.get_piece_size()):
            pieces.setdefault(model.id_to_piece(i), len(pieces))
    pieces["<pad>"] = len(pieces)
    (folder / "vocab.json").write_text(json.dumps(pieces))
    told = {
        "tokenizer_class": "MarianTokenizer",
        "source_lang": "eng",
        "target_lang": "fra",
        "model_max_length": 64,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    size = len(pieces)
    ids = {
        "vocab_size": size,
        "decoder_vocab_size": size,
        "pad_token_id": size - 1,
        "eos_token_id": 0,
        "bos_token_id": None,
    }
    made = tiny("marian", AutoModelForSeq2SeqLM, **ids, decoder_start_token_id=size - 1, **changes)
    return save(made, folder)
