"""Watch a folder of new texts, and teach the student more when they have drifted away from what it learnt.

Decision record: a file is judged once, by path, size and time, and only after two looks found it alike, so that half a
file is not read. Files wait until their texts make a window, because a mean of few texts says little. What was judged
and what came of it stands in `drift.jsonl` in the folder of the run that is watched, so that a watch goes on where it
was ended. A drifted window becomes unlabelled texts of the next run, which goes on from the last one (`from_run`).
"""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from rich.console import Console

from raykd.config import Files
from raykd.config.loading import ConfigSource, Override, load_any_run, load_run
from raykd.driver.command import Start
from raykd.errors import ConfigError
from raykd.folders.folder import find_run_path
from raykd.parse import JsonObject
from raykd.parse.json_lines import append_json_rows, read_json_rows
from raykd.report.evaluations.drift import DriftReport
from raykd.runs.train import run_training
from raykd.scoring.evaluation.drift import read_new_texts

LOG = "drift.jsonl"
"""File in the folder of the first run, a line for each window."""
File = tuple[str, int, int]
"""Path, size and time of change in nanoseconds."""
Measure = Callable[[Path, Files], DriftReport]
"""Measures the drift of some files from a run (`raykd.scoring.evaluation.drift.measure_drift`)."""


@dataclass
class DriftWatch:
    """What is watched, and what was done.

    Attributes:
        first: Folder of the run that the watch began with.
        config: Run file of the runs that go on from it.
        pattern: Of the files.
        source: How the files are read: columns and language.
        measure: Measures drift.
        window: Least texts of a window.
        overrides: Keys of the run file to change.
        run: Folder of the run that is in use now.
        judged: Files that were judged.
    """

    first: Path
    config: ConfigSource
    pattern: str
    source: JsonObject
    measure: Measure
    window: int = 200
    overrides: Sequence[Override] = ()
    run: Path = field(init=False)
    judged: set[File] = field(init=False, default_factory=set)
    _trained: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.run = self.first
        for files, trained in read_json_rows(self.first / LOG, _parse_row):
            self.judged |= files
            if trained:
                self.run, (_, _, number) = Path(trained), Path(trained).name.rpartition("-")
                # Its name says which it is: with a line that is torn one would be missing, and be written over.
                self._trained = int(number) if number.isdecimal() else self._trained + 1

    def list_new_files(self) -> list[File]:
        """Return the files that were not judged yet, by name; folders are no files."""
        found = []
        for path in sorted(glob.glob(self.pattern, recursive=True)):
            with suppress(OSError):  # it was taken away since, or a link leads nowhere
                stat = Path(path).stat()
                if S_ISREG(stat.st_mode):
                    found.append((str(Path(path).resolve()), stat.st_size, stat.st_mtime_ns))
        return [file for file in found if file not in self.judged]

    def look(self, files: Sequence[File], console: Console) -> DriftReport | None:
        """Judge files whose texts make a window, and train if they have drifted.

        Returns:
            What was measured; None where there are too few texts yet.

        Raises:
            RaykdError: The files cannot be read, or the training failed; the files are looked at again.
        """
        if not files:
            return None
        source = Files(**{**self.source, "paths": tuple(path for path, _, _ in files)})
        if len(read_new_texts(load_run(self.run), source)) < self.window:
            return None
        report = self.measure(self.run, source)
        console.print(report.to_rich())
        trained = self._train(source, console) if report.drifted else None
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "files": files, "run": str(self.run),
            "trained": None if trained is None else str(trained), **report.to_json(),
        }  # fmt: skip
        append_json_rows(self.first / LOG, [entry], lasting=True)
        self.judged |= set(files)
        self.run = trained or self.run
        return report

    def _train(self, source: Files, console: Console) -> Path:
        """Train the next run from the last one, with the new texts as unlabelled ones; return its folder."""
        base = load_any_run(self.config, self.overrides)
        name = f"{base.name}-{self._trained + 1}"
        texts = source.model_dump(mode="json")
        changes: list[Override] = [("from_run", str(self.run)), ("data.unlabeled", texts), ("name", name)]
        run = load_any_run(self.config, [*self.overrides, *changes])
        console.print(
            f"drifted: {name} goes on from {self.run}", markup=False, highlight=False, soft_wrap=True
        )
        outcome = run_training(run, Start(overwrite=find_run_path(run).exists(), console=console))
        for table in outcome.tables:
            console.print(table)
        self._trained += 1
        return find_run_path(run)


def _parse_row(row: JsonObject) -> tuple[set[File], str]:
    """Return the files of a window, and the folder of the run that was trained on it or ""."""
    return {(str(path), int(size), int(at)) for path, size, at in row["files"]}, str(row["trained"] or "")


def watch_files(
    watch: DriftWatch, console: Console, *, every_s: float, once: bool = False
) -> list[DriftReport]:
    """Look for new files again and again, until it is interrupted.

    Args:
        watch: What is watched.
        console: Where it says what it found.
        every_s: Seconds between two looks.
        once: Look once, and take files as they are.

    Returns:
        What was measured.

    Raises:
        ConfigError: The time between looks is not above 0.
        RaykdError: As `DriftWatch.look`.
    """
    if every_s <= 0:
        raise ConfigError(
            "the time between two looks must be above 0", got=f"{every_s:g} s", wanted="seconds"
        )
    reports: list[DriftReport] = []
    before: set[File] = set()
    while True:
        files = watch.list_new_files()
        ready = files if once else [file for file in files if file in before]
        report = watch.look(ready, console)
        if report is not None:
            reports.append(report)
        elif once:
            console.print(
                f"{len(files)} new files: too few texts for a window of {watch.window}", highlight=False
            )
        if once:
            return reports
        before = set(files)
        time.sleep(every_s)
