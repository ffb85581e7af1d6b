"""A text with placeholders, filled in and tokenized part by part: what a part is, and how long rows are shortened."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, single_question
from datakit.tokenizers.tokenizer import Encoded
from schemas import PIECES

_PLACE = re.compile(r"( *\{[^{}]+\})")
_BEFORE = {"text": "a", "special": False, "trained": False}


@dataclass(frozen=True)
class Parts:
    """The parts of `template`: placeholders with the blanks before them, and what stands between. `columns` say which
    column a placeholder stands for; without an entry that of its name.
    """

    template: str
    columns: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The parts as they are written."""
        return tuple(part for part in _PLACE.split(self.template) if part)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The placeholder of each part; empty where the template writes it."""
        return tuple(part.lstrip(" ")[1:-1] if _PLACE.fullmatch(part) else "" for part in self.texts)

    def column(self, key: str) -> str:
        """The column that a placeholder stands for."""
        return self.columns.get(key, key)

    def encoded(self, at: int, rows: pa.Table, tokenizer: Any) -> Encoded:
        """The tokens of part `at` of every row, as they stand inside a text; of the first part, at its start."""
        part, key = self.texts[at], self.keys[at]
        texts = pa.array([part] * rows.num_rows, pa.string())
        if key:
            blanks = part[: len(part) - len(part.lstrip(" "))]
            values = pc.utf8_trim(texts_of(rows, self.column(key))[0], " ")
            texts = pc.binary_join_element_wise(blanks if at else "", values, "")
        before = [_BEFORE] if at else []
        pieces = [[*before, {"text": text, "special": False, "trained": True}] for text in texts.to_pylist()]
        whole = tokenizer.encode_pieces(pa.array(pieces, PIECES))
        kept = np.concatenate([[0], np.cumsum(whole.trained)])[whole.offsets]
        return Encoded(whole.ids[whole.trained], whole.trained[whole.trained], kept)


def texts_of(rows: pa.Table, name: str) -> tuple[pa.Array, np.ndarray]:
    """The texts of a column, of `messages` those of each row's one user turn; and the rows that have other turns."""
    column = flat(rows[name])
    if name != "messages":
        return column, np.zeros(len(column), bool)
    return single_question(column)


def cuts(lengths: np.ndarray, fields: Sequence[int], excess: np.ndarray) -> np.ndarray:
    """Tokens to be cut out of each part (a row of `lengths`) of each row: the excess in equal shares over the parts
    `fields`, in their order and the first ones one more; never more than a part has.
    """
    cut = np.zeros_like(lengths)
    for rank, at in enumerate(fields):
        share = excess // len(fields) + (rank < excess % len(fields))
        cut[at] = np.minimum(share, lengths[at])
    return cut


def laid_out(parts: Sequence[Encoded], cut: np.ndarray, left: bool, ends: Sequence[Sequence[int]]) -> np.ndarray:
    """The ids of all rows, end to end: what opens a row, its parts less what is cut on their left or right, what stands
    before the last part, and what closes the row.
    """
    first, middle, last = (np.array(ids, np.int32) for ids in ends)
    spans: list[np.ndarray] = [np.empty(0, np.int32)]
    for row in range(cut.shape[1]):
        own = []
        for at, part in enumerate(parts):
            start, end = part.offsets[row], part.offsets[row + 1]
            off = cut[at, row] if left else 0
            own.append(part.ids[start + off : end - (cut[at, row] - off)])
        spans += [first, *own[:-1], middle, own[-1], last]
    return np.concatenate(spans)
