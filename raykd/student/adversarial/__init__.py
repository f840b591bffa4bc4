"""Adversarial training in the training loop."""
