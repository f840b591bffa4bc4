"""Pools: the teachers of a run, started by the run itself or by an earlier process under a name."""
