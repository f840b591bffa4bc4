"""Inspect a model directory by its JSON files alone, before anything in it is imported or loaded.

Decision record: pickled weights are refused, because unpickling runs code of whoever wrote them. A directory that names
code of its own (``auto_map``) is refused unless the user trusts it. Configurations nest, and nested ones have been used
to bring code past a check of the outermost (CVE-2026-5241), so every level is searched. Needs neither torch nor
transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from raykd.errors import ModelError
from raykd.head import Head, TaskSettings
from raykd.networks.heads import LABELLED, parse_head, read_head
from raykd.pretrained.adapters import FILE as ADAPTER
from raykd.pretrained.adapters import find_adapter, find_adapters, is_adapter, read_adapted_config
from raykd.pretrained.allowed import check_code, find_code_files
from raykd.pretrained.jsonfile import read_json
from raykd.pretrained.labels import read_label_names
from raykd.pretrained.sentences.modules import is_sentence_folder, read_sentence_length
from raykd.pretrained.weights import StoredTensor, read_headers
from raykd.tokenizers.ngrams import FILE as NGRAMS
from raykd.tokenizers.union import FILE as UNION

CONFIG = "config.json"
CARD = "raykd.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
TOKENIZERS = (NGRAMS, UNION, "tokenizer.json", "vocab.txt", "vocab.json", "tokenizer_config.json")
PIECES = ("*.model", "*.spm", "*.bpe")
"""Patterns for the names of sentencepiece models."""
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a model directory, known without loading it. Made by `inspect_directory`.

    Attributes:
        path: The directory.
        labels: In the order of the logits; () for a head without labels, None if config.json does not say.
        kind: The student's kind if raykd wrote it, else the model type of transformers, else "unknown".
        task: What its head serves, by its architecture or else by raykd.json; None if neither says.
        max_length: Longest texts in training, in tokens; None if unknown.
        languages: What it was trained on; () if unknown.
        has_tokenizer: Whether files of a tokenizer are there.
        needs_code: Files that name code of the directory's own.
        problems: Why it cannot be loaded; () if it can.
        no_answer: Whether it learnt to say that a context does not answer a question.
        pairs: Whether all texts that it learnt from came with a second one.
        settings: As in `TextModel`.
    """

    path: Path
    labels: tuple[str, ...] | None
    kind: str
    task: Head | None
    max_length: int | None
    languages: tuple[str, ...]
    has_tokenizer: bool
    needs_code: tuple[str, ...]
    problems: tuple[str, ...]
    no_answer: bool = False
    pairs: bool = False
    settings: TaskSettings = field(default_factory=dict)


def inspect_directory(path: str | Path, *, trust_remote_code: bool = False) -> ModelInfo:
    """Inspect a directory. What is wrong with it becomes `problems`, not an error."""
    folder = Path(path)
    problems: list[str] = []
    config: dict[str, object] = {}
    card: dict[str, object] = {}
    needs_code: tuple[str, ...] = ()

    @contextmanager
    def collect_problem() -> Iterator[None]:
        try:
            yield
        except ModelError as error:
            problems.append(str(error))

    with collect_problem():
        if is_adapter(folder) or (folder / CONFIG).exists():
            config = read_config(folder)
    with collect_problem():
        card = _read_card(folder)
    with collect_problem():
        needs_code = tuple(name for name, _ in find_code_files(folder))
        check_directory(folder, trust_remote_code=trust_remote_code)
    task = _find_head(folder, config, card)
    labels = () if task is not None and task not in LABELLED else read_label_names(config)
    tokenized = has_tokenizer(folder)
    if not tokenized and folder.is_dir():
        problems.append(str(missing_tokenizer_error(folder)))
    length, languages, settings = (card.get(key) for key in ("max_length", "languages", "settings"))
    with collect_problem():
        length = length or read_sentence_length(folder)
    return ModelInfo(
        path=folder,
        labels=labels,
        kind=str(card.get("kind") or config.get("model_type") or "unknown"),
        task=task,
        max_length=length if isinstance(length, int) else None,
        languages=tuple(str(name) for name in languages) if isinstance(languages, list) else (),
        has_tokenizer=tokenized,
        needs_code=needs_code,
        problems=tuple(dict.fromkeys(problems)),
        no_answer=card.get("no_answer") is True,
        pairs=card.get("pairs") is True,
        settings=settings if isinstance(settings, dict) else {},
    )


def missing_tokenizer_error(folder: Path) -> ModelError:
    """Return the error of a directory without files of a tokenizer."""
    return ModelError(
        f"{folder} holds no tokenizer",
        wanted=f"one of {', '.join(TOKENIZERS)}",
        next_step="save the model's tokenizer beside it (AutoTokenizer: from_pretrained, then save_pretrained)",
    )


def has_tokenizer(folder: Path) -> bool:
    """Return whether a directory holds files of a tokenizer, or is an adapter whose base does."""
    own = find_tokenizer_folder(folder)
    return _has_tokenizer_file(own) or any(True for pattern in PIECES for _ in own.glob(pattern))


def find_tokenizer_folder(folder: Path) -> Path:
    """Find the folder of a model's tokenizer: an adapter without one uses its base's."""
    try:
        return folder if _has_tokenizer_file(folder) or not is_adapter(folder) else find_adapter(folder).base
    except ModelError:
        return folder


def _has_tokenizer_file(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZERS)


def list_tasks(path: str | Path) -> tuple[str, ...]:
    """List the tasks of a directory that holds a folder for each (`raykd.models.multi`); () for any other.

    Raises:
        ModelError: raykd.json cannot be read.
    """
    names = _read_card(Path(path)).get("tasks")
    if not isinstance(names, list) or not all(isinstance(n, str) and _NAME.match(n) for n in names):
        return ()
    return tuple(names)


def find_task_folder(path: Path, task: str | None) -> Path:
    """Find the folder of a task's model: the directory itself, or the folder of that name in it.

    Args:
        path: The directory.
        task: The name of a task, for a directory that holds several; else None.

    Raises:
        ModelError: The directory does not have the task, or has several and no task is named.
    """
    names = list_tasks(path)
    if task is None and not names:
        return path
    if task not in names:
        raise ModelError(
            f"{path} holds a model for each of several tasks" if names else f"{path} holds one model only",
            got="no task" if task is None else f"task {task}",
            wanted=f"one of {', '.join(names)}" if names else "no name of a task",
            next_step=f"name it (task, or --task), or give its folder: {path / names[0]}"
            if names
            else "leave the task out",
        )
    return path / task


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Read the labels of a model directory in the order of its logits; () for a head without labels.

    Raises:
        ModelError: There is no config.json, or its id2label does not number labels from 0.
    """
    folder = Path(path)
    _check_exists(folder)
    find_task_folder(folder, None)
    config = read_config(folder)
    head = _find_head(folder, config, _read_card(folder))
    if head is not None and head not in LABELLED:
        return ()
    labels = read_label_names(config)
    if labels is None:
        raise ModelError(
            f"{folder / CONFIG} does not say what its logits mean",
            got=f"id2label {str(config.get('id2label'))[:200]}",
            wanted='"id2label": {"0": "<first label>", ...}, as many as the model has logits',
            next_step="write it there if the model has a head; fine-tune an encoder that has none "
            "(a student of kind pretrained)",
        )
    return labels


def check_directory(folder: Path, *, trust_remote_code: bool) -> None:
    """Refuse a directory that cannot or must not be loaded.

    Args:
        folder: The directory.
        trust_remote_code: Whether code that comes with it may run.

    Raises:
        ModelError: The directory is missing, has no config.json or no safetensors weights, or wants to run code.
    """
    _check_exists(folder)
    if is_adapter(folder):
        check_code(folder, trust_remote_code=trust_remote_code)
        for adapter in find_adapters(folder):
            check_directory(adapter.base, trust_remote_code=trust_remote_code)
        return
    if not (folder / CONFIG).is_file():
        inside = sorted(str(path.parent) for path in folder.glob(f"*/{CONFIG}"))
        raise ModelError(
            f"{folder} holds no {CONFIG}",
            got=_list_names(folder),
            wanted="a directory that save_pretrained wrote",
            next_step=f"name the model in it: {' or '.join(inside[:3])}" if inside else "check the path",
        )
    if "configuration_files" in read_json(folder / CONFIG):
        raise ModelError(
            f"{folder / CONFIG} hands over to another file for each version of transformers",
            got="configuration_files",
            wanted="one config.json",
            next_step="load it once with plain transformers and save it again (save_pretrained)",
        )
    find_task_folder(folder, None)
    if (folder / ADAPTER).exists():
        raise ModelError(
            f"{folder} holds an adapter beside a whole model, and transformers would load both",
            got=ADAPTER,
            next_step=f"take {ADAPTER} away if the adapter is merged into the model; else merge it (peft: "
            "merge_and_unload) and save that",
        )
    if read_json(folder / CONFIG).get("quantization_config"):
        raise ModelError(
            f"{folder} holds quantised weights, which raykd does not load",
            got="quantization_config in its config.json",
            wanted="weights in float32, bfloat16 or float16",
            next_step="name the checkpoint that it was made from, or save it dequantised (model.dequantize())",
        )
    check_code(folder, trust_remote_code=trust_remote_code)
    list_weight_files(folder)


def read_config(folder: Path) -> dict[str, object]:
    """Read the config.json of a directory; for an adapter, build that of the merged model.

    Raises:
        ModelError: There is none, or the adapter cannot be merged.
    """
    return read_adapted_config(find_adapter(folder)) if is_adapter(folder) else read_json(folder / CONFIG)


def find_config_folder(folder: Path) -> Path:
    """Find the folder of the config.json that transformers reads: an adapter without one uses its base's.

    Raises:
        ModelError: The adapter cannot be merged.
    """
    return folder if (folder / CONFIG).is_file() or not is_adapter(folder) else find_adapter(folder).base


def _read_card(folder: Path) -> dict[str, object]:
    """Read raykd.json; {} if raykd did not write the directory."""
    return read_json(folder / CARD) if (folder / CARD).exists() else {}


def _find_head(folder: Path, config: Mapping[str, object], card: Mapping[str, object]) -> Head | None:
    """Return what the head serves: by modules.json, the architecture that will be loaded, or else by raykd.json."""
    if is_sentence_folder(folder):  # its config.json may name the head that the encoder was trained under
        return "embedding"
    return read_head(config) or parse_head(card.get("task"))


def _check_exists(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(
            f"there is no model directory {folder}",
            next_step="check the path; on a cluster it must exist on every node that loads it",
        )


def read_stored_weights(folder: Path) -> dict[str, StoredTensor]:
    """Read names and shapes of a directory's weights; for an adapter, those of the merged model.

    Raises:
        ModelError: As `list_weight_files`; or one of the files is cut short.
    """
    found = read_headers(list_weight_files(folder))
    return found | find_adapter(folder).whole_weights() if is_adapter(folder) else found


def list_weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a directory's weights: one, or the shards that its index names.

    Raises:
        ModelError: There are none, only pickles, or not all that the index names.
    """
    if is_adapter(folder):
        return list_weight_files(find_adapter(folder).base)
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        shards = read_json(folder / INDEX).get("weight_map")
        names = set(shards.values()) if isinstance(shards, dict) else set()
        bad = sorted(
            str(n) for n in names if not (isinstance(n, str) and _NAME.match(n) and (folder / n).is_file())
        )
        if bad or not names:
            raise ModelError(
                f"{folder / INDEX} names files that are not there",
                got=bad or "no file at all",
                wanted="safetensors files beside it",
                next_step="copy or download the directory again",
            )
        return [folder / name for name in sorted(names)]
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise ModelError(
            f"{folder} holds only pickled weights, and loading a pickle runs code of whoever wrote it",
            got=", ".join(pickled),
            wanted=WEIGHTS,
            next_step="if you trust them, convert them once, in a place apart: "
            "the auto class of its task: .from_pretrained(path).save_pretrained(new_path)",
        )
    raise ModelError(
        f"{folder} holds no weights",
        got=_list_names(folder),
        wanted=f"{WEIGHTS}, or shards that {INDEX} names",
        next_step=f"give {variants[0].name} the name {WEIGHTS}"
        if len(variants := sorted(folder.glob("model.*.safetensors"))) == 1
        else "copy or download the directory again, with its weights",
    )


def _list_names(folder: Path) -> str:
    """List the first names in a directory, for a message."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return (", ".join(names[:8]) + f" and {len(names) - 8} more" * (len(names) > 8)) or "an empty directory"
