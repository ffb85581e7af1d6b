"""What a run reports: figures per step, records per row, trackers."""
