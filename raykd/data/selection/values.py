"""Check that what a run says of some rows has such rows: values of a column that it names or tells apart, no label.

Decision record: a value that no row has does nothing, and nobody would see that it does nothing. A smoke copy reads a
few rows alone, in which it may be missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykd.data.selection.groups import code_aligned
from raykd.distill.weightings.routing import ByColumn
from raykd.errors import ConfigError

if TYPE_CHECKING:
    from raykd.config import RunConfig
    from raykd.data.load import Dataset


def check_row_values(config: RunConfig, data: Dataset, *, all_labelled: bool) -> None:
    """Check the values that alignment and weighting read, and that rows without label are there where a key needs some.

    Args:
        config: The run of one task.
        data: Its rows.
        all_labelled: Whether every training row of every task of the run has a label.

    Raises:
        ConfigError: All training rows have one value, or none has a value that is named; or all have a label.
    """
    if config.smoke is not None:
        return
    objective = config.objective
    for key, acts in (
        ("least_confidence", objective.least_confidence.bounds()[1] > 0.0),
        ("anneal_on: unlabelled", objective.anneal_on == "unlabelled"),
    ):
        if acts and all_labelled and not config.plain:
            raise ConfigError(
                f"objective.{key} acts on training rows without gold label, and there are none",
                got=f"{len(data.train)} rows, all with a label",
                wanted="texts without labels: data.unlabeled, data.augment or data.labelled_per_language",
                next_step="add some, or leave the key out",
            )
    if config.train.alignment is not None:
        code_aligned(data.train, config.train.alignment.column)
    weighting = config.objective.weighting.inner
    if not isinstance(weighting, ByColumn) or weighting.column != "group" or config.plain:
        return
    if config.data.select_groups is not None or config.data.leave_out_groups:
        return  # rows of other values may be there, and are not learnt from now
    parts = [data.train, data.validation, *([] if data.test is None else [data.test])]
    seen = {name for rows in parts if rows.groups is not None for name in rows.code_groups()[0]} - {""}
    if unknown := [name for name in weighting.weights_of if name not in seen]:
        raise ConfigError(
            f"objective.weighting.weights_of names {unknown[0]!r}, which no row has",
            got=f"values {sorted(seen)} of the column data.columns.group",
            wanted="values that occur",
            next_step="correct objective.weighting.weights_of, or leave the value out",
        )
