"""Make the ensemble report of a run: at its end, and from its folder."""
