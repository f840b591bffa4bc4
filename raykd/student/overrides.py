"""Find the keys of a run that have no effect, because its DeepSpeed configuration sets them."""

from __future__ import annotations

from raykd.config import TrainConfig
from raykd.student.settings import AUTO, KEY, plan_optimizer, plan_schedule, read_deepspeed_keys


def find_overruled_keys(train: TrainConfig) -> dict[str, str]:
    """Find the keys of a run that have no effect, and for each the DeepSpeed key that overrules it."""
    own = read_deepspeed_keys(train)
    optimizer, schedule = (own.get(key, {}).get("params", {}) for key in ("optimizer", "scheduler"))
    overruling = {
        "train.learning_rate": [("optimizer", "lr", optimizer), ("scheduler", "warmup_max_lr", schedule)],
        "train.weight_decay": [("optimizer", "weight_decay", optimizer)],
    }
    fixed = {
        key: f"{KEY}.{block}.params.{name}"
        for key, places in overruling.items()
        for block, name, params in places
        if params.get(name, AUTO) != AUTO
    }
    return fixed | ({"train.lr_schedule": f"{KEY}.scheduler"} if "scheduler" in own else {})


def describe_overruled_keys(train: TrainConfig) -> list[str]:
    """Describe the keys of `train` that its DeepSpeed configuration sets to other values; the DeepSpeed ones count."""
    plan = plan_optimizer(train)
    notes = []
    for key, value, ours in (
        ("lr", plan.learning_rate, "learning_rate"),
        ("weight_decay", plan.weight_decay, "weight_decay"),
    ):
        if value != (there := getattr(train, ours)):
            notes.append(
                f"{KEY}.optimizer.params.{key} {value:g} counts, train.{ours} {there:g} has no effect: set {key} to "
                "auto to use it"
            )
    schedule = plan_schedule(train, 1)
    if schedule is not None:
        notes.append(
            f"{KEY}.scheduler ({schedule[0]}) sets the learning rate, train.lr_schedule has no effect: leave "
            "scheduler out to use it"
        )
        peak = schedule[1].get("warmup_max_lr", plan.learning_rate)
        if peak != plan.learning_rate:
            notes.append(f"{KEY}.scheduler.params.warmup_max_lr {peak} counts, not {plan.learning_rate:g}")
    return notes
