"""Train byte-pair tokenizers on the training texts, for language models that are trained from scratch.

Decision record:

- Generated text is compared with the original, so decoding must give back every text. Blanks are kept in the pieces,
  nothing is normalised, and a character that is not in the vocabulary becomes its UTF-8 bytes.
- Pieces consist of characters, not of bytes as in GPT-2. A byte-level vocabulary cuts a Chinese character into pieces
  that begin at the same place, and raykd matches the tokens of a student and its teachers by place.
- Unigram models are not used, because their trainer sums floats in the order of a randomly seeded hash map. Byte pairs
  are counted in whole numbers (see `raykd.tokenizers.training`).
- One vocabulary serves all languages, sources and targets, so both sides and the head can share embeddings.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from raykd.errors import ModelError
from raykd.tokenizers.training import choose_characters, repeat_words

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer
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
_SEPARATOR = "\0"
"""Between words for the trainer; a word that holds it teaches nothing."""


def train_bytepair(
    texts: Iterable[str], *, vocab_size: int, max_length: int | None, closed: bool
) -> PreTrainedTokenizerFast:
    """Train a byte-pair tokenizer; ``<pad>`` is 0. The same texts give the same tokenizer.

    Args:
        texts: Training texts, for translation sources and targets; read once.
        vocab_size: Most pieces: special tokens, 256 bytes, characters and longer pieces together. Characters take at
            most half of it; rarer ones are written as their bytes.
        max_length: Most tokens that the model can read; None for any number.
        closed: Whether a text ends with ``</s>`` (sources and targets of an encoder-decoder). Otherwise it begins with
            ``<s>`` and can be continued (a prompt).

    Raises:
        ModelError: There is no text to learn from.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    splitter = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    vocabulary, merges = _learn(texts, splitter, vocab_size)
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


def _learn(
    texts: Iterable[str], splitter: PreTokenizer, vocab_size: int
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return pieces with their numbers (special tokens, bytes, characters, merged pieces) and the merges in order."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(text))
    room = max(1, vocab_size // 2 - len(SPECIALS) - len(BYTES))
    characters = choose_characters(words, lambda word: [c for c in word if c != _SEPARATOR], room)
    if not characters:
        raise ModelError("a tokenizer cannot be learnt: the training texts hold nothing")
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Split(_SEPARATOR, "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIALS, *BYTES],
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        min_frequency=2,
        show_progress=False,
    )
    learner.train_from_iterator(repeat_words(words, list, characters, _SEPARATOR), trainer)
    model = json.loads(learner.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]
