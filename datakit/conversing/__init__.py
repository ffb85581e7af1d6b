"""Conversations between a policy and an environment, turn by turn."""
