"""Build a student for its task, from random weights or from a checkpoint.

Decision record: a student keeps the encoder of a checkpoint. It also keeps the head, if that serves the same task, as
far as it knows the run's labels by name (`raykd.models.starts.label_rows`). Before a run starts, the code that does
this is tried on torch's meta device, so a checkpoint that passes the check also starts the student. What this found is
cached by content, as an inspection is (`raykd.models.inspection`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.cache import load_or_compute
from raykd.errors import ModelError
from raykd.head import Head
from raykd.models.checkpoints import PretrainedStudent
from raykd.models.embeddings import count_row_weights
from raykd.models.loading import load_sentence_modules, read_model
from raykd.models.starts.label_rows import carry_label_rows, find_known_labels, find_label_weights
from raykd.models.textmodel import TextModel, count_parameters
from raykd.models.tuning import is_adapted, merge_adapters
from raykd.networks.depth import keep_layers
from raykd.networks.heads import LABELLED, LANGUAGE, build_label_settings, choose_head, read_head, register
from raykd.pretrained import files
from raykd.pretrained.adapters import check_peft, explain_merging, is_adapter
from raykd.pretrained.errors import raise_as_model_error
from raykd.pretrained.hub import resolve_model
from raykd.pretrained.jsonfile import read_json
from raykd.pretrained.labels import read_label_names
from raykd.pretrained.positions import Positions, count_positions
from raykd.pretrained.sentences.modules import read_sentence_modules
from raykd.pretrained.stamp import LIBRARIES, stamp_model
from raykd.pretrained.structure import (
    build_empty,
    find_missing_weights,
    is_in_encoder,
    read_auto_config,
)
from raykd.pretrained.tokenizers import (
    TokenizerFacts,
    check_placed,
    check_words,
    inspect_tokenizer,
    load_tokenizer,
)
from raykd.tokenizers.trimming import check_trimmable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from transformers import PreTrainedModel

    from raykd.models.checkpoints import MeasureParts
    from raykd.models.students import Student
    from raykd.tasks import TaskBase
    from raykd.text.tokens import Tokenizer


_DROPOUT = re.compile(r"dropout|pdrop")
"""In the names of the settings of transformers' configurations that are a dropout."""


@dataclass(frozen=True)
class BaseInspection:
    """Facts about a checkpoint that a student starts from. Made by `inspect_base`.

    Attributes:
        positions: Where its positions end.
        tokenizer: What its tokenizer says.
        parameters: Of the student, with the task's head and the layers that it keeps.
        table: Rows of its embedding table, and the parameters of one (of all tables with a row per token); None if its
            vocabulary is not to be trimmed.
        trained: Parameters that are trained; None if all are.
    """

    positions: Positions
    tokenizer: TokenizerFacts
    parameters: int
    table: tuple[int, int] | None
    trained: int | None = None

    def count_parameters(self, tokens: int | None) -> int:
        """Count the student's parameters if its vocabulary is trimmed to some tokens; None trims nothing."""
        rows, width = self.table or (0, 0)
        return self.parameters - (0 if tokens is None else (rows - tokens) * width)


def inspect_base(
    folder: Path,
    labels: tuple[str, ...],
    head: Head,
    *,
    trust_remote_code: bool = False,
    student: PretrainedStudent | None = None,
) -> BaseInspection:
    """Inspect a checkpoint that a student will start from; reads no weights.

    Args:
        folder: Its directory.
        labels: The run's; () for a head without labels.
        head: What the student learns.
        trust_remote_code: Whether code that comes with it may run.
        student: What it keeps of the checkpoint, and trains; None keeps and trains all.

    Raises:
        ModelError: As `load_for_training` would raise; or the vocabulary cannot be trimmed, or the table factorised.
    """
    check_base(folder, head, trust_remote_code)
    chosen = student or PretrainedStudent(path=str(folder))
    inspect = partial(_inspect_base, folder, trust_remote_code, labels, head, chosen)
    if trust_remote_code:
        return inspect()
    if chosen.tuning is not None:
        check_peft(f"student.tuning: {chosen.tuning.kind}")
    kept = chosen.model_dump(mode="json", exclude={"path", "revision", "language_codes", "vocab_size"})
    return load_or_compute(
        "bases",
        lambda: (stamp_model(folder), labels, head, kept),
        BaseInspection,
        inspect,
        *LIBRARIES,
    )


def _inspect_base(
    folder: Path, trust_remote_code: bool, labels: tuple[str, ...], head: Head, student: PretrainedStudent
) -> BaseInspection:
    import torch

    register()
    stored = files.read_stored_weights(folder)
    settings = build_label_settings(labels, head) | _set_dropout(folder, student.dropout, trust_remote_code)
    with raise_as_model_error(f"the model {folder} cannot be loaded"):
        model = build_empty(folder, head, trust_remote_code=trust_remote_code, **settings)
        missing, *_ = find_missing_weights(model, stored)
        if find_known_labels(folder, labels, head):
            carried = find_label_weights(folder, labels, head, trust_remote_code=trust_remote_code)
            missing = [name for name in missing if name not in carried]
    missing = fit_to_task(model, missing, folder, labels, head, student.layers)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    check_words(tokenizer, str(folder))
    check_placed(tokenizer, head, str(folder))
    if head == "embedding":
        from raykd.networks.sentences import add_sentence_modules

        model = add_sentence_modules(model, read_sentence_modules(folder))
    trimmed = student.vocabulary == "trimmed"
    if trimmed:
        check_trimmable(tokenizer, str(folder))
    with torch.device("meta"):
        model = student.narrow(model, head, missing, None)
        if student.embedding_size is not None:
            from raykd.models.vectors import build_factorised

            model = build_factorised(model, head, student.embedding_size, str(folder))
        if student.crf:
            from raykd.networks.crf import add_crf

            add_crf(model)
    if student.tuning is not None:
        student.tuning.apply(model, head, missing, str(folder))
    return BaseInspection(
        positions=count_positions(model),
        tokenizer=inspect_tokenizer(tokenizer),
        parameters=count_parameters(model),
        table=count_row_weights(model, str(folder)) if trimmed else None,
        trained=None if student.tuning is None else count_parameters(model, trained=True),
    )


def check_base(folder: Path, head: Head, trust_remote_code: bool) -> None:
    """Refuse a directory that must not be loaded, or that lacks the language model's head that the student needs.

    Raises:
        ModelError: With what to name instead.
    """
    if is_adapter(folder):
        raise ModelError(
            f"{folder} holds an adapter, and a student starts from a whole model",
            next_step=explain_merging(folder),
        )
    files.check_directory(folder, trust_remote_code=trust_remote_code)
    if head in LANGUAGE:
        choose_head(folder, read_head(read_json(folder / files.CONFIG)), head)


def load_for_training(
    path: str | Path,
    labels: tuple[str, ...],
    head: Head = "classification",
    *,
    revision: str | None,
    trust_remote_code: bool,
    layers: tuple[int, ...] | None,
    dropout: float | None = None,
) -> tuple[PreTrainedModel, list[str]]:
    """Load a checkpoint as a float32 student.

    It gets a new head if its task or its labels differ from the run's. New weights are drawn from torch's CPU
    generator, which the caller seeds.

    Args:
        path: A local directory or a hub name.
        labels: The run's; () for a head without labels.
        head: What the student learns.
        revision: Branch, tag or commit of a hub name.
        trust_remote_code: Whether code that comes with the model may run.
        layers: Numbers of the layers that the student keeps; None keeps all.
        dropout: In training; None keeps the checkpoint's.

    Returns:
        The model, and the names of the weights that the checkpoint lacks, which were drawn.

    Raises:
        ModelError: As `load_model`; or the head or the layers cannot be told from the rest.
    """
    import torch

    folder = resolve_model(path, revision=revision, trust_remote_code=trust_remote_code)
    check_base(folder, head, trust_remote_code)
    settings = build_label_settings(labels, head) | _set_dropout(folder, dropout, trust_remote_code)
    model, missing = read_model(
        folder, head, trust_remote_code, dtype=torch.float32, ignore_mismatched_sizes=True, **settings
    )
    if own := find_known_labels(folder, labels, head):
        old, _ = read_model(folder, head, trust_remote_code, dtype=torch.float32)
        carried = find_label_weights(folder, labels, head, trust_remote_code=trust_remote_code)
        carry_label_rows(model, old, own, labels, carried)
        missing = [name for name in missing if name not in carried]
    missing = fit_to_task(model, missing, folder, labels, head, layers)
    return load_sentence_modules(model, folder) if head == "embedding" else model, missing


def _set_dropout(folder: Path, dropout: float | None, trust_remote_code: bool) -> dict[str, object]:
    """Return the settings of a checkpoint's configuration that are a dropout, with another value.

    Raises:
        ModelError: It has none.
    """
    if dropout is None:
        return {}
    config = read_auto_config(folder, trust_remote_code=trust_remote_code).to_dict()
    names = [key for key, value in config.items() if _DROPOUT.search(key) and isinstance(value, float | int)]
    if not names:
        raise ModelError(
            f"student.dropout: the architecture of {folder} has none",
            got=f"model type {config.get('model_type')}",
            wanted="no student.dropout",
        )
    return dict.fromkeys(names, dropout)


def fit_to_task(
    model: PreTrainedModel,
    missing: list[str],
    folder: Path,
    labels: tuple[str, ...],
    head: Head,
    layers: tuple[int, ...] | None,
) -> list[str]:
    """Give a loaded checkpoint the head of a task and the layers that are kept.

    Args:
        model: With the run's labels in its configuration. It may be on the meta device.
        missing: Weights that the checkpoint lacks or has in another shape.
        folder: The checkpoint's directory.
        labels: The run's.
        head: What the student learns.
        layers: Numbers of the layers to keep; None keeps all.

    Returns:
        The missing weights, and those that were drawn again.

    Raises:
        ModelError: The encoder is incomplete, the head cannot be told from the rest, or there are no such layers.
    """
    config = read_json(folder / files.CONFIG)
    own, own_head = read_label_names(config), read_head(config)
    outside = [name for name in missing if not is_in_encoder(model, name)]
    # BERT's pooler is part of its encoder, but only classifiers have one, so other checkpoints may lack it.
    lost = [name for name in missing if is_in_encoder(model, name) and "pooler" not in name]
    if lost or len(missing) == len(model.state_dict()) or (outside and head in LANGUAGE):
        raise ModelError(
            f"{folder} does not hold the weights of a model for {head} that fit these labels",
            got=f"missing or of another shape: {', '.join(missing[:8])}",
            wanted=f"a checkpoint with a {head} head"
            if head in LANGUAGE
            else "a checkpoint of this encoder; of a linear model, one with some of the labels",
        )
    # The head of another task is no start for this one's, even if its labels have the run's names.
    known = find_known_labels(folder, labels, head)
    if head in LABELLED and (own, own_head or head) != (labels, head) and not (outside or known):
        missing = [*missing, *_new_head(model, folder)]
    if layers is not None:
        keep_layers(model, layers, folder)
    return missing


def _new_head(model: PreTrainedModel, folder: Path) -> list[str]:
    """Draw the last layer again, because its outputs mean other labels, or the same labels in another order.

    Returns:
        Names of its weights.
    """
    import torch
    from torch import nn

    heads = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == model.config.num_labels
        and not is_in_encoder(model, name)
    ]
    if len(heads) != 1:
        raise ModelError(
            f"the head of {folder} cannot be told from the rest, and its labels are not the run's",
            got=list(files.read_labels(folder)),
            wanted=str(list((model.config.id2label or {}).values())),
        )
    name, drawn = heads[0]
    with torch.no_grad():
        drawn.weight.normal_(std=getattr(model.config, "initializer_range", 0.02))
        if drawn.bias is not None:
            drawn.bias.zero_()
    return [f"{name}.{own}" for own, _ in drawn.named_parameters()]


def build_student(
    student: Student,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    seed: int,
    task: TaskBase,
    measure: MeasureParts | None = None,
) -> PreTrainedModel:
    """Build the student of a task at its seeded start.

    Args:
        student: Its configuration.
        tokenizer: What its `fit_tokenizer` returned.
        labels: The run's, in the order of the logits; () for a task without labels.
        seed: For the weights that are drawn.
        task: Names the head, and says how it is shaped.
        measure: Measures the importance of the parts of a checkpoint that is narrowed; None goes by magnitude.

    Raises:
        ModelError: As the student's `build`.
    """
    if student.kind == "pretrained":
        model = student.build(tokenizer, labels, seed, task.head, measure)
    else:
        model = student.build(tokenizer, labels, seed, task.head)
    if task.head == "regression":
        # Else sentence-transformers' cross-encoders pass the output through a sigmoid.
        model.config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
    if task.head != "embedding":
        return model
    from raykd.networks.sentences import shape_sentence_encoder

    return shape_sentence_encoder(model, seed, **task.head_settings)


def rebuild_student(
    student: Student, trained: TextModel, weights: Mapping[str, torch.Tensor], seed: int, task: TaskBase
) -> PreTrainedModel:
    """Build a student anew with trained weights. Frozen weights are read from the checkpoint again.

    Args:
        student: Its configuration.
        trained: The student whose model was trained.
        weights: Its trained weights.
        seed: The run's.
        task: The run's.
    """
    tuning = getattr(student, "tuning", None)
    if tuning is None:
        from raykd.networks.crf import build_like

        model = build_like(trained.model)
        model.load_state_dict(weights)
        return model
    model = build_student(student, trained.tokenizer, trained.labels, seed, task)
    model.load_state_dict(weights, strict=False)
    return merge_adapters(model) if tuning.merged and not tuning.by and is_adapted(model) else model
