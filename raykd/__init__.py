"""raykd distils several frozen teachers, monolingual and multilingual, into one small student on Ray.

The public functions are defined in `raykd.api` and `raykd.saved_models`. They are imported on first use, so that
`import raykd` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raykd.api import check, compare, confirm, label, label_sequences, plan, sweep, train
    from raykd.results import ComparisonResult, EvaluationResult, Explanation, Run, RunsReport, SweepResult
    from raykd.saved_models import (
        drift,
        evaluate,
        explain,
        extract_triples,
        load,
        predict,
        watch,
        write_report,
    )

__version__ = "0.1.0"
__all__ = [
    "ComparisonResult",
    "EvaluationResult",
    "Explanation",
    "Run",
    "RunsReport",
    "SweepResult",
    "check",
    "compare",
    "confirm",
    "drift",
    "evaluate",
    "explain",
    "extract_triples",
    "label",
    "label_sequences",
    "load",
    "plan",
    "predict",
    "sweep",
    "train",
    "watch",
    "write_report",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from raykd import api, results, saved_models

    place = next(module for module in (api, saved_models, results) if hasattr(module, name))
    return getattr(place, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
