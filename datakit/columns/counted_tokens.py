"""The tokens that a mask counts, laid end to end: what rewards, advantages and divergences are worked out over.

Legend: B rows, T tokens of all of them, C counted tokens. The first token of a row never counts, because nothing
predicts it; what is not counted is 0 in the columns that come out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.columns.conversations import flat, starts
from schemas import Column, Schema
from schemas.errors import DataError
from schemas.rows.rollouts import NUMBERS
from schemas.rows.tokens import MASK

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CountedTokens:
    """The rows of a table by the mask column `name`; `ends` are the offsets of all tokens [B + 1]."""

    rows: pa.Table
    name: str
    ends: npt.NDArray[np.int32]
    counted_T: npt.NDArray[np.bool_]

    @staticmethod
    def of(rows: pa.Table, name: str) -> CountedTokens:
        """By the masks in `name`."""
        masks = flat(rows[name])
        ends = starts(masks)
        counted_T = np.asarray(masks.flatten()) != 0
        counted_T[ends[:-1][np.diff(ends) > 0]] = False
        return CountedTokens(rows, name, ends, counted_T)

    @staticmethod
    def reading(kind: str, mask: str, *lists: str) -> Schema:
        """The mask and lists of numbers along with it, as an operation takes them."""
        columns = (Column(name, NUMBERS, "one number for every token") for name in lists)
        return Schema(kind, 1, (Column(mask, MASK, "1 where a token counts"), *columns))

    @cached_property
    def lengths_B(self) -> npt.NDArray[np.int64]:
        """Counted tokens of every row."""
        return np.diff(np.concatenate([[0], np.cumsum(self.counted_T)])[self.ends])

    @cached_property
    def stops_B(self) -> npt.NDArray[np.int64]:
        """Where every row ends among the C."""
        return np.cumsum(self.lengths_B)

    def read(self, name: str) -> Floats:
        """The numbers of the list column `name` at counted tokens [C]; `DataError` where it is not as long as the mask.

        What is null is NaN.
        """
        column = flat(self.rows[name])
        differ = np.flatnonzero(np.diff(starts(column)) != np.diff(self.ends))
        if len(differ):
            raise DataError(
                "token-length",
                f"{name} is not as long as {self.name} in {len(differ)} of {len(column)} rows, first row {differ[0]}",
                expected="one number for every token",
                kept="nothing was published",
                next=f"make {name} of these very rows",
            )
        return np.asarray(column.flatten(), np.float64)[self.counted_T]

    def each(self, values_B: npt.ArrayLike) -> Floats:
        """A number of every row at each of its counted tokens [C]."""
        return np.repeat(np.asarray(values_B, np.float64), self.lengths_B)

    def sums(self, values_C: Floats) -> Floats:
        """Sums over counted tokens [B]."""
        row_C = np.repeat(np.arange(len(self.lengths_B)), self.lengths_B)
        return np.bincount(row_C, weights=values_C, minlength=len(self.lengths_B)).astype(np.float64)

    def accumulated(self, values_C: Floats, decay_B: Floats) -> Floats:
        """x_t = value_t + decay x_{t+1} within every row [C]: one place of all rows at a time, from their ends."""
        longest_first = np.argsort(-self.lengths_B, kind="stable")
        lengths, stops, decay = (numbers[longest_first] for numbers in (self.lengths_B, self.stops_B, decay_B))
        made_C, carry = np.empty(len(values_C)), np.zeros(len(lengths))
        for behind in range(int(lengths[0]) if len(lengths) else 0):
            rows = int(np.searchsorted(-lengths, -behind))  # those with more than `behind` tokens
            place = stops[:rows] - 1 - behind
            carry = values_C[place] + decay[:rows] * carry[:rows]
            made_C[place] = carry
        return made_C

    def column(self, values_C: Floats) -> pa.Array:
        """Numbers of counted tokens as lists along with the mask, 0 elsewhere."""
        values_T = np.zeros(len(self.counted_T), np.float32)
        values_T[self.counted_T] = values_C
        return pa.ListArray.from_arrays(pa.array(self.ends), pa.array(values_T), type=NUMBERS)

    def finite(self, *values: Floats) -> npt.NDArray[np.bool_]:
        """Rows of which every number [C] of all `values` is finite, as float32 too [B]."""
        bad_C = np.zeros(int(self.stops_B[-1]) if len(self.stops_B) else 0)
        for values_C in values:
            bad_C += ~(np.abs(values_C) <= np.finfo(np.float32).max)
        return self.sums(bad_C) == 0
