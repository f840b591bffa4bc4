"""`GraphedModule`: replays the forward pass of a small model on a GPU as one CUDA graph.

Decision record: a forward pass of BERT base is some 200 kernels, which Python queues in 7 ms and an H100 computes in 4,
so the GPU waits for the host. A graph queues them at once. It holds for one shape of inputs, and teachers meet few
(`raykd.text.buckets`). Whatever a graph would fix and the next batch could change is in its key: shapes, whether the
mask hides a place, where the weights lie. A shape is captured when it is met for the third time, and compared with the
plain pass. Where a capture fails or differs the model has no graphs at all: code of others may look at values.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from raykd.compat.transformers_private import read_padded
from raykd.text.padding import select_outputs

log = logging.getLogger("raykd.teachers")

MOST_OPERATIONS = 1.2e13
"""Floating-point operations of a pass up to which queueing it takes about as long as a GPU computes, or longer."""
MEETINGS = 3
"""How often a shape is met before it is captured, which takes a few tenths of a second."""
MOST_GRAPHS = 32
TOLERANCE = 5e-2
"""Largest difference from the plain pass, root mean square over root mean square. Two orders of summing bfloat16 over
a dozen layers differ by up to 0.02; outputs of other inputs by about 1."""


class GraphedModule:
    """A frozen model on a GPU, called as the model is; its attributes are the model's."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module, self._weights = module, list(module.parameters())
        count = sum(weight.numel() for weight in self._weights)
        self._most_tokens = int(MOST_OPERATIONS / (2 * max(1, count)))
        self._graphs: dict[object, _Graph] = {}
        self._met: Counter[object] = Counter()
        self._pool: Any = None
        self._failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """Return the model's outputs, of which tasks read those of `select_outputs`."""
        key = self._make_key(inputs)
        if key is None:
            return self._module(**inputs)
        graph = self._graphs.get(key)
        if graph is not None:
            return graph.replay(inputs)
        outputs = self._module(**inputs)
        self._met[key] += 1
        if self._met[key] >= MEETINGS and len(self._graphs) < MOST_GRAPHS:
            self._capture(key, inputs, select_outputs(outputs))
        return outputs

    def _make_key(self, inputs: Mapping[str, torch.Tensor]) -> object:
        """Return all that a graph fixes; None where no graph is used."""
        padded = read_padded()
        tokens = max((value.numel() for value in inputs.values()), default=0)
        if self._failed or padded is None or not 0 < tokens <= self._most_tokens:
            return None
        shapes = tuple((name, tuple(value.shape)) for name, value in inputs.items())
        return padded, shapes, tuple(weight.data_ptr() for weight in self._weights)

    def _capture(
        self, key: object, inputs: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
    ) -> None:
        try:
            graph = _Graph(self._module, inputs, self._pool)
            found = vars(graph.replay(inputs))
            apart = max(_compare(found[name], value) for name, value in wanted.items())
        except Exception as error:  # code of others
            self._give_up(f"{type(error).__name__}: {error}")
            return
        if not apart <= TOLERANCE:
            self._give_up(f"its outputs would differ by {apart:.1e}")
            return
        self._graphs[key], self._pool = graph, graph.pool

    def _give_up(self, reason: str) -> None:
        self._failed = True
        self._graphs.clear()
        log.info("%s is not run as CUDA graphs: %s", type(self._module).__name__, reason)


class _Graph:
    """The pass of one shape."""

    def __init__(self, module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], pool: Any) -> None:
        self._inputs = {name: value.clone() for name, value in inputs.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            module(**self._inputs)  # what a first pass allocates on a stream is not part of the graph
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads copy and allocate meanwhile.
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            outputs = module(**self._inputs)
        self._outputs = select_outputs(outputs)
        self.pool = self._graph.pool()

    def replay(self, inputs: Mapping[str, torch.Tensor]) -> SimpleNamespace:
        for name, value in inputs.items():
            self._inputs[name].copy_(value, non_blocking=True)
        self._graph.replay()
        # The next replay writes into the same memory.
        return SimpleNamespace(**{name: value.clone() for name, value in self._outputs.items()})


def _compare(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the difference, root mean square over root mean square; infinite where it is no number."""
    difference = (found.float() - wanted.float()).norm() / wanted.float().norm().clamp_min(1e-6)
    return float(torch.nan_to_num(difference, nan=float("inf")))
