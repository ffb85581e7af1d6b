"""Pieces to token ids with a loss mask: rows that a trainer of answers reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns import learnt_ends
from datakit.op import Context, FilterDecision, Label, LabelResult, Size
from datakit.tokenize.encode import Overlong, as_lists, check_length, shortened, tokenizer_of, within
from datakit.tokenize.sequences import predicts
from datakit.tokenizers.tokenizer import Encoded
from schemas import PIECES, TOKENS, Column, Schema
from schemas.dataset import Dataset
from schemas.end_tokens import TurnEnd
from schemas.errors import ConfigError
from schemas.manifest import Manifest

_CURE = "use a template that closes the assistant's turn, or set append_eos"


@dataclass(frozen=True, kw_only=True)
class Mask(Label):
    """Adds `input_ids` and `loss_mask` (1 on every token of a trained piece), and `sample_id` where rows go
    by another id.

    `append_eos` adds the end token, trained, to rows that end in a trained piece and not in that token already, but
    for answers that were cut (`finish_reason` length). A row of which no token is trained, or none is left by a cut, is
    rejected. `max_length` and `overlong` as in `Encode`.
    """

    name: ClassVar[str] = "tokenize.mask"
    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)

    pieces: str = "pieces"
    id_column: str = "sample_id"
    append_eos: bool = False
    max_length: int | None = None
    overlong: Overlong = "drop"

    def __post_init__(self) -> None:
        check_length(self.name, self.max_length)

    @property
    def takes(self) -> Schema:
        """Pieces and the row's id."""
        columns = (
            Column(self.id_column, pa.string(), "the row's id"),
            Column(self.pieces, PIECES, "templated text"),
        )
        return Schema("templated", 1, columns)

    @property
    def adds(self) -> tuple[Column, ...]:
        names = ("input_ids", "loss_mask") if self.id_column == "sample_id" else ("sample_id", "input_ids", "loss_mask")
        return tuple(TOKENS[name] for name in names)

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """How the rows' template ends an assistant's turn."""
        return TurnEnd.of(dataset.facts).facts

    def counts(self, rows: pa.Table, ctx: Context) -> Mapping[str, float]:
        """Rows that do not teach where to stop."""
        eos = tokenizer_of(ctx).eos_token
        ends = ((eos,) if eos else ()) + TurnEnd.of(ctx.prepared).stop
        cut, open_ended = learnt_ends.cut_rows(rows), learnt_ends.open_rows(rows)
        pieces = rows[self.pieces]
        return learnt_ends.counts(pieces, ends, cut=cut, open_ended=open_ended, appended=self.append_eos)

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """Whether all rows teach an end."""
        return learnt_ends.notes(made, _CURE)

    def grown(self, given: Size) -> Size:
        return given.wider(1.35)

    def label(self, rows: pa.Table, ctx: Context) -> Mapping[str, pa.Array] | LabelResult:
        """The columns; rows that are too long or teach nothing go."""
        tokenizer = tokenizer_of(ctx)
        encoded = tokenizer.encode_pieces(rows[self.pieces])
        if self.append_eos:
            end = tokenizer.id_of(tokenizer.eos_token)
            if end is None:
                raise ConfigError("no-eos", f"{self.name}: the tokenizer has no end token to append")
            encoded = ended(encoded, end, but=learnt_ends.cut_rows(rows))
        kept = within(encoded.lengths, self.max_length, self.overlong, self.name)
        encoded = shortened(encoded, self.max_length, self.overlong)
        columns = {
            "input_ids": as_lists(encoded.ids, encoded.offsets),
            "loss_mask": as_lists(encoded.trained.astype(np.int8), encoded.offsets),
        }
        if self.id_column != "sample_id":
            columns["sample_id"] = rows[self.id_column]
        return _taught(columns, encoded, kept)


def ended(encoded: Encoded, end: int, but: npt.NDArray[np.bool_]) -> Encoded:
    """`end`, trained, behind each row whose last token is trained and is another, and that is none of `but`."""
    last = np.maximum(encoded.offsets[1:] - 1, 0)
    some = (encoded.lengths > 0) & ~but
    adds = np.zeros(len(last), bool)
    adds[some] = encoded.trained[last[some]] & (encoded.ids[last[some]] != end)
    at = encoded.offsets[1:][adds]
    ids = np.insert(encoded.ids, at, end)
    trained = np.insert(encoded.trained, at, True)
    return Encoded(ids, trained, encoded.offsets + np.concatenate([[0], np.cumsum(adds)]))


def _taught(
    columns: dict[str, pa.Array], encoded: Encoded, kept: FilterDecision | None
) -> Mapping[str, pa.Array] | LabelResult:
    """The columns, without rows of which nothing can be learnt (the first token is never predicted)."""
    taught = predicts(encoded)
    if taught.all():
        return columns if kept is None else LabelResult(columns, kept)
    fits = pa.array(np.ones(len(taught), bool)) if kept is None else kept.keep
    reason = pc.if_else(fits, "no-trained-token", "too-long")
    value = pc.if_else(fits, 0.0, pa.array(encoded.lengths.astype(np.float64)))
    keep = pc.and_(fits, pa.array(taught))
    return LabelResult(columns, FilterDecision(keep, reason, value, kept.threshold if kept is not None else None))
