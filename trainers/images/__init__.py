"""Trainers of image models: prompts in, adapters of a diffusion model out.

A room of its own beside the engine of language models: an algorithm (`algorithms/`) is one file of arithmetic over what
a sampler went through, and `diffusers` holds the networks. Nothing of it is imported by who does not ask for images;
the libraries come with the extra `images`.
"""

from __future__ import annotations

FACT = "images"
"""The fact of a manifest that says that a checkpoint is of an image model."""
