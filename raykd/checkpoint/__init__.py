"""Save and find checkpoints of runs and trials, and keep the curves beside them."""
