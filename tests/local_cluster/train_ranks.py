"""One rank of a small distillation, for several splits and ZeRO stages; writes the trained weights of each.

Usage: python -m tests.local_cluster.train_ranks OUT case ...   with case = stage:micro_batches[:precision]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from tests.worlds import build_loop, run_config


def main(out: Path, cases: list[str]) -> None:
    """Trains each case from the same start and saves weights and curve on rank 0."""
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo")
    for case in cases:
        stage, micro, *precision = case.split(":")
        points = []
        config = run_config(
            zero_stage=int(stage), gradient_accumulation=int(micro), precision=precision[0] if precision else "float32"
        )
        loop = build_loop(config, rank=rank, world=world, publish=points.append)
        loop.run()
        weights = loop.engine.weights()
        if rank == 0:
            name = f"{world}x{case.replace(':', '_')}"
            torch.save(weights, out / f"{name}.pt")
            curve = [{"step": p.step, **p.values} for p in points]
            (out / f"{name}.json").write_text(json.dumps(curve), encoding="utf-8")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
