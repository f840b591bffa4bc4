"""The parts of `benchmarks.sweep`: its setting, the two arms, what is measured inside of processes, the table."""
