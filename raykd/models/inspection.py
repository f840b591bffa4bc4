"""Inspect a model before its weights are read, and compare it with its use.

Decision record: an inspection takes milliseconds. It reads the JSON files, the tokenizer, and the names and shapes in
the safetensors headers, which `raykd.pretrained.structure` compares with the model's class. `raykd check`, the start
of a run, a teacher that is opened and `load_model` all use it, so they cannot disagree: a model that passes the check
loads. What cannot work is an error. What is only worth knowing is a note, which the check prints and the run logs.

transformers' classes take seconds to import, so what an inspection found is cached under the content of what it read
(`stamp_model`), and a known model is inspected without them. What must never be loaded is refused before the cache is
asked. A model that may run code of its own is inspected each time, because that code may read anything.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from raykd.cache import load_or_compute
from raykd.errors import ModelError
from raykd.head import Head, TaskSettings
from raykd.models.identity import describe_tokenizer
from raykd.networks.heads import LABELLED, LANGUAGE, choose_head, register
from raykd.pretrained import files
from raykd.pretrained.adapters import is_adapter, list_label_changes
from raykd.pretrained.errors import raise_as_model_error
from raykd.pretrained.labels import (
    check_outputs,
    describe_contradiction,
    several_values_error,
    single_output_error,
)
from raykd.pretrained.positions import Positions
from raykd.pretrained.sentences.modules import read_sentence_modules
from raykd.pretrained.stamp import LIBRARIES, stamp_model
from raykd.pretrained.structure import Structure, compare_structure
from raykd.pretrained.tokenizers import (
    TokenizerFacts,
    check_placed,
    check_words,
    inspect_tokenizer,
    load_tokenizer,
)


@dataclass(frozen=True)
class Inspection:
    """Facts about a model that can be used. Made by `inspect_model`.

    Attributes:
        kind: The student's kind if raykd wrote it, else the model type of transformers.
        model_type: The model type of transformers.
        head: What its head serves.
        labels: In the order of the logits; () for a head without labels.
        languages: What it was trained on; () if unknown.
        trained_length: Longest texts in training, in tokens, if raykd wrote the model; else None.
        positions: Where its positions end.
        token_types: Rows of its table of token types; None if it has none.
        tokenizer: What its tokenizer says.
        no_answer: Whether it learnt to say that a context does not answer a question.
        pairs: Whether all texts that it learnt from came with a second one.
        settings: As in `TextModel`.
        rowless: Special tokens without a row in the model; no text may hold them.
        notes: Facts that are worth knowing and no fault.
    """

    kind: str
    model_type: str
    head: Head
    labels: tuple[str, ...]
    languages: tuple[str, ...]
    trained_length: int | None
    positions: Positions
    token_types: int | None
    tokenizer: TokenizerFacts
    no_answer: bool
    pairs: bool
    settings: TaskSettings
    rowless: tuple[str, ...]
    notes: tuple[str, ...]


def inspect_model(folder: Path, wanted: Head | None, *, trust_remote_code: bool = False) -> Inspection:
    """Inspect a model that will answer with its own head.

    Args:
        folder: Its directory.
        wanted: What it has to serve; None accepts what its files say.
        trust_remote_code: Whether code that comes with it may run.

    Raises:
        ModelError: It cannot be loaded or has another head; the same error as `load_model` raises.
    """
    files.check_directory(folder, trust_remote_code=trust_remote_code)
    info = files.inspect_directory(folder, trust_remote_code=trust_remote_code)
    if info.problems:
        raise ModelError(info.problems[0])
    if wanted is not None:
        check_outputs(files.read_config(folder), wanted, str(folder))
    head = choose_head(folder, info.task, wanted)
    return _inspect_once(folder, head, trust_remote_code, stamp_model(folder))


@lru_cache(maxsize=64)
def _inspect_once(folder: Path, head: Head, trust_remote_code: bool, stamp: str) -> Inspection:
    """Inspect a model once for each state of its files, which the stamp stands for."""
    if trust_remote_code:
        return _inspect(folder, head, trust_remote_code)
    return load_or_compute(
        "inspections",
        lambda: (stamp_model(folder), head),
        Inspection,
        lambda: _inspect(folder, head, trust_remote_code),
        *LIBRARIES,
    )


def _inspect(folder: Path, head: Head, trust_remote_code: bool) -> Inspection:
    config = files.read_config(folder)
    info = files.inspect_directory(folder, trust_remote_code=trust_remote_code)
    check_outputs(config, head, str(folder))
    labels = files.read_labels(folder) if head in LABELLED else ()
    read_sentence_modules(folder)  # fails now if its vectors cannot be computed
    structure = check_weights(folder, head, labels, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    check_words(tokenizer, str(folder))
    check_placed(tokenizer, head, str(folder))
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        describe_tokenizer(tokenizer)  # fails now if answers could not be stored under a key
    facts = inspect_tokenizer(tokenizer)
    rowless = check_vocabulary(folder, head, facts, structure.vocabulary)
    return Inspection(
        kind=info.kind,
        model_type=str(config.get("model_type")),
        head=head,
        labels=labels,
        languages=info.languages,
        trained_length=info.max_length,
        positions=structure.positions,
        token_types=structure.token_types,
        tokenizer=facts,
        no_answer=info.no_answer,
        pairs=info.pairs,
        settings=info.settings,
        rowless=rowless,
        notes=tuple(
            filter(
                None,
                [
                    describe_contradiction(config) if head in LABELLED else "",
                    _describe_unread(structure.unread),
                ],
            )
        ),
    )


def check_weights(
    folder: Path, head: Head, labels: tuple[str, ...], *, trust_remote_code: bool = False
) -> Structure:
    """Refuse a checkpoint that does not hold a complete model with this head.

    Raises:
        ModelError: Weights are missing, or have another shape than config.json says.
    """
    register()
    stored = files.read_stored_weights(folder)
    changes = list_label_changes(files.read_config(folder), head) if is_adapter(folder) else {}
    with raise_as_model_error(f"the model {folder} cannot be loaded"):
        structure = compare_structure(
            files.find_config_folder(folder), head, stored, trust_remote_code=trust_remote_code, **changes
        )
    if head in LABELLED:
        _check_rows(folder, structure, labels)
    elif head == "regression" and structure.labels != 1:
        raise several_values_error(str(folder), structure.labels)
    if structure.reshaped:
        name, has, wants = structure.reshaped[0]
        raise ModelError(
            f"{folder}: config.json does not fit the weights",
            got=f"{name} has the shape {list(has)}",
            wanted=f"{list(wants)}, as config.json says",
            next_step="take config.json and weights from one checkpoint",
        )
    if missing := drop_unread_weights(structure.missing, head):
        raise missing_weights_error(folder, head, missing)
    return structure


def _check_rows(folder: Path, structure: Structure, labels: tuple[str, ...]) -> None:
    """Refuse labels that are not as many as the outputs of the head."""
    outputs = {
        (has[0], wants[0])
        for name, has, wants in structure.reshaped
        if name not in structure.encoder and has[1:] == wants[1:] and wants[0] == structure.labels
    }
    if outputs:
        rows = next(iter(outputs))[0]
        if rows == 1:
            raise single_output_error(str(folder))
        raise ModelError(
            f"{folder}: id2label does not fit the head",
            got=f"{structure.labels} labels ({', '.join(labels[:8])}), and a head of {rows} outputs",
            wanted="a label for each output",
            next_step="correct id2label in its config.json; transformers' default are two labels",
        )
    if structure.labels != len(labels):
        raise ModelError(
            f"{folder}: id2label does not fit the head",
            got=list(labels),
            wanted=f"{structure.labels} labels",
        )


def drop_unread_weights(missing: Sequence[str], head: Head) -> list[str]:
    """Return the missing weights that the head needs: sentence vectors read no pooler."""
    return [name for name in missing if head != "embedding" or not name.startswith("pooler.")]


def missing_weights_error(folder: Path, head: Head, missing: Sequence[str]) -> ModelError:
    """Return the error of a checkpoint that lacks weights."""
    advice = "fine-tune it (a student of kind pretrained), or name a checkpoint that was fine-tuned"
    if prefix := _find_prefix(files.read_stored_weights(folder), missing):
        advice = f"save the model that its wrapper holds (names in the file begin with {prefix}, as a wrapper of the "
        advice += "training writes them: torch.compile's _orig_mod, DataParallel's module), not the wrapper"
    return ModelError(
        f"{folder} is not a complete {head} model; these weights are not in it",
        got=", ".join(missing[:8]),
        next_step=advice,
    )


def _find_prefix(stored: Collection[str], missing: Sequence[str]) -> str:
    """Return what stands before the names of the missing weights in a checkpoint; "" where they are not there."""
    longer = next((name for name in stored if name.endswith(f".{missing[0]}")), "")
    prefix = longer.removesuffix(missing[0])
    return prefix if all(f"{prefix}{name}" in stored for name in missing) else ""


def _describe_unread(unread: Sequence[str]) -> str:
    """Describe weights of a checkpoint's layers that its class has no place for; "" if there are none."""
    if not unread:
        return ""
    more = f" and {len(unread) - 3} more" if len(unread) > 3 else ""
    return (
        f"its class has no place for {len(unread)} weights of its layers, which are left out ({', '.join(unread[:3])}"
        f"{more}); does its config.json belong to these weights?"
    )


def check_vocabulary(
    folder: Path, head: Head, tokenizer: TokenizerFacts, rows: int | None
) -> tuple[str, ...]:
    """Refuse a tokenizer that gives ids for which the model has no row.

    Special tokens that the tokenizer itself never adds are accepted, because only a text could bring them in.

    Returns:
        Special tokens that no text may hold.

    Raises:
        ModelError: With the tokens.
    """
    if rows is None or tokenizer.size is None or tokenizer.size <= rows:
        return ()
    beyond = {i: token for i, token in tokenizer.last.items() if i >= rows}
    if head not in LANGUAGE and set(beyond) <= tokenizer.idle:
        return tuple(beyond.values())
    named = [f"{token!r} is {i}" for i, token in beyond.items()]
    raise ModelError(
        f"{folder}: the tokenizer gives ids that the model has no row for",
        got=f"{rows} rows; {', '.join(named[:5])}"
        + (f" and {len(named) - 5} more" if len(named) > 5 else ""),
        wanted=f"{tokenizer.size} rows, one for each id",
        next_step="take the tokenizer that the model was trained with; where tokens were added to it, resize the model "
        "(resize_token_embeddings) and save it again",
    )
