"""Tagging and question answering: units, places, gathering and bodies, with models whose tokenizers differ."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import Tokenizer
from transformers import CanineTokenizer, PreTrainedTokenizerFast

from raykd.answers.layout import StudentUnits, lay_out_answers, read_unit_logits
from raykd.answers.source import AnswerSlots
from raykd.distill.signals import MASKED, UNLABELLED
from raykd.errors import ConfigError
from raykd.models import TransformerStudent
from raykd.tasks import QuestionAnswering, SystemAnswers, TokenClassification
from raykd.teachers.store import make_text_keys
from raykd.text.batch import Mode, TextBatch
from raykd.text.words import find_word_spans, join_tokens
from tests.kept_answers import answer_rows

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SENTENCES = [["Anna", "Smith", "lives", "in", "Paris", "."], ["我", "住", "在", "北京"], ["Marie", "rit"]]
GOLD = [(1, 2, 0, 0, 3, 0), (0, 0, 0, 3), ()]


def tagged() -> TextBatch:
    joined = [join_tokens(tokens) for tokens in SENTENCES]
    return TextBatch(
        ids=("a", "b", "c"),
        texts=tuple(text for text, _ in joined),
        languages=("en", "zh", "fr"),
        labels_B=np.asarray([0, 0, UNLABELLED]),
        words=tuple(spans for _, spans in joined),
        golds=tuple(GOLD),
    )


def tokenizer(size: int = 130):
    return TransformerStudent(vocab_size=size).fit_tokenizer([" ".join(s) for s in SENTENCES] * 3)


@pytest.mark.parametrize("size", [100, 140])
def test_each_word_is_read_at_the_token_of_its_first_character(size: int) -> None:
    task, batch, own = TokenClassification(max_length=64), tagged(), tokenizer(size)
    rows = task.encode(own, batch)
    assert rows.counts_B.tolist() == [6, 4, 2] and (rows.places_N2 >= 0).all()
    encoded = task.collate(rows, [2, 0])
    assert encoded.labels_N.tolist() == [UNLABELLED] * 2 + list(GOLD[0])
    ids_BL = encoded.inputs["input_ids"]
    logits = torch.nn.functional.one_hot(ids_BL, len(own)).float()
    read = task.gather(SimpleNamespace(logits=logits), encoded).argmax(dim=1).tolist()
    words = SENTENCES[2] + SENTENCES[0]
    first = [own(word, add_special_tokens=False)["input_ids"][0] for word in words]
    assert read == first


def test_words_beyond_the_limit_are_neither_trained_nor_taught_and_tagged_o() -> None:
    task, batch = TokenClassification(max_length=6), tagged()
    rows = task.encode(tokenizer(100), batch)
    encoded = task.collate(rows, [0, 1, 2])
    assert encoded.seen_N is not None and (rows.places_N2[:, 0] < 0).sum() == (~encoded.seen_N).sum() > 0
    assert (encoded.labels_N[~encoded.seen_N] == UNLABELLED).all()
    logits = np.zeros((12, 5), np.float32)
    logits[:, 1] = 5.0  # B-PER everywhere it was seen
    said = SystemAnswers(logits, rows.counts_B, np.zeros(12, bool))
    scores = task.compute_metrics(said.take([0, 1]), batch.take([0, 1]), TAGS)
    assert scores["accuracy"] == 6 / 10 and scores["f1"] == 0.0


def test_a_tokenizer_without_places_is_refused() -> None:
    with pytest.raises(ConfigError, match="where its tokens stand"):
        TokenClassification().encode(CanineTokenizer(), tagged())


def test_a_body_holds_the_runs_tags_whatever_the_teachers_scheme() -> None:
    task, batch = TokenClassification(max_length=64), tagged()
    own = ("L-PER", "B-PER", "I-PER", "U-PER", "O")  # BILOU, without places
    columns = task.map_columns(own, TAGS, {}, "t")
    encoded = task.collate(task.encode(tokenizer(), batch), [0, 1])
    raw = torch.randn(2, encoded.inputs["input_ids"].shape[1], 5)
    bodies = answer_rows(task, lambda **inputs: SimpleNamespace(logits=raw), encoded, columns)
    signal = AnswerSlots("t", list(bodies))
    logits_NC, covered_N = read_unit_logits(signal, encoded.counts_B, 5)
    units = task.gather(SimpleNamespace(logits=raw), encoded).numpy()
    assert covered_N.all() and np.isneginf(logits_NC[:, 3:]).all()
    np.testing.assert_allclose(logits_NC[:, 1], np.logaddexp(units[:, 1], units[:, 3]), rtol=1e-5)
    signals = lay_out_answers(
        [signal], [None], StudentUnits(encoded.labels_N, encoded.counts_B, ("en", "zh"), 5)
    )
    assert signals.columns_M == ((0, 1, 2),) and signals.languages == ("en",) * 6 + ("zh",) * 4
    nobody = AnswerSlots("t", [bodies[0], None])
    assert read_unit_logits(nobody, encoded.counts_B, 5)[1].tolist() == [True] * 6 + [False] * 4
    with pytest.raises(ValueError, match="units a row"):
        read_unit_logits(signal, np.asarray([6, 5]), 5)


CONTEXTS = ("The cat sat. Anna Smith lives in Paris now.", "安娜住在北京。")


def asked(questions: tuple[str, str] = ("Where does Anna live?", "安娜住在哪里？")) -> TextBatch:
    places = [CONTEXTS[0].index("Paris"), CONTEXTS[1].index("北京")]
    golds = ((places[0], places[0] + 5), (places[1], places[1] + 2))
    return TextBatch(("a", "b"), questions, ("en", "zh"), np.zeros(2, np.int64), CONTEXTS, golds=golds)


@pytest.mark.parametrize("length", [16, 128])
def test_answers_are_words_of_the_context_begun_at_their_first_token_and_ended_at_their_last(
    length: int,
) -> None:
    task, batch = QuestionAnswering(max_length=length, stride=3), asked()
    own = TransformerStudent(vocab_size=300, lowercase=False).fit_tokenizer([*CONTEXTS, *batch.texts] * 3)
    rows = task.encode(own, batch)
    assert rows.sequences_B1 is not None and (int(rows.sequences_B1[-1]) > 2) == (length == 16)
    encoded = task.collate(rows, [1, 0])
    words = [[c[a:b] for a, b in find_word_spans(c)] for c in CONTEXTS]
    assert encoded.labels_N.tolist() == [4, 5, 8, 8] and encoded.choices == len(words[0]) + 2
    ids_SL = encoded.inputs["input_ids"]
    units = task.gather(SimpleNamespace(start_logits=ids_SL.float(), end_logits=-ids_SL.float()), encoded)
    pieces = [[own(w, add_special_tokens=False)["input_ids"] for w in row] for row in words]
    assert units[2, :-2].tolist() == [ids[0] for ids in pieces[0]]
    assert units[3, :-2].tolist() == [-ids[-1] for ids in pieces[0]]
    begins = [float(ids[0]) for ids in pieces[1]]
    assert units[0, : len(begins)].tolist() == begins and (units[:, -2] == MASKED).all()
    rest = [float(i) for ids in pieces[1] for i in ids[1:]]
    found = units[0, len(begins) :].tolist()
    assert found[0] == MASKED and found[2:] == [MASKED] * (len(found) - 2)
    assert found[1] == (pytest.approx(float(np.logaddexp.reduce(rest))) if rest else MASKED)


def test_a_span_is_scored_by_its_text() -> None:
    task, batch = QuestionAnswering(), asked()
    logits = np.full((4, 10), MASKED, np.float32)
    logits[[0, 1], 8], logits[2, 4], logits[3, 4] = 0.0, 0.0, 0.0  # Paris; 北 alone
    found = task.compute_metrics(SystemAnswers(logits, np.full(2, 2), np.ones(4, bool)), batch, ())
    assert found["exact_match"] == 0.5 and found["f1"] == pytest.approx((1 + 2 / 3) / 2)


SQUAD2 = ["Who built it?", "Who left?"], ["It was built by Jan Kowalski in 1900.", "Nobody knows."]


def unanswerable(mode: Mode) -> TextBatch:
    begin = SQUAD2[1][0].index("Jan")
    return TextBatch(
        ("a", "b"), tuple(SQUAD2[0]), ("en",) * 2, np.zeros(2, np.int64), tuple(SQUAD2[1]),
        golds=((begin, begin + 12), ()), modes=(mode,) * 2,
    )  # fmt: skip


def test_no_answer_is_a_choice_of_rows_that_may_have_none() -> None:
    task, own = (
        QuestionAnswering(),
        TransformerStudent(vocab_size=300).fit_tokenizer([*SQUAD2[0], *SQUAD2[1]] * 3),
    )
    batch = unanswerable("optional")
    rows = task.encode(own, batch)
    encoded = task.collate(rows, [0, 1])
    assert encoded.labels_N.tolist() == [4, 5, 3, 3]  # behind "Nobody knows ."
    start = torch.arange(encoded.inputs["input_ids"].numel()).view(2, -1).float()
    units = task.gather(SimpleNamespace(start_logits=start, end_logits=-start), encoded)
    assert [units[0, 9], units[1, 9], units[2, 3], units[3, 3]] == [0.0, 0.0, start[1, 0], -start[1, 0]]
    plain = task.collate(task.encode(own, unanswerable("")), [0, 1])
    assert plain.labels_N.tolist() == [4, 5, UNLABELLED, UNLABELLED]
    logits = np.full((4, 11), MASKED, np.float32)
    logits[0, 4], logits[1, 5], logits[2:, 3], logits[2:, 0] = 1.0, 1.0, 2.0, 1.0
    said = SystemAnswers(logits, np.full(2, 2), np.ones(4, bool))
    first, second = task.build_predictions(said, batch, ())
    assert (first["answer"], second["answer"]) == ("Jan Kowalski", "")
    assert second["probability"] == pytest.approx((1 / (1 + np.exp(-1))) ** 2, abs=1e-6)
    scores = task.compute_metrics(said, batch, ())
    assert all(scores[name] == 1.0 for name in ("f1", "exact_match", "best_f1", "best_exact_match"))
    assert "best_f1" not in task.compute_metrics(said.take([0]), unanswerable("").take([0]), ())


def test_the_window_that_is_least_sure_of_no_answer_counts() -> None:
    task = QuestionAnswering(max_length=16, stride=3)
    own = TransformerStudent(vocab_size=300).fit_tokenizer([*SQUAD2[0], *SQUAD2[1]] * 3)
    batch = replace(unanswerable("optional"), pairs=("It was built. " * 8, "Nobody knows."), golds=((), ()))
    encoded = task.collate(task.encode(own, batch), [0])
    windows = len(encoded.inputs["input_ids"])
    scores = torch.full(encoded.inputs["input_ids"].shape, 5.0)
    scores[:, 0] = torch.arange(windows).roll(1).float()
    units = task.gather(SimpleNamespace(start_logits=scores, end_logits=scores + 1), encoded)
    null = int(encoded.labels_N[0])
    assert windows > 2 and units[:, null].tolist() == [0.0, 1.0]


def test_tokens_of_a_row_are_given_apart_and_a_whole_text_is_not() -> None:
    """Joined, the Chinese characters of a row are one piece of a sentencepiece tokenizer."""
    rows, mode = [["北", "京", "大", "学"], ["\u200b", "大"]], ("split", "split", "")
    joined = [*map(join_tokens, rows), ("北京大学", tuple((i, i + 1) for i in range(4)))]
    batch = TextBatch(
        ("a", "b", "c"), tuple(text for text, _ in joined), ("zh",) * 3, np.full(3, UNLABELLED),
        words=tuple(spans for _, spans in joined), modes=mode,
    )  # fmt: skip
    pieces = [("<unk>", 0.0), ("▁", -3.0), *((c, -5.0) for c in "北京大学"), ("北京大学", -1.0)]
    core = Tokenizer(tokenizers.models.Unigram(pieces, 0))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    own = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<unk>", unk_token="<unk>")
    found = TokenClassification().encode(own, batch)
    tokens = own.convert_ids_to_tokens(found.fields["input_ids"][0].tolist())
    places = [part.tolist() for part in np.split(found.places_N2[:, 1], [4, 6])]
    assert tokens == ["▁", "北", "▁", "京", "▁", "大", "▁", "学"] and places[0] == [0, 2, 4, 6]
    assert own(rows[:1], is_split_into_words=True)["input_ids"][0] == found.fields["input_ids"][0].tolist()
    assert places[2] == [0, 1, 1, 1] and found.extra["shared"].tolist() == [False] * 7 + [True] * 3


@pytest.mark.parametrize("sign", ["\ufeff", "\u200b", "\u00ad", "\u202b", "\u200e"])
def test_a_word_that_begins_with_an_invisible_sign_is_read_at_the_first_token_inside_it(sign: str) -> None:
    own = TransformerStudent(vocab_size=300).fit_tokenizer(["Jan Kowalski left"] * 3)
    for mode in ("split", ""):
        text, spans = join_tokens(["Jan", f"{sign}Kowalski", "left"])
        batch = TextBatch(("a",), (text,), ("en",), np.full(1, UNLABELLED), words=(spans,), modes=(mode,))
        rows = TokenClassification().encode(own, batch)
        plain = own.convert_ids_to_tokens(rows.fields["input_ids"][0].tolist())
        assert [plain[i] for i in rows.places_N2[:, 1]] == ["jan", plain[int(rows.places_N2[1, 1])], "left"]
        assert plain[int(rows.places_N2[1, 1])].startswith("k")


def test_the_way_a_row_is_given_is_part_of_its_key() -> None:
    plain, split = tagged(), replace(tagged(), modes=("split",) * 3)
    assert not set(make_text_keys(plain)) & set(make_text_keys(split))
    assert make_text_keys(plain) == make_text_keys(replace(plain, modes=("",) * 3))
