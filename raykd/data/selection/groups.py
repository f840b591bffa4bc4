"""Choose what a run learns from by the values of a column, such as a domain: one domain alone, or all but one.

Decision record: training, validation and unlabelled rows are chosen, because all of them decide what a student becomes.
Test rows stay, so that a table can set the domain beside the others. A row without a value may be of any domain, and
"left out" must hold of it too, so it goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raykd.data.rows import Rows
from raykd.errors import ConfigError, DataError


def code_aligned(
    rows: Rows, column: Literal["language", "group"]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the values that `train.alignment` tells apart, and which of them each row has, ``[B]``; -1 for none.

    Raises:
        ConfigError: All rows have one value.
    """
    names: tuple[str, ...] = ()
    codes_B: NDArray[np.int32] = np.zeros(len(rows), dtype=np.int32)
    if column == "language":
        names, codes_B = rows.code_languages()
    elif rows.groups is not None:
        names, codes_B = rows.code_groups()
        if names[:1] == ("",):  # a row without a value may be of any
            names, codes_B = names[1:], codes_B - 1
    if len(names) < 2:
        raise ConfigError(
            f"train.alignment finds no two values of {column} among the training rows",
            got=", ".join(map(str, names)) or "no such column",
            wanted="two at least",
            next_step="leave train.alignment out, or name the column (data.columns.group)",
        )
    return names, np.asarray(codes_B, dtype=np.int64)


@dataclass
class GroupSelection:
    """The rows of a run by their values of `data.columns.group`.

    Attributes:
        kept: The values that are kept; None keeps all.
        left: The values that are left out.
        seen: All values of all sources.
    """

    kept: Sequence[str] | None
    left: Sequence[str]
    seen: set[str] = field(default_factory=set)

    def note(self, rows: Rows) -> None:
        """Take note of the values of a source."""
        if rows.groups is not None:
            self.seen |= set(rows.code_groups()[0]) - {""}

    def select(self, rows: Rows, part: str, left_out: dict[str, int]) -> Rows:
        """Return the rows of a part that are learnt from; of the test rows all.

        Args:
            rows: The rows.
            part: Name of the part.
            left_out: Takes how many rows go, by reason.

        Raises:
            DataError: None stays.
        """
        if part == "test" or (self.kept is None and not self.left):
            return rows
        names, codes_B = rows.code_groups() if rows.groups is not None else (("",), np.zeros(len(rows), int))
        stays = [n != "" and n not in self.left and (self.kept is None or n in self.kept) for n in names]
        chosen = rows.select(np.asarray(stays, dtype=bool)[codes_B])
        if not len(chosen):
            raise DataError(
                f"data.{part} holds no row that data.select_groups and data.leave_out_groups leave",
                got=f"values {list(names)} of the column data.columns.group",
                wanted="rows with one of the values to learn from",
                next_step=f"change one of the two keys, or data.{part}",
            )
        bare = int((codes_B == names.index("")).sum()) if "" in names else 0
        left_out[f"{part}: without a value of data.columns.group"] = bare
        left_out[f"{part}: of groups that are not learnt from"] = len(rows) - len(chosen) - bare
        return chosen

    def check(self) -> None:
        """Refuse a value that no row has: it would choose nothing, unseen.

        Raises:
            DataError: There is such a value.
        """
        for key, named in (("select_groups", self.kept or ()), ("leave_out_groups", self.left)):
            unknown = [name for name in named if name not in self.seen]
            if unknown:
                raise DataError(
                    f"data.{key} names {unknown[0]!r}, which no row has",
                    got=f"values {sorted(self.seen)} of the column data.columns.group",
                    wanted="values that occur",
                    next_step=f"correct data.{key}",
                )
