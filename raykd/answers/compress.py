"""Compress a teacher's logits over a vocabulary into an answer; runs where the teacher runs, on any device.

Decision record:

- Each function takes the logits of a chunk of units and may be called chunk by chunk (`TensorAnswer.concat` puts the
  chunks together), so that float32 logits of a whole batch never exist.
- On a GPU with Triton, `raykd.distill.wide.kernels` read the logits as the product gives them: float32 copies of a
  chunk, a dozen of them for one answer, were two thirds of the time that a language model's teacher computed. The
  numbers are the same up to rounding.
- What is computed stays on the device until all chunks and passes are queued, because a copy to the host waits for it.
- The random draw of a unit depends only on its row's seed and its place in the row, never on its batch or chunk, so an
  answer from the store is the answer that would be computed again.

Cut padded columns off *before* calling: a padding column takes probability from the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.answer import Answer, HiddenAnswer, SampledAnswer, TopKAnswer
from raykd.devices import without_gradients
from raykd.distill.wide.fused import is_fused, load_kernels

MOST_DRAWS = 255
"""A count has one byte."""
_HALF_MIN = float(np.finfo(np.float16).min)


@dataclass(frozen=True)
class TensorAnswer:
    """An answer whose numbers are still on the device that computes them.

    Attributes:
        tensors: By name, one entry per unit.
        build: Makes an `Answer` of them as numpy arrays, given by name, and of `offsets_N`.
    """

    tensors: dict[str, torch.Tensor]
    build: Callable[..., Answer]

    def fetch(self, offsets_N: NDArray[np.int64] | None = None) -> Answer:
        """Wait for the device and return the answer."""
        arrays = {name: tensor.cpu().numpy() for name, tensor in self.tensors.items()}
        return self.build(offsets_N=offsets_N, **arrays)

    @classmethod
    def concat(cls, parts: Sequence[TensorAnswer]) -> TensorAnswer:
        """Return the units of all parts, which stay on the device."""
        joined = {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
        return replace(parts[0], tensors=joined) if len(parts) > 1 else parts[0]


@without_gradients
def compute_top_k(
    logits_NV: torch.Tensor, k: int, temperatures: Sequence[float], *, gold_N: torch.Tensor | None = None
) -> TensorAnswer:
    """Keep the k largest logits (at most V) and the exact log-sum-exp for each temperature.

    The log-sum-exp is taken over the k logits as float16 holds them and all others as they are. Else the rounding of
    the k (5e-4) would drown a small tail, which is what is missing to 1.

    Args:
        logits_NV: Raw, any floating dtype.
        k: How many.
        temperatures: The grid.
        gold_N: The token that the text has, for `gold_logp_N`.

    Raises:
        ValueError: k is below 1, or a temperature is not positive or named twice.
    """
    if k < 1 or not temperatures or min(temperatures) <= 0.0 or len(set(temperatures)) < len(temperatures):
        raise ValueError(
            f"top {k} at temperatures {tuple(temperatures)}: wanted k > 0, each temperature once, > 0"
        )
    grid = tuple(float(t) for t in temperatures)
    build = partial(_build, TopKAnswer, temperatures=grid, vocab=logits_NV.shape[1])
    if is_fused(logits_NV):
        return TensorAnswer(_compute_wide_top_k(logits_NV, k, grid, gold_N), build)
    shifted_NV = _shift(logits_NV)
    logits_NK, ids_NK = shifted_NV.topk(min(k, shifted_NV.shape[1]), dim=-1)
    common = _measure_units(shifted_NV, gold_N)
    logits_NK = logits_NK.clamp_min(_HALF_MIN).half()
    shifted_NV.scatter_(1, ids_NK, logits_NK.float())
    lse_NG = torch.stack([torch.logsumexp(shifted_NV / t, dim=-1) for t in temperatures], dim=-1)
    own = {"ids_NK": ids_NK.to(torch.int32), "logits_NK": logits_NK, "lse_NG": lse_NG}
    return TensorAnswer({**own, **common}, build)


@without_gradients
def compute_draws(
    logits_NV: torch.Tensor,
    uniforms_ND: torch.Tensor,
    temperature: float,
    *,
    gold_N: torch.Tensor | None = None,
) -> TensorAnswer:
    """Draw one token of ``softmax(z / T)`` per uniform number, with replacement, as unique ids with counts.

    Args:
        logits_NV: Raw, any floating dtype.
        uniforms_ND: float64 in [0, 1), one per draw, from `draw_uniforms`; on the device of the logits.
        temperature: T.
        gold_N: The token that the text has, for `gold_logp_N`.

    Raises:
        ValueError: There are no draws or more than 255, T is not positive, or the numbers of units differ.
    """
    draws = uniforms_ND.shape[1]
    if not 1 <= draws <= MOST_DRAWS or not temperature > 0.0 or len(uniforms_ND) != len(logits_NV):
        raise ValueError(
            f"{draws} draws at temperature {temperature} for {len(uniforms_ND)} of {len(logits_NV)} units; "
            f"wanted 1 to {MOST_DRAWS} draws, a positive temperature, equal units"
        )
    shifted_NV = _shift(logits_NV)
    # float64: in float32 the sum over 100,000 tokens would lose the small ones, and so bias the draw.
    cdf_NV = torch.exp((shifted_NV / temperature).double()).cumsum(dim=-1)
    drawn_ND = torch.searchsorted(cdf_NV, uniforms_ND * cdf_NV[:, -1:], right=True).clamp_max(
        cdf_NV.shape[1] - 1
    )
    build = partial(_build_sampled, temperature=float(temperature), vocab=shifted_NV.shape[1])
    return TensorAnswer({"drawn_ND": drawn_ND, **_measure_units(shifted_NV, gold_N)}, build)


def draw_uniforms(seed: int, units: int, draws: int) -> NDArray[np.float64]:
    """Draw the random numbers of one row's units; they depend on the seed alone, and a longer row begins equal."""
    return np.random.Generator(np.random.Philox(key=seed)).random((units, draws))


@without_gradients
def compute_hidden(
    states_NH: torch.Tensor, *, logits_NV: torch.Tensor | None = None, gold_N: torch.Tensor | None = None
) -> TensorAnswer:
    """Keep the last hidden states, as the output head reads them.

    Args:
        states_NH: The states, any floating dtype.
        logits_NV: Adds the entropy and, with `gold_N`, `gold_logp_N`; None leaves both out.
        gold_N: The token that the text has.
    """
    common: dict[str, torch.Tensor] = {}
    if logits_NV is not None:
        is_wide = is_fused(logits_NV)
        common = (
            _measure_wide_units(logits_NV, gold_N) if is_wide else _measure_units(_shift(logits_NV), gold_N)
        )
    if states_NH.dtype != torch.float16:  # only what is wider can overflow
        states_NH = states_NH.float().clamp(_HALF_MIN, -_HALF_MIN).half()
    return TensorAnswer({"states_NH": states_NH, **common}, partial(_build, HiddenAnswer))


def find_finite_units(logits_NV: torch.Tensor, answer: TensorAnswer) -> torch.Tensor:
    """Return bool ``[N]``: whether all logits of a unit are finite.

    Args:
        logits_NV: The logits.
        answer: What was computed of them. The kernels' entropy is NaN where a logit is not finite.
    """
    if is_fused(logits_NV) and "entropy_N" in answer.tensors and "drawn_ND" not in answer.tensors:
        return torch.isfinite(answer.tensors["entropy_N"])
    return torch.isfinite(logits_NV).all(dim=1)


def _build(form: type[Answer], **columns: Any) -> Answer:
    """Return an answer that covers all its units."""
    units = len(next(each for each in columns.values() if isinstance(each, np.ndarray)))
    return form(covered_N=np.ones(units, dtype=np.bool_), **columns)


def _build_sampled(drawn_ND: NDArray[np.int64], **columns: Any) -> Answer:
    ids_NJ, counts_NJ = _count_drawn(drawn_ND)
    return _build(SampledAnswer, ids_NJ=ids_NJ, counts_NJ=counts_NJ, draws=drawn_ND.shape[1], **columns)


def _shift(logits_NV: torch.Tensor) -> torch.Tensor:
    """Subtract each unit's largest logit, so that exponentials stay below 1."""
    logits_NV = logits_NV.float()
    return logits_NV - logits_NV.amax(dim=-1, keepdim=True)


def _measure_units(shifted_NV: torch.Tensor, gold_N: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return the fields that all forms of answer share."""
    lse_N = torch.logsumexp(shifted_NV, dim=-1)
    p_NV = torch.exp(shifted_NV - lse_N.unsqueeze(-1))
    # A forbidden token has p = 0 and a logit of -inf, whose product would be NaN.
    common = {"entropy_N": lse_N - (p_NV * shifted_NV.clamp_min(_HALF_MIN)).sum(dim=-1)}
    if gold_N is not None:
        picked_N = shifted_NV.gather(1, gold_N.to(shifted_NV.device).unsqueeze(-1)).squeeze(-1)
        common["gold_logp_N"] = (picked_N - lse_N).clamp_min(_HALF_MIN)
    return common


def _compute_wide_top_k(
    logits_NV: torch.Tensor, k: int, temperatures: tuple[float, ...], gold_N: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Compute what `compute_top_k` computes, in one reading of the logits beside that of the search."""
    found_NK, ids_NK = logits_NV.topk(min(k, logits_NV.shape[1]), dim=-1)
    grid = (1.0, *(t for t in temperatures if t != 1.0))
    sums = load_kernels().sum_exponentials(logits_NV, grid)
    top_N, sums_NG, _ = sums
    shifted_NK = found_NK.float() - top_N.unsqueeze(1)
    logits_NK = shifted_NK.clamp_min(_HALF_MIN).half()
    # The rounding of the k, in float64 so that the small difference of two sums is not lost.
    exact, rounded = shifted_NK.double(), logits_NK.double()
    moved_NG = [((rounded / t).exp() - (exact / t).exp()).sum(dim=-1) for t in temperatures]
    places = [grid.index(t) for t in temperatures]
    lse_NG = [(sums_NG[:, at].double() + moved).log() for at, moved in zip(places, moved_NG, strict=True)]
    own = {
        "ids_NK": ids_NK.to(torch.int32),
        "logits_NK": logits_NK,
        "lse_NG": torch.stack(lse_NG, dim=-1).float(),
    }
    return {**own, **_finish_wide_units(logits_NV, sums, gold_N)}


def _measure_wide_units(logits_NV: torch.Tensor, gold_N: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return the fields that all forms of answer share; NaN where a logit is not finite."""
    return _finish_wide_units(logits_NV, load_kernels().sum_exponentials(logits_NV, (1.0,)), gold_N)


def _finish_wide_units(
    logits_NV: torch.Tensor,
    sums: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    gold_N: torch.Tensor | None,
) -> dict[str, torch.Tensor]:
    """Return the shared fields from sums whose first temperature is 1."""
    top_N, sum_N, cross_N = sums[0], sums[1][:, 0], sums[2][:, 0]
    lse_N = sum_N.log()
    common = {"entropy_N": lse_N - cross_N / sum_N}
    if gold_N is not None:
        picked_N = logits_NV.gather(1, gold_N.to(logits_NV.device).unsqueeze(-1)).squeeze(-1)
        common["gold_logp_N"] = (picked_N.float() - top_N - lse_N).clamp_min(_HALF_MIN)
    return common


def _count_drawn(drawn_ND: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return each unit's distinct ids and how often each was drawn, padded with -1 and 0."""
    n, draws = drawn_ND.shape
    sorted_ND = np.sort(drawn_ND, axis=1)
    new_ND = np.ones((n, draws), dtype=np.bool_)
    new_ND[:, 1:] = sorted_ND[:, 1:] != sorted_ND[:, :-1]
    place_ND = np.cumsum(new_ND, axis=1) - 1
    width = int(place_ND.max(initial=-1)) + 1
    row_ND = np.broadcast_to(np.arange(n)[:, None], (n, draws))
    counts = np.bincount((row_ND * width + place_ND).ravel(), minlength=n * width).reshape(n, width)
    ids_NJ = np.full((n, width), -1, dtype=np.int32)
    ids_NJ[row_ND[new_ND], place_ND[new_ND]] = sorted_ND[new_ND]
    return ids_NJ, counts.astype(np.uint8)
