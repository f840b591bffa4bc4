"""Register every metric: its title, its unit, and which direction is better.

Decision record: one table that tasks add to, because the run's configuration, the sweep's ranking, tables and
plots each need one column of it. A metric of a task in another package is registered with that task.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticKnownError

Unit = Literal["rate", "hundred", "nats", "number"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: As in `train.metric` and in MLflow.
        title: As in tables, with its unit.
        unit: A rate lies in [0, 1] and is shown in per cent; hundred runs from 0 to 100; nats and number are shown as
            they are.
        higher_is_better: Whether a higher value is better.
    """

    name: str
    title: str
    unit: Unit = "rate"
    higher_is_better: bool = True


_METRICS: dict[str, Metric] = {}
AGREEMENT = "agreement"
"""Name of accuracy, and beginning of the names of other metrics, where teachers' labels stand for missing gold."""


def register_metric(metric: Metric) -> None:
    """Add a metric; the task that computes it names it in `metric_names`.

    Raises:
        ValueError: Another metric has this name.
    """
    if _METRICS.setdefault(metric.name, metric) != metric:
        raise ValueError(f"two metrics are called {metric.name}: {_METRICS[metric.name]} and {metric}")


for _known in (
    Metric("accuracy", "accuracy %"),
    Metric("macro_f1", "macro-F1 %"),
    Metric("nll", "NLL nats", "nats", higher_is_better=False),
    Metric("ece", "ECE %", higher_is_better=False),
    Metric("micro_f1", "micro-F1 %"),
    Metric("tuned_micro_f1", "tuned micro-F1 %"),
    Metric("tuned_macro_f1", "tuned macro-F1 %"),
    Metric("pearson", "Pearson", "number"),
    Metric("spearman", "Spearman", "number"),
    Metric("mse", "MSE", "number", higher_is_better=False),
    Metric("mae", "MAE", "number", higher_is_better=False),
    Metric("f1", "F1 %"),
    Metric("precision", "precision %"),
    Metric("recall", "recall %"),
    Metric("exact_match", "exact match %"),
    Metric("score", "score %"),
    Metric("best_f1", "best F1 %"),
    Metric("best_exact_match", "best exact %"),
    Metric("mrr", "MRR %"),
    Metric("recall_at_1", "recall@1 %"),
    Metric("ndcg_at_10", "nDCG@10 %"),
    Metric("mrr_at_10", "MRR@10 %"),
    Metric("perplexity", "perplexity", "number", higher_is_better=False),
    Metric("chrf", "chrF", "hundred"),
    Metric("bleu", "BLEU", "hundred"),
    Metric("rouge1", "ROUGE-1", "hundred"),
    Metric("rouge2", "ROUGE-2", "hundred"),
    Metric("rougeL", "ROUGE-L", "hundred"),
):
    register_metric(_known)


def name_agreement(metric: str) -> str:
    """Return the name of a metric where the teachers' labels stand for gold labels that nobody has."""
    return AGREEMENT if metric == "accuracy" else f"{AGREEMENT}_{metric}"


for _known in [
    _METRICS[name]
    for name in ("accuracy", "macro_f1", "nll", "ece", "f1", "precision", "recall", "micro_f1", "exact_match")
]:
    _title = "agreement %" if _known.name == "accuracy" else f"agreement {_known.title}"
    register_metric(replace(_known, name=name_agreement(_known.name), title=_title))


def list_metrics() -> tuple[str, ...]:
    """Return the names of all registered metrics."""
    return tuple(_METRICS)


def find_metric_title(name: str) -> str:
    """Return the title of a metric with its unit; the name itself of an unknown metric."""
    known = _METRICS.get(name)
    return name if known is None else known.title


def is_rate(name: str) -> bool:
    """Return whether a metric is shown in per cent."""
    return name in _METRICS and _METRICS[name].unit == "rate"


def is_higher_better(name: str) -> bool:
    """Return whether a higher value is better, as it is for an unknown name (a run's own score)."""
    return name not in _METRICS or _METRICS[name].higher_is_better


def is_out_of_hundred(name: str) -> bool:
    """Return whether a metric runs from 0 to 100."""
    return name in _METRICS and _METRICS[name].unit == "hundred"


def _check_metric_name(name: str) -> str:
    if name not in _METRICS:
        raise PydanticKnownError(
            "literal_error", {"expected": " or ".join(f"'{known}'" for known in _METRICS)}
        )
    return name


MetricName = Annotated[str, AfterValidator(_check_metric_name), WithJsonSchema({"type": "string"})]
"""A field that takes the name of a registered metric."""
