"""`Lexicon`: words and templates of one language of the embedded corpus, compiled from `lexicons/<language>.yaml`.

Decision record: the words are data, so that a language is added by writing one file; the marks in a template
([..] flips the opinion, (..) only looks like it, <..> is somebody else's view) are the single source both of what
is written and of how it is read, so writer and reader cannot drift apart.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import yaml

_FOLDER = Path(__file__).parent / "lexicons"
_MARKS = re.compile(r"[\[\]()<>~]")
_MARKED = {
    "flip": re.compile(r"\[([^]]*)\]"),
    "keep": re.compile(r"\(([^)]*)\)"),
    "reported": re.compile(r"<([^>]*)>"),
}
_SLOT = re.compile(r"\{(\w+)\}")
_HEAD = 1.5
"""The k-th opinion word (from 0) comes up in proportion to 1 / (k + _HEAD)."""
_COMMON = 4
"""So many words of all domains are more frequent than a domain's own."""


@dataclass(frozen=True)
class Opinion:
    """A predicate. forms: (masculine, feminine), equal where the language does not tell."""

    forms: tuple[str, str]
    noun: bool


@dataclass(frozen=True)
class Template:
    """parts: literals at even places, slot names at odd ones. for_nouns: whether a noun may be its opinion."""

    parts: tuple[str, ...]
    for_nouns: bool


@dataclass(frozen=True)
class Domain:
    """aspects: what is judged. opinions: by label 0 (negative), 1 (positive), with cumulated weights."""

    aspects: tuple[str, ...]
    opinions: tuple[tuple[Opinion, ...], tuple[Opinion, ...]]
    weights: tuple[tuple[float, ...], tuple[float, ...]]
    facts: tuple[Template, ...]


@dataclass(frozen=True)
class Lexicon:
    """Everything that writer and reader of one language know.

    polarity: opinion, lower case, to its label. phrases: marked phrase, lower case, to flip, keep or reported.
    """

    gap: str
    stop: str
    comma: str
    noun_intensifier: str
    but: tuple[str, ...]
    although: tuple[str, ...]
    templates: dict[str, tuple[Template, ...]]
    words: dict[str, tuple[str, ...]]
    domains: tuple[Domain, ...]
    polarity: dict[str, int]
    phrases: dict[str, str]


def pick(random: Random, pool: tuple[Any, ...]) -> Any:
    """One of the pool. Not `Random.choice`, whose use of the generator is not promised from Python to Python."""
    return pool[int(random.random() * len(pool))]


def pick_early(random: Random, pool: tuple[Any, ...]) -> Any:
    """One of the pool, the earlier the more often (the first half comes up in seven of ten)."""
    at = random.random()
    return pool[int(at * at * len(pool))]


def pick_opinion(random: Random, domain: Domain, label: int) -> Opinion:
    """An opinion of this label, frequent ones more often."""
    weights = domain.weights[label]
    return domain.opinions[label][bisect_right(weights, random.random() * weights[-1])]


@cache
def load_lexicon(language: str) -> Lexicon:
    """The lexicon of a language that `list_embedded_languages` lists."""
    tree: dict[str, Any] = yaml.safe_load((_FOLDER / f"{language}.yaml").read_text(encoding="utf-8"))
    words = {
        name: _listed(tree[name]) if isinstance(tree[name], str) else tuple(tree[name])
        for name in ("intensifiers", "openers", "who", "source", "thing", "place", "time", "number")
    }
    shared = tuple(_opinions(tree[name]) for name in ("negative", "positive"))
    domains = tuple(_domain(part, tree["facts"], shared) for part in tree["domains"].values())
    groups = ("both", "flip", "distant", "double", "reported")
    templates = {group: tuple(_template(t) for t in tree[group]) for group in groups}
    # Clauses that stand well inside "... says that": those that begin with what is judged.
    for group in ("both", "flip"):
        templates[f"plain_{group}"] = tuple(t for t in templates[group] if t.parts[:2] == ("", "a"))
    return Lexicon(
        gap=tree["gap"],
        stop=tree["stop"],
        comma=tree["comma"],
        noun_intensifier=tree["noun_intensifier"],
        but=tuple(tree["but"]),
        although=tuple(tree["although"]),
        templates=templates,
        words=words,
        domains=domains,
        polarity=_polarity(domains),
        phrases=_phrases([t for group in groups for t in tree[group]], words["source"]),
    )


@cache
def available() -> tuple[str, ...]:
    """Languages that the corpus can be written in."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.yaml")))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _opinions(text: str) -> tuple[Opinion, ...]:
    found = []
    for word in _listed(text):
        masculine, _, feminine = word.removeprefix("=").partition("/")
        found.append(Opinion((masculine, feminine or masculine), word.startswith("=")))
    return tuple(found)


def _domain(part: dict[str, Any], facts: list[str], shared: tuple[tuple[Opinion, ...], ...]) -> Domain:
    negative, positive = (
        (*shared[label][:_COMMON], *_opinions(part[name]), *shared[label][_COMMON:])
        for label, name in enumerate(("negative", "positive"))
    )
    return Domain(
        aspects=_listed(part["aspects"]),
        opinions=(negative, positive),
        weights=(_weights(len(negative)), _weights(len(positive))),
        facts=tuple(_template(t) for t in [*facts, *part["facts"]]),
    )


def _weights(count: int) -> tuple[float, ...]:
    return tuple(accumulate(1.0 / (k + _HEAD) for k in range(count)))


def _template(text: str) -> Template:
    return Template(tuple(_SLOT.split(_MARKS.sub("", text))), not text.startswith("~"))


def _polarity(domains: tuple[Domain, ...]) -> dict[str, int]:
    """Every form of every opinion, lower case, to its label."""
    return {
        form.casefold(): label
        for domain in domains
        for label in (0, 1)
        for opinion in domain.opinions[label]
        for form in opinion.forms
    }


def _phrases(templates: list[str], sources: tuple[str, ...]) -> dict[str, str]:
    """Marked phrases by kind; {source} stands for each of them."""
    found: dict[str, str] = {}
    for text in templates:
        for kind, pattern in _MARKED.items():
            for phrase in pattern.findall(text):
                people = sources if "{source}" in phrase else ("",)
                found.update({phrase.replace("{source}", person).casefold(): kind for person in people})
    return found
