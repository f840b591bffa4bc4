"""Adversarial training: how inputs are moved to where the loss is larger."""
