"""Systems on held-out rows: scores, the final table, notes, costs, and what a saved model says of texts."""
