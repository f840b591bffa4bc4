"""Tune's population schedulers, with their first samples from our sampler.

Decision record: Tune refuses a search algorithm beside PBT, because one that learns would be told scores of samples
that it did not choose. Ours is `random` there and learns nothing, and it is what numbers the trials and brings back
those of a sweep that was cut off; so the check, which looks at the controller's search algorithm, is shown none.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.schedulers.pb2 import PB2


class _FirstSamples:
    """Lets a population take its first samples from a search algorithm."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)  # type: ignore[misc]


class Population(_FirstSamples, PopulationBasedTraining):
    """Population based training."""


class BanditPopulation(_FirstSamples, PB2):
    """Population based bandits."""
