"""Files of JSON lines whose writer was killed: what is whole is read, what is not is said, what comes after it stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from raykd.checkpoint.curves import Curves
from raykd.parse import JsonObject
from raykd.parse.json_lines import append_json_rows, read_json_rows
from raykd.point import Point

ROWS: list[JsonObject] = [{"n": 0, "text": "好\u2028\ud800"}, {"n": 1, "text": "b"}]


def read(path: Path) -> list[JsonObject]:
    return list(read_json_rows(path, dict))


def test_a_file_that_is_cut_anywhere_loses_its_last_line_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append_json_rows(tmp_path / "whole", ROWS)
    whole = (tmp_path / "whole").read_bytes()
    first = whole.index(b"\n")
    for cut in range(len(whole) + 1):
        caplog.clear()
        path = tmp_path / str(cut)
        path.write_bytes(whole[:cut])
        kept = ROWS[: (cut >= first) + (cut >= len(whole) - 1)]
        assert read(path) == kept, cut
        torn = cut not in (0, first, first + 1, len(whole) - 1, len(whole))
        assert (f"line {len(kept) + 1} is not whole" in caplog.text) == torn, cut
        append_json_rows(path, [{"n": 2}], lasting=True)
        assert read(path) == [*kept, {"n": 2}], cut


def test_bytes_that_are_no_text_and_rows_of_others_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b'{"n": 1}\n\xff\xfe{"n": 2}\n\0\0\0\0\n[1]\n"a"\n3\n\n{"m": 4}\n{"n": 5}\n')
    assert list(read_json_rows(path, lambda row: int(row["n"]))) == [1, 5]
    assert read(tmp_path / "nothing") == []


def test_a_point_after_a_torn_one_is_read_by_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    Curves(path).add("student", Point(1, {"loss": 1.0}))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"job": "student", "st')
    Curves(path).add("student", Point(2, {"loss": 0.5}))
    assert [point.step for point in Curves(path).by_job["student"]] == [1, 2]
