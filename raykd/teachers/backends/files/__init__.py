"""A teacher whose answers lie in files: where they are, how their columns are read, how any row is found."""
