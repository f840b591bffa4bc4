"""Parts of `benchmarks.step`."""
