"""Ask a model: its predictions, the texts it writes, and whether a row's answer depends on the rows beside it."""
