"""A reward of one's own: lists of columns in, by name; one number a row out."""

from __future__ import annotations

import itertools
import re


def variety(response: list[str]) -> list[float]:
    """How many different pairs of neighbouring words a text has: a story that goes round in circles earns little."""
    return [float(len(set(itertools.pairwise(re.findall(r"[a-z']+", text.lower()))))) for text in response]
