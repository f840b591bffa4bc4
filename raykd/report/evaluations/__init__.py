"""What the evaluation of a saved model found, and its tables."""
