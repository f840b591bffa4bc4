"""Comparisons of runs: whether the winner of a sweep beats the default, over seeds that no trial has used."""
