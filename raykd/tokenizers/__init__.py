"""Tokenizers of raykd's own: learnt from the training texts, hashed, united, or on sentencepiece."""
