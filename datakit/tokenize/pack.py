"""Token rows laid end to end into packs of a fixed capacity: first fit, longest first. No token is lost or
cut.

Which rows share a pack changes no loss (sub-sequences do not see each other); packs come in an order drawn
from the seed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, starts
from datakit.op import REJECTION_COLUMNS, Context, Gather, Result
from schemas import PACKS, TOKENS, Column, Schema
from schemas.errors import ConfigError

SOURCES = Column("sources", pa.list_(pa.string()), "where each sequence inside came from")
"""What packs have beside PACKS when their rows had a `source`."""


@dataclass(frozen=True, kw_only=True)
class Pack(Gather):
    """PACKS of at most `capacity` tokens out of the TOKENS of a shard; a row longer than that is rejected."""

    name: ClassVar[str] = "tokenize.pack"
    version: ClassVar[int] = 2

    capacity: int

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ConfigError("bad-setting", f"{self.name}: capacity must be at least 1, not {self.capacity}")

    @property
    def takes(self) -> Schema:
        """Token rows."""
        return TOKENS.dropping("source")

    def gives(self, *inputs: Schema) -> Schema:
        """PACKS, with the sequences' sources where the rows tell theirs."""
        return PACKS.adding(SOURCES) if "source" in inputs[0] else PACKS

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """The shard's packs, and the rows that fit in none."""
        ids = flat(rows["input_ids"])
        lengths = np.diff(starts(ids))
        fits = (lengths <= self.capacity) & (lengths > 0)
        bins = first_fit_decreasing(lengths[fits], self.capacity)
        order = ctx.rng(self.name, ctx.shard).permutation(len(bins))
        places = np.flatnonzero(fits)
        packs = [places[bins[at]] for at in order]
        tokens = int(lengths[fits].sum())
        counts = {"tokens": float(tokens), "packed_rows": float(fits.sum()), "packs": float(len(packs))}
        return Result(_packed(rows, packs), _rejected(rows, fits, lengths, self.capacity), counts)


def first_fit_decreasing(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Rows of each bin: every row, longest first (ties by place), goes to the first bin that has room.

    The bins' room is a tree of maxima, so that a row finds its bin in logarithmic time.
    """
    count = len(lengths)
    leaves = 1 << max(0, count - 1).bit_length()
    room = [capacity] * (2 * leaves)
    bins: list[list[int]] = []
    for row in np.argsort(-lengths, kind="stable").tolist():
        length, node = int(lengths[row]), 1
        while node < leaves:
            node *= 2
            if room[node] < length:
                node += 1
        if node - leaves == len(bins):
            bins.append([])
        bins[node - leaves].append(row)
        room[node] -= length
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return bins


def _packed(rows: pa.Table, packs: list[np.ndarray]) -> pa.Table:
    order = pa.array(np.concatenate(packs) if packs else [], pa.int64())
    counts = np.concatenate([[0], np.cumsum([len(pack) for pack in packs])]).astype(np.int32)
    taken = {name: flat(rows[name]).take(order) for name in ("sample_id", "input_ids", "loss_mask")}
    lengths = pc.list_value_length(taken["input_ids"])
    tokens = starts(taken["input_ids"])[counts]
    ids = taken["sample_id"].to_pylist()
    names = [hashlib.sha256("\n".join(ids[a:b]).encode()).hexdigest()[:32] for a, b in pairwise(counts.tolist())]
    columns = {
        "pack_id": pa.array(names, pa.string()),
        "input_ids": pa.ListArray.from_arrays(pa.array(tokens), taken["input_ids"].flatten()),
        "loss_mask": pa.ListArray.from_arrays(pa.array(tokens), taken["loss_mask"].flatten()),
        "lengths": pa.ListArray.from_arrays(pa.array(counts), lengths),
        "sample_ids": pa.ListArray.from_arrays(pa.array(counts), taken["sample_id"]),
    }
    kind = PACKS
    if "source" in rows.column_names:
        kind = PACKS.adding(SOURCES)
        columns[SOURCES.name] = pa.ListArray.from_arrays(pa.array(counts), flat(rows["source"]).take(order))
    return kind.conform(pa.table(columns))


def _rejected(rows: pa.Table, fits: np.ndarray, lengths: np.ndarray, capacity: int) -> pa.Table | None:
    if fits.all():
        return None
    lost = rows.filter(pa.array(~fits))
    reason = ["empty" if length == 0 else "longer-than-capacity" for length in lengths[~fits]]
    values = (reason, lengths[~fits].astype(np.float64), [f"{capacity} tokens"] * len(reason))
    for column, value in zip(REJECTION_COLUMNS, values, strict=True):
        lost = lost.append_column(column.name, pa.array(value, column.type))
    return lost
