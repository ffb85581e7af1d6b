"""Parts of a graph that recipes and commands share."""
