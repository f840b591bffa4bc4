"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from raykd.report.formats import format_signed


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1.234, 2, "+1.23"),
        (-0.004, 2, "−0.004"),
        (0.00004, 2, "+0.00004"),
        (1e-15, 2, "+0.00"),
        (-1e-15, 1, "+0.0"),
        (0.0, 3, "+0.000"),
    ],
)
def test_a_small_difference_keeps_its_digits_and_rounding_noise_is_zero(
    value: float, digits: int, text: str
) -> None:
    assert format_signed(value, digits) == text
