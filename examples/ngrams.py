"""A teacher in three lines: scikit-learn over character n-grams, fitted where it is imported."""

import json
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

FILES = [Path(__file__).parents[2] / f"shared/data/sentiment/{code}/train.jsonl" for code in ("de", "en", "fr")]
ROWS = [json.loads(line) for file in FILES for line in file.read_text(encoding="utf-8").splitlines()]

ngrams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), min_df=2, sublinear_tf=True)
model = make_pipeline(ngrams, LogisticRegression(C=10)).fit(
    [r["text"] for r in ROWS], [r["label"] for r in ROWS]
)


def predict(texts):
    """Return the probability of each label, one row per text."""
    return model.predict_proba(texts)


predict.labels = model.classes_
