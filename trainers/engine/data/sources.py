"""Where rows came from: one small number per row for the loss of every source, whatever the number of sources.

A dataset is scanned once. The `MOST` most frequent sources keep their name; all others, and rows without one, count as
`OTHER`. So memory stays at one byte per row even where every row names a source of its own.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

MOST, OTHER = 64, "other"
_DISTINCT = 1 << 16
"""Names that are counted; the ones first met after that many are `OTHER`."""


class Sources:
    """Collects the sources of rows, table by table; `close` gives their names and every row's number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._parts: list[np.ndarray] = []

    def add(self, values: pa.Array) -> None:
        """The sources of the next rows: text or null."""
        encoded = values.dictionary_encode()
        numbers = np.array([self._number(name) for name in encoded.dictionary.to_pylist()] + [-1], dtype=np.int32)
        places = encoded.indices.fill_null(len(numbers) - 1).to_numpy(zero_copy_only=False)
        self._parts.append(numbers[places])

    def close(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Names in alphabetical order, `OTHER` last where it occurs, and [rows] uint8 places among them.

        No names at all, and no places, where no row has a source.
        """
        numbers = np.concatenate(self._parts) if self._parts else np.empty(0, np.int32)
        self._parts = []
        if not (numbers >= 0).any():
            return (), np.empty(0, np.uint8)
        names = list(self._numbers)
        counts = np.bincount(numbers[numbers >= 0], minlength=len(names))
        frequent = sorted(range(len(names)), key=lambda number: (-int(counts[number]), names[number]))[:MOST]
        kept = sorted((names[number], number) for number in frequent if names[number] != OTHER)
        table = np.full(len(names) + 1, len(kept), dtype=np.uint8)
        for place, (_, number) in enumerate(kept):
            table[number] = place
        places = table[numbers]
        others = (OTHER,) if (places == len(kept)).any() else ()
        return (*(name for name, _ in kept), *others), places

    def _number(self, name: str | None) -> int:
        if name is None or (name not in self._numbers and len(self._numbers) >= _DISTINCT):
            return -1
        return self._numbers.setdefault(name, len(self._numbers))
