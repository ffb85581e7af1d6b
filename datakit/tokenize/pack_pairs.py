"""Token pairs laid end to end into packs of a fixed capacity, as `tokenize.pack` does it with single sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.bins import Packing
from datakit.columns.conversations import flat, starts
from datakit.op import Context, Gather, Result, Size
from datakit.tokenize.pack import counted, fullness, pack_ids, packs_of, rejected
from schemas import PACKED_PAIRS, PAIRS, Column, Schema
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.rows.tokens import SOURCES

_SIDES = ("chosen", "rejected")


@dataclass(frozen=True, kw_only=True)
class PackPairs(Gather):
    """PACKED_PAIRS of at most `capacity` tokens, both sides together, out of the PAIRS of a shard; a longer pair is
    rejected. `packing` as in `Pack`; `numbers` are number columns of the pairs that go along, as lists with one entry
    per pair inside.
    """

    name: ClassVar[str] = "tokenize.pack_pairs"

    capacity: int
    packing: Packing = "first-fit-decreasing"
    numbers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ConfigError("bad-setting", f"{self.name}: capacity must be at least 1, not {self.capacity}")
        if len({*self.numbers, *PACKED_PAIRS.names}) < len(self.numbers) + len(PACKED_PAIRS.names):
            raise ConfigError("bad-setting", f"{self.name}: numbers names a column twice, or one that packs have")

    @property
    def takes(self) -> Schema:
        """Token pairs, and their numbers."""
        return PAIRS.dropping("source").adding(*(Column(n, pa.float64(), "a number of the pair") for n in self.numbers))

    def gives(self, *inputs: Schema) -> Schema:
        """PACKED_PAIRS with the numbers, and with the pairs' sources where these are known."""
        kind = PACKED_PAIRS.adding(
            *(Column(n, pa.list_(pa.float64()), "one of each pair inside") for n in self.numbers)
        )
        return kind.adding(SOURCES) if "source" in inputs[0] else kind

    def grown(self, given: Size) -> Size:
        return given.wider(0.3)

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """How full the packs are."""
        return fullness(made, self.capacity)

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """The shard's packs, and the pairs that fit in none."""
        sides = [np.diff(starts(flat(rows[f"{side}_ids"]))) for side in _SIDES]
        lengths = np.where(np.minimum(*sides) > 0, np.add(*sides), 0)
        fits, packs = packs_of(lengths, self.capacity, self.packing, ctx.rng(self.name, ctx.shard))
        return Result(
            self._packed(rows, packs), rejected(rows, fits, lengths, self.capacity), counted(lengths, fits, packs)
        )

    def _packed(self, rows: pa.Table, packs: list[np.ndarray]) -> pa.Table:
        order = pa.array(np.concatenate(packs) if packs else [], pa.int64())
        counts = np.concatenate([[0], np.cumsum([len(pack) for pack in packs])]).astype(np.int32)
        names = flat(rows["pair_id"]).take(order)
        columns = {"pack_id": pack_ids(names, counts), "pair_ids": pa.ListArray.from_arrays(pa.array(counts), names)}
        for side in _SIDES:
            ids, mask = (flat(rows[f"{side}_{part}"]).take(order) for part in ("ids", "mask"))
            tokens = pa.array(starts(ids)[counts])
            columns[f"{side}_ids"] = pa.ListArray.from_arrays(tokens, ids.flatten())
            columns[f"{side}_mask"] = pa.ListArray.from_arrays(tokens, mask.flatten())
            columns[f"{side}_lengths"] = pa.ListArray.from_arrays(pa.array(counts), pc.list_value_length(ids))
        for name in (*self.numbers, *(["source"] if "source" in rows.column_names else [])):
            whole = SOURCES.name if name == "source" else name
            columns[whole] = pa.ListArray.from_arrays(pa.array(counts), flat(rows[name]).take(order))
        return self.gives(Schema.of_arrow(rows.schema)).conform(pa.table(columns))
