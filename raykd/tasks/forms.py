"""Name what a row of a task consists of, the one thing that reading rows has to know of a task.

Decision record: a name and not the task itself, because several tasks share a form and the embedded corpus, the
columns and the summary of rows each need a case per form and nothing else of the task.
"""

from __future__ import annotations

from typing import Literal

RowForm = Literal[
    "text",
    "words",
    "answers",
    "target",
    "source_target",
    "plain",
    "value",
    "marked",
    "labels",
    "sentences",
    "candidates",
]
"""What a row consists of:

- text: one text or two, and a label
- words: the words of a text, a label each
- answers: a question, a context, and where the answers stand in it
- target: a text to be written after a prompt, which may be empty
- source_target: the same with a source that may not be empty
- plain: one text, which is its own gold
- value: one text or two, and a number
- marked: a text with two marked entities, and a label
- labels: one text or two, and any number of labels
- sentences: a text; where it has gold a text that means the same, or one and how much it does, a number
- candidates: a query, texts that are to be ranked for it, and how relevant each of them is, a number
"""
LABELLED_FORMS: tuple[RowForm, ...] = ("text", "words", "marked", "labels")
"""Forms whose gold is some of `data.labels`."""
