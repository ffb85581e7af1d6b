"""One part of a dataset, so that equal keys never stand in two parts: train and validation by prompt.

Every key has a place in 0 .. 1 that is a function of the key, the seed and how many splits its rows have been through
(fact `splits`); parts are intervals. By `shares` a key's part never changes when rows come or go, and a part is split
again as if nothing had been; by `counts` the intervals are cut so that each part holds an exact number of keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.columns.conversations import first_question, flat
from datakit.columns.seeded import Keys, text_keys
from datakit.op import Context, GatherAll, Result
from schemas import MESSAGES, Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError
from schemas.manifest import Manifest

FACT = "splits"
"""In a manifest: how many splits its rows have been through, one behind the other."""

_WHOLE = 1 << 64


@dataclass(frozen=True, kw_only=True)
class Split(GatherAll):
    """The rows of the part named `part`; run it once for each part, with the same seed.

    `parts` names all parts. `shares` (sum 1) or `counts` (numbers of distinct keys; -1 once, for the rest,
    which may be empty unless it is asked for) gives their sizes. Rows of other parts are counted,
    not rejected: they stand in the other parts' datasets. `key` is a column of text, or `messages`: conversations that
    begin with the same question stay together, whatever was answered.
    """

    name: ClassVar[str] = "blend.split"
    version: ClassVar[int] = 2
    replaced_facts: ClassVar[frozenset[str]] = frozenset({FACT})

    part: str
    parts: tuple[str, ...]
    shares: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    key: str = "prompt_id"

    def __post_init__(self) -> None:
        faults = []
        if len(set(self.parts)) != len(self.parts) or self.part not in self.parts:
            faults.append(f"part {self.part!r} must be one of {', '.join(self.parts)}, each named once")
        if bool(self.shares) == bool(self.counts):
            faults.append("exactly one of shares and counts is needed")
        if len(self.shares or self.counts) != len(self.parts):
            faults.append(f"{len(self.shares or self.counts)} sizes for {len(self.parts)} parts")
        if self.shares and not (all(0 < share <= 1 for share in self.shares) and abs(sum(self.shares) - 1) < 1e-9):
            faults.append(f"shares {self.shares} are not positive numbers with the sum 1")
        if self.counts and not (all(c > 0 or c == -1 for c in self.counts) and self.counts.count(-1) <= 1):
            faults.append(f"counts {self.counts} are not positive numbers, with -1 at most once")
        if faults:
            raise ConfigError("bad-setting", f"blend.split: {'; '.join(faults)}", kept="nothing was started")

    @property
    def takes(self) -> Schema:
        return Schema(
            "keyed",
            1,
            (Column(self.key, self._type, "rows with the same value stay together", nullable=True),),
        )

    def gives(self, *inputs: Schema) -> Schema:
        return inputs[0]

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """How many splits the rows have been through."""
        return {FACT: _splits_before(dataset)}

    def facts(self, ctx: Context) -> Mapping[str, Any]:
        """One split more than its input's."""
        return {FACT: ctx.prepared[FACT] + 1}

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """An empty part is noted: all rows stand in the others."""
        others = made.stats.get("counts", {}).get("rows.other_parts", 0)
        if made.num_rows or not others:
            return ()
        return (f"part {self.part} of blend.split has no row, the other parts have {others:g}: raise its size",)

    def gather_all(self, dataset: Dataset, ctx: Context) -> Iterator[Result]:
        """The rows of the part, in the order of the input."""
        shards, splits = range(len(dataset.shards)), _splits_before(dataset)
        seeds = (ctx.seed, self.name, splits) if splits else (ctx.seed, self.name)
        keys = [text_keys(self._texts(dataset.read_shard(i, columns=[self.key])), *seeds) for i in shards]
        ends = self._ends_by_share() if self.shares else self._ends_by_count(keys)
        at = self.parts.index(self.part)
        low, high = (ends[at - 1] if at else 0), ends[at] - 1
        for shard in shards:
            rows = dataset.read_shard(shard)
            kept = rows.filter(pa.array(_between(keys[shard], low, high)))
            yield Result(kept, counts={"rows.other_parts": rows.num_rows - kept.num_rows})

    @property
    def _type(self) -> pa.DataType:
        return MESSAGES if self.key == "messages" else pa.string()

    def _texts(self, rows: pa.Table) -> pa.ChunkedArray:
        column = rows[self.key]
        return column if self._type == pa.string() else pa.chunked_array([first_question(flat(column))])

    def _ends_by_share(self) -> list[int]:
        sums = np.cumsum([Fraction(repr(share)) for share in self.shares])
        return [*(int(total * _WHOLE) for total in sums[:-1]), _WHOLE]

    def _ends_by_count(self, keys: list[Keys]) -> list[int]:
        distinct = np.unique(np.concatenate([np.empty(0, np.uint64), *keys]))
        rest = len(distinct) - sum(count for count in self.counts if count > 0)
        of_rest = self.counts[self.parts.index(self.part)] == -1
        if rest < of_rest:
            raise DataError(
                "too-few-keys",
                f"blend.split cannot cut {len(distinct)} values of {self.key} into parts of {self.counts}",
                expected=f"at least {len(distinct) - rest + of_rest}",
                found=str(len(distinct)),
                kept="nothing was written",
                next="lower the counts, or give rows with more values",
            )
        ends = np.cumsum([rest if count == -1 else count for count in self.counts])
        return [int(distinct[end]) if end < len(distinct) else _WHOLE for end in ends]


def _splits_before(dataset: Dataset) -> int:
    """Of rows that were mixed, the most."""
    value = dataset.facts.get(FACT, 0)
    return max(value if isinstance(value, list) else [value], default=0)


def _between(keys: Keys, low: int, high: int) -> npt.NDArray[np.bool_]:
    if low > high:
        return np.zeros(len(keys), bool)
    return (keys >= np.uint64(low)) & (keys <= np.uint64(high))
