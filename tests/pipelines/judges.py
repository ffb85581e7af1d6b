"""Functions that judge answers, for recipes that need a reward model."""

from __future__ import annotations

from schemas import STEERLM_ATTRIBUTES


def letters(response: list[str]) -> dict[str, list[float]]:
    """How many letters an answer has: its reward, and every attribute of it, 0 to 4."""
    lengths = [float(len(text)) for text in response]
    scale = [min(4.0, length / 4) for length in lengths]
    return {"reward": lengths, **dict.fromkeys(STEERLM_ATTRIBUTES, scale)}


def even(response: list[str]) -> list[float]:
    """1 for an answer with an even number of letters."""
    return [float(len(text) % 2 == 0) for text in response]


def bright(pixels, prompts):
    """A reward of images: how bright they are."""
    return pixels.mean((1, 2, 3))
