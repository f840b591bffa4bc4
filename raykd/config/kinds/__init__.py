"""Kinds whose keys fill a file: of teachers, of optimizers."""
