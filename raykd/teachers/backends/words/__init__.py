"""Read a language model at the words that name the labels."""
