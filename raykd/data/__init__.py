"""Rows of text: readers, the embedded corpora, and the deterministic, rank-sharded stream of batches."""
