"""The arms of `benchmarks.scaling`."""
