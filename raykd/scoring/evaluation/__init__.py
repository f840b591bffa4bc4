"""Evaluate a saved model on a file of labelled rows: reading the file by the model's labels, asking, measuring."""
