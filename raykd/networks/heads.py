"""Heads: which outputs a model has, named after the task that they serve.

Decision record: tables map a head to transformers' auto class and to the endings of architecture names, so the JSON
files of a checkpoint alone say what it was made for. transformers has one class for a text that is one of several
labels, that has several labels at once, and that has a number; `problem_type` and the number of outputs tell which.
Classifiers of texts and of tokens have the run's labels. The other heads have none: a span is two outputs per token, a
regression has one output, and a language model has an output per piece of its tokenizer.
An embedding is the bare encoder, around which `raykd.networks.sentences` puts pooling.
Importing this module imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from raykd.errors import ModelError
from raykd.head import Head

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

HEADS: frozenset[Head] = frozenset(get_args(Head))
LABELLED: frozenset[Head] = frozenset({"classification", "multi_label", "token_classification"})
LANGUAGE: frozenset[Head] = frozenset({"causal_lm", "seq2seq", "masked_lm"})
ENCODED: frozenset[Head] = HEADS - {"causal_lm", "seq2seq"}
"""Heads that an encoder can have."""
SPAN = ("start", "end")
"""The two outputs of a question-answering head, in the order of the logits."""
PROBLEMS: dict[Head, str] = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
"""What transformers calls what a head of its class for whole texts serves, as `problem_type`."""

_AUTO: dict[Head, str] = {
    "classification": "AutoModelForSequenceClassification",
    "multi_label": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
    "causal_lm": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "masked_lm": "AutoModelForMaskedLM",
    "embedding": "AutoModel",
}
PIPELINES: dict[Head, str] = {
    "classification": "text-classification",
    "multi_label": "text-classification",
    "regression": "text-classification",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
    "causal_lm": "text-generation",
    "seq2seq": "text2text-generation",
    "masked_lm": "fill-mask",
    "embedding": "sentence-similarity",
}
"""The names of the tasks on a model card, as the hub knows them."""
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


class AutoClass(Protocol):
    """What raykd calls of transformers' auto classes."""

    def from_config(self, config: PreTrainedConfig, **settings: object) -> PreTrainedModel: ...

    def from_pretrained(
        self, path: str, *, output_loading_info: Literal[True], **settings: object
    ) -> tuple[PreTrainedModel, Mapping[str, Collection[str]]]: ...

    def register(
        self, config: type[PreTrainedConfig], model: type[PreTrainedModel], exist_ok: bool
    ) -> None: ...


def find_auto_class(head: Head) -> AutoClass:
    """Return transformers' auto class for a head; imports transformers."""
    import transformers

    found: AutoClass = getattr(transformers, _AUTO[head])
    return found


def read_head(config: Mapping[str, object]) -> Head | None:
    """Return the head that a config.json names; None if it names no architecture, or one for another purpose."""
    match config.get("architectures"):
        case [str(name)]:
            head = next((head for ending, head in _ENDINGS.items() if name.endswith(ending)), None)
            if head == "classification":
                return _read_problem(config)
            # Models of images and text are called ...ForConditionalGeneration too.
            return None if head == "seq2seq" and not config.get("is_encoder_decoder") else head
    return None


def _read_problem(config: Mapping[str, object]) -> Head:
    """Return which head a classifier of whole texts has: one output is a number, whatever else is written."""
    named, count = config.get("id2label"), config.get("num_labels")
    if count == 1 or (isinstance(named, Mapping) and list(map(str, named)) == ["0"]):
        return "regression"
    problem = config.get("problem_type")
    return next((head for head, name in PROBLEMS.items() if name == problem), "classification")


def register() -> None:
    """Make `raykd_linear` and `raykd_lstm` known to transformers' auto classes; takes seconds the first time."""
    from raykd.networks import recurrent  # noqa: F401  (registers when imported)


def choose_head(folder: Path, own: Head | None, wanted: Head | None) -> Head:
    """Choose the head to load: the wanted one, if the checkpoint has it or does not say which it has.

    Args:
        folder: The checkpoint's directory, for the message.
        own: The head that its files name; None if they do not say.
        wanted: The head that it has to serve; None accepts its own, or classification if it names none.

    Raises:
        ModelError: The checkpoint has another head than the wanted one.
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
    """Return the head of the name that a file holds; None if there is no such head."""
    return name if isinstance(name, str) and name in HEADS else None


def build_label_settings(labels: Sequence[str], head: Head = "classification") -> dict[str, object]:
    """Return the label keys of a transformers configuration.

    Args:
        labels: In the order of the logits; () for a head without labels.
        head: What the model has to serve.

    Raises:
        ModelError: Fewer than two labels, equal labels, or labels for a head that has none.
    """
    if head not in LABELLED:
        if not has_labels(tuple(labels), (), head):
            raise ModelError(f"a {head} model has no labels", got=list(labels), wanted="none")
        if head == "regression":
            return {"num_labels": 1, "problem_type": PROBLEMS[head]}
        return {"num_labels": len(SPAN)} if head == "question_answering" else {}
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise ModelError("a classifier needs at least two labels, all different", got=list(labels))
    settings: dict[str, object] = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    return settings | ({"problem_type": PROBLEMS[head]} if head in PROBLEMS else {})


def has_labels(labels: tuple[str, ...], named: tuple[str, ...], head: Head) -> bool:
    """Return whether a run's labels are those that a model with this head names.

    Args:
        labels: The run's. For question answering they may name the two outputs (`SPAN`).
        named: Those of the model's configuration.
        head: The model's.
    """
    if head in LABELLED:
        return labels == named
    return not labels or (head == "question_answering" and labels == SPAN)


@contextmanager
def use_seed(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator while the body runs, and put it back afterwards.

    `torch.manual_seed` would also reseed every GPU, which `fork_rng` only restores if it is told which ones. Models
    are made on the CPU, so only the CPU's generator is touched.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
