"""Parts of `benchmarks.corpus`: made rows, and memory seen from outside."""
