"""Generators of the corpora that ship under raykd/data/embedded: `python -m tools.embedded_corpora` writes them."""
