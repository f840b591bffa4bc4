"""What the numbers of a command must agree with: plain transformers, a file, or an earlier command.

Decision record: the reference is AutoTokenizer and AutoModel on one row, in float32, without padding and without a line
of raykd. transformers is imported late, because the table is also read where nothing is compared.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TOLERANCE = 1e-5
"""Largest difference of two probabilities that count as equal."""

Row = Mapping[str, Any]


class _Value(BaseModel):
    """One comparison."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def find_fault(self, folder: Path, rows: Sequence[Row], earlier: Sequence[Row]) -> str | None:
        """Return what is wrong, or None.

        Args:
            folder: The copy of the case.
            rows: The JSON lines that the command printed.
            earlier: Those of the case's earlier commands.
        """


class Plain(_Value):
    """The probabilities of each printed row are those that plain transformers gives for the row alone.

    Attributes:
        model: The model's folder, below the case.
        max_length: Tokens that are kept of a row; None keeps all.
        pair: File of the second texts, below the case, in the order of the printed rows, under "pair".
        leave_out: Inputs that the tokenizer makes and this model has no place for.
    """

    kind: Literal["plain"]
    model: str = "teacher"
    max_length: int | None = None
    pair: str | None = None
    leave_out: tuple[str, ...] = ()

    def find_fault(self, folder: Path, rows: Sequence[Row], earlier: Sequence[Row]) -> str | None:
        if not rows:
            return "no row was printed"
        answer = plain_classifier(folder / self.model, self.max_length, self.leave_out)
        seconds: list[str | None] = [None] * len(rows)
        if self.pair is not None:
            given = read_json_lines((folder / self.pair).read_text(encoding="utf-8"))
            seconds = [str(row["pair"]) for row in given]
        for row, second in zip(rows, seconds, strict=True):
            wanted = answer(str(row["text"]), second)
            far = max_difference(row.get("probabilities", {}), wanted)
            if far > TOLERANCE:
                got = row.get("probabilities")
                return f"{row['text']!r}: {got}, plain transformers alone: {wanted}; differ by {far:.2g}"
        return None


class Steady(_Value):
    """A text has one answer, whatever stood beside it, in this command and the earlier ones."""

    kind: Literal["steady"]

    def find_fault(self, folder: Path, rows: Sequence[Row], earlier: Sequence[Row]) -> str | None:
        first: dict[str, Mapping[str, float]] = {}
        for row in (*earlier, *rows):
            if "probabilities" not in row:
                continue
            before = first.setdefault(str(row["text"]), row["probabilities"])
            far = max_difference(before, row["probabilities"])
            if far > TOLERANCE:
                return f"{row['text']!r} has two answers: {before} and {row['probabilities']}"
        return None


class Answers(_Value):
    """The answer to each question is one that the row itself holds as gold.

    Attributes:
        count: Rows that must have been answered.
    """

    kind: Literal["answers"]
    count: int

    def find_fault(self, folder: Path, rows: Sequence[Row], earlier: Sequence[Row]) -> str | None:
        if len(rows) != self.count:
            return f"{len(rows)} rows were answered, {self.count} asked"
        wrong = [row for row in rows if row.get("prediction", "") not in (row["answers"]["text"] or [""])]
        if wrong:
            return f"{len(wrong)} of {len(rows)}: {wrong[0].get('prediction')!r} for {wrong[0]['answers']['text']}"
        return None


class Entities(_Value):
    """The entities of each row are those of its tags (BIO), compared by type and by their first and last word.

    Attributes:
        file: Rows of tokens and tags, below the case, in the order of the printed rows.
    """

    kind: Literal["entities"]
    file: str

    def find_fault(self, folder: Path, rows: Sequence[Row], earlier: Sequence[Row]) -> str | None:
        gold = read_json_lines((folder / self.file).read_text(encoding="utf-8"))
        if len(rows) != len(gold):
            return f"{len(rows)} rows were answered, {len(gold)} asked"
        for row, wanted in zip(rows, gold, strict=True):
            got = [("".join(e["text"].split()), e["type"]) for e in row["prediction"]]
            want = bio_entities(wanted["tokens"], wanted["tags"])
            if got != want:
                return f"{' '.join(wanted['tokens'])!r}: {got}, the file's: {want}"
        return None


class Written(_Value):
    """What was written for each text, in the order of the printed rows."""

    kind: Literal["written"]
    texts: tuple[str, ...]

    def find_fault(self, folder: Path, rows: Sequence[Row], earlier: Sequence[Row]) -> str | None:
        got = tuple(str(row.get("written", "")).strip() for row in rows)
        return None if got == self.texts else f"written {list(got)}, wanted {list(self.texts)}"


class Generated(_Value):
    """What was written begins as plain greedy generation does.

    Attributes:
        model: The model's folder, below the case.
        special_tokens: Whether the tokenizer adds its special tokens to the prompt.
        max_new_tokens: Tokens that are compared.
        encoder: Whether the model is an encoder-decoder.
    """

    kind: Literal["generated"]
    model: str = "teacher"
    special_tokens: bool = True
    max_new_tokens: int = 8
    encoder: bool = False

    def find_fault(self, folder: Path, rows: Sequence[Row], earlier: Sequence[Row]) -> str | None:
        for row in rows:
            text, got = str(row["text"]), str(row["written"]).strip()
            wanted = plain_generation(
                folder / self.model, text, self.special_tokens, self.max_new_tokens, self.encoder
            )
            wanted = wanted.strip().rstrip("\ufffd")  # its last character may not be whole
            if not (got.startswith(wanted) or (got and wanted.startswith(got))):
                return f"{text!r}: written {got!r}, plain transformers writes {wanted!r}"
        return None if rows else "no row was printed"


class Curve(_Value):
    """A point of a run's curves lies between two numbers.

    Attributes:
        file: The curves, below the case.
        metric: For example train/hard.
    """

    kind: Literal["curve"]
    file: str
    metric: str
    between: tuple[float, float]

    def find_fault(self, folder: Path, rows: Sequence[Row], earlier: Sequence[Row]) -> str | None:
        path = folder / self.file
        if not path.exists():
            return f"{self.file} was not written"
        found = [
            v
            for line in read_json_lines(path.read_text(encoding="utf-8"))
            for v in _values(line, self.metric)
        ]
        low, high = self.between
        wrong = [value for value in found if not low <= value <= high]
        if not found or wrong:
            return f"{self.metric} is {wrong[0] if wrong else 'missing'}, wanted {low:g} to {high:g}"
        return None


Value = Annotated[
    Plain | Steady | Answers | Entities | Written | Generated | Curve, Field(discriminator="kind")
]


def _values(tree: Any, metric: str) -> list[float]:
    """Every number under a key, at any depth."""
    if not isinstance(tree, dict):
        return []
    own = [float(tree[metric])] if isinstance(tree.get(metric), int | float) else []
    return own + [value for part in tree.values() for value in _values(part, metric)]


def read_json_lines(text: str) -> list[dict[str, Any]]:
    """The JSON objects among the lines; other lines are left out."""
    found = []
    for line in text.split("\n"):
        if line.startswith("{"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                found.append(row)
    return found


def max_difference(got: Mapping[str, float], wanted: Mapping[str, float]) -> float:
    """The largest difference over labels; infinite where the labels are not the same."""
    if set(got) != set(wanted) or not got:
        return float("inf")
    return max(abs(got[label] - wanted[label]) for label in wanted)


def bio_entities(tokens: Sequence[str], tags: Sequence[str]) -> list[tuple[str, str]]:
    """Entities of BIO tags as text (without blanks) and type."""
    found: list[tuple[list[str], str]] = []
    for token, tag in zip(tokens, tags, strict=True):
        kind = tag[2:]
        if tag.startswith("B-") or (tag.startswith("I-") and (not found or found[-1][1] != kind)):
            found.append(([token], kind))
        elif tag.startswith("I-"):
            found[-1][0].append(token)
        else:
            found.append(([], ""))
    return [("".join(words), kind) for words, kind in found if words]


def _quiet() -> None:
    """No progress bars between the lines of the table."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def plain_classifier(path: Path, max_length: int | None, leave_out: Sequence[str]) -> Any:
    """A function from a text (and a second one) to probabilities by label, by transformers alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    _quiet()
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    cut = {} if max_length is None else {"truncation": True, "max_length": max_length}

    def answer(text: str, pair: str | None) -> dict[str, float]:
        inputs = tokenizer(text, pair, return_tensors="pt", **cut)
        for name in leave_out:
            inputs.pop(name, None)
        with torch.inference_mode():
            probabilities = model(**inputs).logits[0].double().softmax(-1).tolist()
        return {model.config.id2label[i]: p for i, p in enumerate(probabilities)}

    return answer


def plain_generation(
    path: Path, prompt: str, special_tokens: bool, max_new_tokens: int, encoder: bool = False
) -> str:
    """What transformers writes after a prompt, or for a source, greedily."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    _quiet()
    tokenizer = AutoTokenizer.from_pretrained(path)
    kind = AutoModelForSeq2SeqLM if encoder else AutoModelForCausalLM
    model = kind.from_pretrained(path, dtype=torch.float32).eval()
    ids = tokenizer(prompt, add_special_tokens=special_tokens, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
        )
    begin = 0 if encoder else ids.shape[1]
    return str(tokenizer.decode(made[0, begin:], skip_special_tokens=True))
