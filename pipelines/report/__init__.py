"""Figures of a run, apart from how they are shown."""
