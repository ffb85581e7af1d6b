"""Pieces to token ids: what a policy reads, what a reward model reads. Too long is a decision, named and
counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from datakit.op import Context, FilterDecision, Label, LabelResult, Size
from datakit.tokenizers.tokenizer import Encoded
from schemas import IDS, PIECES, Column, Schema
from schemas.errors import ConfigError, DataError

Overlong = Literal["drop", "truncate-left", "truncate-right", "error"]


@dataclass(frozen=True, kw_only=True)
class Encode(Label):
    """Adds an ids column for each (pieces column, ids column) of `columns`.

    A sequence over `max_length` is dropped with its row, cut on its left (`truncate-left`) or right
    (`truncate-right`), or stops the run (`error`).
    """

    name: ClassVar[str] = "tokenize.encode"
    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ({"columns": [["pieces", "prompt_ids"]]},)

    columns: tuple[tuple[str, str], ...] = (("pieces", "input_ids"),)
    max_length: int | None = None
    overlong: Overlong = "drop"

    def __post_init__(self) -> None:
        check_length(self.name, self.max_length)

    @property
    def takes(self) -> Schema:
        return Schema("templated", 1, tuple(Column(pieces, PIECES, "templated text") for pieces, _ in self.columns))

    @property
    def adds(self) -> tuple[Column, ...]:
        return tuple(Column(ids, IDS, f"tokens of {pieces}") for pieces, ids in self.columns)

    def grown(self, given: Size) -> Size:
        return given.wider(1.35)

    def label(self, rows: pa.Table, ctx: Context) -> Mapping[str, pa.Array] | LabelResult:
        """All columns; a row goes if any of its sequences is too long to stay."""
        columns, longest = {}, np.zeros(rows.num_rows, np.int64)
        for pieces, ids in self.columns:
            encoded = tokenizer_of(ctx).encode_pieces(rows[pieces])
            longest = np.maximum(longest, encoded.lengths)
            encoded = shortened(encoded, self.max_length, self.overlong)
            columns[ids] = as_lists(encoded.ids, encoded.offsets)
        kept = within(longest, self.max_length, self.overlong, self.name)
        return columns if kept is None else LabelResult(columns, kept)


def tokenizer_of(ctx: Context) -> Any:
    """The opened tokenizer that the operation `needs`: a `datakit.tokenizers.tokenizer.Tokenizer`, or a backend's."""
    return ctx.resources["tokenizer"]


def check_length(who: str, max_length: int | None) -> None:
    """`ConfigError` unless the limit is positive or absent."""
    if max_length is not None and max_length < 1:
        raise ConfigError(
            "bad-setting",
            f"{who}: max_length must be at least 1, not {max_length}",
            kept="nothing was started",
        )


def within(lengths: np.ndarray, max_length: int | None, overlong: Overlong, who: str) -> FilterDecision | None:
    """Which rows fit (None: all stay); `DataError` with the count if none may be too long."""
    over = lengths > (max_length if max_length is not None else np.inf)
    if overlong.startswith("truncate") or not over.any():
        return None
    if overlong == "error":
        raise DataError(
            "too-long",
            f"{who}: {int(over.sum())} of {len(over)} rows are too long, first row {int(np.argmax(over))}",
            expected=f"at most {max_length} tokens",
            found=f"{int(lengths.max())} tokens",
            next="raise max_length, or set overlong to drop, truncate-left or truncate-right",
        )
    return FilterDecision(pa.array(~over), "too-long", pa.array(lengths.astype(np.float64)), f"{max_length} tokens")


def shortened(encoded: Encoded, max_length: int | None, overlong: Overlong) -> Encoded:
    """Only the last (`truncate-left`) or the first (`truncate-right`) `max_length` tokens of each row."""
    if max_length is None or not overlong.startswith("truncate") or not (encoded.lengths > max_length).any():
        return encoded
    lengths = np.minimum(encoded.lengths, max_length)
    places = np.arange(len(encoded.ids))
    if overlong == "truncate-left":
        keep = np.repeat(encoded.offsets[1:], encoded.lengths) - places <= max_length
    else:
        keep = places - np.repeat(encoded.offsets[:-1], encoded.lengths) < max_length
    return Encoded(encoded.ids[keep], encoded.trained[keep], np.concatenate([[0], np.cumsum(lengths)]))


def as_lists(values: np.ndarray, offsets: np.ndarray) -> pa.Array:
    """A list column of flat values."""
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))
