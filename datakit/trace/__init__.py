"""One row through the graph, and back: what became of it, which rows fed a checkpoint, what a withdrawn row reaches."""
