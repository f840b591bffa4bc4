"""Read the labels of a model and the kind of its outputs from its config.json.

Decision record: `id2label` numbers the logits, so it counts. `label2id` is compared with it and never followed: if they
contradict each other, somebody edited one of them, and only a person knows which. The outputs of a head of sigmoids
(`multi_label_classification`) or of a regression do not choose among labels. A softmax of them would look like an
answer, so such models are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from raykd.errors import ModelError
from raykd.head import Head
from raykd.networks.heads import LABELLED, read_head

_DEFAULT = re.compile(r"LABEL_\d+\Z")


def read_label_names(config: Mapping[str, object]) -> tuple[str, ...] | None:
    """Read the labels of a config.json in the order of its logits; None if it does not number them from 0."""
    named = config.get("id2label")
    if "id2label" not in config and read_head(config) in LABELLED:
        # transformers' default, which it does not write down.
        count = config.get("num_labels", 2)
        return tuple(f"LABEL_{i}" for i in range(count)) if isinstance(count, int) and count > 0 else None
    if not isinstance(named, dict) or not named:
        return None
    try:
        numbered = {int(number): str(label) for number, label in named.items()}
    except ValueError:
        return None
    if set(numbered) != set(range(len(numbered))):
        return None
    return tuple(numbered[i] for i in range(len(numbered)))


def check_outputs(config: Mapping[str, object], head: Head, where: str) -> None:
    """Refuse a classifier whose outputs do not choose among labels.

    Args:
        config: Its config.json.
        head: What its head serves.
        where: The model's place, for the message.

    Raises:
        ModelError: Sigmoids (several labels may hold at once), a regression, or two outputs of one name.
    """
    if head not in LABELLED:
        return
    kind = config.get("problem_type")
    labels = read_label_names(config)
    if head == "classification" and kind == "multi_label_classification":
        raise ModelError(
            f"{where} gives several labels at once, which a classification cannot use: its outputs are sigmoids, not "
            "one choice among the labels",
            got="problem_type multi_label_classification in its config.json",
            wanted="problem_type single_label_classification (or none)",
            next_step="name a model that chooses one label; if this one was trained with a softmax after all, correct "
            "problem_type in its config.json",
        )
    if (head == "classification" and kind == "regression") or (labels is not None and len(labels) == 1):
        raise single_output_error(where, kind)
    if labels is not None and len(set(labels)) != len(labels):
        twice = sorted({label for label in labels if labels.count(label) > 1})
        raise ModelError(
            f"{where} gives two outputs the same name",
            got=f"id2label {list(labels)}: {', '.join(twice)} stands there more than once",
            wanted="a name of its own for each output",
            next_step="correct id2label in its config.json",
        )


def single_output_error(where: str, kind: object = None) -> ModelError:
    """Return the error for a model whose one output is a number and not a label."""
    return ModelError(
        f"{where} is a regression: one output is a number, not a choice among labels",
        got="one output" if kind != "regression" else "problem_type regression in its config.json",
        wanted="an output for each label, two at least",
        next_step="name a model that was fine-tuned to classify; a label_map cannot help here",
    )


def describe_contradiction(config: Mapping[str, object]) -> str:
    """Describe how `label2id` contradicts `id2label`; "" if it does not."""
    labels, reverse = read_label_names(config), config.get("label2id")
    if not labels or not isinstance(reverse, dict) or not reverse:
        return ""
    by_id = dict(enumerate(labels))
    by_label = {label: i for i, label in by_id.items()}
    if reverse == by_label or all(_DEFAULT.match(str(label)) for label in reverse):
        return ""  # default names stay in label2id if somebody changed id2label alone
    return (
        f"label2id contradicts id2label in its config.json: id2label says {by_id}, label2id says {reverse}; id2label "
        "is taken"
    )
