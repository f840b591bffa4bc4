"""Names in a chart of quality against cost stand beside their points, and not upon each other."""

from __future__ import annotations

import itertools
import math

import pytest

from raykd.report.comparisons.point_names import _draw_box, _scale, _sum_overlaps, choose_corners

SIZE = (330.0, 228.0)


def test_a_single_name_stands_at_the_upper_right() -> None:
    assert choose_corners([(1.0, 2.0, "base")], (1.0, 3.0), SIZE, is_log=True) == ["upper right"]


def test_two_points_at_one_place_have_names_in_two_corners() -> None:
    points = [(5.0, 90.0, "left"), (5.0, 90.0, "right"), (1.0, 80.0, ""), (9.0, 95.0, "")]
    first, second, *_ = choose_corners(points, (80.0, 95.0), SIZE, is_log=False)
    assert first != second


@pytest.mark.parametrize("is_log", [True, False])
def test_names_of_students_and_teachers_close_together_do_not_overlap(is_log: bool) -> None:
    points = [
        (1.29e6, 87.6, "hundredth"), (3.59e6, 88.2, "lstm"), (4.39e6, 87.8, "base"), (11.3e6, 90.0, "tenth"),
        (22.7e6, 89.9, "teacher minilm"), (109e6, 92.7, "teacher mpnet"), (132e6, 92.2, "teachers' ensemble"),
    ]  # fmt: skip
    corners = choose_corners(points, (85.2, 92.7), SIZE, is_log=is_log)
    costs = [math.log(x) if is_log else x for x, _, _ in points]
    xs = _scale(costs, (min(costs), max(costs)), SIZE[0])
    ys = [SIZE[1] - y for y in _scale([y for _, y, _ in points], (85.2, 92.7), SIZE[1])]
    boxes = [_draw_box(x, y, p[2], corner) for x, y, p, corner in zip(xs, ys, points, corners, strict=True)]
    # on a linear axis the four small students share 25 pixels, so some cover each other a little
    covered = sum(_sum_overlaps(one, [other]) for one, other in itertools.combinations(boxes, 2))
    plain = [_draw_box(x, y, p[2], "upper right") for x, y, p in zip(xs, ys, points, strict=True)]
    before = sum(_sum_overlaps(one, [other]) for one, other in itertools.combinations(plain, 2))
    assert covered == 0.0 if is_log else covered < before / 2
