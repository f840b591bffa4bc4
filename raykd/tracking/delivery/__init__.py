"""Bring records to MLflow, now or later: points, other operations, and what is left over."""
