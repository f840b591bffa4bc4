"""Terminals and texts that are not UTF-8: every line is answered, in the terminal's means."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raykd.cli.terminal import HANDLER, Terminal, decode_bytes, decode_lines, format_json, recover_text
from tests.fakes import save_transformer

LINES = "好 one\nroom\n".encode() + b"\xe9t\xe9\nnul\0here\n\xed\xa0\x80 half\n"


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.nightly),
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["latin-1", "posix"],
)
def test_predict_answers_every_line_with_json_that_can_be_read(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    folder = save_transformer(tmp_path / "modèle")
    command = [sys.executable, "-m", "raykd.cli", "predict", str(folder), "--json"]
    result = subprocess.run(
        command, input=LINES, capture_output=True, check=False, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stderr.decode(errors="replace")
    rows = [json.loads(line) for line in result.stdout.decode("latin-1").splitlines()]
    assert [row["text"] for row in rows][:2] == ["好 one", "room"] and len(rows) == 5
    assert all(set(row) >= {"label", "probabilities"} for row in rows)


def test_signs_that_a_terminal_lacks_are_ascii_or_escaped() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=HANDLER, newline="\n")
    stream.write("a − b … ✓ 好")
    stream.flush()
    assert stream.buffer.getvalue() == rb"a - b ... + \u597d"  # type: ignore[attr-defined]


def test_bytes_of_lines_are_read_whatever_they_are() -> None:
    stream = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfone\r\ntwo\rthree\n\xff"), encoding="utf-8")
    assert list(decode_lines(stream)) == ["one", "two", "three", "\ufffd"]
    wide = io.TextIOWrapper(io.BytesIO("é\nb\n".encode("utf-16")), encoding="utf-8")
    assert list(decode_lines(wide)) == ["é", "b"]
    assert list(decode_lines(io.StringIO("a\ud800\nb"))) == ["a\ufffd\ufffd\ufffd\n", "b"]
    assert decode_bytes("好".encode()) == "好" and recover_text(os.fsdecode("好".encode())) == "好"
    assert "\ufffd" in recover_text("\udce9t") and json.loads(format_json({"a": "\ud800"})) == {"a": "\ud800"}


def test_a_pipe_that_is_closed_ends_the_showing_and_not_the_work() -> None:
    code = (
        "import sys; from raykd.cli.app import console\n"
        "for i in range(20000): console.print(f'line {i}')\n"
        "print('still here', file=sys.stderr)"
    )
    done = subprocess.run(
        f"{sys.executable} -c \"{code}\" | head -1", shell=True, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.stdout == "line 0\n" and done.stderr == "still here\n"
    assert Terminal(file=io.StringIO()).quiet is False


def test_errors_that_nobody_reads_leave_the_answers_alone() -> None:
    code = (
        "import time; from raykd.cli.app import errors\n"
        "for i in range(20000): errors.print(f'line {i}')\n"
        "print('an answer')"
    )
    done = subprocess.run(
        f"{{ {sys.executable} -c \"{code}\" 2>&1 >&3 3>&- | head -1 >/dev/null; }} 3>&1",
        shell=True, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "an answer\n"


def test_halves_of_surrogate_pairs_in_json_are_answered(tmp_path: Path) -> None:
    from raykd.scoring.inputs import read_inputs

    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "\\ud800 room"}\n{"tokens": 1, "text": "ok"}\n')
    assert read_inputs(None, file, None, None, io.StringIO()).texts == ["\ufffd room", "ok"]


@pytest.mark.parametrize("module", ["raykd", "raykd.cli"])
def test_the_package_and_its_command_line_run_by_their_module(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
    )
    assert "Usage: raykd" in done.stdout
