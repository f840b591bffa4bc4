"""Which tokens a peer can read: checkpoints that others saved, their padding and inputs, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raykd import models
from raykd.data.rows import Rows
from raykd.driver.jobs import name_peer_folder
from raykd.driver.loop import make_student_model, save_student
from raykd.errors import ConfigError, ModelError
from raykd.folders.contents import digest_models
from raykd.models.multi import PEER, PairModel
from raykd.models.starts.peer_tokens import check_peer_tokens
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from raykd.text.padding import Padding
from tests.fakes import texts_and_labels
from tests.unit.test_peer import STUDENT, run_config

TEXTS, GOLD = texts_and_labels(60, 1)
WORDS = sorted({word for text in TEXTS for word in text.lower().split()})


def save_bert(folder: Path, layers: int, words: list[str]) -> dict[str, Any]:
    """A classifier that plain transformers made and saved, as a student's configuration."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    torch.manual_seed(layers)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16 * layers, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, hidden_dropout_prob=0.0,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"kind": "pretrained", "path": str(folder)}


def make_loop(student: dict[str, Any], peer: dict[str, Any]) -> TrainingLoop:
    train = {"steps": 4, "batch_size": 8, "learning_rate": 0.001, "evaluations": 1}
    config = run_config({"student": peer}, student=student, train=train)
    rows = Rows(tuple(map(str, range(60))), tuple(TEXTS), ("en",) * 60, np.asarray(GOLD))
    tokenizer = config.student.fit_tokenizer(rows.texts)
    return TrainingLoop(
        config, prepare_rows(config, rows, rows, tokenizer), make_student_model(config, tokenizer), None
    )


def test_checkpoints_of_equal_tokenizers_learn_beside_each_other(tmp_path: Path) -> None:
    small, large = (save_bert(tmp_path / str(layers), layers, WORDS) for layers in (1, 2))
    loop = make_loop(small, large)
    pair = loop.student
    assert isinstance(pair, PairModel) and digest_models(loop.config).keys() == {
        "student.path",
        "peer.student.path",
    }
    loop.run()
    save_student(loop, tmp_path / "student")
    folders = (tmp_path / "student", name_peer_folder(tmp_path / "student"))
    for folder, part, layers in zip(folders, ("student.", "peer."), (1, 2), strict=True):
        saved = models.load_model(folder)
        assert saved.model.config.num_hidden_layers == layers
        weights = loop.best_weights or {}
        assert all(torch.equal(value, weights[part + key]) for key, value in saved.model.state_dict().items())
        # The card says whose scores they are, and from which checkpoint each began.
        readme, own = (folder / "README.md").read_text(), "" if part == "student." else "peer/"
        assert f"| validation/mean/nll | {loop.state.history[-1][f'{own}eval/mean/nll']:.4f} |" in readme
        assert str(tmp_path / str(layers)) in readme
    loop.engine.close()


def test_another_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    small, other = save_bert(tmp_path / "a", 1, WORDS), save_bert(tmp_path / "b", 2, WORDS[::-1])
    config = run_config({"student": other}, student=small)
    assert config.peer is not None
    with pytest.raises(ConfigError, match="its tokenizer is not the student's"):
        check_peer_tokens(config.student, config.peer.student)
    with pytest.raises(ConfigError, match="cannot read the tokens"):
        run_config({"student": {**other, "vocabulary": "trimmed"}}, student=small)
    with pytest.raises(ConfigError, match="cannot read the tokens"):
        run_config({"student": small}, student=STUDENT)


def test_a_checkpoint_reads_what_word_vectors_of_it_are_cut_into(tmp_path: Path) -> None:
    large = {
        **save_bert(tmp_path / "large", 2, [*WORDS, "unused"]),
        "vocabulary": "trimmed",
        "vocab_size": 100,
    }
    small = {**STUDENT, "vocab_size": 100, "embedding_from": large["path"]}
    loop = make_loop(small, large)
    pair = loop.student
    assert isinstance(pair, PairModel)
    assert len(pair.tokenizer) == pair.peer.model.config.vocab_size == len(WORDS) + 5
    # The LSTM takes no token types; its peer, which is saved as a model that does, is given them.
    micro = loop.trainer.make_micro_batch(np.arange(8), None)
    assert "token_type_ids" in micro.encoded.inputs and not pair.student.padding.takes("token_type_ids")
    own, other = (pair.model(route, **micro.encoded.inputs).logits for route in ("", PEER))
    assert torch.equal(other, pair.peer.model(**micro.encoded.inputs).logits) and own.shape == other.shape
    loop.engine.close()


def test_two_paddings_are_joined_to_the_stricter_one() -> None:
    a = Padding(pad_id=0, inputs=frozenset({"input_ids"}), much_shorter=0.0)
    b = Padding(pad_id=0, inputs=frozenset({"input_ids", "token_type_ids"}), token_types=2, shapes="equal")
    joined = Padding(pad_id=0, inputs=b.inputs, shapes="equal", much_shorter=b.much_shorter)
    assert a.join(b) == b.join(a) == joined
    assert replace(b, token_types=1).join(b).token_types == 2
    with pytest.raises(ModelError, match="cannot read the same batches"):
        a.join(replace(b, side="left"))


def test_a_peer_may_start_from_a_teacher_of_the_run(tmp_path: Path) -> None:
    large = save_bert(tmp_path / "large", 2, WORDS)
    teachers = [{"name": "large", "languages": "all", "path": large["path"]}]
    config = run_config(
        {"student": {"kind": "pretrained", "path": "teacher:large"}},
        student={"kind": "pretrained", "path": "teacher:large", "layers": [0]},
        teachers=teachers,
        objective={"alpha": 0.5},
    )
    assert config.peer is not None and getattr(config.peer.student, "path", "") == large["path"]
    with pytest.raises(ValueError, match="a student starts from a teacher that is a model"):
        run_config(
            {"student": {"kind": "pretrained", "path": "teacher:none"}},
            student=large,
            teachers=teachers,
            objective={"alpha": 0.5},
        )
