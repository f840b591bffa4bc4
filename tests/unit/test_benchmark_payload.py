"""The arithmetic of the payload benchmark: shares of a gap, and angles."""

from __future__ import annotations

import pytest
import torch

from benchmarks.payload import closed
from benchmarks.payload_parts.gap import degrees
from benchmarks.payload_parts.setting import DENSE, PLAIN, Form, forms, top


def test_the_share_of_the_gap_is_taken_seed_by_seed() -> None:
    told = {PLAIN: (6.0, 5.0), "dense": (5.0, 4.5), "half": (5.5, 4.75), "more": (4.9, 4.4)}
    runs = [
        {"form": name, "seed": seed, "nll": nll}
        for name, both in told.items()
        for seed, nll in enumerate(both)
    ]
    assert closed(runs, Form("half", top(8)), PLAIN, "dense") == pytest.approx((0.5, 0.0))
    mean, half = closed(runs, Form("more", top(8)), PLAIN, "dense")
    assert mean == pytest.approx(1.15) and half == pytest.approx(12.7062 * 0.05, rel=1e-4)  # t of 1 degree


def test_every_form_is_compared_with_a_dense_one_of_its_temperature() -> None:
    found = forms(20)
    assert len({form.name for form in found}) == len(found)
    assert {form.temperature for form in found} == {f.temperature for f in found if f.answers == DENSE}
    assert all(form.temperature == 1.0 for form in found if form.answers["kind"] == "sampled")
    assert sum(form.answers["kind"] == "sampled" for form in forms(50)) == 1


@pytest.mark.parametrize("angle", [0.0, 0.01, 30.0, 90.0, 180.0])
def test_angles(angle: float) -> None:
    radians = torch.deg2rad(torch.tensor(angle, dtype=torch.float64))
    one = torch.tensor([3.0, 0.0], dtype=torch.float64)
    other = torch.stack([torch.cos(radians), torch.sin(radians)])
    assert degrees(one, other) == pytest.approx(angle, abs=1e-9)
