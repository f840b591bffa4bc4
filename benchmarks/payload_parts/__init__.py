"""The parts of `benchmarks.payload`."""
