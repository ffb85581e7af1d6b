"""Token rows as batches: which rows each step reads, on which rank, packed how."""
