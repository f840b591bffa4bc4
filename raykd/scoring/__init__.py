"""Score systems on held-out rows: the final table, notes, costs, reviews of teachers, predictions of a saved model."""
