"""Read files, hub sets and saved folders as one stream of blocks of rows.

Decision record: `datasets` reads hub sets and saved folders, pyarrow Parquet files; text files are read by `textfiles`,
`delimited` and `plain`. Columns that hold neither text nor number nor lists of them (vectors, maps, images) are not
decoded: `UnreadValue` stands in their place, so that a source may hold anything as long as nobody asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.config import Files, Hub
from raykd.data.files.blocks import ROWS, ArrowRows, Block, as_plain_array, read_json_blocks
from raykd.data.files.delimited import Tell, read_delimited
from raykd.data.files.opening import PACKED
from raykd.data.files.plain import WRITE_WORDS, read_plain_lines
from raykd.data.files.remote import AnyFile
from raykd.data.files.slices import select_split
from raykd.data.files.textfiles import (
    Record,
    UnreadValue,
    require_file,
    shorten_text,
)
from raykd.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_OTHER_ENDINGS = dict.fromkeys((".conll", ".conllu", ".bio", ".iob"), WRITE_WORDS) | {
    ".xlsx": "save the sheet as CSV UTF-8", ".xls": "save the sheet as CSV UTF-8", ".zip": "unpack it",
    ".arrow": "name the folder that save_to_disk wrote: {kind: hub, name: FOLDER, split: ...}",
}  # fmt: skip
"""What to do with files that are often named."""
JSON_LINES = (".jsonl", ".ndjson", ".json")
DELIMITED = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
PARQUET = (".parquet",)
PLAIN = (".txt",)


def _ignore_note(line: str) -> None:
    """Drop a note."""


def read_file_records(
    path: AnyFile, source: Files | None = None, tell: Tell = _ignore_note
) -> Iterator[Record]:
    """Yield the records of a file; see `read_file_blocks`."""
    for block in read_file_blocks(path, source, tell):
        yield from block.records()


def read_file_blocks(
    path: AnyFile, source: Files | None = None, tell: Tell = _ignore_note, numbers: str = ""
) -> Iterator[Block]:
    """Return the rows of a file; its ending says what it is, before the ending of packing.

    Args:
        path: The file.
        source: What the user says of it.
        tell: Takes what a person should know of how it was read.
        numbers: A column whose lists of fractions are read; others are vectors, and are not.
    """
    packed = path.suffix.lower() in PACKED
    ending = Path(path.stem).suffix.lower() if packed else path.suffix.lower()
    given = (None, None) if source is None else (source.delimiter, source.quoting)
    if ending in DELIMITED:
        return read_delimited(path, DELIMITED[ending], tell, *given)
    if given != (None, None):
        raise DataError(
            f"{path}: delimiter and quoting are keys of CSV and TSV files",
            got=f"a file that ends in {ending or 'nothing'}",
            wanted=f"a file that ends in {', '.join(DELIMITED)}",
            next_step="leave them out, or make a source of its own of the files that have them",
        )
    if ending in JSON_LINES:
        return read_json_blocks(path)
    if ending in PLAIN:
        return read_plain_lines(path)
    if ending in PARQUET and not packed:
        return _read_parquet_blocks(path, numbers)
    raise DataError(
        f"{path}: the ending does not say what the file is",
        got=path.suffix or "no ending",
        wanted=", ".join([*JSON_LINES, *DELIMITED, *PARQUET, *PLAIN])
        + f"; all but Parquet also with {', '.join(PACKED)}",
        next_step=_OTHER_ENDINGS.get(ending, "rename or convert the file"),
    )


def read_parquet_table(path: AnyFile) -> pa.Table:
    """Return a Parquet file whole, with all its columns as they are.

    Raises:
        DataError: It cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet

    require_file(path)
    try:
        return pyarrow.parquet.read_table(path)
    except (OSError, ValueError, NotImplementedError, pa.ArrowException) as error:
        raise _build_parquet_error(path, error) from None


def _build_parquet_error(path: AnyFile, error: Exception) -> DataError:
    return DataError(
        f"{path}: cannot be read as Parquet",
        got=shorten_text(str(error), 200),
        wanted="a complete Parquet file",
        next_step="was it cut off while it was written or copied?",
    )


def _read_parquet_blocks(path: AnyFile, numbers: str) -> Iterator[Block]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path if isinstance(path, Path) else path.open()) as file:
            schema = file.schema_arrow
            if len(set(schema.names)) != len(schema.names):
                twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
                raise DataError(
                    f"{path}: a column stands twice", got=", ".join(twice), wanted="each name once"
                )
            kept = [c.name for c in schema if _is_plain(c.type, has_fractions=c.name == numbers)]
            rest = {
                c.name: UnreadValue(f"a value of type {c.type}") for c in schema if c.name not in set(kept)
            }
            table = _Columns(f"{path}: row ", _read_class_names(schema), rest)
            number = 1
            for batch in file.iter_batches(ROWS, columns=kept):
                yield table.make_block(batch.to_pylist, batch, number)
                number += len(batch)
    except (OSError, ValueError, NotImplementedError, pa.ArrowException) as error:
        raise _build_parquet_error(path, error) from None


@dataclass(frozen=True)
class _Columns:
    """How the columns of a table are read.

    Attributes:
        place: What a row's number follows, for messages.
        classes: The names behind the numbers of a column.
        rest: Columns that are not read.
    """

    place: str
    classes: Mapping[str, list[str]]
    rest: Mapping[str, object]

    def make_block(
        self, values: Callable[[], Sequence[Mapping[str, object]]], batch: pa.RecordBatch, first: int
    ) -> Block:
        """Return rows as a block.

        Args:
            values: Returns them as Python has them.
            batch: The same rows.
            first: Number of the first.
        """

        def records() -> Iterator[Record]:
            for number, row in enumerate(values(), start=first):
                named = {column: _name_classes(row[column], names) for column, names in self.classes.items()}
                yield Record(f"{self.place}{number}", number, {**row, **named, **self.rest})

        def columns(kinds: Mapping[str, pa.DataType]) -> ArrowRows | None:
            found: dict[str, pa.Array] = {}
            for name in kinds:
                array = as_plain_array(batch.column(name)) if name in batch.schema.names else None
                if array is not None and name in self.classes:
                    array = _name_column(array, self.classes[name])
                if array is None:
                    return None
                found[name] = array
            return ArrowRows(range(first, first + len(batch)), found)

        return Block(records, columns)


def _is_plain(kind: pa.DataType, inside: bool = False, *, has_fractions: bool = False) -> bool:
    """Return whether an Arrow type is text, number, truth value, or a list or table of them.

    Lists of fractions are vectors, which are not read without ``has_fractions``.
    """
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_plain(kind.value_type, inside)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type, not has_fractions)
    if types.is_struct(kind):
        return all(_is_plain(part.type, inside=True) for part in kind)
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    number = types.is_integer(kind) or types.is_boolean(kind) or types.is_null(kind)
    return text or number or (types.is_floating(kind) and not inside)


def _read_class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names behind the numbers of a column, where `datasets` wrote them into the file; lists too."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {name: _find_names_in_json(features[name]) for name in schema.names if name in features}
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: names for name, names in found.items() if names}


def _find_names_in_json(feature: object) -> list[str] | None:
    """Return the class names of a feature as `datasets` writes it, looking into lists."""
    if isinstance(feature, list):
        return _find_names_in_json(feature[0]) if feature else None
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        return [str(name) for name in names] if isinstance(names, list) else None
    inner = feature.get("feature")
    return _find_names_in_json(inner) if inner is not None and feature.get("_type") != "Translation" else None


def read_hub_blocks(source: Hub, base_dir: Path, numbers: str = "") -> Iterator[Block]:
    """Return the rows of a split of a hub data set, or of a local folder of that name (saved, or of data files).

    ``numbers`` as for `read_file_blocks`.
    """
    import datasets

    folder = base_dir / source.name
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        table = _load_saved_split(folder, source) if folder.is_dir() else None
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
            got=f"{type(error).__name__}: {shorten_text(str(error), 300)}",
            wanted=f"a data set with a split {source.split!r}",
            next_step="check name, config_name, split and the network; a set that runs code on loading is not "
            "supported: convert it to Parquet",
        ) from None
    finally:
        if shown:
            datasets.enable_progress_bars()
    return _read_table_blocks(table, f"{source.name}[{source.split}]: row ", numbers)


def _load_saved_split(folder: Path, source: Hub) -> object:
    """Return the split of a folder that `save_to_disk` wrote; None for a folder of another kind."""
    import datasets

    if not ((folder / "state.json").exists() or (folder / "dataset_dict.json").exists()):
        return None
    loaded = datasets.load_from_disk(str(folder))
    several = not isinstance(loaded, datasets.Dataset)
    return select_split(dict(loaded) if several else loaded, source.split, folder)


def _read_table_blocks(table: Dataset, place: str, numbers: str) -> Iterator[Block]:
    """Yield rows (numbered from 1) of a `datasets.Dataset`, class labels by name."""
    features = table.features
    kept = [name for name, f in features.items() if _is_readable(f, has_fractions=name == numbers)]
    rest = {
        name: UnreadValue(f"a value of type {f}") for name, f in features.items() if name not in set(kept)
    }
    named = {name: names for name in kept if (names := _find_class_names(features[name]))}
    columns, rows = _Columns(place, named, rest), table.select_columns(kept)
    for begin in range(0, len(rows), ROWS):
        part = rows.select(range(begin, min(begin + ROWS, len(rows))))
        batch = part.with_format("arrow")[:].combine_chunks().to_batches()[0]
        yield columns.make_block(partial(list, part), batch, begin + 1)


def _is_readable(feature: object, inside: bool = False, *, has_fractions: bool = False) -> bool:
    """As `_is_plain`, of a feature; a class label is readable too."""
    import datasets

    if isinstance(feature, datasets.Value):
        unread = ("binary", "large_binary", *(("float", "double", "decimal") if inside else ()))
        return not feature.dtype.startswith(unread)
    if isinstance(feature, dict):
        return all(_is_readable(part, inside=True) for part in feature.values())
    inner = _get_item_feature(feature)
    return (
        isinstance(feature, datasets.ClassLabel) if inner is None else _is_readable(inner, not has_fractions)
    )


def _get_item_feature(feature: object) -> object:
    """Return what a list feature is a list of; None for another feature."""
    import datasets

    if isinstance(feature, list):
        return feature[0]
    return feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else None


def _find_class_names(feature: object) -> list[str] | None:
    """Return the names of class labels that are stored as numbers, in lists too."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    inner = _get_item_feature(feature)
    return None if inner is None else _find_class_names(inner)


def _name_classes(value: object, names: list[str]) -> object:
    """Return class labels as names, lists of them too; -1 stays, because it says that there is no gold label."""
    if isinstance(value, list):
        return [_name_classes(part, names) for part in value]
    if not isinstance(value, int) or value == -1:
        return value
    return (
        names[value]
        if 0 <= value < len(names)
        else UnreadValue(f"class {value} of {len(names)} classes {names}")
    )


def _name_column(array: pa.Array, names: list[str]) -> pa.Array | None:
    """Return class labels as names; None where some are numbers of no class."""
    import pyarrow as pa
    import pyarrow.compute

    if not pa.types.is_integer(array.type) or array.null_count == len(array):
        return None
    ends = pyarrow.compute.min_max(array).as_py()
    if ends["min"] < 0 or ends["max"] >= len(names):
        return None
    return pa.array(names, pa.large_string()).take(array)
