"""tokenize.starts: where in the learnt text each token begins, by which tokens of two vocabularies match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.columns.conversations import flat, starts
from datakit.columns.token_lists import mask_of, no_packs, token_rows
from datakit.op import Context, Label
from datakit.tokenize.encode import as_lists, tokenizer_of
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import IDS, Column, Schema
from schemas.rows.tokens import MASK

STARTS = pa.list_(pa.int64())
"""Of each token of a row; of a type that ids do not have."""


@dataclass(frozen=True, kw_only=True)
class Starts(Label):
    """Adds `<into>_text`, the text of the tokens that `mask` counts, laid end to end without control tokens and without
    blanks before it, and `<into>_starts`, one number a token: the letters of that text before it. A token that is not
    counted, is a control token, begins inside a letter or before the text has no place: -1.
    """

    name: ClassVar[str] = "tokenize.starts"
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)

    ids: str = "input_ids"
    mask: str = "loss_mask"
    into: str = "own"

    @property
    def takes(self) -> Schema:
        columns = (Column(self.ids, IDS, "tokens"), Column(self.mask, MASK, "1 where a token counts"))
        return Schema("token rows", 1, columns)

    @property
    def adds(self) -> tuple[Column, ...]:
        return (
            Column(f"{self.into}_text", pa.string(), f"text of {self.ids} that {self.mask} counts"),
            Column(f"{self.into}_starts", STARTS, "letters of it before each token; -1: the token has no place"),
        )

    def label(self, rows: pa.Table, ctx: Context) -> Mapping[str, pa.Array]:
        """What is counted of each row as text, and where its tokens begin; `DataError` for packs."""
        no_packs(rows, self.name)
        ends = starts(flat(rows[self.ids]))
        counted = np.split(mask_of(rows[self.mask], rows[self.ids], self.mask) != 0, ends[1:-1])
        tokenizer = tokenizer_of(ctx)
        # A loop over rows: what a token adds depends on the tokens before it.
        made = [_placed(tokenizer, ids, mask) for ids, mask in zip(token_rows(rows[self.ids]), counted, strict=True)]
        begins = np.concatenate([[], *(begin for _, begin in made)]).astype(np.int64)
        return {
            f"{self.into}_text": pa.array([text for text, _ in made], pa.string()),
            f"{self.into}_starts": as_lists(begins, ends),
        }


def _placed(tokenizer: Tokenizer, ids: npt.NDArray[np.int64], counted: np.ndarray) -> tuple[str, np.ndarray]:
    """The counted text of a row, and the place of each of its tokens."""
    added = tokenizer.added_texts(ids.tolist())
    control = np.isin(ids, sorted(tokenizer.control_ids))
    own = [text if count else "" for text, count in zip(added, counted, strict=True)]
    whole = "".join(own)
    text = whole.lstrip()
    lengths = np.array([len(one) for one in own], np.int64)
    before = np.cumsum(lengths) - lengths - (len(whole) - len(text))
    unfinished = np.array([not text and not special for text, special in zip(added, control, strict=True)], bool)
    inside = np.concatenate([[False], unfinished[:-1]]) if own else unfinished
    return text, np.where(counted & ~control & ~inside & (before >= 0), before, -1)
