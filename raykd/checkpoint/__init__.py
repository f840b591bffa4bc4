"""Checkpoints of runs and trials: written whole, found again, owned; and the curves that lie beside them."""
