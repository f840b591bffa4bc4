"""Rows of text: reading them, the embedded corpus, and the deterministic, rank-sharded stream of batches."""
