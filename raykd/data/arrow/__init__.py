"""Arrow tables of rows: in memory or mapped from a file, written while a source is read."""
