"""Record what trials report: `callback` writes journal and curves, `trial_runs` the child runs in MLflow."""
