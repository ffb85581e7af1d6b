"""Luigi at work: tasks, targets, settings, and the processes that do the work."""
