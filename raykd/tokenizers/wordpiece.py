"""Train WordPiece tokenizers on the training texts, for students that are trained from scratch.

Decision record: the pre-tokenizer is BERT's, which splits Chinese into characters and punctuation from words, so one
vocabulary serves languages with and without blanks. `raykd.tokenizers.training` makes the vocabulary the same in every
process; for that the characters are given to the trainer as special tokens, which keep their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from raykd.errors import ModelError
from raykd.tokenizers.training import choose_characters, repeat_words

if TYPE_CHECKING:
    from tokenizers.normalizers import Normalizer
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedTokenizerFast

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUING = "##"


def train_wordpiece(
    texts: Iterable[str], *, vocab_size: int, lowercase: bool, max_length: int | None, token_types: bool
) -> PreTrainedTokenizerFast:
    """Train a WordPiece tokenizer; ``[PAD]`` is 0. The same texts give the same tokenizer.

    Args:
        texts: Training texts; read once.
        vocab_size: Most pieces: special tokens, characters and longer pieces together. Characters take at most half of
            it (each may need a piece to begin a word and one to continue it); rarer ones become ``[UNK]``.
        lowercase: Whether texts are lowercased.
        max_length: Most tokens that the model can read; None for any number.
        token_types: Whether the model takes token types, which tell the two texts of a pair apart.

    Raises:
        ModelError: There is no text to learn from.
    """
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(_learn(texts, vocab_size, lowercase), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _build_splitters(lowercase)
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, SPECIALS.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    inputs = ["input_ids", *(["token_type_ids"] if token_types else []), "attention_mask"]
    settings: dict[str, object] = {} if max_length is None else {"model_max_length": max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=inputs,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        **settings,
    )


def _build_splitters(lowercase: bool) -> tuple[Normalizer, PreTokenizer]:
    """Return BERT's normaliser and pre-tokenizer. Accents are kept: in French they tell words apart."""
    from tokenizers import normalizers, pre_tokenizers

    return (
        normalizers.BertNormalizer(lowercase=lowercase, strip_accents=False, handle_chinese_chars=True),
        pre_tokenizers.BertPreTokenizer(),
    )


def _learn(texts: Iterable[str], vocab_size: int, lowercase: bool) -> dict[str, int]:
    """Return pieces and their numbers: special tokens, characters, then what the trainer merged."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    normalizer, splitter = _build_splitters(lowercase)
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    if not words:
        raise ModelError("a tokenizer cannot be learnt: the training texts hold no words")
    characters = choose_characters(words, _cut_word, max(1, vocab_size // 2))
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]", continuing_subword_prefix=CONTINUING))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIALS, *characters],
        continuing_subword_prefix=CONTINUING,
        show_progress=False,
    )
    learner.train_from_iterator(repeat_words(words, _cut_word, characters, " "), trainer)
    return dict(learner.get_vocab())


def _cut_word(word: str) -> list[str]:
    return [word[0], *(CONTINUING + character for character in word[1:])]
