"""What MLflow records in: its database, its artifacts, its failures and its pages."""
