"""What a model directory holds, read from its JSON files alone; and directories as bytes.

Decision record: before anything of a directory is imported or loaded it is looked at here. Weights that are
pickles are refused (unpickling runs code of whoever wrote them), and so is a directory that names code of its
own (``auto_map``) unless the user said that it is trusted. Configurations nest, and nested ones have been
used to smuggle code past a check of the outermost (CVE-2026-5241), so every level is searched. Needs neither
torch nor transformers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from raykd.errors import ModelError
from raykd.head import Head
from raykd.networks.heads import LABELLED, parse_head, read_head
from raykd.pretrained.adapters import FILE as ADAPTER
from raykd.pretrained.adapters import find_adapter, is_adapter, read_adapted_config
from raykd.pretrained.allowed import find_code_keys, find_unknown_types
from raykd.pretrained.jsonfile import parse_file, read_json
from raykd.pretrained.labels import read_label_names
from raykd.pretrained.weights import StoredTensor, read_headers
from raykd.tokenizers.ngrams import FILE as NGRAMS
from raykd.tokenizers.union import FILE as UNION

log = logging.getLogger("raykd.models")
CONFIG = "config.json"
CARD = "raykd.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
READ_BY_NAME = frozenset(
    {CONFIG, "tokenizer_config.json", "generation_config.json", "adapter_config.json"}
    | {"preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"}
)
"""JSON files that must be objects. Others are their writers' own business (sentence-transformers' data_config.json is a
list): they are searched for code too, and are no fault of the model's."""
TOKENIZERS = (NGRAMS, UNION, "tokenizer.json", "vocab.txt", "vocab.json", "tokenizer_config.json")
PIECES = ("*.model", "*.spm", "*.bpe")
"""Names of sentencepiece models."""
TaskSettings = Mapping[str, str | int]
"""Keys of a task with which a saved model is served."""
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
_TRUSTED: set[Path] = set()


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model directory without loading it. Written by `inspect_directory`, read by checks.

    labels: in the order of the logits, () where the head has none; None where config.json does not tell.
    kind: the student's kind if raykd wrote it, else the model type of transformers, else "unknown".
    task: what its head serves, as raykd.json or else the architecture tells; None where neither does.
    max_length: tokens it was trained with, or None.
    languages: what it was trained on, empty where unknown.
    no_answer: whether it learnt to say that a context does not answer a question.
    settings: of a language model that raykd wrote, as in `TextModel`.
    needs_code: files that name code of the directory's own.
    problems: why it cannot be loaded, empty if it can.
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
    settings: TaskSettings = field(default_factory=dict)


def inspect_directory(path: str | Path, *, trust_remote_code: bool = False) -> ModelInfo:
    """Looks at a directory; what is wrong with it is told in `problems`, not raised."""
    folder = Path(path)
    problems: list[str] = []
    found: dict[str, dict[str, object]] = {CONFIG: {}, CARD: {}}
    for name in (CONFIG, CARD):
        try:
            if name == CONFIG and is_adapter(folder):
                found[name] = read_config(folder)
            elif (folder / name).exists():
                found[name] = read_json(folder / name)
        except ModelError as error:
            problems.append(str(error))
    task = _task(found[CONFIG], found[CARD])
    labels = () if task is not None and task not in LABELLED else read_label_names(found[CONFIG])
    needs_code: tuple[str, ...] = ()
    try:
        needs_code = tuple(name for name, _ in _naming_code(folder))
        check_directory(folder, trust_remote_code=trust_remote_code)
    except ModelError as error:
        problems.append(str(error))
    tokenized = has_tokenizer(folder)
    if not tokenized and folder.is_dir():
        problems.append(str(missing_tokenizer_error(folder)))
    card = found[CARD]
    length, languages, settings = (card.get(key) for key in ("max_length", "languages", "settings"))
    return ModelInfo(
        path=folder,
        labels=labels,
        kind=str(card.get("kind") or found[CONFIG].get("model_type") or "unknown"),
        task=task,
        max_length=length if isinstance(length, int) else None,
        languages=tuple(str(name) for name in languages) if isinstance(languages, list) else (),
        has_tokenizer=tokenized,
        needs_code=needs_code,
        problems=tuple(dict.fromkeys(problems)),
        no_answer=card.get("no_answer") is True,
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
    """Whether a directory holds files of a tokenizer."""
    return bool(
        any((folder / name).is_file() for name in TOKENIZERS)
        or any(True for pattern in PIECES for _ in folder.glob(pattern))
        or (find_tokenizer_folder(folder) != folder and has_tokenizer(find_tokenizer_folder(folder)))
    )


def find_tokenizer_folder(folder: Path) -> Path:
    """Where the tokenizer of a model lies: an adapter without one has its base's."""
    own = any((folder / name).is_file() for name in TOKENIZERS)
    try:
        return folder if own or not is_adapter(folder) else find_adapter(folder).base
    except ModelError:
        return folder


def list_tasks(path: str | Path) -> tuple[str, ...]:
    """Names of the tasks of a directory that holds a folder for each (`raykd.models.multi`); () for any other.

    Raises:
        ModelError: raykd.json cannot be read.
    """
    card = Path(path) / CARD
    names = read_json(card).get("tasks") if card.is_file() else None
    if not isinstance(names, list) or not all(isinstance(n, str) and _NAME.match(n) for n in names):
        return ()
    return tuple(names)


def find_task_folder(path: Path, task: str | None) -> Path:
    """Where the model lies that a task is answered with: the directory itself, or its folder of that name.

    Raises:
        ModelError: a task that the directory has not, or none where it has several.
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
    """The labels of a model directory in the order of its logits; () where its head has none.

    Raises:
        ModelError: there is no config.json, or its id2label does not number labels from 0.
    """
    folder = Path(path)
    _check_exists(folder)
    find_task_folder(folder, None)
    config = read_config(folder)
    head = _task(config, read_json(folder / CARD) if (folder / CARD).is_file() else {})
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
    """Refuses a directory that cannot or must not be loaded.

    Raises:
        ModelError: it is missing, has no config.json, no safetensors weights, or code of its own.
    """
    _check_exists(folder)
    if is_adapter(folder):
        check_code(folder, trust_remote_code=trust_remote_code)
        check_directory(find_adapter(folder).base, trust_remote_code=trust_remote_code)
        return
    if not (folder / CONFIG).is_file():
        inside = sorted(str(path.parent) for path in folder.glob(f"*/{CONFIG}"))
        raise ModelError(
            f"{folder} holds no {CONFIG}",
            got=_held(folder),
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


def check_code(folder: Path, *, trust_remote_code: bool) -> None:
    """Refuses a directory that wants to run code of its own, or is of a type that is not known, unless it is trusted.

    What is trusted is said as a warning, once a process.
    """
    naming = [f"{keys} in {name}" for name, keys in _naming_code(folder)]
    unknown = find_unknown_types(read_json(folder / CONFIG)) if (folder / CONFIG).is_file() else []
    if not naming and not unknown:
        return
    if trust_remote_code:
        if folder not in _TRUSTED:
            _TRUSTED.add(folder)
            what = f"{', '.join(naming)} of" if naming else f"a model of type {', '.join(unknown)} in"
            log.warning("trust_remote_code: code that raykd did not look at is run for %s %s", what, folder)
        return
    if naming:
        raise ModelError(
            f"{folder} wants to run code of its own",
            got="; ".join(naming),
            wanted="a model of transformers' own, or code that you trust",
            next_step="read that code; if you trust it set trust_remote_code: true for this model",
        )
    raise ModelError(
        f"{folder} is a model of a type that raykd does not load unasked",
        got=", ".join(unknown),
        wanted="a model for text, such as bert, xlm-roberta, modernbert, gpt2, llama, qwen3, t5, marian",
        next_step="if it is one for text and you trust it, set trust_remote_code: true for this model",
    )


def read_config(folder: Path) -> dict[str, object]:
    """The config.json of a directory; of an adapter that of the merged model.

    Raises:
        ModelError: there is none, or the adapter cannot be merged.
    """
    return read_adapted_config(find_adapter(folder)) if is_adapter(folder) else read_json(folder / CONFIG)


def find_config_folder(folder: Path) -> Path:
    """Where the config.json lies that transformers reads: an adapter's own, or its base's.

    Raises:
        ModelError: the adapter cannot be merged.
    """
    return folder if (folder / CONFIG).is_file() or not is_adapter(folder) else find_adapter(folder).base


def _task(config: Mapping[str, object], card: Mapping[str, object]) -> Head | None:
    """What the head serves: the architecture is what will be loaded, the card tells where it does not say."""
    return read_head(config) or parse_head(card.get("task"))


def _check_exists(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(
            f"there is no model directory {folder}",
            next_step="check the path; on a cluster it must exist on every node that loads it",
        )


def read_stored_weights(folder: Path) -> dict[str, StoredTensor]:
    """Names and shapes of a directory's weights; of an adapter those of the merged model.

    Raises:
        ModelError: As `list_weight_files`; or one of the files is cut short.
    """
    found = read_headers(list_weight_files(folder))
    return found | find_adapter(folder).whole_weights() if is_adapter(folder) else found


def list_weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a directory's weights: one, or the shards that its index names.

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
        got=_held(folder),
        wanted=f"{WEIGHTS}, or shards that {INDEX} names",
        next_step="copy or download the directory again, with its weights",
    )


def _held(folder: Path) -> str:
    """The first names of a directory, for a message."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return (", ".join(names[:8]) + f" and {len(names) - 8} more" * (len(names) > 8)) or "an empty directory"


def _naming_code(folder: Path) -> Iterator[tuple[str, str]]:
    """JSON files of the directory that bring in code at any level, and the keys that do."""
    for path in sorted(folder.glob("*config*.json")):
        try:
            keys = find_code_keys(parse_file(path))
        except ModelError:
            if path.name in READ_BY_NAME:
                raise
            continue
        if keys:
            yield path.name, ", ".join(keys)
