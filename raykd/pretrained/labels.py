"""Read the labels of a model and the kind of its outputs from its config.json.

Decision record: `id2label` numbers the logits, so it counts. `label2id` is compared with it and never followed: if they
contradict each other, somebody edited one of them, and only a person knows which. The outputs of a head of sigmoids
(`multi_label_classification`) or of a regression do not choose among labels. A softmax of them would look like an
answer, so a task takes only models that were made for it, and others are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from raykd.errors import ModelError
from raykd.head import Head
from raykd.networks.heads import LABELLED, PROBLEMS, read_head

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
    """Refuse a model of whole texts whose outputs mean something else than the task's.

    Args:
        config: Its config.json.
        head: What its head serves.
        where: The model's place, for the message.

    Raises:
        ModelError: It was made for another of the tasks that share transformers' class, or two outputs have one name.
    """
    own = read_head(config)
    if head in ("multi_label", "regression") and own != head and own in PROBLEMS:
        raise ModelError(
            f"{where} is a model of another task ({own}), and the run's task is {head}",
            got=f"problem_type {config.get('problem_type')} in its config.json",
            wanted=f"problem_type {PROBLEMS[head]}" + (", one output" if head == "regression" else ""),
            next_step=f"name a model that was trained for {head}; if this one was (older ones do not say it), write "
            f'"problem_type": "{PROBLEMS[head]}" into its config.json',
        )
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
    if own == "regression" or (labels is not None and len(labels) == 1):
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


def several_values_error(where: str, outputs: int | None) -> ModelError:
    """Return the error for a regression of several numbers at once."""
    return ModelError(
        f"{where} gives several numbers for a text",
        got=f"a head of {outputs} outputs",
        wanted="one output: the value of the text",
        next_step="name a regression with one output (num_labels 1 in its config.json)",
    )


def check_activation(config: Mapping[str, object], where: str, key: str, *, written: bool) -> None:
    """Refuse a model of one output that sentence-transformers changes, unless the run says what to do with it.

    Most of its cross-encoders were trained with a sigmoid behind their output, and only a key of config.json says so.

    Args:
        config: Its config.json.
        where: The model's place, for the message.
        key: The key of its scale in the run file, for the message.
        written: Whether the run file has that key.

    Raises:
        ModelError: Says what to write.
    """
    own = config.get("sentence_transformers")
    named = own.get("activation_fn") if isinstance(own, Mapping) else None
    found = str(named or config.get("sbert_ce_default_activation_function") or "").rpartition(".")[2]
    if found in ("", "Identity") or (written and found == "Sigmoid"):
        return
    raise ModelError(
        f"sentence-transformers passes the output of {where} through {found}",
        got=f"{found} in its config.json" + ("" if written else f", and no {key}"),
        wanted="values on the run's scale",
        next_step=f"write {key}: {{sigmoid: true, factor: ...}}; the factor is applied after the sigmoid (sigmoid: "
        "false takes its outputs as they are)"
        if found == "Sigmoid"
        else "name another model",
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
