"""Whole-column arithmetic that several families of operations share."""
