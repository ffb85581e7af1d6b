"""Programs from outside, run where they reach nothing."""
