"""Judges: rubrics, what a judge is asked by them, how its replies are read, how votes make a verdict."""
