"""From texts to a model's inputs: tokens, words as places in a text, and padding."""
