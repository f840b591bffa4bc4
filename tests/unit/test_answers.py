"""Answers as bytes and back, the exactness of what a teacher keeps, and the sizes that are promised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from raykd.answers import codec
from raykd.answers.answer import Answer, DenseAnswer, HiddenAnswer, SampledAnswer, TopKAnswer, join_answers
from raykd.answers.compress import draw_uniforms
from raykd.distill.signals import MASKED
from tests.kept_answers import draw_tokens, keep_hidden, keep_top_k

GRID = (0.7, 1.0, 2.0)


def logits_of(n: int, v: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(n, v, generator=torch.Generator().manual_seed(n + v))


def steps(n: int) -> np.ndarray:
    return np.cumsum(np.arange(n) % 5).astype(np.int64)


def dense_of(n: int, c: int) -> DenseAnswer:
    return DenseAnswer(logits_NC=logits_of(n, c).numpy(), covered_N=np.arange(n) % 4 != 1)


def answers(n: int, v: int) -> list[Answer]:
    """One of each form, all optional fields set, unit 1 not covered."""
    logits, gold, at = logits_of(n, v), torch.arange(n), steps(n)
    made: list[Answer] = [
        keep_top_k(logits, 7, GRID, gold_N=gold, offsets_N=at),
        draw_tokens(logits, draw_uniforms(3, n, 50), gold_N=gold, offsets_N=at),
        keep_hidden(logits_of(n, 12), logits_NV=logits, gold_N=gold, offsets_N=at),
    ]
    index = np.arange(n)
    index[1] = -1
    return [dense_of(n, 5), *(replace(p.take(index), offsets_N=at) for p in made)]


def same(got: Answer, wanted: Answer) -> None:
    assert got.constants() == wanted.constants()
    assert got.columns().keys() == wanted.columns().keys()
    for name, column in wanted.columns().items():
        if name in ("ids_NJ", "counts_NJ"):
            continue
        halved = column.astype(np.float16) if name in ("entropy_N", "gold_logp_N") else column
        assert getattr(got, name).dtype == column.dtype
        np.testing.assert_array_equal(getattr(got, name), halved)
    if isinstance(wanted, SampledAnswer):
        assert isinstance(got, SampledAnswer)
        for i in range(len(wanted)):
            assert drawn(got, i) == drawn(wanted, i)


def drawn(payload: SampledAnswer, unit: int) -> dict[int, int]:
    pairs = zip(payload.ids_NJ[unit].tolist(), payload.counts_NJ[unit].tolist(), strict=True)
    return {i: c for i, c in pairs if c}


@pytest.mark.parametrize("vocab", [11, 65_536, 65_537, 131_073])
def test_every_form_comes_back(vocab: int) -> None:
    for payload in answers(6, vocab):
        body = codec.encode_answer(payload)
        got, units_B = codec.decode_answers([body])
        assert got is not None and units_B.tolist() == [6]
        same(got, payload)
        two, units_B = codec.decode_answers([body, None, codec.encode_answer(payload.rows([2, 4])[1])])
        assert two is not None and units_B.tolist() == [6, 0, 4]
        same(two, join_answers([payload, payload.rows([2, 4])[1]]))


@pytest.mark.parametrize("vocab", [40, 300_000])
def test_a_batch_is_read_as_its_rows_are(vocab: int) -> None:
    """Rows with and without coverage, an empty one, far offsets and units that begin nowhere, in one pass."""
    for payload in answers(9, vocab):
        index = np.asarray([0, 2, 3, 4])
        far = np.asarray([3, -1, 700, 701], dtype=np.int64)
        rows = [*payload.rows([2, 0, 4, 3]), replace(payload.take(index), offsets_N=far)]
        rows = [replace(r, offsets_N=None) if payload.offsets_N is None else r for r in rows]
        bodies = [codec.encode_answer(row) for row in rows]
        got, units_B = codec.decode_answers(bodies)
        each = [codec.decode_answers([body])[0] for body in bodies]
        assert got is not None and units_B.tolist() == [2, 0, 4, 3, 4]
        same(got, join_answers([one for one in each if one is not None]))
    narrow, wide = dense_of(3, 2), dense_of(2, 5)  # of contexts with two words and with five
    got, _ = codec.decode_answers([codec.encode_answer(narrow), codec.encode_answer(wide)])
    assert got is not None
    same(got, join_answers([narrow, wide]))


def test_an_empty_row_and_no_row() -> None:
    for payload in answers(4, 40):
        none = payload.rows([0, 4])[0]
        got, units_B = codec.decode_answers([codec.encode_answer(none)])
        assert got is not None and len(got) == 0 and units_B.tolist() == [0]
    got, units_B = codec.decode_answers([None, None])
    assert got is None and units_B.tolist() == [0, 0]


def test_far_offsets() -> None:
    at = np.asarray([0, 253, 253, -1, 507, 70_000, 70_254, 70_255], dtype=np.int64)
    payload = replace(keep_hidden(torch.zeros(8, 2)), offsets_N=at)
    got, _ = codec.decode_answers([codec.encode_answer(payload)])
    assert got is not None and got.offsets_N is not None
    assert got.offsets_N.tolist() == at.tolist()
    with pytest.raises(ValueError, match="fall"):
        codec.encode_answer(replace(payload, offsets_N=at[::-1].copy()))


@pytest.mark.parametrize("at", range(4))
def test_damage_is_an_error(at: int) -> None:
    body = codec.encode_answer(answers(6, 70_000)[at])
    for wrong in (b"", body[:5], body[:-1], body + b"\0", bytes([9]) + body[1:], body[:1] + b"\7" + body[2:]):
        with pytest.raises(ValueError, match="body"):
            codec.decode_answers([wrong])


def test_what_contradicts_itself_is_an_error() -> None:
    sampled = draw_tokens(logits_of(3, 20), draw_uniforms(0, 3, 9))
    with pytest.raises(ValueError, match="draws"):
        codec.decode_answers([codec.encode_answer(replace(sampled, draws=10))])
    short = keep_top_k(logits_of(3, 20), 2, (1.0,))
    with pytest.raises(ValueError, match="vocabulary of 5"):
        codec.encode_answer(replace(short, vocab=5))
    with pytest.raises(ValueError, match="kind top_k and sampled"):
        codec.decode_answers([codec.encode_answer(short), codec.encode_answer(sampled)])
    with pytest.raises(ValueError, match="fit together"):
        codec.decode_answers(
            [codec.encode_answer(short), codec.encode_answer(replace(short, temperatures=(2.0,)))]
        )
    with pytest.raises(ValueError, match="fit together"):
        codec.decode_answers(
            [codec.encode_answer(short), codec.encode_answer(replace(short, entropy_N=None))]
        )


def test_rows_of_different_width_are_padded() -> None:
    wide, narrow = dense_of(2, 5), dense_of(2, 3)
    joined = join_answers([wide, narrow])
    np.testing.assert_array_equal(joined.logits_NC[2:, :3], narrow.logits_NC)
    assert (joined.logits_NC[2:, 3:] == MASKED).all()


def test_units_by_position() -> None:
    for payload in answers(5, 30):
        got = payload.take(np.asarray([4, -1, 0]))
        assert got.covered_N.tolist() == [True, False, True]
        for name, column in payload.columns().items():
            np.testing.assert_array_equal(getattr(got, name)[[0, 2]], column[[4, 0]])
        nothing = payload.rows([0, 5])[0].take(np.asarray([-1, -1]))
        assert len(nothing) == 2 and not nothing.covered_N.any()


def test_temperature_is_exact() -> None:
    """p(T) of the kept tokens from the stored log-sum-exp is the dense softmax at T, to float16 rounding of z."""
    logits = logits_of(40, 500, scale=2.0) + 30.0
    kept = keep_top_k(logits, 20, GRID)
    for g, temperature in enumerate(GRID):
        dense = (logits / temperature).softmax(dim=-1).gather(1, torch.from_numpy(kept.ids_NK).long())
        p = np.exp(kept.logits_NK.astype(np.float32) / temperature - kept.lse_NG[:, g : g + 1])
        assert np.abs(p - dense.numpy()).max() < 1e-3
    assert (kept.logits_NK[:, 0] == 0).all()
    top1 = logits.log_softmax(dim=-1).amax(dim=-1).numpy()
    np.testing.assert_allclose(-kept.lse_NG[:, 1], top1, atol=1e-3)


def test_a_small_tail_is_not_lost_to_rounding() -> None:
    """What is missing to 1 is the dense tail to 1e-6, where rounding of the kept logits alone is 100 times that."""
    logits = torch.cat([logits_of(200, 6, scale=1.0), logits_of(200, 50, scale=0.1) - 12.0], dim=1)
    kept = keep_top_k(logits, 6, (1.0,))
    got = 1.0 - np.exp(kept.logits_NK.astype(np.float64) - kept.lse_NG).sum(axis=1)
    np.testing.assert_allclose(got, logits.softmax(-1)[:, 6:].sum(-1).numpy(), atol=1e-6)


def test_what_weightings_read_is_kept() -> None:
    logits, gold = logits_of(6, 80), torch.tensor([3, 1, 4, 1, 5, 9])
    logp = logits.log_softmax(dim=-1)
    made: list[Any] = [
        keep_top_k(logits, 3, (2.0,), gold_N=gold),
        draw_tokens(logits, draw_uniforms(1, 6, 5), 2.0, gold_N=gold),
    ]
    for payload in [*made, keep_hidden(logits, logits_NV=logits, gold_N=gold)]:
        np.testing.assert_allclose(payload.entropy_N, -(logp.exp() * logp).sum(-1).numpy(), atol=1e-5)
        np.testing.assert_allclose(payload.gold_logp_N, logp[torch.arange(6), gold].numpy(), atol=1e-5)
    forbidden = logits.index_fill(1, torch.tensor([7]), -torch.inf)
    assert np.isfinite(keep_top_k(forbidden, 80, (1.0,)).entropy_N).all()
    assert np.isfinite(keep_top_k(forbidden, 80, (1.0,)).logits_NK).all()


def test_draws_are_unbiased_and_repeatable() -> None:
    """The mean over draws is p (standard error 0.0035 at 20,000 draws), and each unit's counts sum to the draws."""
    logits = logits_of(1, 12, scale=1.0)
    many = draw_tokens(logits.expand(100, 12), draw_uniforms(0, 100, 200), 2.0)
    p = np.zeros(12)
    for i in range(100):
        for token, count in drawn(many, i).items():
            p[token] += count / 20_000
    assert np.abs(p - (logits[0] / 2.0).softmax(-1).numpy()).max() < 0.015
    assert (many.counts_NJ.sum(axis=1, dtype=int) == 200).all()
    one = draw_tokens(logits_of(5, 90), draw_uniforms(7, 5, 50))
    again = draw_tokens(logits_of(5, 90)[:2], draw_uniforms(7, 2, 50))
    assert [drawn(one, i) for i in range(2)] == [drawn(again, i) for i in range(2)]


def test_permuted_tokens() -> None:
    """Renaming the tokens renames the answer."""
    logits, order = logits_of(4, 30), torch.randperm(30, generator=torch.Generator().manual_seed(0))
    kept, renamed = keep_top_k(logits, 6, (1.0,)), keep_top_k(logits[:, order], 6, (1.0,))
    assert (order.numpy()[renamed.ids_NK] == kept.ids_NK).all()
    np.testing.assert_allclose(renamed.lse_NG, kept.lse_NG, atol=1e-6)


def test_bytes_a_token() -> None:
    """Peaked as language models are (12 distinct of 50 draws): with offsets, entropy and gold at most 40 bytes."""
    n = 40
    for vocab, most in ((30_522, 38.0), (119_547, 40.0)):
        logits = -1.8 * torch.arange(1, vocab + 1).float().log().expand(n, vocab)
        gold, at = torch.zeros(n, dtype=torch.int64), steps(n)
        sampled = draw_tokens(logits, draw_uniforms(0, n, 50), gold_N=gold, offsets_N=at)
        assert 11 < (sampled.counts_NJ > 0).sum(axis=1).mean() < 13
        assert len(codec.encode_answer(sampled)) / n < most
    plain = keep_top_k(logits_of(n, 30_522), 32, GRID, offsets_N=at)
    assert len(codec.encode_answer(replace(plain, entropy_N=None))) / n < 145
    assert (
        len(
            codec.encode_answer(
                HiddenAnswer(states_NH=np.zeros((n, 64), np.float16), covered_N=np.ones(n, bool))
            )
        )
        / n
        < 130
    )


def test_what_makes_no_sense_is_refused() -> None:
    logits = logits_of(2, 9)
    for k, grid in ((0, (1.0,)), (3, ()), (3, (0.0,)), (3, (1.0, 1.0))):
        with pytest.raises(ValueError, match="temperature"):
            keep_top_k(logits, k, grid)
    for draws in (0, 256):
        with pytest.raises(ValueError, match="draws"):
            draw_tokens(logits, draw_uniforms(0, 2, draws))
    with pytest.raises(ValueError, match="units"):
        TopKAnswer(
            ids_NK=np.zeros((2, 1), np.int32),
            logits_NK=np.zeros((2, 1), np.float16),
            lse_NG=np.zeros((3, 1), np.float32),
            temperatures=(1.0,),
            vocab=9,
            covered_N=np.ones(2, bool),
        )
    with pytest.raises(ValueError, match="of 4 units"):
        dense_of(4, 2).take(np.asarray([4]))
    with pytest.raises(ValueError, match="4 units in all"):
        dense_of(4, 2).rows([1, 2])
