"""Training of image models as a part of a graph: the node of its checkpoint, and the program that makes it."""
