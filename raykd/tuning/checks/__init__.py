"""Checks of a sweep before its first trial: its space, its trials, its resources, and whether it may be resumed."""
