"""Data files as records: how they are packed, encoded and cut, CSV, JSON lines, parts of a source."""
