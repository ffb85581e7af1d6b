"""tokenize.sequences: several templated texts of a row as token ids, each with its loss mask: pairs, and more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from datakit.op import Context, FilterDecision, Label, LabelResult, Size
from datakit.tokenize.encode import Overlong, as_lists, check_length, shortened, tokenizer_of, within
from datakit.tokenizers.tokenizer import Encoded
from schemas import IDS, PIECES, Column, Schema
from schemas.errors import ConfigError
from schemas.rows.tokens import MASK


@dataclass(frozen=True, kw_only=True)
class Sequences(Label):
    """Adds, for each `name` of `names`, of `<name>_pieces`: `<name>_ids`, `<name>_mask` (1 on every token of a trained
    piece) and `<name>_prompt_length` (tokens before the first that is trained).

    A row goes whole: where one of its sequences is over `max_length` (`overlong` as in `Encode`), or where one has no
    trained token that is predicted, since a pair of which one side teaches nothing is no pair.
    """

    name: ClassVar[str] = "tokenize.sequences"
    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)

    names: tuple[str, ...] = ("chosen", "rejected")
    max_length: int | None = None
    overlong: Overlong = "drop"

    def __post_init__(self) -> None:
        check_length(self.name, self.max_length)
        if not self.names or len(set(self.names)) < len(self.names):
            raise ConfigError(
                "bad-setting", f"{self.name}: names each sequence once, and one at least", kept="nothing was started"
            )

    @property
    def takes(self) -> Schema:
        """The pieces of every sequence."""
        columns = (Column(f"{name}_pieces", PIECES, f"templated text of {name}") for name in self.names)
        return Schema("templated", 1, tuple(columns))

    @property
    def adds(self) -> tuple[Column, ...]:
        """Ids, mask and length of the prompt of every sequence."""
        return tuple(
            column
            for name in self.names
            for column in (
                Column(f"{name}_ids", IDS, f"tokens of {name}"),
                Column(f"{name}_mask", MASK, f"1 where a token of {name}_ids is predicted and counted"),
                Column(f"{name}_prompt_length", pa.int32(), f"tokens of {name}_ids before the first that is trained"),
            )
        )

    def grown(self, given: Size) -> Size:
        return given.wider(1.35)

    def label(self, rows: pa.Table, ctx: Context) -> Mapping[str, pa.Array] | LabelResult:
        """All columns; the rows that go, with the reason."""
        columns: dict[str, pa.Array] = {}
        longest = np.zeros(rows.num_rows, np.int64)
        taught = np.ones(rows.num_rows, bool)
        for name in self.names:
            encoded: Encoded = tokenizer_of(ctx).encode_pieces(rows[f"{name}_pieces"])
            longest = np.maximum(longest, encoded.lengths)
            encoded = shortened(encoded, self.max_length, self.overlong)
            first = first_trained(encoded)
            taught &= predicts(encoded)
            columns[f"{name}_ids"] = as_lists(encoded.ids, encoded.offsets)
            columns[f"{name}_mask"] = as_lists(encoded.trained.astype(np.int8), encoded.offsets)
            columns[f"{name}_prompt_length"] = pa.array(first.astype(np.int32))
        fits = within(longest, self.max_length, self.overlong, self.name)
        if taught.all():
            return columns if fits is None else LabelResult(columns, fits)
        keep = taught if fits is None else taught & np.asarray(fits.keep)
        long = np.zeros(len(keep), bool) if fits is None else ~np.asarray(fits.keep)
        reason = np.where(long, "too-long", "no-trained-token")
        threshold = None if fits is None else fits.threshold
        return LabelResult(
            columns, FilterDecision(pa.array(keep), pa.array(reason), pa.array(longest.astype(np.float64)), threshold)
        )


def first_trained(encoded: Encoded) -> np.ndarray:
    """Place of the first trained token of each row; the row's length where there is none."""
    before = np.concatenate([[0], np.cumsum(encoded.trained)])
    nothing = before[encoded.offsets[1:]] == before[encoded.offsets[:-1]]
    place = np.searchsorted(before, before[encoded.offsets[:-1]], side="right") - 1 - encoded.offsets[:-1]
    return np.where(nothing, encoded.lengths, place)


def predicts(encoded: Encoded) -> np.ndarray:
    """Rows with a trained token behind the first, which nothing predicts."""
    total = np.concatenate([[0], np.cumsum(encoded.trained)])
    after = np.minimum(encoded.offsets[:-1] + 1, encoded.offsets[1:])
    return np.asarray(total[encoded.offsets[1:]] > total[after])
