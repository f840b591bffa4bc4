"""Models of sentence vectors, as sentence-transformers saves them."""
