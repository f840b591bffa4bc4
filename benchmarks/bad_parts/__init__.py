"""Kinds of bad input, each a generator of cases."""
