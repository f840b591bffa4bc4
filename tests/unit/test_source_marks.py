"""A model from scratch that writes several languages is told which one by the first token of its source."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import transformers

from raykd import models
from raykd.config.loading import validate_run
from raykd.data.rows import Rows
from raykd.driver.language_models import describe_untold_models
from raykd.errors import ConfigError, ModelError
from raykd.networks.generators import EncoderDecoderStudent
from raykd.prediction.writing import generate_texts
from raykd.student.prepare import fit_tokenizer
from raykd.tasks import Seq2Seq
from raykd.text.codes import find_source_marks
from raykd.tracking.model import StudentModel

TASK = Seq2Seq(max_length=24, max_target_length=24)
STUDENT = EncoderDecoderStudent(layers=1, hidden=32, heads=2, dropout=0.0, vocab_size=560, max_positions=24)
PAIRS = (("a red cat", "fr", "un chat rouge"), ("a red cat", "de", "eine rote katze"),
         ("a big dog", "fr", "un grand chien"), ("a big dog", "de", "ein grosser hund"))  # fmt: skip


def rows_of(*languages: str) -> Rows:
    chosen = [pair for pair in PAIRS if pair[1] in languages]
    return Rows(
        ids=tuple(str(i) for i in range(len(chosen))),
        texts=tuple(source for source, _, _ in chosen),
        languages=tuple(language for _, language, _ in chosen),
        labels_B=np.zeros(len(chosen), dtype=np.int64),
        pairs=tuple(target for _, _, target in chosen),
    )


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return fit_tokenizer(STUDENT, [(TASK, rows_of("fr", "de"))])


def test_one_language_needs_no_mark() -> None:
    alone = fit_tokenizer(STUDENT, [(TASK, rows_of("fr"))])
    assert find_source_marks(alone) == {}
    assert (
        TASK.encode(alone, rows_of("fr")).fields["input_ids"][0].tolist() == alone("a red cat")["input_ids"]
    )


def test_sources_begin_with_the_language_of_their_target(tokenizer: Any) -> None:
    marks = find_source_marks(tokenizer)
    assert set(marks) == {"de", "fr"} and len(set(marks.values())) == 2
    encoded = TASK.encode(tokenizer, rows_of("fr", "de")).fields["input_ids"]
    for row, (source, language, _) in zip(encoded, PAIRS, strict=True):
        assert row.tolist() == [marks[language], *tokenizer(source)["input_ids"]]


def test_the_mark_counts_against_the_limit_and_is_never_cut(tokenizer: Any) -> None:
    short = Seq2Seq(max_length=4, max_target_length=12)
    row = short.encode(tokenizer, rows_of("fr", "de")).fields["input_ids"][0]
    assert (
        len(row) == 4 and row[0] == find_source_marks(tokenizer)["fr"] and row[-1] == tokenizer.eos_token_id
    )


def test_a_text_that_holds_a_mark_is_text(tokenizer: Any) -> None:
    ids = tokenizer(">>fr<< a red cat")["input_ids"]
    assert not set(ids) & set(find_source_marks(tokenizer).values())
    assert tokenizer.decode(ids, skip_special_tokens=True) == ">>fr<< a red cat"


def test_one_source_is_written_in_the_language_that_is_asked_for(tokenizer: Any, tmp_path: Path) -> None:
    model = STUDENT.build(tokenizer, (), 0)
    rows = rows_of("fr", "de")
    batch = TASK.collate(TASK.encode(tokenizer, rows), range(len(rows)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    for _ in range(120):
        loss = model(**batch.inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05  # without marks it cannot go below the entropy of two equal targets
    models.save_model(models.TextModel(model, tokenizer, (), task="seq2seq", max_length=12), tmp_path / "m")
    saved = models.load_model(tmp_path / "m")
    for one in ((model, tokenizer), (saved.model, saved.tokenizer)):
        written = generate_texts(*one, rows.texts, languages=rows.languages, max_new_tokens=24)
        assert written == list(rows.pairs or ())
    served = StudentModel()
    served.load_context(SimpleNamespace(artifacts={"student": str(tmp_path / "m"), "code": ""}))  # type: ignore[arg-type]
    frame = pandas.DataFrame({"text": rows.texts, "lang": rows.languages})
    assert served.predict(None, frame)["written"].tolist() == list(rows.pairs or ())
    assert [c.name for c in Seq2Seq.build_signature(()).inputs] == ["text", "lang", "src_lang"]


def test_a_language_that_is_not_named_or_not_known_is_refused(tokenizer: Any) -> None:
    model = STUDENT.build(tokenizer, (), 0)
    with pytest.raises(ModelError, match=r"several languages(.|\n)*de, fr"):
        generate_texts(model, tokenizer, ("a red cat",), max_new_tokens=2)
    with pytest.raises(ConfigError, match="no language code stands for 'zh'"):
        generate_texts(model, tokenizer, ("a red cat",), languages=("zh",), max_new_tokens=2)


def save_t5(folder: Path, tokenizer: Any) -> None:
    """Save a T5, as plain transformers does."""
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )  # fmt: skip
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_check_names_checkpoints_that_are_not_told_the_language(tokenizer: Any, tmp_path: Path) -> None:
    save_t5(tmp_path / "plain", fit_tokenizer(STUDENT, [(TASK, rows_of("fr"))]))
    save_t5(tmp_path / "marked", tokenizer)
    teachers = [
        {"name": "big", "languages": "all", "path": str(tmp_path / "plain")},
        {"name": "french", "languages": ["fr"], "path": str(tmp_path / "plain")},
        {"name": "told", "languages": "all", "path": str(tmp_path / "marked")},
    ]
    source = {"kind": "files", "paths": ["x.jsonl"]}
    tree = {
        "name": "t", "task": TASK.model_dump(mode="json"), "student": STUDENT.model_dump(mode="json"),
        "data": {"languages": ["de", "fr"], "train": source, "validation": source},
        "teachers": teachers, "train": {"steps": 1},
    }  # fmt: skip
    config: Any = validate_run(tree, "test")
    said = describe_untold_models(config, rows_of("fr", "de"))
    assert said == "teacher big is not told which of de, fr to write: its sources have to say it"
    assert describe_untold_models(config, rows_of("fr")) == ""
