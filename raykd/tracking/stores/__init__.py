"""What MLflow stands on, looked at before and while it records: database, artifacts, failures, pages."""
