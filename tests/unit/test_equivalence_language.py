"""Language models in raykd against plain transformers: likelihoods and written texts, for each task and tokenizer.

A model that somebody made with transformers alone is scored and asked by raykd, and a student that raykd saved is
scored and asked by transformers alone. One tokenizer for each task runs always, the others nightly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from raykd import models
from raykd.models.lm import Headless
from raykd.networks import heads
from raykd.prediction.writing import find_rows_together, generate_texts
from raykd.scoring.model import Model
from raykd.tasks import CausalLM, MaskedLM, Seq2Seq
from raykd.text.batch import TextBatch
from tests.tokenizers import byte_level, characters, unigram, word_piece

TEXTS = ("say one :", "count to seven", "a", "the river, and the sea beside it")
TARGETS = ("uno", "sette otto", "b", "il fiume e il mare")
KINDS: dict[str, Any] = {
    "byte_level": byte_level,
    "byte_level_blank": lambda *given, **named: byte_level(*given, prefix_blank=True, **named),
    "unigram": unigram,
    "characters": characters,
    "word_piece": word_piece,
}
IDS: dict[str, Any] = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("causal_lm", SMALL | {"num_key_value_heads": 2, "max_position_embeddings": 96}),
    "gpt2": ("causal_lm", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 96}),
    "mistral": (
        "causal_lm",
        SMALL | {"num_key_value_heads": 1, "max_position_embeddings": 96, "sliding_window": 4, "head_dim": 8},
    ),
    "opt": (
        "causal_lm",
        SMALL | {"ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 96, "intermediate_size": None},
    ),
    "bloom": ("causal_lm", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "t5": (
        "seq2seq",
        {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 1},
    ),
    "bart": (
        "seq2seq",
        {
            "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
            "encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 96,
            "decoder_start_token_id": 2,
        },
    ),
    "bert": ("masked_lm", SMALL | {"max_position_embeddings": 96}),
}  # fmt: skip
TEMPLATES = {
    "causal_lm": ("<s> $A", "<s> $A </s>", "$A"),
    "seq2seq": ("$A </s>", "<s> $A </s>"),
    "masked_lm": ("<s> $A </s>",),
}
TASKS: dict[str, Any] = {
    "causal_lm": CausalLM(max_length=80, max_target_length=32, max_new_tokens=6),
    "seq2seq": Seq2Seq(max_length=48, max_target_length=32, max_new_tokens=6),
    "masked_lm": MaskedLM(max_length=48),
}


def built(architecture: str, tokenizer: Any) -> Any:
    """A model whose answers differ from row to row."""
    task, settings = ARCHITECTURES[architecture]
    config = transformers.AutoConfig.for_model(
        architecture,
        **({"vocab_size": len(tokenizer)} | IDS | {k: v for k, v in settings.items() if v is not None}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = heads.find_auto_class(task).from_config(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1:
                    weight.copy_(
                        torch.randn_like(weight) * (1.0 if "emb" in name or "shared" in name else 0.4)
                    )
    return model.eval()


def batch() -> TextBatch:
    return TextBatch(tuple("abcd"), TEXTS, ("en",) * 4, np.zeros(4, np.int64), TARGETS)


def plain_nll(task: str, model: Any, tokenizer: Any, encoded: Any, i: int) -> float:
    """Of the target of one row alone, by transformers' own call of tokenizer and model."""
    if task == "causal_lm":
        prompt = tokenizer(TEXTS[i])["input_ids"]
        prompt = prompt[:-1] if prompt[-1:] == [2] else prompt
        target = [*tokenizer(TARGETS[i], add_special_tokens=False)["input_ids"], 2]
        ids = torch.tensor([[*prompt, *target]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(prompt) - 1 : -1]
        wanted = torch.tensor(target)
    elif task == "seq2seq":
        inputs = tokenizer([TEXTS[i]], text_target=[TARGETS[i]], return_tensors="pt")
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        wanted = inputs["labels"][0]
    else:
        ids = torch.tensor([tokenizer(TEXTS[i])["input_ids"]])
        units = encoded.find_units([i])
        places = torch.from_numpy(encoded.places_N2[units, 1])
        wanted = ids[0, places].clone()
        assert wanted.tolist() == encoded.labels_N[units].tolist()
        ids[0, places] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = model(ids).logits[0, places]
    return float(torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum"))


def plain_text(task: str, model: Any, tokenizer: Any, text: str) -> str:
    """What is written for one text alone."""
    ids = tokenizer(text)["input_ids"]
    if task == "causal_lm":
        ids = [i for at, i in enumerate(ids) if not (i == 2 and at == len(ids) - 1)]
    out = model.generate(
        input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=6,
        num_beams=1, do_sample=False,
    )  # fmt: skip
    found: str = tokenizer.decode(out[0, len(ids) if task == "causal_lm" else 0 :], skip_special_tokens=True)
    return found


def cases() -> list[Any]:
    first = {
        ("llama", "byte_level", "<s> $A </s>"),
        ("bart", "unigram", "<s> $A </s>"),
        ("bert", "word_piece", "<s> $A </s>"),
    }
    found = []
    for architecture, (task, _) in ARCHITECTURES.items():
        for kind in KINDS:
            for template in TEMPLATES[task]:
                key = (architecture, kind, template)
                marks = [] if key in first else [pytest.mark.nightly]
                found.append(pytest.param(*key, marks=marks, id="-".join((architecture, kind, template))))
    return found


@pytest.mark.parametrize(("architecture", "kind", "template"), cases())
def test_raykd_and_transformers_agree(architecture: str, kind: str, template: str, tmp_path: Path) -> None:
    task, _ = ARCHITECTURES[architecture]
    tokenizer = KINDS[kind]([*TEXTS, *TARGETS] * 2, template)
    theirs, folder = built(architecture, tokenizer), tmp_path / "theirs"
    theirs.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    ours = models.load_model(folder, head=task)  # type: ignore[arg-type]
    encoded = TASKS[task].encode(ours.tokenizer, batch())
    said = TASKS[task].evaluate_batch(Headless(ours.model), TASKS[task].collate(encoded, range(4)))
    nll = [plain_nll(task, theirs, tokenizer, encoded, i) for i in range(4)]
    assert said.nll_B == pytest.approx(np.asarray(nll), rel=1e-4, abs=1e-4)

    models.save_model(
        models.TextModel(
            ours.model,
            ours.tokenizer,
            (),
            task=task,
            max_length=TASKS[task].max_length,
            settings=TASKS[task].settings,
        ),
        tmp_path / "ours",
    )
    again = heads.find_auto_class(task).from_pretrained(tmp_path / "ours").eval()
    its = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert [plain_nll(task, again, its, encoded, i) for i in range(4)] == pytest.approx(
        nll, rel=1e-4, abs=1e-4
    )

    if task == "masked_lm":
        return
    texts = [plain_text(task, theirs, tokenizer, text) for text in TEXTS]
    assert generate_texts(ours.model, ours.tokenizer, TEXTS, max_new_tokens=6) == texts
    assert [plain_text(task, again, its, text) for text in TEXTS] == texts
    assert [row["written"] for row in Model.load(tmp_path / "ours").predict(TEXTS)] == texts


@pytest.mark.parametrize(
    "architecture", [name for name, (task, _) in ARCHITECTURES.items() if task != "masked_lm"]
)
def test_rows_in_a_batch_are_written_as_alone(architecture: str) -> None:
    """Prompts of any lengths share a batch where the family allows it; where it does not, batches are made so that."""
    tokenizer = byte_level([*TEXTS, *TARGETS] * 2, TEMPLATES[ARCHITECTURES[architecture][0]][0])
    model = built(architecture, tokenizer)
    texts = [*TEXTS, "", TEXTS[3] * 2, "one one one"]
    alone = [generate_texts(model, tokenizer, [text], max_new_tokens=6)[0] for text in texts]
    for size in (2, 16):
        assert generate_texts(model, tokenizer, texts, max_new_tokens=6, batch_size=size) == alone
    assert find_rows_together(model) == "any"
