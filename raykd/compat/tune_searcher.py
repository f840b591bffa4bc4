"""Private names of Ray Tune 2.60's `Searcher`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.tune.search import Searcher


def read_searcher_state(searcher: Searcher) -> dict[str, object]:
    """Return metric and mode under the names by which Tune reads them from a searcher that it has unpickled."""
    return {"_metric": searcher.metric, "_mode": searcher.mode}
