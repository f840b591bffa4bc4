"""One rank of a small distillation, for several splits and ZeRO stages; writes the trained weights of each.

Usage: python -m tests.local_cluster.train_ranks OUT case ...   with case = stage:micro_batches[:bfloat16][:peer][:policy][:resumed|:converted]

A resumed case is saved at its first evaluation and continued by a fresh loop.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import torch

from raykd.config.kinds.peer import Peer
from raykd.distill.objective import Objective
from raykd.distill.schedules import Constant
from raykd.distill.weightings.policy import Policy
from raykd.models.students import TransformerStudent
from raykd.student import evaluate
from raykd.student.loop import TrainingLoop
from tests.worlds import build_loop, run_config

SHARD_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
"""Otherwise ZeRO-3 keeps the small parameters of a test whole, and shows nothing."""
PEER = Peer(
    student=TransformerStudent(layers=2, hidden=24, heads=2, dropout=0.0, max_positions=64),
    weight_back=Constant(value=0.5),
    temperature=Constant(value=2.0),
    learning_rate_factor=0.5,
)
POLICY = Objective(alpha=Constant(value=0.1), weighting=Policy(episodes=4, rate=1.0))
evaluate.EVALUATION_TOKENS = 200  # several passes an evaluation, not the same number on each rank


def main(out: Path, cases: list[str]) -> None:
    """Trains each case from the same start and saves weights and curve on rank 0."""
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo")
    for case in cases:
        stage, micro, *how = case.split(":")
        points = []
        precision = "bfloat16" if "bfloat16" in how else "float32"
        kept = out / f"checkpoint-{stage}-{precision}{'-peer' if 'peer' in how else ''}"
        more = {"gradient_clipping": 0.0} if "peer" in how else {"deepspeed": SHARD_ALL}
        config = run_config(
            zero_stage=int(stage), gradient_accumulation=int(micro), precision=precision, **more
        )
        if "peer" in how:
            config = config.model_copy(update={"peer": PEER})
        if "policy" in how:
            config = config.model_copy(update={"objective": POLICY})
        loop = build_loop(config, rank=rank, world=world, publish=points.append)
        if "resumed" in how:
            loop = resumed(loop, kept, rank, world)
        if "converted" in how:  # what the resumed case of another number of ranks has saved
            loop.load(kept)
            assert loop.state.step == 4
        loop.run()
        weights = loop.engine.weights()
        if rank == 0:
            name = f"{world}x{case.replace(':', '_')}"
            torch.save(weights, out / f"{name}.pt")
            curve = [{"step": p.step, **p.values} for p in points]
            (out / f"{name}.json").write_text(json.dumps(curve), encoding="utf-8")
    torch.distributed.destroy_process_group()


class StopError(Exception):
    """Ends a run after its first checkpoint."""


def resumed(loop: TrainingLoop, folder: Path, rank: int, world: int) -> TrainingLoop:
    """Trains to the first evaluation, saves, and gives a fresh loop that loaded what was saved."""
    folder.mkdir(exist_ok=True)

    def stop(current: TrainingLoop) -> None:
        current.save(folder)
        raise StopError

    with contextlib.suppress(StopError):
        loop.run(stop)
    torch.distributed.barrier()
    fresh = build_loop(loop.config, rank=rank, world=world)
    fresh.load(folder)
    assert fresh.state.step == 4
    return fresh


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
