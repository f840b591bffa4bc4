"""Units, prompts and special tokens, read as the recipes train them: taggers, answers, texts that are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.habits.neighbour import Neighbour, edit_json, neighbour, write_rows, write_run
from tests.made_models import ARCHITECTURES, make_config, make_tokenizer

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
Row = dict[str, Any]
NAMES = (
    "Maria Dabrowskaite",
    "Piotr Szymanska",
    "Jan Kowalczyk",
    "Anna Grzegorzewski",
    "Ola Nowak",
    "Lech Wisniewski",
)
PLACES = ("北京", "上海", "南京市", "北京大学", "广州")


def tagged_rows(count: int = 24) -> list[Row]:
    """Chinese sentences of one character a token: who goes where."""
    rows = []
    for i in range(count):
        person, place = ("张三", "李四丰", "王五")[i % 3], PLACES[i % len(PLACES)]
        tokens, tags = list(person), ["B-PER"] + ["I-PER"] * (len(person) - 1)
        tokens += [*"在", *place, *("了" if i % 2 else "吗")]
        tags += ["O", "B-LOC", *["I-LOC"] * (len(place) - 1), "O"]
        rows.append({"id": str(i), "tokens": tokens, "tags": tags, "lang": "zh"})
    return rows


def _fit(model: Any, batches: Sequence[dict[str, torch.Tensor]], steps: int) -> None:
    """A plain loop until the rows are known by heart."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model.train()
    for step in range(steps):
        loss = model(**batches[step % len(batches)]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def _without_dropout(family: str, tokenizer: Any, **more: Any) -> Any:
    settings = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_hidden_layers": 2}
    return make_config(ARCHITECTURES[family], tokenizer, **settings, **more)


def save_tagger(directory: Path, family: str, rows: Sequence[Row], steps: int = 120) -> None:
    """A tagger as run_ner.py trains it: words apart, the label at a word's first piece."""
    from transformers import AutoModelForTokenClassification

    tokenizer = make_tokenizer(
        family, [" ".join(row["tokens"]) for row in rows] + ["".join(r["tokens"]) for r in rows]
    )
    names = dict(enumerate(TAGS))
    config = _without_dropout(family, tokenizer, id2label=names, label2id={n: i for i, n in names.items()})
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(config)
    batch = tokenizer(
        [r["tokens"] for r in rows], is_split_into_words=True, padding=True, return_tensors="pt"
    )
    labels = torch.full_like(batch["input_ids"], -100)
    for at, row in enumerate(rows):
        seen: set[int] = set()
        for place, word in enumerate(batch.word_ids(at)):
            if word is not None and word not in seen:
                labels[at, place] = TAGS.index(row["tags"][word])
                seen.add(word)
    _fit(model, [{**batch, "labels": labels}], steps)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _tagging(family: str, folder: Path, zero_width: bool = False) -> None:
    rows = tagged_rows()
    save_tagger(folder / "teacher", family, rows)
    if zero_width:
        rows = [
            {**row, "tokens": [row["tokens"][0], *(f"\u200b{t}" for t in row["tokens"][1:])]} for row in rows
        ]
    write_rows(folder / "test.jsonl", rows)
    data = {"labels": list(TAGS), "languages": ["zh"]}
    files = {part: {"kind": "files", "paths": ["test.jsonl"]} for part in ("train", "validation")}
    write_run(folder, rows=(), task={"kind": "token_classification"}, data={**data, **files}, teacher={})


def answer_rows(count: int = 36) -> list[Row]:
    """Questions whose answer is a name of several pieces; two forms of context."""
    rows = []
    for i in range(count):
        name, other = NAMES[i % len(NAMES)], NAMES[(i + 1) % len(NAMES)]
        context = f"In {2000 + i} the house was built by {name} and sold to {other} ."
        question, gold = ("who built it ?", name) if i % 2 == 0 else ("who bought it ?", other)
        answers = {"text": [gold], "answer_start": [context.index(gold)]}
        rows.append(
            {"id": str(i), "question": question, "context": context, "answers": answers, "lang": "en"}
        )
    return rows


def save_reader(directory: Path, family: str, rows: Sequence[Row], steps: int = 300) -> None:
    """A reader as run_qa.py trains it: from the first piece of an answer to its last; no answer is the first token."""
    from transformers import AutoModelForQuestionAnswering

    tokenizer = make_tokenizer(family, [f"{r['question']} {r['context']}" for r in rows], 200)
    config = _without_dropout(family, tokenizer)
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(config)
    batch = tokenizer(
        [r["question"] for r in rows], [r["context"] for r in rows], padding=True, return_tensors="pt",
        return_offsets_mapping=True,
    )  # fmt: skip
    offsets = batch.pop("offset_mapping").tolist()
    spans = []
    for at, row in enumerate(rows):
        if not row["answers"]["text"]:
            spans.append((0, 0))
            continue
        begin = row["answers"]["answer_start"][0]
        end = begin + len(row["answers"]["text"][0])
        inside = [
            p
            for p, s in enumerate(batch.sequence_ids(at))
            if s == 1 and offsets[at][p][1] > begin and offsets[at][p][0] < end
        ]
        spans.append((inside[0], inside[-1]))
    starts, ends = torch.tensor(spans).T
    _fit(model, [{**batch, "start_positions": starts, "end_positions": ends}], steps)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _reading(family: str, folder: Path) -> None:
    rows = answer_rows()
    save_reader(folder / "teacher", family, rows)
    write_rows(folder / "test.jsonl", rows)
    files = {part: {"kind": "files", "paths": ["test.jsonl"]} for part in ("train", "validation")}
    task = {"kind": "question_answering", "max_length": 96, "stride": 16}
    write_run(folder, rows=(), task=task, data={"labels": None, **files}, teacher={})


def _unanswerable(folder: Path) -> None:
    rows = answer_rows(24)
    for row in rows[::3]:
        row |= {"question": "who sang it ?", "answers": {"text": [], "answer_start": []}}
    write_rows(folder / "test.jsonl", rows)
    files = {part: {"kind": "files", "paths": ["test.jsonl"]} for part in ("train", "validation")}
    task = {"kind": "question_answering", "max_length": 96, "stride": 16}
    write_run(folder, rows=(), task=task, data={"labels": None, **files})


def _schemes(tags: Sequence[str], labels: Sequence[str], scheme: str | None, folder: Path) -> None:
    rows = [{"tokens": list("张三丰在北京"), "tags": list(tags), "lang": "zh"}] * 8
    task = {"kind": "token_classification"}
    files = {part: {"kind": "files", "paths": [f"{part}.jsonl"]} for part in ("train", "validation")}
    data = {"labels": list(labels), "languages": ["zh"], "scheme": scheme, **files}
    write_run(folder, rows=rows, task=task, data=data)


def save_writer(directory: Path, architecture: str, template: str, **settings: Any) -> None:
    """A causal language model with random weights and a tokenizer that adds special tokens by a template."""
    from tokenizers import processors
    from transformers import AutoModelForCausalLM

    texts = ["say one : uno", "say two : due", "say three : tre", "[INST] say [/INST] one"] * 4
    tokenizer = make_tokenizer("bytes_with_blank", texts, 60)
    specials = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=specials
    )
    config = make_config(
        architecture, tokenizer, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.5, **settings,
    )  # fmt: skip
    torch.manual_seed(4)
    AutoModelForCausalLM.from_config(config).eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _writing(template: str, prompt: str, architecture: str, folder: Path, **settings: Any) -> None:
    save_writer(folder / "teacher", architecture, template, **settings)
    rows = [{"prompt": prompt, "tgt": f"uno {i}</s>", "lang": "en"} for i in range(8)]
    task = {"kind": "causal_lm", "max_length": 64, "max_target_length": 16, "max_new_tokens": 8,
            "answers": {"kind": "top_k", "k": 8, "temperatures": [1.0, 2.0]}}  # fmt: skip
    student = {
        "kind": "decoder",
        "layers": 1,
        "hidden": 16,
        "heads": 2,
        "vocab_size": 520,
        "max_positions": 64,
    }
    write_run(folder, rows=rows, task=task, data={"labels": None}, teacher={}, student=student)


def _translating(architecture: str, folder: Path, **settings: Any) -> None:
    """An encoder-decoder with random weights."""
    from transformers import AutoModelForSeq2SeqLM

    texts = ["hello red world", "bonjour monde rouge", "hello blue sea"] * 4
    tokenizer = make_tokenizer("bytes_with_blank", texts, 60)
    config = make_config(architecture, tokenizer, decoder_start_token_id=tokenizer.eos_token_id,
                         bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, **settings)  # fmt: skip
    torch.manual_seed(4)
    AutoModelForSeq2SeqLM.from_config(config).eval().save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    rows = [{"src": f"hello red world {i}", "tgt": f"bonjour monde {i}", "lang": "fr"} for i in range(8)]
    task = {"kind": "seq2seq", "max_length": 32, "max_target_length": 16, "max_new_tokens": 8,
            "answers": {"kind": "top_k", "k": 8, "temperatures": [1.0, 2.0]}}  # fmt: skip
    student = {"kind": "encoder_decoder", "layers": 1, "hidden": 16, "heads": 2, "vocab_size": 520}
    write_run(folder, rows=rows, task=task, data={"labels": None, "languages": ["fr"], "columns": {"language": "lang"}, **{
        part: {"kind": "files", "paths": [f"{part}.jsonl"]} for part in ("train", "validation")}}, teacher={}, student=student)  # fmt: skip


def _searching(folder: Path) -> None:
    """A checkpoint whose generation config asks for more than the most likely token."""
    _translating("bart", folder, **_BART)
    edit_json(
        folder / "teacher" / "generation_config.json", num_beams=4, min_length=6, no_repeat_ngram_size=2
    )


def _chat(folder: Path) -> None:
    _writing("<s> $A", "say one :", "llama", folder)
    chat = [{"role": "user", "content": "say one :"}, {"role": "assistant", "content": "uno"}]
    (folder / "train.jsonl").write_text(json.dumps({"messages": chat, "lang": "en"}) + "\n", encoding="utf-8")


CHECK: Row = {"run": "raykd check run.yaml", "served": {}}
ENTITIES: Row = {
    "run": "raykd predict teacher --file test.jsonl",
    "served": {"values": [{"kind": "entities", "file": "test.jsonl"}]},
}


def _tagger(family: str, **more: bool) -> Neighbour:
    return neighbour(partial(_tagging, family, **more), "the file's entities", CHECK, ENTITIES)


def _reader(family: str) -> Neighbour:
    answers = {
        "run": "raykd predict teacher --file test.jsonl",
        "served": {"values": [{"kind": "answers", "count": 36}]},
    }
    return neighbour(partial(_reading, family), "the file's answers", CHECK, answers)


def _writer(
    template: str, prompt: str, architecture: str = "llama", special: bool = False, **settings: Any
) -> Neighbour:
    """What is written after a prompt is what plain transformers writes after the same ids.

    Args:
        special: Whether plain transformers lets the tokenizer add its special tokens.
    """
    written = {"run": f"raykd predict teacher {prompt!r} --json",
               "served": {"values": [{"kind": "generated", "special_tokens": special, "max_new_tokens": 6}]}}  # fmt: skip
    return neighbour(
        partial(_writing, template, prompt, architecture, **settings), "the same ids", CHECK, written
    )


def _translator(architecture: str, **settings: Any) -> Neighbour:
    """What is written for a source is what plain transformers writes for it alone."""
    written = {"run": "raykd predict teacher 'hello red world' 'hello' 'hello blue sea hello red sea' --json",
               "served": {"values": [{"kind": "generated", "encoder": True, "max_new_tokens": 6}]}}  # fmt: skip
    return neighbour(partial(_translating, architecture, **settings), "the same texts", CHECK, written)


def _scheme(tags: str, labels: str, scheme: str | None = None, refused: str | None = None) -> Neighbour:
    """Rows of a scheme are read, or refused by a pattern's words.

    Args:
        scheme: The run's data.scheme.
    """
    outcome = {"refused": {"prints": [refused]}} if refused else {"served": {"prints": [r"\b8 labelled"]}}
    step = {"run": CHECK["run"], **outcome}
    return neighbour(partial(_schemes, tags.split(), labels.split(), scheme), "read", step)


_BART = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "init_std": 0.5,
}  # fmt: skip
UNITS: dict[str, Neighbour] = {
    "Chinese characters, sentencepiece": _tagger("unigram"),
    "Chinese characters, WordPiece": _tagger("wordpiece"),
    "Chinese characters, byte pairs with a blank": _tagger("bytes_with_blank"),
    "Chinese characters, byte pairs without a blank": _tagger("bytes"),
    "words that begin with a sign that is not seen": _tagger("wordpiece", zero_width=True),
    "a reader of byte pairs": _reader("bytes_with_blank"),
    "a reader of sentencepiece": _reader("unigram"),
    "a reader of word pieces": _reader("wordpiece"),
    "questions without an answer": neighbour(_unanswerable, "read", {**CHECK, "served": {"prints": [r"\b24 labelled"]}}),
    "BMES": _scheme("B-PER M-PER E-PER O B-LOC E-LOC", "O B-PER M-PER E-PER S-PER B-LOC M-LOC E-LOC S-LOC"),
    "BIOES": _scheme("B-PER I-PER E-PER O B-LOC E-LOC", "O B-PER I-PER E-PER S-PER B-LOC I-LOC E-LOC S-LOC"),
    "BMES in files, BIO in the run": _scheme(
        "B-PER M-PER E-PER O B-LOC E-LOC", "O B-PER I-PER B-LOC I-LOC", "BMES"
    ),
    "IOB1 that is said": _scheme("I-PER I-PER I-PER O I-LOC I-LOC", "O B-PER I-PER B-LOC I-LOC", "IOB1"),
    "IO": _scheme("I-PER I-PER I-PER O I-LOC I-LOC", "O I-PER I-LOC"),
    "types without a letter": _scheme("PER PER PER O LOC LOC", "O PER LOC", refused="'PER' is no tag"),
    "a tokenizer that ends every text": _writer("$A </s>", "say one :"),
    "a tokenizer that begins every text": _writer("<s> $A", "say one :", special=True),
    "a prompt that holds its beginning already": _writer("<s> $A", "<s>[INST] say [/INST]"),
    "gpt_neox, whose tokenizer adds nothing": _writer("$A", "say two :", "gpt_neox", special=True),
    "bart": _translator("bart", **_BART),
    "bart that begins with its first token": _translator("bart", forced_bos_token_id=0, **_BART),
    "t5": _translator("t5", d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, initializer_factor=3.0),
    "pegasus": _translator("pegasus", **_BART),
    "a generation config that is not greedy": neighbour(
        _searching, "said", {**CHECK, "served": {"prints": ["num_beams 4", "min_length 6", r"task\.generation"]}}
    ),
    "chat messages": neighbour(_chat, "said", {**CHECK, "refused": {"prints": ["messages", "render|template"]}}),
}  # fmt: skip
