"""Narrower embeddings of a checkpoint: an encoder's factorised table, and an LSTM's word vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from pydantic import ValidationError

from raykd.errors import ModelError
from raykd.models import LSTMStudent, PretrainedStudent, TextModel, TransformerStudent, load_model, save_model
from raykd.models.bases import inspect_base
from raykd.models.textmodel import count_parameters
from raykd.models.vectors import _read_outputs, find_around
from raykd.preflight.model_check import check_made
from raykd.tokenizers.trimming import list_kept_ids
from tests.families import tiny
from tests.made_models import make_tokenizer
from tests.worlds import run_config

LABELS = ("bad", "good")
TEXTS = [
    "the teacher was a delight to listen to, really",
    "une très bonne soirée, vraiment délicieuse",
    "the worst meal of my whole life, never again",
]
HIDDEN = 16


def make_checkpoint(folder: Path, rank: int | None = None) -> Path:
    """Save a BERT whose embeddings, without the mean of each row, have this rank (None: any)."""
    spec = TransformerStudent(layers=2, hidden=HIDDEN, heads=2, vocab_size=400, max_positions=64)
    tokenizer: Any = spec.fit_tokenizer(TEXTS * 8)
    model: Any = spec.build(tokenizer, LABELS, 0)
    table = model.bert.embeddings
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        table.LayerNorm.weight.uniform_(0.5, 1.5, generator=generator)
        table.LayerNorm.bias.normal_(generator=generator)
        basis = torch.randn(rank or HIDDEN, HIDDEN, generator=generator)
        basis = basis - basis.mean(dim=1, keepdim=True)
        for part in (table.word_embeddings, table.position_embeddings, table.token_type_embeddings):
            part.weight.copy_(torch.randn(len(part.weight), len(basis), generator=generator) @ basis)
    made = TextModel(model.eval(), tokenizer, LABELS, kind="transformer", max_length=32)
    return save_model(made, folder / "whole")


def read_states(model: Any, tokenizer: Any) -> torch.Tensor:
    inputs = tokenizer(TEXTS, TEXTS[::-1], padding=True, return_tensors="pt")
    with torch.no_grad():
        states: torch.Tensor = model.base_model(**inputs).last_hidden_state
    return states * inputs["attention_mask"][:, :, None]


@pytest.mark.parametrize(("rank", "width"), [(5, 6), (5, 9), (None, HIDDEN)])
def test_a_table_that_fits_its_factors_gives_the_same_states(
    rank: int | None, width: int, tmp_path: Path
) -> None:
    path = make_checkpoint(tmp_path, rank)
    student = PretrainedStudent(path=str(path), vocabulary="trimmed", embedding_size=width)
    tokenizer: Any = student.fit_tokenizer(TEXTS)
    model = student.build(tokenizer, LABELS, 0).eval()
    assert model.config.model_type == "electra" and model.config.embedding_size == width
    whole = load_model(path)
    wanted, got = read_states(whole.model, whole.tokenizer), read_states(model, tokenizer)
    assert (wanted - got).abs().max() <= 2e-5

    made = TextModel(model, tokenizer, LABELS, kind="pretrained", max_length=32)
    saved = save_model(made, tmp_path / "small")
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(str(saved)).eval()
    assert torch.equal(read_states(plain, transformers.AutoTokenizer.from_pretrained(str(saved))), got)


def test_a_narrower_table_is_nearer_to_the_checkpoint_the_wider_it_is(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    whole = load_model(path)
    wanted = read_states(whole.model, whole.tokenizer)
    away = []
    for width in (3, 8, 13):
        student = PretrainedStudent(path=str(path), embedding_size=width)
        got = read_states(student.build(student.fit_tokenizer([]), LABELS, 0).eval(), whole.tokenizer)
        away.append(float((wanted - got).norm() / wanted.norm()))
    assert away[0] > away[1] > away[2] > 0


def test_the_inspection_counts_a_factorised_student(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    student = PretrainedStudent(path=str(path), layers=(1,), vocabulary="trimmed", embedding_size=4)
    tokenizer: Any = student.fit_tokenizer(TEXTS)
    looked = inspect_base(
        path,
        LABELS,
        "classification",
        student=PretrainedStudent(path=str(path), layers=(1,), vocabulary="trimmed", embedding_size=4),
    )
    built = student.build(tokenizer, LABELS, 0)
    assert looked.count_parameters(len(tokenizer)) == count_parameters(built)
    assert torch.equal(
        built.electra.encoder.layer[0].output.dense.weight,  # type: ignore[union-attr]
        load_model(path).model.bert.encoder.layer[1].output.dense.weight,
    )


def test_the_check_says_that_a_narrower_table_keeps_no_head(tmp_path: Path) -> None:
    """Also where all labels are known, and where it starts from a teacher of the run."""
    path = make_checkpoint(tmp_path)

    def look(**student: Any) -> str:
        config = run_config()
        data = config.data.model_copy(update={"labels": LABELS})
        config = config.model_copy(update={"student": PretrainedStudent(**student), "data": data})
        return "; ".join(check_made(config.student, config, "student")[1])

    labels = {"path": str(path)}
    assert "head" not in look(**labels)
    assert "its head is thrown away" in look(**labels, embedding_size=4)
    assert "without the teacher's head" in look(path="teacher:multi", embedding_size=4)
    assert look(path="teacher:multi") == ""


def test_other_checkpoints_are_refused_by_name(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    with pytest.raises(ModelError, match=r"at most 16"):
        inspect_base(
            path,
            LABELS,
            "classification",
            student=PretrainedStudent(path=str(path), embedding_size=17),
        )
    spec = TransformerStudent(architecture="distilbert", layers=1, hidden=16, vocab_size=300)
    tokenizer: Any = spec.fit_tokenizer(TEXTS)
    made = TextModel(spec.build(tokenizer, LABELS, 0), tokenizer, LABELS, kind="transformer", max_length=32)
    other = save_model(made, tmp_path / "other")
    with pytest.raises(ModelError, match=r"distilbert for classification"):
        inspect_base(
            other,
            LABELS,
            "classification",
            student=PretrainedStudent(path=str(other), embedding_size=4),
        )


def test_an_lstm_starts_from_the_principal_components_of_a_checkpoint(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    student = LSTMStudent(embedding=HIDDEN, hidden=8, vocab_size=300, embedding_from=str(path))
    tokenizer: Any = student.fit_tokenizer(TEXTS)
    tokenizer.add_tokens(["<e1>"])
    whole = load_model(path)
    table = student.build(tokenizer, LABELS, 0).get_input_embeddings().weight.detach().double()
    ids = list_kept_ids(tokenizer, whole.tokenizer)
    assert ids[-1] is None and (table[-1] != 0).any() and (table[0] == 0).all()
    old = whole.model.get_input_embeddings().weight.detach().double()[ids[1:-1]]
    # All components are kept, so distances are the checkpoint's in another unit, and variances fall.
    ratio = torch.pdist(table[1:-1]) / torch.pdist(old)
    assert ratio.min() == pytest.approx(float(ratio.max()), rel=1e-4)
    assert table[1:-1].std() == pytest.approx(0.3, rel=1e-4)
    spread = table[1:-1].std(dim=0)
    assert (spread[:-1] >= spread[1:]).all()
    again = student.build(tokenizer, LABELS, 0).get_input_embeddings().weight
    assert torch.equal(again.detach().double(), table)
    narrow = student.model_copy(update={"embedding": 4}).build(tokenizer, LABELS, 0).get_input_embeddings()
    both = table[1:-1, :4] / narrow.weight.detach().double()[1:-1]
    assert both.min() == pytest.approx(float(both.max()), rel=1e-3)


def test_an_lstm_starts_from_what_a_checkpoint_makes_of_each_piece(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    student = LSTMStudent(
        embedding=HIDDEN, hidden=8, vocab_size=300, embedding_from=str(path), embedding_of="output"
    )
    tokenizer: Any = student.fit_tokenizer(TEXTS)
    table = student.build(tokenizer, LABELS, 0).get_input_embeddings().weight.detach().double()
    whole = load_model(path)
    at = [tokenizer.convert_tokens_to_ids(word) for word in ("teacher", "the", "of", "was")]
    with torch.no_grad():
        wanted = torch.cat([
            whole.model.base_model(**whole.tokenizer(word, return_tensors="pt")).last_hidden_state.mean(dim=1)
            for word in tokenizer.convert_ids_to_tokens(at)
            if len(whole.tokenizer.tokenize(word)) == 1
        ])  # fmt: skip
    assert len(wanted) == len(at)
    ratio = torch.pdist(table[at]) / torch.pdist(wanted.double())
    assert ratio.min() == pytest.approx(float(ratio.max()), rel=1e-4)


def test_a_piece_stands_where_a_text_stands_and_an_encoder_decoder_is_read_by_its_encoder() -> None:
    """A tokenizer may put a token before texts only (Llama) or behind them only (T5)."""
    tokenizer = make_tokenizer("wordpiece", TEXTS)
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    template: Any = tokenizers.processors.TemplateProcessing
    for single, wanted in (
        ("[CLS] $A", ([first], [])),
        ("$A [SEP]", ([], [last])),
        ("[CLS] $A [SEP]", ([first], [last])),
    ):
        named = [(token, i) for token, i in (("[CLS]", first), ("[SEP]", last)) if token in single]
        tokenizer.backend_tokenizer.post_processor = template(single=single, special_tokens=named)
        assert find_around(tokenizer) == wanted
    model: Any = tiny("t5", transformers.AutoModelForSequenceClassification, decoder_start_token_id=0)
    found = _read_outputs(model, torch.tensor([5, 9]), ([], [1]))
    with torch.no_grad():
        alone = model.get_encoder()(input_ids=torch.tensor([[9, 1]])).last_hidden_state.mean(dim=1)
    assert torch.allclose(found[1:], alone, atol=1e-6)


def test_word_vectors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    student = LSTMStudent(embedding=HIDDEN + 1, hidden=8, vocab_size=300, embedding_from=str(path))
    with pytest.raises(ModelError, match="at most 16"):
        student.build(student.fit_tokenizer(TEXTS), LABELS, 0)
    with pytest.raises(ValidationError, match="lowercase plays no part"):
        LSTMStudent(embedding_from="x", lowercase=False)
    with pytest.raises(ValidationError, match="embedding_of plays no part"):
        LSTMStudent(embedding_of="output")
