"""Check what feature terms compare, and count the bytes that they send, before anything starts.

Decision record: encoders are read from configuration files and from the run file alone. A tokenizer that is learnt from
the rows is learnt here, too, where teachers that exist are compared with it token by token; those that the run trains
first are compared when the teachers are open (`raykd.student.matching.features`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raykd import models
from raykd.answers.features import BYTES
from raykd.config import ModelTeacher, RunConfig, TeacherConfig, TrainedTeacher
from raykd.data.rows import Rows
from raykd.distill.features.plan import plan_features
from raykd.distill.features.states import EncoderShape, Position
from raykd.errors import ConfigError
from raykd.networks.states import read_encoder_shape
from raykd.preflight.disk import format_bytes
from raykd.preflight.model_check import preview_source
from raykd.preflight.sizes import BYTES_A_TOKEN
from raykd.pretrained.files import read_config
from raykd.student.matching.features import check_tokenizers
from raykd.student.prepare import fit_tokenizer
from raykd.student.settings import read_deepspeed_keys

MOST_BYTES = 256 * 2**20
"""Bytes of one teacher's states for a micro-batch beyond which a run is refused; they are held for each step ahead."""
SPECIAL = 2
"""Tokens around a text."""
SAMPLED = 200
"""About how many rows are measured."""


def check_encoders(config: RunConfig) -> None:
    """Check the encoders that a run's feature terms compare, as far as they are known.

    Raises:
        ConfigError, ModelError: Teacher and student cannot be compared so.
    """
    objective = config.objective
    if not objective.features:
        return
    zero = read_deepspeed_keys(config.train).get("zero_optimization", {})
    if zero.get("stage", config.train.zero_stage) == 3:
        raise ConfigError(
            "objective.features: states are not read where every weight is split over the workers",
            got="ZeRO stage 3",
            wanted="stage 0, 1 or 2",
        )
    for phase in config.phases:
        if config.at_progress(phase.at).objective.features != objective.features:
            raise ConfigError(
                "phases may not change objective.features, whose matrices are trained from the start",
                got=f"a phase at {phase.at:g} with other features",
                wanted="a lambda_schedule of the terms",
            )
    student = find_shape(config.student, "the student")
    used = _list_used(config)
    shapes = {t.name: find_shape(_get_model(t), f"teacher {t.name}") for t in used}
    if student is not None:
        known = {name: shape for name, shape in shapes.items() if shape is not None}
        plan_features(objective.features, student, known)
    _check_saved_tokenizers(config, used)


def find_shape(model: models.Student | ModelTeacher, who: str) -> EncoderShape | None:
    """Return the encoder of a model; None where it is on the hub and not known yet.

    Raises:
        ModelError: Its states cannot be read.
    """
    if isinstance(model, ModelTeacher | models.PretrainedStudent):
        if not Path(model.path).is_dir():
            return None
        settings = dict(read_config(preview_source(model)))
        kept = getattr(model, "layers", None)
        if kept is not None:
            settings |= dict.fromkeys(("num_hidden_layers", "n_layers"), len(kept))
        return read_encoder_shape(settings, who)
    if not isinstance(model, models.TransformerStudent):
        return read_encoder_shape({"model_type": model.kind}, who)
    settings = {"model_type": model.architecture, "hidden_size": model.hidden}
    settings |= {"num_hidden_layers": model.layers, "num_attention_heads": model.heads}
    return read_encoder_shape(settings, who)


def _get_model(teacher: TeacherConfig) -> models.Student | ModelTeacher:
    if isinstance(teacher, TrainedTeacher):
        return teacher.training.model
    assert isinstance(teacher, ModelTeacher)  # other kinds are refused with the configuration
    return teacher


def _check_saved_tokenizers(config: RunConfig, used: list[TeacherConfig]) -> None:
    """Refuse tokenizers that differ, where terms compare token by token and all are in folders.

    Raises:
        ConfigError: Names the teachers.
    """
    student = config.student
    if not isinstance(student, models.PretrainedStudent) or not Path(student.path).is_dir():
        return
    saved = _list_compared_by_token(config, used)
    if saved and student.vocabulary == "own":
        check_tokenizers({t.name: models.load_tokenizer(t.path) for t in saved}, student.load_tokenizer())


def _list_compared_by_token(config: RunConfig, used: Sequence[TeacherConfig]) -> list[ModelTeacher]:
    """Return the saved teachers on this machine that terms compare token by token."""
    whole = [term for term in config.objective.features if term.where == "sequence"]
    return [
        t
        for t in used
        if isinstance(t, ModelTeacher) and Path(t.path).is_dir() and any(term.uses(t.name) for term in whole)
    ]


def describe_state_bytes(config: RunConfig, rows: Rows) -> dict[str, str]:
    """Describe what each teacher sends beside its answers, from the mean length of the rows; {} where it is not known.

    Raises:
        ConfigError: It is too much for a request, or for the store that is to keep it.
    """
    found: dict[str, str] = {}
    pieces = config.workers.num_workers * config.train.gradient_accumulation
    limit = config.serving.store_limit_gb * 1e9
    kept = config.serving.store_features and config.serving.store is not None
    for name, each in count_state_bytes(config, rows).items():
        request, total = round(each * config.train.batch_size / pieces), round(each * len(rows))
        next_step = "compare fewer layers, or position mean or cls in place of every token"
        if request > MOST_BYTES:
            raise ConfigError(
                f"objective.features: teacher {name} would send {format_bytes(request)} of states with the answers to "
                f"a micro-batch of {config.train.batch_size // pieces} rows",
                got=f"about {each:,.0f} bytes a row",
                wanted=f"at most {format_bytes(MOST_BYTES)}",
                next_step=f"{next_step}; or raise train.gradient_accumulation",
            )
        if kept and total > limit:
            raise ConfigError(
                f"objective.features: the store would keep {format_bytes(total)} of states of teacher {name}",
                got=f"{len(rows):,} rows x about {each:,.0f} bytes; serving.store_limit_gb "
                f"{config.serving.store_limit_gb:g}",
                wanted="states that the store can hold",
                next_step=f"{next_step}; or serving.store_features: false, which computes them in every epoch",
            )
        again = "kept with the answers" if kept else "computed again in every epoch"
        what = f"about {each:,.0f} bytes of states a row, {format_bytes(request)} a micro-batch"
        found[name] = f"{what}; {len(rows):,} rows = {format_bytes(total)}, {again}"
    return found


def say_states(config: RunConfig, rows: Rows) -> str:
    """Describe what teachers send beside their answers, as one text.

    Raises:
        ConfigError: As `describe_state_bytes`, or the student learns another vocabulary than teachers have with which
            it is compared token by token.
    """
    saved = _list_compared_by_token(config, _list_used(config))
    if saved and config.student.kind == "transformer":
        learnt = fit_tokenizer(config.student, [(config.task, rows)])
        check_tokenizers({t.name: models.load_tokenizer(t.path) for t in saved}, learnt)
    told = describe_state_bytes(config, rows)
    return (
        "; ".join(f"{name} {what}" for name, what in told.items()) or "not known before its models are here"
    )


def count_state_bytes(config: RunConfig, rows: Rows) -> dict[str, float]:
    """Estimate the bytes of states that each teacher sends with the answer to a row; {} where that is not known."""
    student = find_shape(config.student, "the student") if config.objective.features else None
    if student is None or not len(rows):
        return {}
    shapes = {t.name: find_shape(_get_model(t), f"teacher {t.name}") for t in _list_used(config)}
    known = {name: shape for name, shape in shapes.items() if shape is not None}
    requests = plan_features(config.objective.features, student, known).teachers
    sample = rows.take(range(0, len(rows), max(1, len(rows) // SAMPLED)))
    seconds = sample.pairs or ("",) * len(sample)
    sizes = [len(f"{text}{pair}".encode()) for text, pair in zip(sample.texts, seconds, strict=True)]
    tokens = float(np.mean([min(config.task.max_length, size / BYTES_A_TOKEN + SPECIAL) for size in sizes]))
    places: dict[Position, float] = {"cls": 1.0, "mean": 1.0, "sequence": tokens}
    places["words"] = float(np.mean(config.task.count_units(sample)))
    return {
        name: BYTES * shape.width * sum(places[source.position] for source in request)
        for (name, shape), request in zip(known.items(), requests, strict=True)
    }


def _list_used(config: RunConfig) -> list[TeacherConfig]:
    """Return the teachers whose states are compared."""
    features = config.objective.features
    return [t for t in config.active_teachers if any(term.uses(t.name) for term in features)]
