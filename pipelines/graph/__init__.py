"""The graph as plain values, and what can be checked before anything runs."""
