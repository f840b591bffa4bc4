"""Carry what a checkpoint's head knows of a label to a run that has the label at another place, or more labels.

Decision record: which parts of a head belong to a label is read from shapes: from what changes in a model with one
label more. So it holds for every architecture. A checkpoint's head is carried by the names of its labels, because a
row of a head means its label and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raykd.head import Head
from raykd.networks.heads import LABELLED, build_label_settings, read_head
from raykd.pretrained import files
from raykd.pretrained.jsonfile import read_json
from raykd.pretrained.labels import read_label_names
from raykd.pretrained.structure import build_empty, silence_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def find_known_labels(folder: Path, labels: tuple[str, ...], head: Head) -> tuple[str, ...]:
    """Return a checkpoint's labels in its order, if its head can be carried to the run's labels; else ().

    Args:
        folder: The checkpoint.
        labels: The run's.
        head: What the student learns. The head of another task is no start for this one's.
    """
    config = read_json(folder / files.CONFIG)
    own = read_label_names(config)
    if head not in LABELLED or own is None or own == labels or (read_head(config) or head) != head:
        return ()
    return own if set(own) & set(labels) else ()


def find_label_weights(
    folder: Path, labels: tuple[str, ...], head: Head, *, trust_remote_code: bool
) -> dict[str, int]:
    """Return the weights that have an entry for each label, and the dimension along which it has it."""
    states = []
    for names in (labels, (*labels, "one label more")):
        settings = build_label_settings(names, head)
        with silence_transformers():
            states.append(
                build_empty(folder, head, trust_remote_code=trust_remote_code, **settings).state_dict()
            )
    found = {}
    for name, weight in states[0].items():
        sizes = zip(weight.shape, states[1][name].shape, strict=True)
        changed = [dim for dim, (few, more) in enumerate(sizes) if few != more]
        if changed:
            found[name] = changed[0]
    return found


def carry_label_rows(
    model: PreTrainedModel,
    old: PreTrainedModel,
    own: tuple[str, ...],
    labels: tuple[str, ...],
    at: dict[str, int],
) -> None:
    """Copy the entries of known labels into a model, and start those of new ones anew.

    Args:
        model: With the run's labels.
        old: The checkpoint as it was saved.
        own: Its labels.
        labels: The run's.
        at: From `find_label_weights`.
    """
    import torch

    new_state, old_state = model.state_dict(), old.state_dict()
    std = getattr(model.config, "initializer_range", 0.02)
    with torch.no_grad():
        for name, dim in at.items():
            is_layer = dim == 0 and new_state[name].ndim == 2  # the table of a linear model starts from zeros
            for i, label in enumerate(labels):
                row = new_state[name].select(dim, i)
                if label in own:
                    row.copy_(old_state[name].select(dim, own.index(label)))
                elif is_layer:
                    row.normal_(std=std)
                else:
                    row.zero_()
