"""Scores of predictions against gold labels: classification, entities, spans, written text; which is better."""
