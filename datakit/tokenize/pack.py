"""Token rows laid end to end into packs of a fixed capacity, longest first. No token is lost or cut.

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

from datakit.columns.bins import PACKINGS, Packing
from datakit.columns.conversations import flat, starts
from datakit.columns.rejections import set_aside
from datakit.op import Context, Gather, Result, Size
from schemas import PACKS, TOKENS, Schema
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.rows.tokens import SOURCES


@dataclass(frozen=True, kw_only=True)
class Pack(Gather):
    """PACKS of at most `capacity` tokens out of the TOKENS of a shard; a row longer than that is rejected. `packing`: a
    row goes to the first pack with room, or to the one that it fills best.
    """

    name: ClassVar[str] = "tokenize.pack"
    version: ClassVar[int] = 2

    capacity: int
    packing: Packing = "first-fit-decreasing"

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ConfigError("bad-setting", f"{self.name}: capacity must be at least 1, not {self.capacity}")

    @property
    def takes(self) -> Schema:
        return TOKENS.dropping("source")

    def gives(self, *inputs: Schema) -> Schema:
        """PACKS, with the sequences' sources where the rows tell theirs."""
        return PACKS.adding(SOURCES) if "source" in inputs[0] else PACKS

    def grown(self, given: Size) -> Size:
        return given.wider(0.3)

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """How full the packs are."""
        return fullness(made, self.capacity)

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """The shard's packs, and the rows that fit in none."""
        lengths = np.diff(starts(flat(rows["input_ids"])))
        fits, packs = packs_of(lengths, self.capacity, self.packing, ctx.rng(self.name, ctx.shard))
        return Result(_packed(rows, packs), rejected(rows, fits, lengths, self.capacity), counted(lengths, fits, packs))


def packs_of(
    lengths: np.ndarray, capacity: int, packing: Packing, rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Which rows fit into a pack at all, and the rows of every pack, packs in an order drawn from `rng`."""
    fits = (lengths <= capacity) & (lengths > 0)
    bins = PACKINGS[packing](lengths[fits], capacity)
    places = np.flatnonzero(fits)
    return fits, [places[bins[at]] for at in rng.permutation(len(bins))]


def fullness(made: Manifest, capacity: int) -> tuple[str, ...]:
    """How full the packs are, and how many rows one holds: by that number a batch counts more rows."""
    counts = made.stats.get("counts", {})
    packs = counts.get("packs", 0)
    if not packs:
        return ()
    share = counts["tokens"] / (packs * capacity)
    return (f"{packs:,.0f} packs, {share:.2%} full, {counts['packed_rows'] / packs:.1f} rows in one",)


def counted(lengths: np.ndarray, fits: np.ndarray, packs: list[np.ndarray]) -> dict[str, float]:
    """The counts of a shard: tokens and rows in packs, and packs."""
    return {"tokens": float(lengths[fits].sum()), "packed_rows": float(fits.sum()), "packs": float(len(packs))}


def _packed(rows: pa.Table, packs: list[np.ndarray]) -> pa.Table:
    order = pa.array(np.concatenate(packs) if packs else [], pa.int64())
    counts = np.concatenate([[0], np.cumsum([len(pack) for pack in packs])]).astype(np.int32)
    taken = {name: flat(rows[name]).take(order) for name in ("sample_id", "input_ids", "loss_mask")}
    lengths = pc.list_value_length(taken["input_ids"])
    tokens = starts(taken["input_ids"])[counts]
    columns = {
        "pack_id": pack_ids(taken["sample_id"], counts),
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


def pack_ids(ids: pa.Array, counts: np.ndarray) -> pa.Array:
    """A name for every pack, of the `ids` of its rows; pack n holds those from `counts[n]` to `counts[n + 1]`."""
    texts = ids.to_pylist()
    names = [hashlib.sha256("\n".join(texts[a:b]).encode()).hexdigest()[:32] for a, b in pairwise(counts.tolist())]
    return pa.array(names, pa.string())


def rejected(rows: pa.Table, fits: np.ndarray, lengths: np.ndarray, capacity: int) -> pa.Table | None:
    """The rows that fit in no pack, with the reason; None where there are none."""
    if fits.all():
        return None
    lost = lengths[~fits]
    reason = pa.array(np.where(lost == 0, "empty", "longer-than-capacity"), pa.string())
    return set_aside(rows.filter(pa.array(~fits)), reason, pa.array(lost, pa.float64()), f"{capacity} tokens")
