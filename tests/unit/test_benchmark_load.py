"""The arithmetic of the load benchmark."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.load import Tally, percentile, reported


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(i) for i in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (50.0, 99.0, 100.0)
    assert percentile([7.0], 0.99) == 7.0 and math.isnan(percentile([], 0.5))


def test_rows_that_differ_are_wrong_and_rows_that_are_not_there_are_lost() -> None:
    tally = Tally()
    want = np.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], np.float32)
    got = want.copy()
    got[1, 0] += 1e-3
    got[2, 1] = np.nan
    tally.answered(0.0, 0.5, got, want, np.asarray([True, True, True, False]))
    assert (tally.rows, tally.wrong, tally.lost) == (4, 2, 1)
    clean = Tally()
    clean.answered(0.0, 0.5, want + np.float32(1e-6), want, np.ones(4, bool))
    assert (clean.wrong, clean.lost) == (0, 0) and 0.0 < clean.largest < 1e-5


def test_clients_are_counted_together_and_what_a_kill_cost_is_the_longest_request_over_it() -> None:
    one = Tally(begun_s=[0.0, 1.0], seconds=[1.0, 4.0], rows=10)
    two = Tally(begun_s=[2.0], seconds=[1.5], rows=6, lost=2)
    report = reported([one, two], 8.0, kills=[2.5, 7.0], restarts=2)
    assert (report.clients, report.requests, report.rows, report.rows_a_second) == (2, 3, 16, 2.0)
    assert report.p50_ms == pytest.approx(1500.0) and report.most_ms == pytest.approx(4000.0)
    assert report.over_a_kill_s == [4.0, 0.0]
    assert (report.lost, report.wrong, report.kills, report.restarts) == (2, 0, 2, 2)
