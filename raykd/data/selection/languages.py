"""Choose the rows of some languages."""

from __future__ import annotations

import numpy as np

from raykd.config import DataConfig
from raykd.data.rows import Rows
from raykd.errors import DataError


def select_languages(rows: Rows, name: str, config: DataConfig, left_out: dict[str, int]) -> Rows:
    """Return the rows of the selected languages.

    Raises:
        DataError: None stays.
    """
    if config.select_languages is None:
        return rows
    unwanted = set(rows.list_languages()) - set(config.select_languages)
    if not unwanted:
        return rows
    kept = rows.select(np.any([rows.is_in_language(name) for name in config.select_languages], axis=0))
    if not len(kept):
        raise DataError(
            f"data.{name} holds no row of the selected languages",
            got=f"languages {list(rows.list_languages())}",
            wanted=f"some of {list(config.select_languages)}",
            next_step="change data.select_languages or the source",
        )
    left_out[f"{name}: of languages that are not selected"] = len(rows) - len(kept)
    return kept
