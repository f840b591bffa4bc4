"""Tag schemes, teachers' columns, constrained decoding and entity F1, against seqeval and brute force."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import seqeval.scheme
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score
from seqeval.metrics.v1 import precision_recall_fscore_support

from raykd.distill.signals import MASKED, UNLABELLED
from raykd.errors import ConfigError, DataError, LabelMismatchError
from raykd.tasks import schemes
from raykd.tasks.scores import entities

BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
BILOU = ["O", *(f"{letter}-{kind}" for kind in ("PER", "LOC") for letter in "BILU")]
BIOES = [tag.replace("L-", "E-").replace("U-", "S-") for tag in BILOU]
IO = ["O", "I-PER", "I-LOC"]
LISTS = {"IO": IO, "BIO": BIO, "BILOU": BILOU, "BIOES": BIOES}
SEQEVAL = {"BIO": seqeval.scheme.IOB2, "BILOU": seqeval.scheme.BILOU, "BIOES": seqeval.scheme.IOBES}


@pytest.mark.parametrize("name", LISTS)
def test_schemes_are_known_by_their_tags(name: str) -> None:
    scheme = schemes.parse_scheme(LISTS[name])
    assert scheme.name == name and scheme.outside == 0 and scheme.types[1] == "PER"
    assert schemes.parse_scheme(LISTS[name][::-1]).outside == len(LISTS[name]) - 1


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["B-PER", "I-PER"], "outside tag O"),
        (["O", "PER"], "'PER' is no tag"),
        (["O", "X-PER"], "'X-PER' is no tag"),
        (["O", "B-"], "'B-' is no tag"),
        (["O", "O", "B-PER"], "twice"),
        (["O", "B-PER", "L-PER", "S-PER"], "no one scheme"),
        (["O", "B-PER", "I-PER", "I-LOC"], "type LOC lacks"),
        (["O", "B-PER", "I-PER", "L-PER"], "type PER lacks"),
        (["O"], "no one scheme"),
    ],
)
def test_inconsistent_tags_are_refused(tags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schemes.parse_scheme(tags)


@st.composite
def spans(draw: st.DrawFn) -> tuple[list[schemes.Entity], int]:
    at, found = 0, []
    for gap, length, kind in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(["PER", "LOC"])), max_size=5)
    ):
        found.append((at + gap, at + gap + length, kind))
        at += gap + length
    return found, at + draw(st.integers(0, 2))


@given(spans(), st.sampled_from(["BIO", "BILOU", "BIOES"]), st.sampled_from(["BIO", "BILOU", "BIOES"]))
def test_entities_survive_every_change_of_scheme(
    row: tuple[list[schemes.Entity], int], source: str, target: str
) -> None:
    found, length = row
    tags = schemes.write_tags(found, length, source)
    assert schemes.read_entities(schemes.convert_tags(tags, source, target), target) == found
    if tags:
        theirs = seqeval.scheme.Entities([tags], SEQEVAL[source]).entities[0]
        assert [(e.start, e.end, e.tag) for e in theirs] == found


@given(spans())
def test_io_joins_neighbours_of_one_type_and_nothing_else(row: tuple[list[schemes.Entity], int]) -> None:
    found, length = row
    joined: list[schemes.Entity] = []
    for start, end, kind in found:
        if joined and joined[-1][1] == start and joined[-1][2] == kind:
            joined[-1] = (joined[-1][0], end, kind)
        else:
            joined.append((start, end, kind))
    assert schemes.read_entities(schemes.write_tags(found, length, "IO"), "IO") == joined


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["O", "I-PER"], "BIO"), (["B-PER", "I-LOC"], "BIO"), (["B-PER", "O"], "BILOU"), (["B-PER"], "BILOU"),
        (["L-PER"], "BILOU"), (["U-PER", "I-PER"], "BILOU"), (["B-PER", "U-PER"], "BILOU"), (["E-PER"], "BILOU"),
    ],
)  # fmt: skip
def test_gold_tags_that_cannot_follow_each_other_are_refused(tags: list[str], scheme: str) -> None:
    with pytest.raises(DataError):
        schemes.read_entities(tags, scheme)


def test_a_teacher_in_another_order_and_scheme() -> None:
    found = schemes.map_tag_columns(BILOU, BIO, {}, "t")
    assert found.columns == ((0,), (1, 4), (2, 3), (5, 8), (6, 7)) and found.unknown == ()
    logits = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    got = found.apply(logits)
    q = np.exp(got) / np.exp(got).sum(axis=1, keepdims=True)
    assert np.allclose(q[:, 1], p[:, 1] + p[:, 4], atol=1e-6) and np.allclose(
        q[:, 4], p[:, 6] + p[:, 7], atol=1e-6
    )
    swapped = schemes.map_tag_columns(BIO[::-1], BIO, {}, "t")
    assert (swapped.apply(logits[:, :5]) == logits[:, 4::-1]).all()
    assert schemes.map_tag_columns(BILOU, BIOES, {}, "t").columns == tuple((i,) for i in range(9))
    assert schemes.map_tag_columns(BIO, IO, {}, "t").columns == ((0,), (1, 2), (3, 4))


def test_a_teacher_that_knows_fewer_types() -> None:
    found = schemes.map_tag_columns(["I-LOC", "O", "B-LOC"], BIO, {}, "t")
    assert found.columns == ((1,), (), (), (2,), (0,)) and found.unknown == (1, 2)
    got = found.apply(np.asarray([[1.0, 2.0, 3.0]], dtype=np.float32))
    assert got.tolist() == [[2.0, MASKED, MASKED, 3.0, 1.0]] and got.dtype == np.float32


def test_a_teachers_tags_and_types_can_be_renamed() -> None:
    own = ["O", "B-PERSON", "I-PERSON", "B-MISC", "I-MISC", "B-GPE", "I-GPE", "B-LOC", "I-LOC"]
    found = schemes.map_tag_columns(
        own, BIO, {"PERSON": "PER", "MISC": "O", "B-GPE": "B-LOC", "I-GPE": "I-LOC"}, "t"
    )
    assert found.columns == ((0, 3, 4), (1,), (2,), (5, 7), (6, 8))


@pytest.mark.parametrize(
    ("own", "wanted", "why"),
    [
        (["LABEL_0", "LABEL_1"], BIO, "outside tag"),
        ([*BIO, "B-MISC", "I-MISC"], BIO, "no type MISC"),
        (IO, BIO, "do not tell"),
        (BIO, BILOU, "do not tell"),
        (["O", "B-PER", "I-PER", "I-LOC"], BIO, "type LOC lacks"),
    ],
)
def test_a_teacher_whose_tags_do_not_fit_is_refused(own: list[str], wanted: list[str], why: str) -> None:
    with pytest.raises(LabelMismatchError, match=why) as caught:
        schemes.map_tag_columns(own, wanted, {}, "zh")
    assert (
        str(own) in str(caught.value)
        and str(wanted) in str(caught.value)
        and "teacher zh" in str(caught.value)
    )


def test_a_teacher_that_tells_less_is_refused_with_labels_that_it_can_tell() -> None:
    with pytest.raises(LabelMismatchError, match=r"data\.labels") as caught:
        schemes.map_tag_columns(IO, BIO, {}, "zh")
    advice = str(caught.value)
    assert "data.scheme: BIO" in advice
    labels = re.search(r"data\.labels: \[([^]]+)\]", advice)
    assert labels and schemes.map_tag_columns(IO, labels[1].split(", "), {}, "zh").unknown == ()


def brute_force(logits: np.ndarray, tags: list[str], name: str) -> tuple[int, ...]:
    best, winner = -np.inf, ()
    for path in itertools.product(range(len(tags)), repeat=len(logits)):
        try:
            schemes.read_entities([tags[i] for i in path], name)
        except DataError:
            continue
        score = sum(logits[t, i] for t, i in enumerate(path))
        if score > best:
            best, winner = score, path
    return winner


@pytest.mark.parametrize(
    ("name", "tags"), [("BIO", BIO[:1] + BIO[3:0:-1] + BIO[4:]), ("IO", IO), ("BILOU", [*BILOU[1:5], "O"])]
)
def test_decoding_finds_the_best_of_all_allowed_rows(name: str, tags: list[str]) -> None:
    rng = np.random.default_rng(1)
    counts = np.asarray([2, 0, 4, 1, 3, 0, 4, 4, 1])
    logits = rng.normal(scale=2, size=(int(counts.sum()), len(tags)))
    got = entities.decode_tags(logits, counts, schemes.parse_scheme(tags))
    rows = np.split(logits, np.cumsum(counts)[:-1])
    assert got.tolist() == [i for row in rows for i in brute_force(row, tags, name)]


def test_decoding_repairs_what_argmax_gets_wrong() -> None:
    logits = np.asarray([[1.0, 0.5, 0, 0, 0], [0, 0, 3.0, 0, 0], [0, 0, 0, 0, 0.1]])
    assert logits.argmax(axis=1).tolist() == [0, 2, 4]
    assert entities.decode_tags(logits, np.asarray([3]), schemes.parse_scheme(BIO)).tolist() == [1, 2, 0]
    assert (
        entities.decode_tags(np.zeros((0, 5)), np.asarray([0, 0]), schemes.parse_scheme(BIO)).tolist() == []
    )
    with pytest.raises(ValueError, match="3 words, but the rows count 2"):
        entities.decode_tags(logits, np.asarray([2]), schemes.parse_scheme(BIO))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["BIO", "BILOU", "BIOES"]), st.integers(0, 10**6))
def test_scores_are_seqevals(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scheme = schemes.parse_scheme(LISTS[name])
    counts = rng.integers(1, 7, size=8)
    logits = rng.normal(size=(int(counts.sum()), len(scheme.tags)))
    gold = entities.decode_tags(logits + rng.normal(size=logits.shape), counts, scheme)
    got = entities.compute_entity_metrics(logits, gold, counts, scheme.tags)
    predicted = entities.decode_tags(logits, counts, scheme)
    rows = [np.split(np.asarray(scheme.tags)[x], np.cumsum(counts)[:-1]) for x in (gold, predicted)]
    y_true, y_pred = ([row.tolist() for row in side] for side in rows)
    assert got["f1"] == pytest.approx(
        f1_score(y_true, y_pred, mode="strict", scheme=SEQEVAL[name], zero_division=0)
    )
    ours = [
        {(i, *e) for i, row in enumerate(side) for e in schemes.read_entities(row, name)}
        for side in (y_true, y_pred)
    ]
    hits = len(ours[0] & ours[1])
    assert got["recall"] == pytest.approx(hits / max(1, len(ours[0])))
    assert got["precision"] == pytest.approx(hits / max(1, len(ours[1])))
    assert got["accuracy"] == pytest.approx(np.mean(gold == predicted))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["IO", "BIO", "BILOU", "BIOES"]), st.integers(0, 10**6))
def test_impossible_tags_are_counted_as_seqeval_counts_them(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scheme = schemes.parse_scheme(LISTS[name][::-1])
    counts = np.asarray([3, 0, 7, 1, 5, 0])
    y_true, y_pred = rng.integers(0, len(scheme.tags), size=(2, 16))
    y_pred = np.where(rng.random(16) < 0.7, y_true, y_pred)
    rows = [
        [row.tolist() for row in np.split(np.asarray(scheme.tags)[x], np.cumsum(counts)[:-1]) if len(row)]
        for x in (y_true, y_pred)
    ]
    kind = SEQEVAL.get(name, seqeval.scheme.IOB1)
    p, r, f, _ = precision_recall_fscore_support(*rows, average="micro", scheme=kind, zero_division=0)
    got = entities.compute_entity_scores(y_pred, y_true, counts, scheme)
    assert got == pytest.approx({"precision": p, "recall": r, "f1": f})


def test_metrics_by_hand() -> None:
    def sure(*tags: str) -> list[list[float]]:
        return [[5.0 if tag == own else 0.0 for own in BIO] for tag in tags]

    logits = np.asarray(sure("B-PER", "I-PER", "O", "B-LOC") + sure("O", "O") + sure("B-LOC", "I-LOC"))
    gold = [1, 2, 0, 1, UNLABELLED, UNLABELLED, 3, 4]
    got = entities.compute_entity_metrics(logits, np.asarray(gold), np.asarray([4, 2, 2]), BIO)
    right, wrong = -np.log(np.exp(5) / (np.exp(5) + 4)), -np.log(1 / (np.exp(5) + 4))
    assert got == pytest.approx(
        {"f1": 2 / 3, "precision": 2 / 3, "recall": 2 / 3, "accuracy": 5 / 6, "nll": (5 * right + wrong) / 6}
    )


def test_words_the_model_did_not_see_are_missed_not_guessed() -> None:
    logits = np.zeros((3, 5))
    logits[0, 1] = 5
    gold, counts, seen = np.asarray([1, 0, 3]), np.asarray([3]), np.asarray([True, True, False])
    logits[2, 3] = 9
    got = entities.compute_entity_metrics(logits, gold, counts, BIO, seen)
    assert (got["precision"], got["recall"], got["accuracy"]) == (1.0, 0.5, pytest.approx(2 / 3))
    assert got["nll"] == pytest.approx((np.log(np.exp(5) + 4) - 5 + np.log(5)) / 2)


def test_nothing_to_measure_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="no labelled unit"):
        entities.compute_entity_metrics(np.zeros((2, 5)), np.full(2, UNLABELLED), np.asarray([2]), BIO)
    with pytest.raises(ValueError, match="some of its words"):
        entities.compute_entity_metrics(np.zeros((2, 5)), np.asarray([0, UNLABELLED]), np.asarray([2]), BIO)


def test_schemes_with_other_letters_and_teachers_that_lack_some() -> None:
    bmes = ["O", "B-PER", "M-PER", "E-PER", "S-PER"]
    assert (
        schemes.parse_scheme(bmes).name == "BMES"
        and schemes.parse_scheme([*bmes[:4], "W-PER"]).name == "BMEWO"
    )
    bioes = ["O", "B-PER", "I-PER", "E-PER", "S-PER"]
    assert schemes.map_tag_columns(bioes, bmes, {}, "t").columns == tuple((i,) for i in range(5))
    assert schemes.map_tag_columns(bmes, ["O", "B-PER", "I-PER"], {}, "t").columns == ((0,), (1, 4), (2, 3))
    assert schemes.map_tag_columns(bmes[:4], bmes, {}, "t").unknown == (4,)
    iob1 = ["O", "I-PER", "B-LOC", "I-LOC"]
    with pytest.raises(LabelMismatchError, match="if they are IOB1, give the run IO labels"):
        schemes.map_tag_columns(iob1, BIO, {}, "t")
    assert schemes.map_tag_columns(iob1, ["O", "I-PER", "I-LOC"], {}, "t").columns == ((0,), (1,), (2, 3))
    assert schemes.convert_tags(["I-PER", "B-PER", "I-LOC", "O", "I-LOC"], "IOB1", "BIOES") == [
        "S-PER", "S-PER", "S-LOC", "O", "S-LOC",
    ]  # fmt: skip
