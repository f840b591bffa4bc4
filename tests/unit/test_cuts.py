"""A teacher of another tokenizer, its tokens cut into the student's: against enumeration, by hand, and identities."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray

from raykd.answers.answer import DenseAnswer, TopKAnswer
from raykd.answers.cuts import CutMap, build_cut_map, cut_answer
from raykd.answers.tensors import to_cut_signal, to_vocabulary_signal
from raykd.answers.vocabularies import VocabularyMatch
from raykd.distill.losses import ForwardKL, ReverseKL
from raykd.distill.parts import make_parts, sum_over_parts
from raykd.distill.signals import Signals
from raykd.distill.support import gather_support
from raykd.distill.vocabulary_signals import CutSignal
from raykd.models.vocabulary import compute_overlap
from raykd.student.matching.cuts import make_columns, map_cuts
from raykd.text.alignment import align_inside, align_units, find_start_offsets
from raykd.tokenizers.canonical import list_canonical_tokens
from raykd.tokenizers.cutting import make_cut
from tests.kept_answers import keep_top_k
from tests.unit.test_tasks_language import OTHERS, TARGETS, TEXTS, laid, made
from tests.unit.test_vocabulary import KINDS, SENTENCES, bert, byte_level, rows, spelled

# A teacher of five words and an end; the student has "a", "b", "ab" and the end, and cuts "abab" into "ab", "ab".
A, B, AB, END = range(4)
WORDS = ((A,), (A, A), (AB, A), (AB, AB), (B,), (END,))
P = np.asarray([0.3, 0.1, 0.2, 0.15, 0.2, 0.05])


def answer(p_NV: NDArray[np.floating], k: int) -> TopKAnswer:
    made = keep_top_k(torch.from_numpy(np.log(p_NV)).float(), k, (1.0, 2.0))
    assert isinstance(made, TopKAnswer)
    return made


def cut(read: tuple[int, ...], k: int = 6, groups: tuple[int, ...] = (A, B, AB, END)) -> CutSignal:
    """What the teacher says after the student has read these pieces of its next word."""
    cuts = build_cut_map(WORDS, np.asarray(groups, dtype=np.int64))
    given_N = answer(np.tile(P, (len(read) + 1, 1)), k)
    depth_N = np.arange(len(read) + 1)
    found = cut_answer(given_N, cuts, depth_N, np.asarray([*read, END]))
    return to_cut_signal(found, 4).units(len(read), len(read) + 1)


def by_token(signal: CutSignal, temperature: float) -> dict[int, float]:
    """The probability of each of the student's tokens that stands alone, and that of the tail as -1."""
    p, logp = signal.target(temperature)
    torch.testing.assert_close(p, logp.exp())
    columns = {int(i): int(c) for i, c in zip(signal.ids_NK[0], signal.group_NJ[0], strict=True) if i >= 0}
    return {**{i: float(p[0, c]) for i, c in columns.items()}, -1: float(p[0, -1])}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("read", [(), (A,), (AB,)])
def test_the_next_piece_is_what_enumeration_of_the_words_gives(
    read: tuple[int, ...], temperature: float
) -> None:
    softened = P ** (1 / temperature) / (P ** (1 / temperature)).sum()
    possible = [(word, p) for word, p in zip(WORDS, softened, strict=True) if word[: len(read)] == read]
    total = sum(p for _, p in possible)
    wanted: dict[int, float] = {-1: 0.0}
    for word, p in possible:
        at = word[len(read)] if len(word) > len(read) else -1
        wanted[at] = wanted.get(at, 0.0) + p / total
    found = by_token(cut(read), temperature)
    assert found == pytest.approx(wanted, abs=1e-4)


def test_what_was_not_sent_is_in_the_tail_and_silences_where_it_weighs() -> None:
    cuts = build_cut_map(WORDS, np.arange(4))
    sent = answer(np.tile(P, (2, 1)), 3)  # a, then b and "ab a" at 0.2; 0.3 is not sent
    found = cut_answer(sent, cuts, np.asarray([0, 1]), np.asarray([A, A]))
    start = by_token(to_cut_signal(found, 4).units(0, 1), 1.0)
    assert start == pytest.approx({A: 0.3, B: 0.2, AB: 0.2, -1: 0.3}, abs=1e-3)
    # After "a" the words "a" and "a a" are possible; one is known, 0.3 of 0.3 + 0.3 / 3 estimated: 0.75.
    assert found.known_N.tolist() == [True, False]
    assert cut_answer(
        answer(np.tile(P, (2, 1)), 5), cuts, np.asarray([0, 1]), np.asarray([A, A])
    ).known_N.all()
    # Nor where the text has another word than the possible ones, as its own probability shows.
    for gold, known in ((0.3, True), (0.45, False)):
        told = replace(answer(np.tile(P, (2, 1)), 5), gold_logp_N=np.log([gold, gold], dtype=np.float32))
        at = cut_answer(told, cuts, np.asarray([0, 1]), np.asarray([A, A]))
        assert at.known_N.tolist() == [True, known]
    # Pieces with which no word begins leave nothing possible.
    assert not cut_answer(sent, cuts, np.asarray([0, 1]), np.asarray([END, -100])).known_N[1]


def test_gold_probabilities_are_those_of_the_students_token() -> None:
    cuts = build_cut_map(WORDS, np.arange(4))
    told = replace(answer(np.tile(P, (3, 1)), 6), gold_logp_N=np.full(3, -9.0, dtype=np.float32))
    # "ab" begins a word with 0.35; after it "a" has 0.2 of 0.35; at the last unit the text has an unknown token.
    found = cut_answer(told, cuts, np.asarray([0, 1, 0]), np.asarray([AB, A, -100])).answer.gold_logp_N
    assert found is not None and np.exp(found[:2]) == pytest.approx([0.35, 0.2 / 0.35], rel=1e-3)
    assert found[2] == -9.0


def test_tokens_that_only_the_student_has_are_compared_together_with_what_they_begin_with() -> None:
    signal = cut((), groups=(A, B, A, END))  # "ab" is written as "a", "b" by the teacher: one group with "a"
    logits = torch.tensor([[0.3, -1.0, 1.2, 0.1]], requires_grad=True)
    for temperature in (1.0, 2.0):
        gathered = gather_support(logits, signal.ids_NK, temperature)
        merged = signal.merge(gathered, temperature)
        q = (merged / temperature).softmax(-1)[0]
        plain = (logits / temperature).softmax(-1)[0]
        column = {int(i): int(c) for i, c in zip(signal.ids_NK[0], signal.group_NJ[0], strict=True)}
        assert column[A] == column[AB] != column[B]
        torch.testing.assert_close(q[column[A]], plain[A] + plain[AB])
        torch.testing.assert_close(q[column[B]], plain[B])
        p, _ = signal.target(temperature)
        assert float(p.sum()) == pytest.approx(1.0, abs=1e-5)
        (mine,) = torch.autograd.grad(
            -(p[0] * (merged / temperature).log_softmax(-1)[0]).sum(), logits, retain_graph=True
        )
        summed = {
            column[A]: plain[A] + plain[AB],
            column[B]: plain[B],
            column[END]: plain[END],
        }
        by_hand = -sum(p[0, c] * mass.log() for c, mass in summed.items())
        (wanted,) = torch.autograd.grad(by_hand, logits)
        torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_is_cut_as_the_tokenizer_cuts_its_text(kind: str) -> None:
    tokenizer, cuts = KINDS[kind](), make_cut(KINDS[kind]())
    keys = list_canonical_tokens(tokenizer).by_id()
    for text in SENTENCES:
        ids = [i for i in tokenizer(text)["input_ids"] if keys.get(i, b"\x03")[0] < 3]
        assert all(cuts(keys[i]) == (i,) for i in ids)
        for a, b in itertools.pairwise(ids):
            if keys[b][:1] == b"\x00" and keys[a][1:].isalpha() and keys[b][1:].isalpha():
                found = cuts(keys[a] + keys[b][1:])
                assert b"".join(keys[i][1:] for i in found) == keys[a][1:] + keys[b][1:]


def test_cuts_between_unlike_tokenizers_by_hand() -> None:
    words = bert("the", "play", "##ing", "##s", ",", "(")
    meta = spelled({"<unk>": 0, "</s>": 1, "▁": 2, "t": 3, "h": 4, "e": 5, "▁playing": 6, "(": 7, ",": 8})
    by_longest = make_cut(words)
    named = words.convert_ids_to_tokens
    assert named(by_longest(b"\x01playings")) == ["play", "##ing", "##s"]
    assert named(by_longest(b"\x01(the")) == ["(", "the"] and by_longest(b"\x01zebra") == ()
    assert make_cut(meta)(b"\x01the") == (2, 3, 4, 5) and make_cut(meta)(b"\x00\xff") == ()
    found = map_cuts(words, meta, compute_overlap(words, meta).ids_T)
    pieces = {
        name: tuple(int(i) for i in found.pieces_VL[words.vocab[name]] if i >= 0) for name in words.vocab
    }
    assert pieces["the"] == (2, 3, 4, 5) and pieces["[SEP]"] == (1,) and pieces["[MASK]"] == ()
    # "▁playing" is "play" and "##ing" to the teacher; the student has no "▁play" and cannot spell it.
    assert found.group_S[6] == -1 and found.group_S[8] == 8


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_of_a_text_is_in_the_group_of_what_the_other_begins_there(kind: str) -> None:
    teacher, student = byte_level(400), KINDS[kind]()
    cuts = map_cuts(teacher, student, compute_overlap(teacher, student).ids_T)
    named = cuts.group_S[cuts.group_S >= 0]
    assert (cuts.group_S[named] == named).all()  # what stands for a group is in it
    pieces = cuts.pieces_VL
    assert (pieces < len(cuts.group_S)).all() and (np.diff((pieces >= 0).astype(int), axis=1) <= 0).all()


def test_the_students_own_tokenizer_gives_what_a_teacher_of_it_gives() -> None:
    _, tokenizer, _ = made("causal_lm")
    cuts = map_cuts(tokenizer, tokenizer, compute_overlap(tokenizer, tokenizer).ids_T)
    same, _, _ = laid("causal_lm", (*TEXTS, *TARGETS), VocabularyMatch("same"))
    other, _, _ = laid("causal_lm", (*TEXTS, *TARGETS), VocabularyMatch("overlap", cuts=cuts))
    a, b = same.vocabulary_signal(0), other.vocabulary_signal(0)
    assert isinstance(b, CutSignal) and a is not None
    logits = torch.randn(len(same.labels_N), len(tokenizer), generator=torch.Generator().manual_seed(1))
    losses: list[Any] = []
    for signal in (a, b):
        p, logp = signal.target(1.0)  # type: ignore[attr-defined]
        q = signal.merge(gather_support(logits, signal.ids_NK, 1.0), 1.0).log_softmax(-1)  # type: ignore
        losses.append((p * (logp - q)).sum(-1))
    begins = other.covered_MN[0]
    assert begins.any()
    torch.testing.assert_close(losses[0][begins], losses[1][begins], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("teacher", "student", "inside"), [(330, 330, False), (330, 345, False), (400, 345, True)]
)
def test_a_teacher_that_is_sure_of_its_token_is_sure_of_the_students(
    teacher: int, student: int, inside: bool
) -> None:
    """Bytes of a character, and a word behind a blank of its own, have no offset, and both may cut there alike."""
    own, other = byte_level(student), byte_level(teacher)
    cuts, found = map_cuts(other, own, compute_overlap(other, own).ids_T), 0
    for text in SENTENCES:
        (t_N, told_N), (s_M, own_M) = (
            (np.asarray(e["input_ids"]), find_start_offsets(e["offset_mapping"], text, [0] * len(e["input_ids"]), ends=False))
            for e in (one(text, return_offsets_mapping=True) for one in (other, own))
        )  # fmt: skip
        index_M, depth_M = align_inside(told_N, np.asarray([len(t_N)]), own_M, np.asarray([len(s_M)]))
        p_NV = np.full((len(t_N), len(cuts.pieces_VL)), 1e-6)
        p_NV[np.arange(len(t_N)), t_N] = 1.0 - p_NV[0, 1:].sum()
        laid_out = cut_answer(answer(p_NV, p_NV.shape[1]).take(index_M), cuts, depth_M, s_M)
        p_MW = to_cut_signal(laid_out, len(cuts.group_S)).target(1.0)[0]
        gold_MJ = laid_out.ids_NJ == cuts.group_S[s_M][:, None]
        for m in np.flatnonzero((index_M >= 0) & laid_out.known_N):
            assert p_MW[m, int(laid_out.group_NJ[m][gold_MJ[m]][0])] > 0.99
        found += int((depth_M[laid_out.known_N & (index_M >= 0)] > 0).sum())
    assert (found > 0) == inside


def test_more_of_the_text_is_covered_than_where_tokens_begin_alike() -> None:
    _, own, _ = made("causal_lm", OTHERS)
    _, other, _ = made("causal_lm")
    cuts = map_cuts(other, own, compute_overlap(other, own).ids_T)
    starts, _, _ = laid("causal_lm", (*TEXTS, *TARGETS), VocabularyMatch("overlap"), OTHERS)
    found, _, _ = laid("causal_lm", (*TEXTS, *TARGETS), VocabularyMatch("overlap", cuts=cuts), OTHERS, k=600)
    assert (found.covered_MN | ~starts.covered_MN).all()
    assert found.covered_MN.sum() > starts.covered_MN.sum() > 0


@pytest.mark.parametrize("divergence", [ForwardKL(), ReverseKL()], ids=lambda d: d.kind)
def test_all_logits_say_what_the_largest_of_all_of_them_say(divergence: Any) -> None:
    _, own, _ = made("causal_lm")
    _, other, _ = made("causal_lm", OTHERS)
    cuts = map_cuts(other, own, compute_overlap(other, own).ids_T)
    # Numbers that float16, as which logits travel, holds exactly.
    logits_NV = (
        -torch.randint(0, 512, (7, len(cuts.pieces_VL)), generator=torch.Generator().manual_seed(3)) / 64
    )
    logits_NV[:, 9] = 0.0
    student = torch.randn(7, len(cuts.group_S), generator=torch.Generator().manual_seed(4)).requires_grad_()
    columns = make_columns(cuts, torch.device("cpu"))
    dense = DenseAnswer(logits_NC=logits_NV.numpy(), covered_N=np.ones(7, bool))
    every = keep_top_k(logits_NV, len(cuts.pieces_VL), (1.0, 2.0))
    assert isinstance(every, TopKAnswer)
    found = cut_answer(every, cuts, np.zeros(7, np.int64), np.zeros(7, np.int64))
    got = []
    for signal in (
        to_vocabulary_signal(dense, columns=columns),
        to_cut_signal(found, len(cuts.group_S)),
    ):
        assert signal.support == "tail"
        told = Signals(
            teachers=("t",),
            teacher_languages=(None,),
            logits_MNC=torch.zeros(1, 7, 0),
            covered_MN=torch.ones(1, 7, dtype=torch.bool),
            labels_N=torch.zeros(7, dtype=torch.long),
            languages=("en",) * 7,
            vocabulary_M=(signal,),
        )
        parts = make_parts(student, told, torch.ones(1, 7), 2.0, "arithmetic")
        loss_N, covered_N = sum_over_parts(divergence, parts, 2.0, told.labels_N)
        assert covered_N.all()
        got.append((loss_N, *torch.autograd.grad(loss_N.sum(), student)))
    torch.testing.assert_close(got[0][0], got[1][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got[0][1], got[1][1], atol=1e-5, rtol=1e-4)


@given(rows, rows)
@settings(max_examples=200, deadline=None)
def test_inside_is_that_of_a_walk_over_both(teacher: list[list[int]], student: list[list[int]]) -> None:
    teacher, student = (
        [sorted(r) if -1 not in r else [o for o in sorted(r) if o >= 0] for r in side]
        for side in (teacher[: len(student)], student[: len(teacher)])
    )
    wanted_index, wanted_depth, base = [], [], 0
    for a, b in zip(teacher, student, strict=True):
        begun = None
        for j, offset in enumerate(b):
            held = max((i for i, o in enumerate(a) if o <= offset), default=None)
            if held is not None and a[held] == offset:
                begun = (held, j)
            inside = begun is not None and held == begun[0] and held + 1 < len(a)
            starts = held is not None and a[held] == offset
            wanted_index.append(base + held if held is not None and (starts or inside) else -1)
            wanted_depth.append(j - begun[1] if begun and inside and not starts else 0)
        base += len(a)
    arrays: list[Any] = []
    for side in (teacher, student):
        arrays += [np.asarray([o for r in side for o in r], np.int64), np.asarray([len(r) for r in side])]
    index, depth = align_inside(*arrays)
    assert index.tolist() == wanted_index and depth.tolist() == wanted_depth
    plain = align_units(*arrays)
    assert (index[plain >= 0] == plain[plain >= 0]).all()


def test_a_range_holds_the_tokens_that_begin_so() -> None:
    cuts: CutMap = build_cut_map([*WORDS, ()], np.arange(4))
    for read in itertools.chain(((A,), (AB,), (B,), (A, A), (AB, AB, A))):
        low, high = cuts.find_range(read)
        inside = [i for i in range(len(WORDS) + 1) if low <= cuts.rank()[i] < high]
        assert inside == [i for i, word in enumerate(WORDS) if word[: len(read)] == read]
