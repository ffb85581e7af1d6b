"""One part of a dataset, so that equal keys never stand in two parts: train and validation by prompt.

Every key has a place in 0 .. 1 that is a function of the key, the seed and how many splits its rows have been through
(fact `splits`); parts are intervals. By `shares` a key's part never changes when rows come or go (unless `least` raises
a part), and a part is split again as if nothing had been; by `counts` the intervals are cut so that each part holds an
exact number of keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.columns import intervals
from datakit.columns.row_keys import keyed, texts_of
from datakit.columns.seeded import Keys, text_keys
from datakit.op import Context, GatherAll, Result, Size
from schemas import Schema
from schemas.canonical import DEFAULT_UNNAMED
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError
from schemas.manifest import Manifest

FACT = "splits"
"""In a manifest: how many splits its rows have been through, one behind the other."""


@dataclass(frozen=True, kw_only=True)
class Split(GatherAll):
    """The rows of the part named `part`; run it once for each part, with the same seed.

    `parts` names all parts. `shares` (sum 1) or `counts` (numbers of distinct keys; -1 once, for the rest,
    which may be empty unless it is asked for) gives their sizes. Where shares would leave a part of a small
    dataset fewer than `least` distinct keys, the largest parts give it some. Rows of other parts are counted,
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
    least: int = field(default=0, metadata=DEFAULT_UNNAMED)

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
        if self.least < 0 or (self.least and not self.shares):
            faults.append(f"least = {self.least} is no number of keys, 0 or more, beside shares")
        if faults:
            raise ConfigError("bad-setting", f"blend.split: {'; '.join(faults)}", kept="nothing was started")

    @property
    def takes(self) -> Schema:
        return keyed(self.key)

    def gives(self, *inputs: Schema) -> Schema:
        return inputs[0]

    def grown(self, given: Size) -> Size:
        at = self.parts.index(self.part)
        share = self.shares[at] if self.shares else self.counts[at] / max(given.rows, 1.0)
        return given.times(min(1.0, share) if share >= 0 else 1.0)

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """How many splits the rows have been through."""
        before = dataset.facts.get(FACT, 0)  # of rows that were mixed, the most
        return {FACT: max(before if isinstance(before, list) else [before], default=0)}

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
        texts = (self.texts(dataset.read_shard(i, columns=[self.key])) for i in range(len(dataset.shards)))
        for shard, chosen in enumerate(self.chosen(texts, ctx.seed, ctx.prepared[FACT])):
            rows = dataset.read_shard(shard)
            kept = rows.filter(chosen)
            yield Result(kept, counts={"rows.other_parts": rows.num_rows - kept.num_rows})

    def chosen(self, texts: Iterable[pa.ChunkedArray], seed: int, splits: int = 0) -> Iterator[pa.Array]:
        """Which rows are the part's, shard by shard, of which these are the `texts`; so many `splits` were before."""
        keys = [text_keys(one, seed, self.name, *([splits] if splits else [])) for one in texts]
        ends = self._ends(keys)
        at = self.parts.index(self.part)
        low, high = (ends[at - 1] if at else 0), ends[at] - 1
        yield from (pa.array(intervals.between(one, low, high)) for one in keys)

    def texts(self, rows: pa.Table) -> pa.ChunkedArray:
        """What stands for each row where equal keys are to stay together."""
        return texts_of(rows, self.key)

    def _ends(self, keys: list[Keys]) -> list[int]:
        """Where the intervals of the parts end; `DataError` where there are too few keys for them."""
        ends = intervals.by_share(self.shares) if self.shares else []
        if ends and not self.least:
            return ends
        distinct = np.unique(np.concatenate([np.empty(0, np.uint64), *keys]))
        sizes = intervals.sizes(distinct, ends) if ends else self._counted(len(distinct))
        if ends and sizes.min() >= self.least:
            return ends
        if len(distinct) < self.least * len(self.parts):
            raise self._too_few(len(distinct), self.least * len(self.parts))
        return intervals.by_size(distinct, intervals.raised(sizes, self.least))

    def _counted(self, distinct: int) -> npt.NDArray[np.int64]:
        """`counts` with what is left in place of -1."""
        rest = distinct - sum(count for count in self.counts if count > 0)
        of_rest = self.counts[self.parts.index(self.part)] == -1
        if rest < of_rest:
            raise self._too_few(distinct, distinct - rest + of_rest)
        return np.array([rest if count == -1 else count for count in self.counts])

    def _too_few(self, distinct: int, needed: int) -> DataError:
        sizes = f"parts of {self.counts}" if self.counts else f"{self.least} in each at least"
        return DataError(
            "too-few-keys",
            f"blend.split cannot cut {distinct} values of {self.key} into {', '.join(self.parts)}: {sizes}",
            expected=f"at least {needed}",
            found=str(distinct),
            kept="nothing was written",
            next=f"lower {'the counts' if self.counts else 'least'}, or give rows with more values",
        )
