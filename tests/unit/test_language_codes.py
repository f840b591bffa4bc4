"""Multilingual models: languages of each row as plain transformers would set them, in training and in writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from raykd import models
from raykd.errors import ConfigError, ModelError
from raykd.models.lm import Headless
from raykd.prediction.writing import generate_texts
from raykd.tasks import Seq2Seq
from raykd.teachers.store.values import make_text_keys
from raykd.text.batch import TextBatch
from raykd.text.codes import choose_language_code, list_language_codes
from tests.fakes import model_spec

SOURCES = ("hello red world", "hello blue sea", "hello world", "blue world")
TARGETS = ("bonjour monde", "hallo blau", "bonjour", "hallo welt")
LANGUAGES = ("fr", "de", "fr", "de")
SPEAKS = ("en", "en", "de", "fr")
SMALL: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 40,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": None,
    "tie_word_embeddings": False, "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0,
}  # fmt: skip
FAMILIES = ("mbart", "mbart50", "nllb", "nllb_legacy")
CODES = {
    "mbart": {"en": "en_XX", "fr": "fr_XX", "de": "de_DE"},
    "nllb": {"en": "eng_Latn", "fr": "fra_Latn", "de": "deu_Latn"},
}
CODES |= {"mbart50": CODES["mbart"], "nllb_legacy": CODES["nllb"]}


def tokenizer_of(family: str) -> Any:
    words = sorted({word for text in (*SOURCES, *TARGETS) for word in text.split()})
    letters = sorted({letter for word in words for letter in word})
    pieces = ["▁", *letters, *(f"▁{word}" for word in words)]
    if family.startswith("nllb"):
        vocabulary = {t: i for i, t in enumerate(["<s>", "<pad>", "</s>", "<unk>", "▁", *letters])}
        return transformers.NllbTokenizer(
            vocab=vocabulary, merges=[], legacy_behaviour=family == "nllb_legacy", src_lang="eng_Latn"
        )
    scored = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    scored += [(piece, -1.0 - (len(piece) < 2)) for piece in pieces]
    if family == "mbart50":
        scored += [(code, 0.0) for code in codes_of_mbart()] + [("<mask>", 0.0)]
        return transformers.MBart50Tokenizer(vocab=scored, src_lang="en_XX")
    return transformers.MBartTokenizer(vocab=scored, src_lang="en_XX")


def codes_of_mbart() -> list[str]:
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

    return list(FAIRSEQ_LANGUAGE_CODES)


def model_of(family: str, tokenizer: Any) -> Any:
    name, config = ("MBart", "MBartConfig") if family.startswith("mbart") else ("M2M100", "M2M100Config")
    own = {"vocab_size": len(tokenizer), "decoder_start_token_id": None if family == "mbart" else 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForConditionalGeneration")(
            getattr(transformers, config)(**(SMALL | own))
        )
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1:
                    weight.copy_(torch.randn_like(weight) * (1.0 if "embed" in name else 0.5))
            model.lm_head.weight[5:20] *= 4.0  # text is likelier than codes, so that something is written
    return model.eval()


def batch(sources: tuple[str, ...] | None = SPEAKS) -> TextBatch:
    return TextBatch(
        tuple("abcd"), SOURCES, LANGUAGES, np.zeros(4, np.int64), TARGETS, source_languages=sources
    )


def plain(family: str, tokenizer: Any, model: Any, i: int) -> tuple[dict[str, Any], Any, str]:
    """Inputs, logits and what is written for one row, by transformers alone."""
    codes = CODES[family]
    own = tokenizer
    own.src_lang, own.tgt_lang = codes[SPEAKS[i]], codes[LANGUAGES[i]]
    inputs = own([SOURCES[i]], text_target=[TARGETS[i]], return_tensors="pt")
    target = own.convert_tokens_to_ids(codes[LANGUAGES[i]])
    forced = {"decoder_start_token_id": target} if family == "mbart" else {"forced_bos_token_id": target}
    with torch.no_grad():
        logits = model(**inputs).logits
        ids = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=6, num_beams=1,
            do_sample=False, **forced,
        )  # fmt: skip
    return inputs, logits, own.decode(ids[0], skip_special_tokens=True)


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: Any) -> tuple[str, Any, Any]:
    tokenizer = tokenizer_of(request.param)
    return request.param, tokenizer, model_of(request.param, tokenizer)


def test_each_row_has_the_codes_of_its_languages(made: Any) -> None:
    """Ids, likelihoods and written texts of rows of two target languages in one batch are transformers' own."""
    family, tokenizer, model = made
    task = Seq2Seq(max_length=20, max_target_length=20)
    encoded = task.encode(tokenizer, batch())
    said = task.evaluate_batch(Headless(model), task.collate(encoded, range(4)))
    written = generate_texts(
        model, tokenizer, SOURCES, languages=LANGUAGES, source_languages=SPEAKS, max_new_tokens=6
    )
    state = tokenizer.src_lang, tokenizer.tgt_lang
    for i in range(4):
        inputs, logits, text = plain(family, tokenizer, model, i)
        assert encoded.fields["input_ids"][i].tolist() == inputs["input_ids"][0].tolist()
        assert encoded.fields["labels"][i].tolist() == inputs["labels"][0].tolist()
        nll = torch.nn.functional.cross_entropy(logits[0], inputs["labels"][0], reduction="sum")
        assert said.nll_B is not None and said.nll_B[i] == pytest.approx(float(nll), rel=1e-4)
        assert written[i] == text
    tokenizer.src_lang, tokenizer.tgt_lang = state
    assert len(set(written)) > 1 and all(written)
    assert len(set(make_text_keys(batch()))) == 4


def test_a_cut_target_starts_as_the_whole_one(made: Any) -> None:
    _, tokenizer, model = made
    whole = Seq2Seq(max_length=20, max_target_length=20).encode(tokenizer, batch())
    cut = Seq2Seq(max_length=20, max_target_length=3).encode(tokenizer, batch())
    task = Seq2Seq()
    hidden = [Headless(model)(**task.collate(rows, range(4)).inputs).hidden[:, :3] for rows in (whole, cut)]
    torch.testing.assert_close(hidden[0], hidden[1], rtol=1e-4, atol=1e-5)


def test_a_saved_model_does_the_same(made: Any, tmp_path: Path) -> None:
    _, tokenizer, model = made
    written = generate_texts(
        model, tokenizer, SOURCES, languages=LANGUAGES, source_languages=SPEAKS, max_new_tokens=6
    )
    models.save_model(models.TextModel(model, tokenizer, (), task="seq2seq", max_length=20), tmp_path / "m")
    again = models.load_model(tmp_path / "m")
    assert list_language_codes(again.tokenizer)
    found = generate_texts(
        again.model, again.tokenizer, SOURCES, languages=LANGUAGES, source_languages=SPEAKS, max_new_tokens=6
    )
    assert found == written


def test_a_language_that_nothing_names_is_not_guessed(made: Any) -> None:
    _, tokenizer, model = made
    with pytest.raises(ModelError, match="several languages"):
        generate_texts(model, tokenizer, SOURCES[:1], max_new_tokens=2)
    with pytest.raises(ConfigError, match=r"no language code stands for 'klingon'(.|\n)*language_codes"):
        generate_texts(model, tokenizer, SOURCES[:1], languages=("klingon",), max_new_tokens=2)


NLLB = (
    "eng_Latn",
    "fra_Latn",
    "zho_Hans",
    "zho_Hant",
    "arb_Arab",
    "ace_Arab",
    "ace_Latn",
    "pes_Arab",
    "por_Latn",
)
MBART = ("en_XX", "fr_XX", "zh_CN", "ar_AR", "pt_XX", "de_DE")


@pytest.mark.parametrize(
    ("codes", "name", "code"),
    [
        (NLLB, "en", "eng_Latn"),
        (NLLB, "zh", "zho_Hans"),
        (NLLB, "zh-TW", "zho_Hant"),
        (NLLB, "ar", "arb_Arab"),
        (NLLB, "fra", "fra_Latn"),
        (NLLB, "pt-BR", "por_Latn"),
        (NLLB, "fra_latn", "fra_Latn"),
        (NLLB, "fa", "pes_Arab"),
        (MBART, "zh", "zh_CN"),
        (MBART, "deu", "de_DE"),
        (MBART, "pt_BR", "pt_XX"),
        (("en", "fr", "zh"), "zh-CN", "zh"),
        (("en", "fr", "zh"), "fr", "fr"),
        (NLLB, "ace", None),
        (MBART, "english", None),
    ],
)
def test_names_of_languages_find_their_codes(codes: Any, name: str, code: str | None) -> None:
    if code is None:
        with pytest.raises(ConfigError, match="language_codes"):
            choose_language_code(codes, name)
    else:
        assert choose_language_code(codes, name) == code


def test_a_teacher_teaches_rows_of_two_languages_and_its_student_writes_them(
    made: Any, tmp_path: Path
) -> None:
    """A student that is its teacher has nothing to learn; the run's own names of languages lead to the codes."""
    from raykd.config import RunConfig
    from raykd.data.rows import Rows
    from raykd.driver.loop import make_task_model
    from raykd.scoring.language_answers import collect_student_answers
    from raykd.student.loop import TrainingLoop
    from raykd.student.prepare import fit_tokenizer, prepare_rows
    from raykd.teachers.source import LocalSource
    from raykd.teachers.teacher import Teacher

    family, tokenizer, model = made
    models.save_model(models.TextModel(model, tokenizer, (), task="seq2seq", max_length=20), tmp_path / "t")
    names = {"französisch": CODES[family]["fr"], "deutsch": CODES[family]["de"]}
    files = {"kind": "files", "paths": ["unused.jsonl"]}
    config = RunConfig.model_validate(
        {
            "task": {
                "kind": "seq2seq", "max_length": 20, "max_target_length": 20, "max_new_tokens": 6,
                "written": ["exact_match"], "answers": {"kind": "top_k", "k": 300, "temperatures": [1.0]},
            },
            "data": {"train": files, "validation": files, "languages": list(names)},
            "student": {"kind": "pretrained", "path": str(tmp_path / "t"), "language_codes": names},
            "teachers": [{"name": "t", "languages": "all", "path": str(tmp_path / "t"), "language_codes": names}],
            "objective": {"alpha": 0.0, "temperature": 1.0},
            "train": {"steps": 2, "batch_size": 4, "learning_rate": 1e-9, "weight_decay": 0.0, "evaluations": 1},
        }
    )  # fmt: skip
    spoken = tuple({"fr": "französisch", "de": "deutsch"}[name] for name in LANGUAGES)
    rows = Rows(
        tuple("abcd"),
        SOURCES,
        spoken,
        np.zeros(4, np.int64),
        TARGETS,
        source_languages=("en", "en", "deutsch", "en"),
    )
    teacher = Teacher(
        model_spec("t", str(tmp_path / "t"), (), config.task, language_codes=names, dtype="float32",
                    store=str(tmp_path / "store"))
    )  # fmt: skip
    points: list[Any] = []
    own = fit_tokenizer(config.student, [(config.task, rows)])
    loop = TrainingLoop(
        config, prepare_rows(config, rows, rows, own), make_task_model(config, own),
        LocalSource([teacher], config.objective.weighting), publish=points.append,
    )  # fmt: skip
    loop.run()
    losses = [p.values["train/loss"] for p in points if "train/loss" in p.values]
    covered = [v for p in points for k, v in p.values.items() if k == "teacher/t/coverage"]
    assert losses and max(losses) < 2e-3 and covered == [1.0] * len(covered)
    student = loop.best_student()
    assert isinstance(student, models.TextModel)
    models.save_model(student, tmp_path / "s")
    said, _ = collect_student_answers(tmp_path / "s", config, rows)
    batch_of_rows = rows.take(range(4))
    assert said.texts == tuple(teacher.generate(batch_of_rows, beams=1, max_new_tokens=6))
    assert said.texts == tuple(
        generate_texts(
            model,
            tokenizer,
            SOURCES,
            languages=LANGUAGES,
            source_languages=("en", "en", "de", "en"),
            max_new_tokens=6,
        )
    )
    teacher.close()
