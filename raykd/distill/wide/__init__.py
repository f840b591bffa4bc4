"""Losses and answers over wide vocabularies on a GPU, which read the logits a few times instead of some twenty."""
