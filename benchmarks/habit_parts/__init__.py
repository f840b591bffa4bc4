"""Parts of `benchmarks.habits`: the table, how its steps are run, what their output must hold, and the verdicts."""
