"""What a user asks to have done elsewhere: a run, a sweep or an experiment, and which files of this machine it names.

Decision record: a file with a `space` is a sweep, one with `arms` or `generate` an experiment, any other a run. It is
read and validated here, so that what is wrong is said before anything is sent. A path that was written relative to the
file goes along with the upload; one that was written from the root is taken for a place on the cluster's own disks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raykd.config import Run
from raykd.config.loading import is_sweep, load_any_run, read_yaml_mapping, set_path
from raykd.experiments.arms import ExperimentPlan
from raykd.experiments.config import is_experiment, load_experiment
from raykd.parse import JsonObject
from raykd.presets import preset
from raykd.tuning.config import Sweep, load_sweep


@dataclass(frozen=True)
class JobRequest:
    """A run, a sweep or an experiment.

    Attributes:
        kind: The command that does it.
        file: The file that the user named.
        overrides: KEY=VALUE beside it.
        run: The run, or what all trials of a sweep or all arms of an experiment begin with.
        sweep: None for a run or an experiment.
        tree: The file with the overrides.
        base_tree: Of a sweep or an experiment, the run that its base names.
        experiment: None for a run or a sweep.
    """

    kind: Literal["train", "sweep", "compare"]
    file: Path
    overrides: tuple[str, ...]
    run: Run
    sweep: Sweep | None
    tree: JsonObject
    base_tree: JsonObject
    experiment: ExperimentPlan | None = None

    @property
    def name(self) -> str:
        """The name of the folder of the run, the sweep or the experiment."""
        return (self.sweep or self.experiment or self.run).name

    @property
    def files(self) -> tuple[Path, ...]:
        """Files and folders of this machine that it reads, the run file first: absolute, links followed."""
        found = [self.file.resolve()]
        named = self.tree.get("base")
        if self.kind != "train" and isinstance(named, str):
            base = self.file.resolve().parent / named
            found += [] if preset(named).is_file() and not base.exists() else [base.resolve()]
        arms = [] if self.experiment is None else [arm.run for arm in self.experiment.arms]
        found += [
            Path(text)
            for run in (self.run, *arms)
            for key, text in _walk_texts(run.model_dump(mode="json"))
            if key in ("path", "paths", "function") and text.startswith("/")
        ]
        return tuple(dict.fromkeys(found))

    def is_absolute_in_file(self, path: Path) -> bool:
        """Return whether the user wrote this path as it is, so that it may be a place on the cluster."""
        return any(str(path) == text for _, text in _walk_texts([self.tree, self.base_tree]))


def read_request(path: Path, overrides: Sequence[str] = ()) -> JobRequest:
    """Read the file of a run, a sweep or an experiment.

    Raises:
        ConfigError: As `raykd train`, `raykd sweep` or `raykd compare` would.
    """
    tree = read_yaml_mapping(path)
    if is_experiment(tree):
        experiment = load_experiment(path, overrides)
        tree = _set_overrides(tree, overrides)
        base_tree = _read_named_base(path, tree.get("base"))
        return JobRequest(
            "compare", path, tuple(overrides), experiment.base, None, tree, base_tree, experiment
        )
    if not is_sweep(tree):
        run = load_any_run(path, overrides)
        return JobRequest("train", path, tuple(overrides), run, None, _set_overrides(tree, overrides), {})
    sweep = load_sweep(path, overrides)
    tree, base_tree = _set_overrides(tree, overrides), _read_named_base(path, sweep.config.base)
    return JobRequest("sweep", path, tuple(overrides), sweep.base, sweep, tree, base_tree)


def _read_named_base(path: Path, base: str | JsonObject | None) -> JsonObject:
    """Return the run that a sweep or an experiment names as its base."""
    if not isinstance(base, str):
        return dict(base or {})
    named = path.resolve().parent / base
    return read_yaml_mapping(named if named.is_file() else preset(base))


def _set_overrides(tree: JsonObject, overrides: Sequence[str]) -> JsonObject:
    """Lay overrides over a file as `load_run` and `load_sweep` do."""
    for assignment in overrides:
        if assignment.startswith("space."):
            tree = set_path(tree, f"{assignment.partition('=')[0]}=null")
        tree = set_path(tree, assignment)
    return dict(tree)


def _walk_texts(node: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a tree (of a function its file) with the key that it stands under, also in a list."""
    if isinstance(node, str):
        yield key, node.rpartition(":")[0] if key == "function" else node
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from _walk_texts(value, str(name))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _walk_texts(value, key)
