"""Kinds of teacher whose keys fill a file."""
