"""Small rollouts for tests of what is worked out over their tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from schemas import Schema
from schemas.rows.rollouts import NUMBERS
from schemas.rows.tokens import MASK


def rollouts(takes: Schema, masks: list[list[int]], **columns: list[Any]) -> pa.Table:
    """Rows of `takes` with these masks; a list that is not given is 0 at every token, a text of every row the same."""
    given: dict[str, pa.Array] = {}
    for column in takes.columns:
        values = columns.get(column.name)
        if column.type == MASK:
            values = masks
        elif values is None:
            values = [[0.0] * len(mask) for mask in masks] if column.type == NUMBERS else ["p"] * len(masks)
        given[column.name] = pa.array(values, column.type)
    return takes.conform(pa.table(given))


def drawn(seed: int, rows: int = 40, longest: int = 12) -> Iterator[Any]:
    """Masks of any length (some count nothing) and a maker of numbers along with them."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest, rows)
    masks = [random.integers(0, 2, length).tolist() for length in lengths]
    yield masks

    def numbers(scale: float = 1.0) -> list[list[float]]:
        return [(random.normal(size=length) * scale).astype(np.float32).tolist() for length in lengths]

    yield numbers


def counted(masks: list[list[int]]) -> list[list[int]]:
    """Places of counted tokens, row by row."""
    return [[at for at, marked in enumerate(mask) if marked and at] for mask in masks]
