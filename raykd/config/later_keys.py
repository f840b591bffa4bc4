"""Keys that came after the first runs, with the values that change nothing.

Decision record: a run's fingerprint is in the folders of finished runs and names those of trained teachers. Where such
a key changes nothing it is left out of it, so runs and teachers from before are found again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from raykd.parse import JsonObject

_OBJECTIVE: JsonObject = {
    **{"class_weights": None, "focal_gamma": 0.0, "features": [], "drop_surpassed": None},
    "contradictions": "keep",
    "least_confidence": {"kind": "constant", "value": 0.0},
}
_FIRST_COLUMNS = {
    *("text", "text_pair", "label", "tokens", "tags", "question", "context", "answers", "source", "target"),
    *("language", "source_language", "id"),
}
_DATA: JsonObject = {
    **{"augment": [], "min_candidates": None, "max_candidates": None},
    **{"select_groups": None, "leave_out_groups": []},
}
_EMBEDDED: JsonObject = {"corpus": None}
_TEACHER: JsonObject = {"missing": [], "scale": None}
_TRAINING: JsonObject = {"labelled": "all", "teachers": [], "objective": {}, "pretraining": None}
_TRAIN: JsonObject = {
    "optimizer": {"kind": "adamw", "betas": [0.9, 0.999], "epsilon": 1e-08},
    "adversarial": None,
    "alignment": None,
}
_PEER: JsonObject = {
    **{"weight_back": None, "temperature": {"kind": "constant", "value": 1.0}, "learning_rate_factor": 1.0},
    **{"taught": "both", "unlabelled": False},
}
_MODELS: dict[str, JsonObject] = {
    "pretrained": {
        **{"vocabulary": "own", "vocab_size": None, "embedding_size": None, "dropout": None, "tuning": None},
        **{"hidden": None, "feed_forward": None, "importance": "magnitude"},
    },
    "lstm": {"embedding_from": None, "embedding_of": "input"},
}


def remove_unused_run_keys(run: JsonObject, columns: Mapping[str, object]) -> None:
    """Remove the later keys of a run's task, objective, training, data and embedded sources that change nothing.

    Args:
        run: The run's tree.
        columns: The defaults of `data.columns`: a run's rows have a fingerprint of their own.
    """
    _remove(run["objective"], _OBJECTIVE)
    if run["task"].get("replacement") == "mask":
        del run["task"]["replacement"]
    _remove(run["train"], _TRAIN)
    _remove(run["data"], _DATA)
    later = {key: value for key, value in columns.items() if key not in _FIRST_COLUMNS}
    _remove(run["data"]["columns"], later)
    for change in run["data"].get("augment", ()):
        for key in ("path", "back"):  # what they make is among the rows
            change.pop(key, None)
        _remove(change, {"parts": "all"})
    _remove(run, {"peer": None, "pretraining": None})
    if peer := run.get("peer"):
        _remove(peer, _PEER)
        if peer["student"]["kind"] == "pretrained":  # others stand as runs before have them
            simplify_model(peer["student"])
    replay = run["data"].pop("replay")
    if replay is not None:  # its rows, like all, have a fingerprint of their own
        run["data"]["replay"] = {key: replay[key] for key in ("share", "seed")}
    for source in run["data"].values():
        if isinstance(source, dict) and source.get("kind") == "embedded":
            _remove(source, _EMBEDDED)


def remove_unused_teacher_keys(teacher: JsonObject) -> None:
    """Remove the later keys of a teacher, and of its training, that change nothing."""
    _remove(teacher, _TEACHER)
    if teacher["training"]:
        _remove(teacher["training"], _TRAINING)
        _remove(teacher["training"]["train"], _TRAIN)


def simplify_model(model: JsonObject) -> None:
    """Remove the later keys of a model that change nothing, and the folders of its absolute paths."""
    _remove(model, {"crf": False} if "crf" in model else {})
    if "by" in (tuning := model.get("tuning") or {}):
        _remove(tuning, {"by": None})
    _remove(model, _MODELS.get(str(model.get("kind")), {}))
    for key in ("path", "embedding_from", "function"):
        path = model.get(key)
        if isinstance(path, str) and os.path.isabs(path):
            model[key] = os.path.basename(path)


def _remove(tree: JsonObject, unused: Mapping[str, object]) -> None:
    for key, value in unused.items():
        if tree[key] == value:
            del tree[key]
