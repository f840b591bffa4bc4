"""Tokens of many rows: tokenised once into files that are mapped, and tokenizers that were learnt from them."""
