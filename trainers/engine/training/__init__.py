"""The training loop: steps, losses, the optimizer and its schedule."""
