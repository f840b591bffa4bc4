"""What the commands share: the driver, jobs, the pool of a run, sessions with Ray and MLflow, progress, endings."""
