"""`LoopState`: the position of a training loop, kept in its checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

_FILE = "state.json"


@dataclass
class LoopState:
    """What a checkpoint keeps beside the engine's state, as JSON.

    Attributes:
        step: Optimizer steps done.
        best: The best validation metric so far.
        best_nll: Its negative log-likelihood, which breaks ties.
        best_step: When it was measured.
        stale: Evaluations since then.
        stopped: Whether patience ended the run.
        history: The evaluations.
        skipped: Steps that were skipped because they were not finite.
        in_a_row: How many of them were the last ones.
        rolled_back: Whether the run went back to a checkpoint because of them.
        learned: The states of learned values, by task and value (`raykd.distill.adapting.learned`).
    """

    step: int = 0
    best: float | None = None
    best_nll: float | None = None
    best_step: int = 0
    stale: int = 0
    stopped: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    skipped: int = 0
    in_a_row: int = 0
    rolled_back: bool = False
    learned: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Write the state into the folder of a checkpoint."""
        (directory / _FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> LoopState:
        """Read what `write` wrote."""
        return cls(**json.loads((directory / _FILE).read_text(encoding="utf-8")))
