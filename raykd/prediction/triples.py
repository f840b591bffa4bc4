"""Extract triples: a tagger finds the entities of a text, a relation model names what holds between two of them.

Decision record: every ordered pair of entities is asked about. A model whose labels say which entity comes first
(``(e1,e2)``) is asked about each pair once, in the order of the text, as it was trained. Pairs grow with the square of
the entities, so a text has a bound: the closest pairs are asked, and the number of the others is in the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice, permutations
from typing import Any

from raykd.errors import ModelError
from raykd.prediction.predictor import Predictor, build_unlabelled_rows
from raykd.tasks.forms import RowForm
from raykd.tasks.markers import mark_spans, split_direction

TEXTS = 64
"""Texts whose pairs are asked about at once."""
MOST_PAIRS = 100
"""Pairs of entities of one text that are asked about at most."""
Entity = Mapping[str, Any]
"""An entity as a tagger answers: its `text`, `type`, `start` and `end`."""


def relate_entities(
    tagged: Iterable[Mapping[str, Any]], relations: Predictor, most_pairs: int = MOST_PAIRS
) -> Iterator[dict[str, object]]:
    """Yield each tagged text with its triples and, where it has too many pairs, `pairs_left_out`.

    Args:
        tagged: Texts with their entities, as a tagger answers.
        relations: The model that names relations.
        most_pairs: Pairs of entities of one text that are asked about at most, the closest first.
    """
    rows = iter(tagged)
    directed = any(split_direction(label)[0] != label for label in relations.model.labels)
    negative = getattr(relations.task, "negative_label", None)
    while part := list(islice(rows, TEXTS)):
        pairs = [_list_pairs(row["entities"], directed=directed) for row in part]
        marked = [
            mark_spans(row["text"], (head["start"], head["end"]), (tail["start"], tail["end"]))
            for row, own in zip(part, pairs, strict=True)
            for head, tail in own[:most_pairs]
        ]
        answers = relations.predict(build_unlabelled_rows("marked", marked), probabilities=False)
        for row, own in zip(part, pairs, strict=True):
            found = [_read_triple(pair, next(answers), negative) for pair in own[:most_pairs]]
            left = {"pairs_left_out": len(own) - most_pairs} if len(own) > most_pairs else {}
            yield {**row, "triples": [triple for triple in found if triple is not None], **left}


def check_chain(tagger: Predictor, relations: Predictor) -> None:
    """Refuse models that are not a tagger and a relation model.

    Raises:
        ModelError: Names the one that is not, and its task.
    """
    wanted: tuple[tuple[Predictor, RowForm, str], ...] = (
        (tagger, "words", "finds entities (token_classification)"),
        (relations, "marked", "names relations (relation)"),
    )
    for predictor, form, what in wanted:
        if predictor.task.form != form:
            raise ModelError(
                f"triples need a model that {what}",
                got=f"a model of task {predictor.task.kind}",
                wanted="a tagger and a relation model",
                next_step="raykd predict TAGGER_DIR --relations RELATION_DIR",
            )


def _list_pairs(entities: Sequence[Entity], *, directed: bool) -> list[tuple[Entity, Entity]]:
    """Return the pairs to ask about, the closest first."""
    pairs = combinations(entities, 2) if directed else permutations(entities, 2)
    return sorted(pairs, key=lambda pair: abs(pair[0]["start"] - pair[1]["start"]))


def _read_triple(
    pair: tuple[Entity, Entity], answer: Mapping[str, Any], negative: str | None
) -> dict[str, object] | None:
    """Return the triple of a pair; None where the answer is that there is no relation."""
    label = answer["label"]
    if label == negative:
        return None
    relation, is_backward = split_direction(label)
    head, tail = pair[::-1] if is_backward else pair
    probability = answer["probability"]
    return {"head": dict(head), "relation": relation, "tail": dict(tail), "probability": probability}
