"""Byte-pair tokenizers learnt from the training texts, for language models that are trained from scratch.

Decision record: what is generated is compared with a text as it stands, so decoding must give back every text:
blanks are kept in the pieces, nothing is normalised, and a character that is not in the vocabulary becomes its
UTF-8 bytes. Pieces are made of characters, not of bytes as GPT-2's: a byte-level vocabulary cuts a Chinese
character into pieces that begin at the same place, and places are how the tokens of a student and of its teachers
find each other. Unigram models are not used because their trainer sums floats in the order of a randomly seeded
hash map; merges of byte pairs are counted in whole numbers and ties are broken by the pieces' numbers, which are
made the same in every process by choosing the characters here (see `raykd.tokenizers.wordpiece`). One vocabulary
serves all languages, sources and targets, so embeddings can be shared between both sides and the head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from raykd.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
SPECIALS = (PAD, BOS, EOS, UNK)
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
SMALLEST = 2 * (len(SPECIALS) + len(BYTES))
_WORDS = (
    r" ?\p{Han}+"
    r"| ?[\p{L}\p{M}&&[^\p{Han}]]+['’]?"  # an elided article keeps its apostrophe: l'|homme
    r"| ?\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+"
    r"|\s+(?!\S)|\s+"
)
_BETWEEN = "\0"


def train_bytepair(
    texts: Iterable[str], *, vocab_size: int, max_length: int | None, closed: bool
) -> PreTrainedTokenizerFast:
    """A tokenizer of at most ``vocab_size`` pieces; ``<pad>`` is 0. The same texts give the same tokenizer.

    Args:
        texts: training texts, for translation sources and targets; read once.
        vocab_size: specials, 256 bytes, single characters and longer pieces together. Characters take at most half
            of it; a rarer one is written as its bytes.
        max_length: what the model can take, or None where it takes any length.
        closed: a text ends with ``</s>`` (sources and targets of an encoder-decoder); otherwise it begins with
            ``<s>`` and is open (a prompt).

    Raises:
        ModelError: there is no text to learn from.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    splitter = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    vocabulary, merges = _learnt(texts, splitter, vocab_size)
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary, merges, unk_token=UNK, byte_fallback=True, fuse_unk=False, cache_capacity=10000
        )
    )
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}" if closed else f"{BOS} $A",
        pair=f"$A $B {EOS}" if closed else f"{BOS} $A $B",
        special_tokens=[(name, SPECIALS.index(name)) for name in (BOS, EOS)],
    )
    settings: dict[str, object] = {} if max_length is None else {"model_max_length": max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,  # a text that says "</s>" does not end there
        **settings,
    )


def _learnt(
    texts: Iterable[str], splitter: Any, vocab_size: int
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Pieces with their numbers (specials, bytes, characters, merged ones) and the merges in their order."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(text))
    characters: Counter[str] = Counter()
    for word, count in words.items():
        characters.update({character: count * n for character, n in Counter(word).items()})
    characters.pop(_BETWEEN, None)
    if not characters:
        raise ModelError("a tokenizer cannot be learnt: the training texts hold nothing")
    room = max(1, vocab_size // 2 - len(SPECIALS) - len(BYTES))
    kept = sorted(sorted(characters, key=lambda piece: (-characters[piece], piece))[:room])
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Split(_BETWEEN, "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIALS, *BYTES],
        initial_alphabet=kept,
        limit_alphabet=len(kept),
        min_frequency=2,
        show_progress=False,
    )
    learner.train_from_iterator(_repeated(words, set(kept)), trainer)
    model = json.loads(learner.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def _repeated(words: Counter[str], known: set[str]) -> Iterator[str]:
    """Each word as often as it was counted; words with an unknown character are partly bytes and teach nothing."""
    for word in sorted(words):
        if known.issuperset(word):
            left = words[word]
            while left > 0:
                yield _BETWEEN.join([word] * min(left, 1000))
                left -= 1000
