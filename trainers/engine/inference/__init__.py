"""Frozen models: sampling, scoring, log-probabilities."""
