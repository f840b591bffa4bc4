"""Sweeps: many runs of one base, over teachers that are loaded once."""
