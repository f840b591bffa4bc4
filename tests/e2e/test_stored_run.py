"""A run whose answers are all stored is a student's training and nothing else; what went missing is computed."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raykd.runs.train import run_training
from raykd.scoring.outcome import Outcome
from tests.e2e.conftest import World

LOADS = '''
import importlib.abc, importlib.util, os, sys

NAME = "raykd.teachers.backends.model"


class Hook(importlib.abc.MetaPathFinder):
    """Writes a line for each time that a model's weights are asked for, in whatever process."""

    def find_spec(self, name, path, target=None):
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            load = module.ModelBackend.load

            def counted(self):
                if self._model is None:
                    with open(os.environ["LOADS"], "a") as file:
                        file.write(f"{self.spec.name}\\n")
                return load(self)

            module.ModelBackend.load = counted

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Hook())
'''
"""A sitecustomize: Python imports it in every process that finds it."""


@pytest.fixture
def loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file in which processes that start from here count the models that they load."""
    (tmp_path / "sitecustomize.py").write_text(LOADS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    monkeypatch.setenv("LOADS", str(tmp_path / "loads"))
    (tmp_path / "loads").touch()
    yield tmp_path / "loads"


def train(path: Path) -> set[str]:
    """Train in a process of its own, and return the names of raykd's actors that Ray started for it."""
    code = (
        "import sys; from pathlib import Path; import ray.actor as a; "
        "made = a.ActorClass._remote; names = set()\n"
        "def remote(self, *x, **y):\n"
        "    names.add(self.__ray_metadata__.class_name); return made(self, *x, **y)\n"
        "a.ActorClass._remote = remote\n"
        "import raykd; raykd.train(Path(sys.argv[1]), progress=False); print('ACTORS', *sorted(names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = re.findall(r"^ACTORS (.*)$", done.stdout, re.MULTILINE)
    return set(line.split())


@pytest.mark.usefixtures("first")
def test_a_second_run_loads_no_teacher_and_starts_no_process_for_one(world: World, loads: Path) -> None:
    actors = train(world.write("stored", baseline=False, ray={"num_cpus": 2}))
    assert not any("Teacher" in name for name in actors), actors
    assert actors == {"SingleWorker"}
    # The student's saved model is scored like a teacher, in the driver, and timed beside its teachers.
    assert set(loads.read_text().split()) == {"student"}
    assert "every answer is stored" in (world.run("stored") / "log.txt").read_text(encoding="utf-8")
    totals = world.state("stored")["teachers"][-1]["counters"]
    assert {values["forwarded"] for values in totals.values()} == {0}


def test_its_student_is_that_of_a_run_that_asked(first: Outcome, world: World) -> None:
    again = run_training(world.config("stored-again"))
    assert "every answer is stored" in (world.run("stored-again") / "log.txt").read_text(encoding="utf-8")
    for role in ("student", "baseline", "ensemble", "teacher"):
        assert again.macro(role) == first.macro(role)


@pytest.mark.usefixtures("first")
def test_an_answer_that_is_lost_after_the_start_is_computed_where_it_is_missed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raykd.runs import train as module

    lost: list[Path] = []
    fit: Callable[..., None] = module.train_students

    def lose(*arguments: object) -> None:
        for file in (world.folder / "runs").glob("store/*/answers.sqlite"):
            with sqlite3.connect(file) as database:
                database.execute("DELETE FROM answers WHERE key IN (SELECT key FROM answers LIMIT 20)")
            lost.append(file)
        fit(*arguments)

    monkeypatch.setattr(module, "train_students", lose)
    run_training(world.config("lost-answers", baseline=False))
    assert lost
    log = (world.run("lost-answers") / "log.txt").read_text(encoding="utf-8")
    assert "every answer is stored" in log
    assert re.search(r"teacher \w+: \d+ answers were gone from the store", log)
