"""Readers of data files: unpacking, encodings, CSV, JSON lines, Parquet, hub sets, parts of a source."""
