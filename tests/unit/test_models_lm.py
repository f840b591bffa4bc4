"""Language models without their logits: the identity that every family has to satisfy; generation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from raykd.errors import ModelError
from raykd.models import DecoderStudent, EncoderDecoderStudent, LSTMStudent
from raykd.models.lm import Headless, compute_hidden_states, find_output_head
from raykd.prediction.writing import generate_texts
from tests.kept_answers import answer_rows

SMALL: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
SIDES: dict[str, Any] = {
    "vocab_size": 50, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "pad_token_id": 0,
    "max_position_embeddings": 32, "decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
T5: dict[str, Any] = {
    "vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2,
    "decoder_start_token_id": 0,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", SMALL),
    "llama_tied": ("LlamaForCausalLM", "LlamaConfig", SMALL | {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", SMALL),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", SMALL | {"head_dim": 8}),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5 | {"tie_word_embeddings": True}),
    "t5_gated": ("T5ForConditionalGeneration", "T5Config", T5 | {"feed_forward_proj": "gated-gelu"}),
    "marian": ("MarianMTModel", "MarianConfig", SIDES | {"decoder_vocab_size": 50}),
    "bart": ("BartForConditionalGeneration", "BartConfig", SIDES),
    "m2m_100": ("M2M100ForConditionalGeneration", "M2M100Config", SIDES),
    "bert": ("BertForMaskedLM", "BertConfig", SMALL),
}
TEXTS = ["the virus is here", "病毒在这里", "a", "le virus est ici, dans la ville d'à côté"]


def built(family: str) -> Any:
    model, config, settings = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, model)(getattr(transformers, config)(**settings)).eval()
        for name, buffer in made.named_buffers():
            if name == "final_logits_bias":
                buffer.normal_()
        for name, weight in made.named_parameters():
            if name.endswith("predictions.bias") or name.endswith("decoder.bias"):
                weight.data.normal_()
    return made


def inputs_of(model: Any) -> dict[str, torch.Tensor]:
    """Two rows, the second padded on the right."""
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([[1, 11, 12], [1, 13, 14]])
    return inputs


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_times_the_head_are_the_models_logits(family: str) -> None:
    model = built(family)
    inputs = inputs_of(model)
    with torch.no_grad():
        wanted = model(**inputs).logits
        hidden = Headless(model)(**inputs).hidden
        head = find_output_head(model)
        made = hidden @ head.weight_VD.T + (0.0 if head.bias_V is None else head.bias_V)
    assert hidden.shape == (*wanted.shape[:2], 16)
    assert (made - wanted).abs().max() < 1e-5
    assert (head.bias_V is not None) == (family in ("marian", "bart", "bert"))
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, wanted)  # nothing stays behind in the model


@pytest.mark.parametrize("family", ["t5", "marian", "bart", "m2m_100"])
def test_an_encoder_decoder_shifts_its_labels_itself(family: str) -> None:
    model = built(family)
    inputs = inputs_of(model)
    del inputs["decoder_input_ids"]
    labels = torch.tensor([[11, 12, 2], [13, 2, -100]])
    with torch.no_grad():
        wanted = model(**inputs, labels=labels).logits
        made = find_output_head(model).logits(compute_hidden_states(model, **inputs, labels=labels))
    assert (made - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "marian", "bert"])
def test_gradients_through_the_wrapper_are_the_models_own(family: str) -> None:
    """Also with a loss that computes the gradient of head and hidden states itself, as the chunked one does."""

    class Sum(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(hidden, weight)
            return (hidden @ weight.T).pow(2).sum()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            hidden, weight = ctx.saved_tensors
            logits_grad = 2 * grad * (hidden @ weight.T)
            return logits_grad @ weight, logits_grad.flatten(0, -2).T @ hidden.flatten(0, -2)

    model, same = built(family), built(family)
    for module in (model, same):
        if hasattr(module, "final_logits_bias"):
            module.final_logits_bias.zero_()
        if family == "bert":
            module.cls.predictions.bias.data.zero_()
            module.cls.predictions.decoder.bias.data.zero_()
    wrapped = Headless(model)
    Sum.apply(wrapped(**inputs_of(model)).hidden, wrapped.head.weight_VD).backward()
    same(**inputs_of(same)).logits.pow(2).sum().backward()
    theirs = dict(same.named_parameters())
    assert wrapped.head.weight_VD.grad is not None
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            assert torch.allclose(weight.grad, theirs[name].grad, rtol=1e-4, atol=1e-5), name
        else:
            assert theirs[name].grad is None or name.endswith("bias")  # the function above has no bias


def test_the_wrappers_state_is_the_models() -> None:
    model, other = built("gpt2"), built("gpt2")
    wrapped = Headless(model)
    assert list(wrapped.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        other.transformer.wte.weight.add_(1.0)
    wrapped.load_state_dict(other.state_dict())
    assert torch.equal(wrapped.head.weight_VD, other.transformer.wte.weight)
    assert {id(p) for p in wrapped.parameters()} == {id(p) for p in model.parameters()}


AFTER: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", SMALL | {"head_dim": 8, "final_logit_softcapping": 3.0}),
    "gemma2_free": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        SMALL | {"head_dim": 8, "final_logit_softcapping": None},
    ),
    "cohere": ("CohereForCausalLM", "CohereConfig", SMALL | {"logit_scale": 0.25}),
    "granite": ("GraniteForCausalLM", "GraniteConfig", SMALL | {"logits_scaling": 4.0}),
}


@pytest.mark.parametrize("family", AFTER)
def test_what_follows_the_head_is_applied_after_it(family: str) -> None:
    """Logits, the loss and its gradients are those of the model's own forward pass."""
    from raykd.distill.chunks import evaluate_hidden
    from raykd.distill.objective import Objective
    from raykd.distill.shares import Counts

    name, config, settings = AFTER[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, name)(getattr(transformers, config)(**settings)).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(8.0)
    wrapped, inputs = Headless(model), inputs_of(model)
    labels = torch.tensor([3, 9, 11, 40])
    wanted = model(**inputs).logits
    assert wanted.abs().max() > 1.0
    torch.testing.assert_close(wrapped.head.logits(wrapped(**inputs).hidden), wanted, rtol=1e-4, atol=1e-5)
    torch.nn.functional.cross_entropy(wanted[0], labels).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    head = wrapped.head
    loss = evaluate_hidden(
        Objective.model_validate({"alpha": 1.0}), wrapped(**inputs).hidden[0], head.weight_VD, head.bias_V,
        labels, None, 0.0, Counts(4, 0, 4), after=head.after, chunk=3,
    ).loss  # fmt: skip
    assert float(loss) == pytest.approx(float(torch.nn.functional.cross_entropy(wanted[0], labels)), rel=1e-4)
    loss.backward()
    for n, weight in model.named_parameters():
        if n in gradients:
            torch.testing.assert_close(weight.grad, gradients[n], rtol=1e-3, atol=1e-5, msg=n)


@pytest.mark.parametrize("family", ["gemma2", "cohere"])
@pytest.mark.parametrize("form", ["top_k", "hidden"])
def test_a_teachers_answers_are_the_logits_of_its_own_forward_pass(family: str, form: str) -> None:
    """Of a model that caps or scales them, whichever way they travel."""
    from raykd.answers.codec import decode_answers
    from raykd.answers.tensors import to_vocabulary_signal
    from raykd.tasks import CausalLM
    from raykd.text.batch import TextBatch
    from tests.tokenizers import characters

    name, config, settings = AFTER[family]
    tokenizer = characters(["abcdefgh "], "<s> $A")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, name)(getattr(transformers, config)(**settings)).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(8.0)
    chosen = {"kind": "top_k", "k": 14, "temperatures": [1.0]} if form == "top_k" else {"kind": "hidden"}
    task = CausalLM.model_validate({"answers": chosen, "max_length": 20, "max_target_length": 8})
    batch = TextBatch(("a", "b"), ("ab", "c"), ("en",) * 2, np.zeros(2, np.int64), ("fed", "ha"))
    encoded = task.collate(task.encode(tokenizer, batch), range(2))
    wrapped, size = Headless(model), len(tokenizer)
    bodies = answer_rows(task, wrapped, encoded, ())
    payload, _ = decode_answers([body for body in bodies if body is not None])
    head = wrapped.head
    assert payload is not None and encoded.places_N2 is not None
    answer: Any = to_vocabulary_signal(
        payload, weight_VD=head.weight_VD[:size].detach().float(), after=head.after
    )
    with torch.no_grad():
        logits = model(**encoded.inputs).logits[encoded.places_N2[:, 0], encoded.places_N2[:, 1], :size]
    wanted = logits.log_softmax(-1)
    if form == "hidden":
        found = answer.logits().log_softmax(-1)
    else:
        p_NK, logp_NK = answer.target(1.0)
        assert p_NK[:, -1].max() < 1e-3  # all 14 of the 14 pieces are held
        found = torch.empty_like(wanted).scatter(1, answer.ids_NK, logp_NK[:, :-1])
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)


def test_logits_that_do_not_follow_from_the_head_are_refused() -> None:
    class Doubled(transformers.GPT2LMHeadModel):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.logits = 2 * out.logits
            return out

    with pytest.raises(ModelError, match="relative difference"):
        Headless(Doubled(built("gpt2").config))
    student = LSTMStudent(embedding=4, hidden=4, vocab_size=300)
    with pytest.raises(ModelError, match="no output head"):
        Headless(student.build(student.fit_tokenizer(TEXTS), ("a", "b"), 0))


STUDENTS = {
    "llama": DecoderStudent(layers=1, hidden=16, heads=2, vocab_size=600, max_positions=64),
    "gpt2": DecoderStudent(
        architecture="gpt2", layers=1, hidden=16, heads=2, vocab_size=600, max_positions=64
    ),
    "encoder_decoder": EncoderDecoderStudent(layers=1, hidden=16, heads=2, vocab_size=600, max_positions=64),
}


def generator(name: str) -> tuple[Any, Any]:
    """A model with weights large enough that its answers differ, and its tokenizer."""
    student = STUDENTS[name]
    tokenizer: Any = student.fit_tokenizer(TEXTS)
    model = student.build(tokenizer, (), 0, head=next(iter(student.tasks)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4.0)
    return model.eval(), tokenizer


@pytest.mark.parametrize("name", STUDENTS)
def test_greedy_is_the_most_likely_token_each_time(name: str) -> None:
    model, tokenizer = generator(name)
    answers = []
    for text in TEXTS:
        ids = tokenizer([text], return_tensors="pt")["input_ids"]
        closed = model.config.is_encoder_decoder
        said = torch.tensor([[tokenizer.bos_token_id]]) if closed else ids
        for _ in range(6):
            with torch.no_grad():
                fed = {"input_ids": ids, "decoder_input_ids": said} if closed else {"input_ids": said}
                said = torch.cat([said, model(**fed).logits[:, -1:].argmax(dim=2)], dim=1)
            if said[0, -1] == tokenizer.eos_token_id:
                break
        answers.append(tokenizer.decode(said[0, 0 if closed else ids.shape[1] :], skip_special_tokens=True))
    model.train()
    assert (
        generate_texts(model, tokenizer, TEXTS, max_new_tokens=6) == answers
    )  # padded together, in the texts' order
    assert generate_texts(model, tokenizer, TEXTS, max_new_tokens=6, batch_size=1) == answers
    assert model.training


@pytest.mark.parametrize("name", STUDENTS)
def test_beams_find_what_is_at_least_as_likely(name: str) -> None:
    model, tokenizer = generator(name)

    def score(text: str, answer: str) -> float:
        ids = tokenizer([text], return_tensors="pt")["input_ids"]
        new = tokenizer([answer], add_special_tokens=False, return_tensors="pt")["input_ids"].long()
        with torch.no_grad():
            if model.config.is_encoder_decoder:
                shifted = torch.cat([torch.tensor([[tokenizer.bos_token_id]]), new[:, :-1]], dim=1)
                logits = model(input_ids=ids, decoder_input_ids=shifted).logits
            else:
                logits = model(torch.cat([ids, new], dim=1)).logits[:, ids.shape[1] - 1 : -1]
        return float(logits.log_softmax(dim=2).gather(2, new[:, :, None]).sum())

    greedy = generate_texts(model, tokenizer, TEXTS, max_new_tokens=1)
    beams = generate_texts(model, tokenizer, TEXTS, max_new_tokens=1, beams=3)
    for text, one, many in zip(TEXTS, greedy, beams, strict=True):
        if one and many:
            assert score(text, many) >= score(text, one) - 1e-4
    several = generate_texts(model, tokenizer, TEXTS, max_new_tokens=6, beams=3)
    assert several == generate_texts(model, tokenizer, TEXTS, max_new_tokens=6, beams=3)
    assert several == [
        generate_texts(model, tokenizer, [text], max_new_tokens=6, beams=3)[0] for text in TEXTS
    ]


def test_prompts_lose_their_beginning_and_limits_are_told() -> None:
    model, tokenizer = generator("gpt2")
    long = "the virus " * 40
    wanted = generate_texts(model, tokenizer, [long], max_new_tokens=4, max_input_tokens=8)
    ids = tokenizer([long])["input_ids"][0]
    kept = torch.tensor([[ids[0], *ids[-7:]]])
    out = model.generate(
        input_ids=kept, attention_mask=torch.ones_like(kept), max_new_tokens=4, do_sample=False
    )
    assert wanted == [tokenizer.decode(out[0, 8:], skip_special_tokens=True)]
    assert isinstance(generate_texts(model, tokenizer, [long], max_new_tokens=4)[0], str)
    with pytest.raises(ModelError, match="no place"):
        generate_texts(model, tokenizer, ["a"], max_new_tokens=64)
    with pytest.raises(ModelError, match="no place"):
        generate_texts(model, tokenizer, ["a"], max_new_tokens=4, max_input_tokens=63)
