"""Checkpoints: written, verified, kept, resumed."""
