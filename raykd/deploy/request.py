"""What a user asks to have done elsewhere: a run or a sweep, and which files of this machine it names.

Decision record: a file with a `space` is a sweep, any other a run. It is read and validated here, so that what is
wrong is said before anything is sent. A path that was written relative to the file goes along with the upload; one
that was written from the root is taken for a place on the cluster's own disks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raykd.config import Run
from raykd.config.loading import is_sweep, load_any_run, read_yaml_mapping, set_path
from raykd.parse import JsonObject
from raykd.presets import preset
from raykd.tuning.config import Sweep, load_sweep


@dataclass(frozen=True)
class JobRequest:
    """A run or a sweep.

    Attributes:
        kind: The command that does it.
        file: The file that the user named.
        overrides: KEY=VALUE beside it.
        run: The run, or what all trials of a sweep begin with.
        sweep: None for a run.
        tree: The file with the overrides.
        base_tree: Of a sweep, the run that its base names.
    """

    kind: Literal["train", "sweep"]
    file: Path
    overrides: tuple[str, ...]
    run: Run
    sweep: Sweep | None
    tree: JsonObject
    base_tree: JsonObject

    @property
    def name(self) -> str:
        """The name of the run's or the sweep's folder."""
        return self.run.name if self.sweep is None else self.sweep.name

    @property
    def files(self) -> tuple[Path, ...]:
        """Files and folders of this machine that it reads, the run file first: absolute, links followed."""
        found = [self.file.resolve()]
        if self.sweep is not None and isinstance(self.sweep.config.base, str):
            base = self.file.resolve().parent / self.sweep.config.base
            found += (
                [] if preset(self.sweep.config.base).is_file() and not base.exists() else [base.resolve()]
            )
        found += [
            Path(text)
            for key, text in _walk_texts(self.run.model_dump(mode="json"))
            if key in ("path", "paths") and text.startswith("/")
        ]
        return tuple(dict.fromkeys(found))

    def is_absolute_in_file(self, path: Path) -> bool:
        """Return whether the user wrote this path as it is, so that it may be a place on the cluster."""
        return any(str(path) == text for _, text in _walk_texts([self.tree, self.base_tree]))


def read_request(path: Path, overrides: Sequence[str] = ()) -> JobRequest:
    """Read a run file or a sweep file.

    Raises:
        ConfigError: As `raykd train` or `raykd sweep` would.
    """
    tree = read_yaml_mapping(path)
    if not is_sweep(tree):
        run = load_any_run(path, overrides)
        return JobRequest("train", path, tuple(overrides), run, None, _set_overrides(tree, overrides), {})
    sweep = load_sweep(path, overrides)
    tree, base = _set_overrides(tree, overrides), sweep.config.base
    if isinstance(base, str):
        named = path.resolve().parent / base
        base = read_yaml_mapping(named if named.is_file() else preset(base))
    return JobRequest("sweep", path, tuple(overrides), sweep.base, sweep, tree, base)


def _set_overrides(tree: JsonObject, overrides: Sequence[str]) -> JsonObject:
    """Lay overrides over a file as `load_run` and `load_sweep` do."""
    for assignment in overrides:
        if assignment.startswith("space."):
            tree = set_path(tree, f"{assignment.partition('=')[0]}=null")
        tree = set_path(tree, assignment)
    return dict(tree)


def _walk_texts(node: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a tree with the key that it stands under, also as an item of a list."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from _walk_texts(value, str(name))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _walk_texts(value, key)
