"""WordPiece tokenizers learnt from the training texts, for students that are trained from scratch.

Decision record: the pre-tokenizer is BERT's, which splits Chinese into characters and punctuation from words,
so one vocabulary serves languages with and without blanks. Training must give the same vocabulary in every
process (each worker may learn its own, and a vocabulary is part of a model's identity), but the trainer of
`tokenizers` numbers continuing characters in the order of a randomly seeded hash map and breaks ties by these
numbers. So these pieces are given to the trainer beforehand, in sorted order, and the characters are chosen
here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from raykd.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUING = "##"


def train_wordpiece(
    texts: Iterable[str], *, vocab_size: int, lowercase: bool, max_length: int | None, token_types: bool
) -> PreTrainedTokenizerFast:
    """A tokenizer of at most ``vocab_size`` pieces; ``[PAD]`` is 0. The same texts give the same tokenizer.

    Args:
        texts: training texts; read once.
        vocab_size: specials, single characters and longer pieces together. Characters take at most half of it
            (each may need a starting and a continuing piece); a rarer one becomes ``[UNK]``.
        max_length: what the model can take, or None where it takes any length.
        token_types: whether the model wants to be told the first text of a pair from the second.

    Raises:
        ModelError: there is no text to learn from.
    """
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(_vocabulary(texts, vocab_size, lowercase), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _bert(lowercase)
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, SPECIALS.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    inputs = (
        ["input_ids", "token_type_ids", "attention_mask"] if token_types else ["input_ids", "attention_mask"]
    )
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


def _bert(lowercase: bool) -> tuple[Any, Any]:
    """BERT's normaliser and pre-tokenizer. Accents stay: in French they tell words apart."""
    from tokenizers import normalizers, pre_tokenizers

    return (
        normalizers.BertNormalizer(lowercase=lowercase, strip_accents=False, handle_chinese_chars=True),
        pre_tokenizers.BertPreTokenizer(),
    )


def _vocabulary(texts: Iterable[str], vocab_size: int, lowercase: bool) -> dict[str, int]:
    """Pieces and their numbers: specials, then characters, then what the trainer merged."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    normalizer, splitter = _bert(lowercase)
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    if not words:
        raise ModelError("a tokenizer cannot be learnt: the training texts hold no words")
    characters: Counter[str] = Counter()
    for word, count in words.items():
        pieces = Counter([word[0], *(CONTINUING + c for c in word[1:])])
        characters.update({piece: count * n for piece, n in pieces.items()})
    ranked = sorted(characters, key=lambda piece: (-characters[piece], piece))
    kept = sorted(ranked[: max(1, vocab_size // 2)])
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]", continuing_subword_prefix=CONTINUING))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIALS, *kept],
        continuing_subword_prefix=CONTINUING,
        show_progress=False,
    )
    learner.train_from_iterator(_repeated(words, set(kept)), trainer)
    return dict(learner.get_vocab())


def _repeated(words: Counter[str], known: set[str]) -> Iterator[str]:
    """Each word as often as it was counted, blanks between; words with an unknown piece are [UNK] anyway."""
    for word in sorted(words):
        if word[0] in known and all(CONTINUING + c in known for c in word[1:]):
            left = words[word]
            while left > 0:
                yield " ".join([word] * min(left, 1000))
                left -= 1000
