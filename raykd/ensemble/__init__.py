"""Measure an ensemble of teachers over stored answers: contributions, agreement, calibration, advice. No training."""
