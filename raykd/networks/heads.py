"""Heads: what a model says something about, by the kind of its task.

Decision record: a head is named as the task that it serves, and one table maps it to transformers' auto class
and to the endings of architecture names, so that what a checkpoint is made for can be read from its JSON files
alone. Classifiers of texts and of tokens have the run's labels; the other heads have none: a span is two outputs
a token, a language model's outputs are its tokenizer's pieces. Importing this module imports neither torch nor
transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from raykd.errors import ModelError
from raykd.head import Head

HEADS: frozenset[Head] = frozenset(get_args(Head))
LABELLED: frozenset[Head] = frozenset({"classification", "token_classification"})
LANGUAGE: frozenset[Head] = frozenset({"causal_lm", "seq2seq", "masked_lm"})
ENCODED: frozenset[Head] = HEADS - {"causal_lm", "seq2seq"}
"""Heads that an encoder can have."""
SPAN = ("start", "end")
"""The two outputs of a question-answering head, in this order."""

_AUTO: dict[Head, str] = {
    "classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
    "causal_lm": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "masked_lm": "AutoModelForMaskedLM",
}
PIPELINES: dict[Head, str] = {
    "classification": "text-classification",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
    "causal_lm": "text-generation",
    "seq2seq": "text2text-generation",
    "masked_lm": "fill-mask",
}
"""What the model card calls each head's task."""
_ENDINGS: dict[str, Head] = {
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
    "ForQuestionAnsweringSimple": "question_answering",
    "ForCausalLM": "causal_lm",
    "ForMaskedLM": "masked_lm",
    "LMHeadModel": "causal_lm",
    "ForConditionalGeneration": "seq2seq",
    "MarianMTModel": "seq2seq",
}


def find_auto_class(head: Head) -> Any:
    """transformers' auto class of a head; imports transformers."""
    import transformers

    return getattr(transformers, _AUTO[head])


def read_head(config: Mapping[str, object]) -> Head | None:
    """The head that a config.json tells of; None where it names no architecture, or one of another purpose."""
    named = config.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        return None
    head = next((head for ending, head in _ENDINGS.items() if named[0].endswith(ending)), None)
    if head == "seq2seq" and not config.get("is_encoder_decoder"):  # models of images and text end so too
        return None
    return head


def register() -> None:
    """Makes `raykd_linear` and `raykd_lstm` known to transformers' auto classes; takes seconds."""
    from raykd.networks import recurrent as networks  # noqa: F401  (registers when imported)


def choose_head(folder: Path, own: Head | None, wanted: Head | None) -> Head:
    """The head to load: what is wanted, if the checkpoint has it or does not tell.

    Raises:
        ModelError: the checkpoint has a head of another kind than is wanted.
    """
    if own is not None and wanted is not None and own != wanted:
        raise ModelError(
            f"{folder} was made for another task: its head does not answer this one",
            got=own,
            wanted=wanted,
            next_step="name a checkpoint that was fine-tuned for this task, or train one "
            "(a student of kind pretrained keeps the encoder)",
        )
    return wanted or own or "classification"


def parse_head(name: object) -> Head | None:
    """The head of this name, None where there is none: for what a file says."""
    return name if isinstance(name, str) and name in HEADS else None


def check_offered(kind: str, head: Head, offered: frozenset[Head]) -> None:
    """Refuses a head that a kind of student does not have.

    Raises:
        ModelError: it names the heads that the kind has.
    """
    if head not in offered:
        raise ModelError(
            f"a student of kind {kind} cannot learn this task",
            got=head,
            wanted=", ".join(sorted(offered)),
            next_step="choose another kind of student, or another task",
        )


def build_label_settings(labels: Sequence[str], head: Head = "classification") -> dict[str, object]:
    """The label keys of a transformers config; the order of the labels is the order of the logits.

    Raises:
        ModelError: labels that do not tell classes apart, or labels for a head that has none.
    """
    if head not in LABELLED:
        if not has_labels(tuple(labels), (), head):
            raise ModelError(f"a {head} model has no labels", got=list(labels), wanted="none")
        return {"num_labels": len(SPAN)} if head == "question_answering" else {}
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise ModelError("a classifier needs at least two labels, all different", got=list(labels))
    settings: dict[str, object] = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    return settings | ({"problem_type": "single_label_classification"} if head == "classification" else {})


def has_labels(labels: tuple[str, ...], named: tuple[str, ...], head: Head) -> bool:
    """Whether a run's labels are those that a model of this head names; a span's two outputs may be named."""
    if head in LABELLED:
        return labels == named
    return not labels or (head == "question_answering" and labels == SPAN)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws from torch's CPU generator come from the seed, and the generator is put back afterwards.

    Models are made on the CPU; `torch.manual_seed` would also reseed every GPU, which `fork_rng` does not
    restore unless it is told which, so only the CPU's generator is touched.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
