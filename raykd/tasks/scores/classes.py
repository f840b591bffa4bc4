"""Score each class by itself: precision, recall, F1 and support, their averages, and which class is taken for which.

Decision record: scikit-learn counts, for labels and for entities alike. Entities are brought to its form by pairing the
spans of gold and prediction: a span that only one of them has is paired with `NO_CLASS`, so that precision, recall and
F1 are those of seqeval's strict mode; tests hold the two equal. An average is over the classes that occur in gold or
among the predictions, which is scikit-learn's default and what macro-F1 means in all tables of raykd.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

NO_CLASS = -1
"""Where a span of one side is no entity on the other."""
NO_ENTITY = "no entity"
"""What `NO_CLASS` is called of entities; a span that is none on both sides is never counted."""
Average = Literal["micro", "macro", "weighted"]


@dataclass(frozen=True)
class ClassAnswers:
    """Pairs of gold and predicted class. Made by a task's `compare_classes`.

    Attributes:
        names: The classes.
        gold_X: int64, index into `names`, or `NO_CLASS`.
        predicted_X: The same of the predictions.
        nothing: What `NO_CLASS` is called in a table; "" where no pair has it.
    """

    names: tuple[str, ...]
    gold_X: NDArray[np.int64]
    predicted_X: NDArray[np.int64]
    nothing: str = ""


@dataclass(frozen=True)
class ClassScore:
    """How well one class is found, or an average over classes.

    Attributes:
        name: The class, or micro, macro or weighted.
        precision: Right ones among the predictions of the class, in [0, 1]; 0 where there are none.
        recall: Those of the class that were found, in [0, 1]; 0 where there are none.
        f1: Harmonic mean of the two.
        support: Units of the class in gold.
        predicted: Predictions of the class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True)
class ClassScores:
    """Scores of all classes.

    Attributes:
        classes: One per class, in the order of the model's labels.
        averages: micro, macro and weighted by support, over the classes that occur.
        names: Rows and columns of `confusion`: the classes, and last what stands for no class where there is such.
        confusion: Units by gold class (rows) and predicted class (columns).
    """

    classes: tuple[ClassScore, ...]
    averages: tuple[ClassScore, ...]
    names: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]

    def leave_out(self, unknown: Set[str], labels: Sequence[str]) -> ClassScores:
        """Return the scores without the classes that a system lacks, which it is not bad at; averages stay as they are.

        Args:
            unknown: Labels that the system lacks.
            labels: All labels. A class is one of them, or an entity type that some of them begin and continue.
        """
        return replace(
            self,
            classes=tuple(
                one
                for one in self.classes
                if not unknown
                >= set([x for x in labels if x == one.name] or [x for x in labels if x[2:] == one.name])
            ),
        )

    def to_rows(self) -> list[dict[str, object]]:
        """Return a row for each class and each average: a `ClassScore`, and under ``average`` whether it is one."""
        of_classes = [{**asdict(one), "average": False} for one in self.classes]
        return [*of_classes, *({**asdict(one), "average": True} for one in self.averages)]

    def to_confusion_rows(self) -> list[dict[str, object]]:
        """Return a row for each pair of classes that occurs: ``gold``, ``predicted`` and ``count``."""
        return [
            {"gold": gold, "predicted": predicted, "count": count}
            for gold, line in zip(self.names, self.confusion, strict=True)
            for predicted, count in zip(self.names, line, strict=True)
            if count
        ]


def compute_class_scores(answers: ClassAnswers) -> ClassScores:
    """Score each class and their averages.

    Raises:
        ValueError: No class occurs in gold or among the predictions.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    gold_X, predicted_X = answers.gold_X, answers.predicted_X
    every = list(range(len(answers.names)))
    there = sorted({*gold_X.tolist(), *predicted_X.tolist()} - {NO_CLASS})
    if not there:
        raise ValueError("no class occurs in gold or among the predictions")
    found = precision_recall_fscore_support(gold_X, predicted_X, labels=every, zero_division=0.0)
    predicted_C = np.bincount(predicted_X[predicted_X != NO_CLASS], minlength=len(every))
    classes = tuple(
        ClassScore(name, float(p), float(r), float(f), int(support), int(predicted))
        for name, p, r, f, support, predicted in zip(answers.names, *found, predicted_C, strict=True)
    )
    averages = []
    for average in get_args(Average):
        p, r, f, _ = precision_recall_fscore_support(
            gold_X, predicted_X, labels=there, average=average, zero_division=0.0
        )
        support, predicted = sum(c.support for c in classes), int(predicted_C.sum())
        averages.append(ClassScore(average, float(p), float(r), float(f), support, predicted))
    counted = [*every, *([NO_CLASS] if answers.nothing else [])]
    confusion = confusion_matrix(gold_X, predicted_X, labels=counted)
    names = (*answers.names, *([answers.nothing] if answers.nothing else []))
    return ClassScores(classes, tuple(averages), names, tuple(tuple(row) for row in confusion.tolist()))


def pair_spans(
    names: Sequence[str], predicted_E3: NDArray[np.int64], gold_E3: NDArray[np.int64], nothing: str
) -> ClassAnswers:
    """Pair the entities of gold and prediction that have the same begin and end.

    Args:
        names: The types that the third column counts.
        predicted_E3: First word, the word behind the last, type (`find_entity_spans`).
        gold_E3: The same of gold.
        nothing: What a span that is no entity on one side is called.
    """
    own = {(begin, end): kind for begin, end, kind in predicted_E3.tolist()}
    true = {(begin, end): kind for begin, end, kind in gold_E3.tolist()}
    places = sorted({*own, *true})
    return ClassAnswers(
        tuple(names),
        np.asarray([true.get(place, NO_CLASS) for place in places], dtype=np.int64),
        np.asarray([own.get(place, NO_CLASS) for place in places], dtype=np.int64),
        nothing,
    )
