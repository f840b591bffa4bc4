"""Divergences beside the first: what a divergence is, and those that take distributions or batches apart."""
