"""Functions that judge answers, for recipes that need a reward model."""

from __future__ import annotations

import re

from schemas import STEERLM_ATTRIBUTES

_ANSWERS = re.compile(r"<<<answer [AB] (\w+)>>>\n(.*?)\n<<<end \1>>>", re.DOTALL)


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


def longer(conversations: list[list[dict[str, str]]]) -> list[str]:
    """Prefers the longer of two answers."""
    replies = []
    for turns in conversations:
        first, second = (len(text) for _, text in _ANSWERS.findall(turns[-1]["content"]))
        replies.append(f"[[{'tie' if first == second else 'A' if first > second else 'B'}]]")
    return replies
