"""Weightings beside the simplest: routing by a row's language or column, and those that read how good teachers are."""
