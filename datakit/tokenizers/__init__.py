"""Tokenizers: text to ids and back, and the files in which other programs keep them."""
