"""The parts of `benchmarks.quality`."""
