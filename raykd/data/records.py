"""Files, hub sets and saved folders as one stream of `Record`s.

Decision record: `datasets` reads Parquet, hub sets and saved folders; text files are read by `textfiles`. Columns
that hold neither text nor number nor lists of them (vectors, images) are left out before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from raykd.config import Hub
from raykd.data.textfiles import Record, read_delimited, read_json_lines, shortened
from raykd.errors import DataError

JSON_LINES = (".jsonl", ".ndjson", ".json")
DELIMITED = {".csv": ",", ".tsv": "\t"}
PARQUET = (".parquet",)


def file_records(path: Path) -> Iterable[Record]:
    """The records of a local file; its ending says what it is."""
    ending = path.suffix.lower()
    if ending in JSON_LINES:
        return read_json_lines(path)
    if ending in DELIMITED:
        return read_delimited(path, DELIMITED[ending])
    if ending in PARQUET:
        return _parquet_records(path)
    raise DataError(
        f"{path}: the ending does not say what the file is",
        got=ending or "no ending",
        wanted=", ".join([*JSON_LINES, *DELIMITED, *PARQUET]),
        next_step="rename or convert the file",
    )


def _parquet_records(path: Path) -> Iterator[Record]:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet

    try:
        # From the table, not through a builder: no copy in a cache, and ClassLabel names in the file are kept.
        table = datasets.Dataset(pyarrow.parquet.read_table(path))
    except (OSError, ValueError, NotImplementedError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: cannot be read as Parquet",
            got=shortened(str(error), 200),
            wanted="a complete Parquet file",
            next_step="was it cut off while it was written or copied?",
        ) from None
    return _table_records(table, f"{path}: row ")


def hub_records(source: Hub, base_dir: Path) -> Iterator[Record]:
    """The records of a split of a hub data set, or of a local folder of that name (saved, or of data files)."""
    import datasets

    folder = base_dir / source.name
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        table = _saved(folder, source) if folder.is_dir() else None
        if table is None:
            name = str(folder) if folder.is_dir() else source.name
            table = datasets.load_dataset(
                name, source.config_name, split=source.split, revision=source.revision
            )
    except DataError:
        raise
    # `datasets` passes on the errors of pyarrow, fsspec, httpx and of its own builders.
    except Exception as error:
        raise DataError(
            f"the data set {source.name!r} cannot be loaded",
            got=f"{type(error).__name__}: {shortened(str(error), 300)}",
            wanted=f"a data set with a split {source.split!r}",
            next_step="check name, config_name, split and the network; a set that runs code on loading is not "
            "supported: convert it to Parquet",
        ) from None
    finally:
        if shown:
            datasets.enable_progress_bars()
    return _table_records(table, f"{source.name}[{source.split}]: row ")


def _saved(folder: Path, source: Hub) -> Any:
    """The split of a folder that `save_to_disk` wrote; None for a folder of another kind."""
    import datasets

    if not ((folder / "state.json").exists() or (folder / "dataset_dict.json").exists()):
        return None
    loaded = datasets.load_from_disk(str(folder))
    if isinstance(loaded, datasets.Dataset):
        return loaded
    if source.split not in loaded:
        raise DataError(
            f"{folder}: there is no split {source.split!r}",
            got=source.split,
            wanted=f"one of {sorted(loaded)}",
        )
    return loaded[source.split]


def _table_records(table: Any, place: str) -> Iterator[Record]:
    """Rows (numbered from 1) of a `datasets.Dataset`, class labels by name; columns without a text form left out."""
    features = table.features
    kept = [name for name, feature in features.items() if _readable(feature)]
    named = [name for name in kept if _has_names(features[name])]
    for number, values in enumerate(table.select_columns(kept), start=1):
        for column in named:
            values[column] = _by_name(values[column], features[column])
        yield Record(f"{place}{number}", number, values)


def _readable(feature: Any, inside: bool = False) -> bool:
    """Text, numbers, class labels, and lists and tables of them; lists of fractions are vectors."""
    import datasets

    if isinstance(feature, datasets.Value):
        return not (inside and feature.dtype.startswith(("float", "double", "decimal", "binary")))
    if isinstance(feature, dict):
        return all(_readable(part, inside=True) for part in feature.values())
    inner = _inner(feature)
    return isinstance(feature, datasets.ClassLabel) if inner is None else _readable(inner, inside=True)


def _inner(feature: Any) -> Any:
    """What a list feature is a list of; None for another feature."""
    import datasets

    if isinstance(feature, list):
        return feature[0]
    return feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else None


def _has_names(feature: Any) -> bool:
    """Whether class labels stand in it that are kept as numbers."""
    import datasets

    inner = _inner(feature)
    return isinstance(feature, datasets.ClassLabel) or (inner is not None and _has_names(inner))


def _by_name(value: Any, feature: Any) -> Any:
    """Class labels as names, lists of them too; None for a number that is no class."""
    if isinstance(value, list):
        return [_by_name(part, _inner(feature)) for part in value]
    names = feature.names
    return names[value] if value is not None and 0 <= value < len(names) else None
