"""Run on a Ray cluster: train a run in stages, host its workers in Ray Train, label ahead, keep named pools."""
