"""Check keys of a run that are valid one by one and may be wrong together.

Decision record: DeepSpeed's own classes read the user's DeepSpeed configuration, and they take seconds to import. So a
configuration that passed is cached by content (`raykd.cache`), and a run without one asks no DeepSpeed.
"""

from __future__ import annotations

from pathlib import Path

from raykd.answers.servable import check_servable
from raykd.cache import load_or_compute
from raykd.config import HttpTeacher, RunConfig, TrainConfig, WorkersConfig
from raykd.config.kinds.peer import Peer
from raykd.errors import ConfigError, prefix_errors
from raykd.preflight.features_check import check_encoders
from raykd.preflight.model_check import append_notes
from raykd.pretrained.files import read_config
from raykd.student.overrides import find_overruled_keys
from raykd.student.settings import read_deepspeed_keys
from raykd.student.validation import check_deepspeed
from raykd.tasks.kinds.language import LanguageTask


def check_combinations(config: RunConfig) -> str:
    """Refuse keys that are valid one by one and wrong together.

    Returns:
        That they fit, or what a reader should know.

    Raises:
        ConfigError: Names the keys.
    """
    made = {"student": config.student}
    made |= {f"teacher {t.name}": t.training.model for t in config.trained_teachers}
    for name, model in made.items():
        positions = getattr(model, "max_positions", None)
        for key in ("max_length", "max_target_length"):
            limit = getattr(config.task, key, 0)
            if positions is not None and limit > positions:
                raise ConfigError(
                    f"task.{key} is larger than max_positions of the {name}",
                    got=limit,
                    wanted=f"at most {positions}",
                )
        # A decoder reads the prompt and writes the answer into one table of positions.
        written = getattr(config.task, "max_new_tokens", 0) if getattr(config.task, "written", ()) else 0
        task = config.task
        shared = isinstance(task, LanguageTask) and task.generates and not task.target_positions
        read = getattr(task, "prompt_tokens", 0) if shared else 0
        if positions is not None and written and read + written > positions:
            raise ConfigError(
                f"task.max_new_tokens is larger than max_positions of the {name} leave",
                got=f"{written} tokens to write" + (f" after a prompt of up to {read}" if read else ""),
                wanted=f"at most {positions} together",
                next_step="lower task.max_new_tokens or task.max_length, or raise max_positions",
            )
    _check_adversarial(config)
    for teacher in config.active_teachers:
        if isinstance(teacher, HttpTeacher):
            _check_http(teacher, config)
    languages = set(config.data.select_languages or config.data.languages)
    spoken = [t.language_set for t in config.active_teachers]
    silent = sorted(lang for lang in languages if spoken and not any(s is None or lang in s for s in spoken))
    check_encoders(config)
    if config.peer is not None and _find_zero_stage(config.train) == 3:
        raise ConfigError(
            "peer: ZeRO stage 3 splits up one network, and a run with a peer trains two",
            got="train.zero_stage 3, or a DeepSpeed configuration that says so",
            wanted="ZeRO 0 to 2",
            next_step="set train.zero_stage=2, or leave the peer out",
        )
    notes = _check_deepspeed(config)
    if config.peer is not None:
        notes += _check_peer_rates(config.peer, config.train)
    if silent:
        told = f"no teacher speaks {', '.join(silent)}: those rows learn from gold labels alone"
        return append_notes(told, notes)
    return append_notes("objective, weighting, batch and DeepSpeed configuration fit together", notes)


def _check_peer_rates(peer: Peer, train: TrainConfig) -> list[str]:
    """Refuse a rate of the peer's own beside a schedule that sets all rates; tell of gradients clipped together.

    Raises:
        ConfigError: Names both keys.
    """
    if peer.learning_rate_factor != 1.0 and "scheduler" in read_deepspeed_keys(train):
        raise ConfigError(
            "peer.learning_rate_factor has no effect beside a scheduler of the DeepSpeed configuration",
            got=f"learning_rate_factor {peer.learning_rate_factor:g}, and train.deepspeed.scheduler",
            wanted="one of them",
            next_step="leave scheduler out and set train.lr_schedule, or leave the factor out",
        )
    together = _find_zero_stage(train) > 0 and train.gradient_clipping > 0
    return (
        ["peer: under ZeRO the gradients of both networks are clipped by their common norm"]
        if together
        else []
    )


def _check_adversarial(config: RunConfig) -> None:
    """Refuse adversarial training of what has no vectors of tokens, and of language models.

    Raises:
        ConfigError: Names the model.
    """
    trained = {"student": (config.student, config.train)}
    trained |= {f"teacher {t.name}": (t.training.model, t.training.train) for t in config.trained_teachers}
    for name, (model, train) in trained.items():
        if train.alignment is not None:
            _check_alignment(config, name, model.kind, train)
        if train.adversarial is None:
            continue
        folder = Path(getattr(model, "path", ""))
        saved = model.kind == "pretrained" and folder.is_dir()
        kind = read_config(folder).get("model_type") if saved else f"raykd_{model.kind}"
        if isinstance(config.task, LanguageTask):
            raise ConfigError(
                f"train.adversarial of the {name} does not serve language models",
                got=f"task {config.task.kind}",
                wanted="a task over labels, numbers, spans or sentence vectors",
                next_step="leave train.adversarial out",
            )
        if kind == "raykd_linear":
            raise ConfigError(
                f"train.adversarial moves the vectors of tokens, and the {name} has none",
                got="a linear model over n-grams",
                wanted="a model with an embedding layer: transformer, lstm, or a checkpoint of one",
                next_step="leave train.adversarial out, or choose another model",
            )


def _check_alignment(config: RunConfig, name: str, kind: str, train: TrainConfig) -> None:
    """Refuse what has no features that a discriminator can read, and what splits the discriminator.

    Raises:
        ConfigError: Names the key.
    """
    reasons = {
        "a language model": config.task.language,
        "texts in another language than their row's (task.teachers_read: first)": config.task.vectors
        and train.alignment is not None
        and train.alignment.column == "language"
        and getattr(config.task, "teachers_read", "both") == "first",
        "a linear model, whose features are counts": kind == "linear",
        "ZeRO stage 3": _find_zero_stage(train) == 3,
        "objective.features as well": bool(config.objective.features),
    }
    got = [reason for reason, holds in reasons.items() if holds]
    if got:
        raise ConfigError(
            f"train.alignment cannot align the {name}",
            got=got[0],
            wanted="a model with a linear head or sentence vectors, ZeRO 0 to 2, no feature terms",
            next_step="leave train.alignment out",
        )


def _find_zero_stage(train: TrainConfig) -> int:
    """Return the stage of ZeRO, which a DeepSpeed configuration may set, too."""
    stage: int = read_deepspeed_keys(train).get("zero_optimization", {}).get("stage", train.zero_stage)
    return stage


def _check_http(teacher: HttpTeacher, config: RunConfig) -> None:
    """Refuse what log-probabilities at T = 1 cannot serve, and patience longer than that of the pool.

    Raises:
        ConfigError: Names the keys.
    """
    longest_s, limit_s = teacher.timeout_s + teacher.retry_s, config.serving.timeout_s
    if longest_s >= limit_s:
        raise ConfigError(
            f"teacher {teacher.name} may wait longer for its server than the run waits for the teacher",
            got=f"timeout_s {teacher.timeout_s:g} + retry_s {teacher.retry_s:g}, serving.timeout_s {limit_s:g}",
            wanted="less than serving.timeout_s",
            next_step=f"raise serving.timeout_s, or lower teachers.{teacher.name}.retry_s",
        )
    task = config.task
    if not isinstance(task, LanguageTask) or task.answers.kind != "top_k":
        return
    for objective in (
        config.at_progress(at).objective for at in (0.0, *(phase.at for phase in config.phases))
    ):
        if not objective.plain and objective.weighting.inner.kind == "entropy":
            raise ConfigError(
                f"teacher {teacher.name} does not say the entropy of its answers: a server names some tokens only",
                got="objective.weighting: entropy",
                wanted="another weighting",
            )
        try:
            check_servable(objective, "top_k", (1.0,))
        except ConfigError as error:
            raise ConfigError(
                f"teacher {teacher.name}: {error.what}",
                got=error.got,
                wanted=error.wanted,
                next_step="objective.temperature: 1, since a server gives log-probabilities at temperature 1 alone",
            ) from None


def _check_deepspeed(config: RunConfig) -> list[str]:
    """Check the DeepSpeed configurations of student and teachers for the workers that each asks for."""
    notes = _check_deepspeed_keys(config.train, config.workers)
    for key, by in find_overruled_keys(config.train).items():
        if any(key.removeprefix("train.") in phase.set.get("train", {}) for phase in config.phases):
            raise ConfigError(
                f"phases set {key}, which has no effect, since {by} sets it",
                got=f"both phases and {by}",
                wanted="one of them",
                next_step=f"set {by.rpartition('.')[2]} to auto",
            )
    for teacher in config.trained_teachers:
        key = f"teachers.{teacher.name}.training"
        with prefix_errors(key, ConfigError):
            found = _check_deepspeed_keys(teacher.training.train, teacher.training.workers)
        notes += [f"{key}: {note}" for note in found]
    return notes


def _check_deepspeed_keys(train: TrainConfig, workers: WorkersConfig) -> list[str]:
    """Check the keys of one DeepSpeed configuration; cached, because DeepSpeed takes seconds to import."""
    gpus = workers.num_gpus > 0
    if not read_deepspeed_keys(train):
        return check_deepspeed(train, workers.num_workers, gpus=gpus)
    return load_or_compute(
        "deepspeed",
        lambda: (train.model_dump(mode="json"), workers.num_workers, gpus),
        list[str],
        lambda: check_deepspeed(train, workers.num_workers, gpus=gpus),
        "deepspeed",
        "torch",
    )
