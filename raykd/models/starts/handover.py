"""Say what a model takes over from the checkpoint that it starts from, where that served another task or labels."""

from __future__ import annotations

from pathlib import Path

from raykd.head import Head
from raykd.networks.heads import LABELLED, LANGUAGE, build_label_settings, read_head, register
from raykd.pretrained import files
from raykd.pretrained.jsonfile import read_json
from raykd.pretrained.labels import read_label_names
from raykd.pretrained.structure import build_empty, find_missing_weights

FACTORISED_START = "student.embedding_size makes an ELECTRA model of it, whose head is built otherwise"
"""Why a student with a narrower table of embeddings keeps no head."""


def describe_handover(
    folder: Path, labels: tuple[str, ...], head: Head, *, trust_remote_code: bool = False
) -> str:
    """Describe what is carried from a checkpoint, what is thrown away, and what begins at random; reads no weights.

    Args:
        folder: Of the checkpoint.
        labels: The run's; () for a head without labels.
        head: What is learnt now.
        trust_remote_code: Whether code that comes with it may run.

    Returns:
        A sentence; "" where all is carried over, or the checkpoint has no head.
    """
    before = read_head(read_json(folder / files.CONFIG))
    if before in LABELLED:
        return describe_labels(folder, labels, head)
    if before not in LANGUAGE or before == head:
        return ""
    register()
    stored = files.read_stored_weights(folder)
    model = build_empty(
        folder, head, trust_remote_code=trust_remote_code, **build_label_settings(labels, head)
    )
    drawn, *_ = find_missing_weights(model, stored)
    gone = sorted(set(stored) - set(model.state_dict()))
    return (
        f"tokenizer and {len(stored) - len(gone)} tensors of the encoder are carried over from {before}; its head is "
        f"thrown away ({_shorten(gone)}); {_shorten(drawn)} begin at random"
    )


def describe_labels(folder: Path, labels: tuple[str, ...], head: Head, *, factorised: bool = False) -> str:
    """Describe what of the head of a checkpoint for the same task begins at random; reads its config.json alone.

    Args:
        folder: Of the checkpoint.
        labels: The run's.
        head: What is learnt now.
        factorised: Whether its table is factorised, which makes another architecture of it.

    Returns:
        A sentence; "" where it knows all labels, or was made for another task.
    """
    config = read_json(folder / files.CONFIG)
    if factorised and read_head(config) == head:
        return f"its head is thrown away, and a new one begins at random: {FACTORISED_START}"
    own = read_label_names(config) or ()
    new = [label for label in labels if label not in own]
    if head not in LABELLED or read_head(config) != head or not own or not new:
        return ""
    if len(new) < len(labels):
        return f"its head is carried over by the names of labels; {_shorten(new)} begin at random"
    return (
        f"its head is thrown away, since none of its labels ({_shorten(list(own))}) is one of the run's, and a new one "
        "begins at random; data.labels with its names, and data.label_map, would keep it"
    )


def _shorten(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing stored") + more
