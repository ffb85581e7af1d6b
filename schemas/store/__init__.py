"""Where datasets and checkpoints lie, and how a folder becomes complete, at once or not at all."""
