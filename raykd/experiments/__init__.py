"""Comparisons of runs: is the winner of a sweep better than the default, with seeds that no trial has seen?"""
