"""What the commands share: jobs, the pool of a run, sessions with Ray and MLflow, progress, waiting, endings."""
