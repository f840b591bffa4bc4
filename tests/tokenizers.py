"""Small tokenizers of the four families, learnt from a few texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
"""Their ids are 0 to 4."""


def fast(backend: Tokenizer, template: str, **settings: Any) -> Any:
    """The backend with special tokens, which the template puts around a text ("<s> $A </s>")."""
    if template != "$A":
        names = [name for name in SPECIALS if name in template]
        backend.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(name, SPECIALS.index(name)) for name in names]
        )
    roles = dict(
        zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIALS, strict=True)
    )
    given = {name: token for name, token in (roles | settings).items() if token is not None}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **given)


def byte_level(texts: Sequence[str], template: str, *, prefix_blank: bool = False, **settings: Any) -> Any:
    """GPT-2's kind: pieces of bytes, a blank belongs to the word after it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_blank)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=alphabet,
        min_frequency=1,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return fast(backend, template, **settings)


def unigram(texts: Sequence[str], template: str, **settings: Any) -> Any:
    """SentencePiece's kind: a text begins with a blank, pieces by likelihood."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return fast(backend, template, **settings)


def word_piece(texts: Sequence[str], template: str, **settings: Any) -> Any:
    """BERT's kind: words without their blanks, continued pieces marked."""
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIALS, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return fast(backend, template, **settings)


def characters(texts: Sequence[str], template: str, **settings: Any) -> Any:
    """One token a character."""
    letters = sorted({letter for text in texts for letter in text})
    vocabulary = {name: i for i, name in enumerate([*SPECIALS, *letters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(SPECIALS)
    return fast(backend, template, **settings)
