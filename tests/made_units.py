"""Taggers and answerers of questions trained and read by plain recipes: `run_ner.py` and `run_qa.py` in short.

No line of raykd stands here, but for `raykd.models.register` where a student is loaded.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tests.made_models import ARCHITECTURES, make_config, make_tokenizer

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
MASONS, BUYERS = ("Jan", "Piotr", "Łukasz"), ("Anna", "Maria", "Zoë")
SYLLABLES = ("dab", "row", "grze", "kow", "lew", "bry", "ziel", "szym", "wach")
PLACES = (("New", "Wrocław"), ("Bydgoszcz",), ("Saint-Malo",), ("北", "京"), ("上", "海", "港"))
LENGTH, STRIDE = 64, 16
_ENCODER = {"initializer_range": 0.15, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_DECODER = {"initializer_range": 0.15, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
QUICK: dict[str, dict[str, Any]] = {
    family: _DECODER if architecture == "gpt2" else _ENCODER for family, architecture in ARCHITECTURES.items()
}
"""So that a few steps teach a tiny model something."""


class Question(NamedTuple):
    """A row of SQuAD. begin: of the answer in the context; an answer of "" is none."""

    question: str
    context: str
    answer: str
    begin: int


def family_name(rng: np.random.Generator, end: str) -> str:
    """A name that tokenizers cut to pieces."""
    return "".join(rng.choice(SYLLABLES, size=3)).capitalize() + end


def tagged_rows(count: int, seed: int = 0) -> list[tuple[list[str], list[str]]]:
    """Tokens and tags; single Chinese characters, hyphens, signs, an emoji inside a word among the tokens."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        tokens, tags = [], []
        for _ in range(int(rng.integers(2, 7))):
            kind = int(rng.integers(4))
            if kind == 0:
                own = [str(rng.choice(MASONS)), family_name(rng, "ski")][: int(rng.integers(1, 3))]
                marks = ["B-PER", "I-PER"][: len(own)]
            elif kind == 1:
                own = list(PLACES[int(rng.integers(len(PLACES)))])
                marks = ["B-LOC", *["I-LOC"] * (len(own) - 1)]
            else:
                own = [
                    str(rng.choice(("lives", "in", "l'eau", "(", "ok👍ay", "在", "大", "the", "3.5", ",")))
                ]
                marks = ["O"]
            tokens, tags = tokens + own, tags + marks
        rows.append((tokens, tags))
    return rows


def tag_features(
    tokenizer: Any, tokens: Sequence[str], tags: Sequence[str] | None = None
) -> tuple[Any, list[int]]:
    """Inputs of one row, and a label a token: that of its word at the word's first token, else -100."""
    encoded = tokenizer([list(tokens)], is_split_into_words=True, truncation=True, max_length=LENGTH)
    labels, before = [], None
    for word in encoded.word_ids(0):
        first = word is not None and word != before
        labels.append((TAGS.index(tags[word]) if tags else word) if first else -100)
        before = word
    return {name: torch.tensor(ids) for name, ids in encoded.items()}, labels


def plain_tags(model: Any, tokenizer: Any, rows: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """``[W, C]`` logits at the words of each row alone; words beyond the limit are left out."""
    found = []
    for tokens in rows:
        inputs, words = tag_features(tokenizer, tokens)
        with torch.inference_mode():
            logits_LC = model(**inputs).logits[0]
        found.append(logits_LC[[i for i, word in enumerate(words) if word >= 0]].double().numpy())
    return found


def fit(
    model: Any, loss_of: Callable[[list[int]], torch.Tensor], count: int, steps: int, batch: int = 16
) -> None:
    """A plain loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model.train()
    for step in range(steps):
        loss = loss_of([(step * batch + i) % count for i in range(batch)])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def padded(tokenizer: Any, features: Sequence[dict[str, list[int]]]) -> Any:
    """Features as one batch; token types where the tokenizer gives them."""
    return tokenizer.pad(list(features), return_tensors="pt")


def save_tagger(directory: Path, family: str, steps: int = 100) -> Path:
    """A tagger of a family, trained as `run_ner.py` trains it."""
    from transformers import AutoModelForTokenClassification

    rows = tagged_rows(300)
    tokenizer = make_tokenizer(family, [" ".join(tokens) for tokens, _ in rows])
    names = dict(enumerate(TAGS))
    config = make_config(
        ARCHITECTURES[family], tokenizer, id2label=names, label2id={t: i for i, t in names.items()}
    )
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(config)
    made = [tag_features(tokenizer, *row) for row in rows]

    def loss_of(picked: list[int]) -> torch.Tensor:
        batch = padded(tokenizer, [{n: v[0].tolist() for n, v in made[i][0].items()} for i in picked])
        width = batch["input_ids"].shape[1]
        labels = torch.tensor([made[i][1] + [-100] * (width - len(made[i][1])) for i in picked])
        loss: torch.Tensor = model(**batch, labels=labels).loss
        return loss

    fit(model, loss_of, len(rows), steps)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def asked_rows(count: int, seed: int = 0, *, empty: float = 0.0) -> list[Question]:
    """Who built, who bought; a share of ``empty`` asks what the context does not tell. A third needs several windows."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        mason = f"{rng.choice(MASONS)} {family_name(rng, 'ski')}"
        buyer = f"{rng.choice(BUYERS)} {family_name(rng, 'ska')}"
        filler = " ".join(
            rng.choice(
                ("the", "old", "house", "in", "town", "-", "1900", "是"), size=int(rng.choice((8, 16, 60)))
            )
        )
        told = [f"built by {mason}", f"sold to {buyer}."]
        if rng.random() < 0.5:
            told.reverse()
        cut = int(rng.integers(len(filler)))
        context = f"{filler[:cut]} {told[0]} and {filler[cut:]} {told[1]}"
        if rng.random() < 0.3:
            context += f" {filler[: int(rng.integers(len(filler)))]}"
        built = bool(rng.random() < 0.5)
        asked, answer = ("who built it ?", mason) if built else ("who bought it ?", buyer)
        if rng.random() < empty:
            rows.append(Question("who painted it ?", context, "", 0))
        else:
            rows.append(Question(asked, context, answer, context.index(answer)))
    return rows


def windows(tokenizer: Any, row: Question) -> Any:
    """One row's windows as `run_qa.py` cuts them."""
    left = tokenizer.padding_side == "left"
    texts = (row.context, row.question.lstrip()) if left else (row.question.lstrip(), row.context)
    return tokenizer(
        [texts[0]], [texts[1]], truncation="only_first" if left else "only_second", max_length=LENGTH, stride=STRIDE,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip


def inputs_of(encoded: Any, window: int) -> dict[str, list[int]]:
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: encoded[name][window] for name in names if name in encoded}


def null_token(tokenizer: Any, ids: list[int]) -> int:
    for wanted in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        if wanted is not None and wanted in ids:
            return ids.index(wanted)
    return 0


def span_features(tokenizer: Any, row: Question) -> list[tuple[dict[str, list[int]], tuple[int, int]]]:
    """`prepare_train_features` of `run_qa.py`: start at the first token, end at the last, else the null token."""
    encoded, found = windows(tokenizer, row), []
    part = 0 if tokenizer.padding_side == "left" else 1
    for i, offsets in enumerate(encoded["offset_mapping"]):
        null = null_token(tokenizer, encoded["input_ids"][i])
        inside = [t for t, p in enumerate(encoded.sequence_ids(i)) if p == part]
        start, end, last = inside[0], inside[-1], row.begin + len(row.answer)
        if not row.answer or not (offsets[start][0] <= row.begin and offsets[end][1] >= last):
            found.append((inputs_of(encoded, i), (null, null)))
            continue
        while start < len(offsets) and offsets[start][0] <= row.begin:
            start += 1
        while offsets[end][1] >= last:
            end -= 1
        found.append((inputs_of(encoded, i), (start - 1, end + 1)))
    return found


def save_answerer(directory: Path, family: str, steps: int = 200, *, empty: float = 0.0) -> Path:
    """A model of a family for questions, trained as `run_qa.py` trains it."""
    from transformers import AutoModelForQuestionAnswering

    rows = asked_rows(200, empty=empty)
    tokenizer = make_tokenizer(family, [text for row in rows for text in (row.question, row.context)])
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(
        make_config(ARCHITECTURES[family], tokenizer, **QUICK[family])
    )
    made = [feature for row in rows for feature in span_features(tokenizer, row)]
    order = np.random.default_rng(0).permutation(len(made)).tolist()

    def loss_of(picked: list[int]) -> torch.Tensor:
        some = [made[order[i]] for i in picked]
        batch = padded(tokenizer, [inputs for inputs, _ in some])
        places = torch.tensor([place for _, place in some])
        loss: torch.Tensor = model(**batch, start_positions=places[:, 0], end_positions=places[:, 1]).loss
        return loss

    fit(model, loss_of, len(made), steps)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def plain_answers(model: Any, tokenizer: Any, rows: Sequence[Question], *, null: bool = False) -> list[str]:
    """`postprocess_qa_predictions` of `run_qa.py`, each window alone: the best span of any window, or none."""
    found = []
    for row in rows:
        encoded, best, empty = windows(tokenizer, row), (-np.inf, ""), np.inf
        for i, offsets in enumerate(encoded["offset_mapping"]):
            inputs = inputs_of(encoded, i)
            with torch.inference_mode():
                out = model(**{name: torch.tensor([ids]) for name, ids in inputs.items()})
            start, end = out.start_logits[0].tolist(), out.end_logits[0].tolist()
            at = null_token(tokenizer, inputs["input_ids"])
            empty = min(empty, start[at] + end[at])
            part = 0 if tokenizer.padding_side == "left" else 1
            inside = [t for t, p in enumerate(encoded.sequence_ids(i)) if p == part]
            for s in inside:
                for e in inside:
                    if s <= e < s + 30 and start[s] + end[e] > best[0]:
                        best = (start[s] + end[e], row.context[offsets[s][0] : offsets[e][1]].strip())
        found.append("" if null and empty > best[0] else best[1])
    return found


def squad(predicted: Sequence[str], rows: Sequence[Question]) -> dict[str, float]:
    """Exact match and F1 as SQuAD v2's script has them."""
    exact, f1 = [], []
    for own, row in zip(predicted, rows, strict=True):
        a, b = _normal(own), _normal(row.answer)
        exact.append(float(a == b))
        common = (Counter(a) & Counter(b)).total()
        f1.append(float(a == b) if not a or not b else 2 * common / (len(a) + len(b)))
    return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(f1))}


def _normal(text: str) -> list[str]:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()
