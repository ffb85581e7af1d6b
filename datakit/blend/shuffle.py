"""All rows in a random order: an exact, seeded permutation in bounded memory.

Each row gets a 64-bit key and the rows are sorted by it, in two passes: rows are dealt to buckets by the
first bits of their key, then each bucket is sorted in memory. How many buckets there are changes nothing in
the outcome.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from datakit.columns.measurement import require_columns
from datakit.columns.seeded import Keys, row_keys, text_keys
from datakit.op import NOTHING, Context, GatherAll, Result
from schemas import Schema
from schemas.dataset import Dataset
from schemas.store.scratch import Scratch

_BUCKET_BYTES = 128 << 20
_BATCH_ROWS = 65536
_MOST_BUCKETS = 512
_KEY = "__shuffle_key"


@dataclass(frozen=True, kw_only=True)
class Shuffle(GatherAll):
    """The rows in an order drawn from the run's seed.

    `together` names a column of any type whose equal values stay side by side, in their old order (the samples of a
    prompt by `prompt_id`, or by `messages`); without it every row goes its own way.
    """

    name: ClassVar[str] = "blend.shuffle"

    together: str = ""

    @property
    def takes(self) -> Schema:
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        require_columns(inputs[0], (self.together,) if self.together else (), self.name)
        return inputs[0]

    def gather_all(self, dataset: Dataset, ctx: Context) -> Iterator[Result]:
        """The permuted rows, a bucket at a time."""
        batches = (rows for shard in range(len(dataset.shards)) for rows in dataset.batches(shard, _BATCH_ROWS))
        yield from permuted(self._keyed(batches, ctx.seed), _bits(dataset))

    def _keyed(self, batches: Iterator[pa.Table], seed: int) -> Iterator[tuple[pa.Table, Keys]]:
        start = 0
        for rows in batches:
            seeds = (seed, self.name)
            keys = text_keys(rows[self.together], *seeds) if self.together else row_keys(start, len(rows), *seeds)
            yield rows, keys
            start += rows.num_rows


def permuted(keyed: Iterator[tuple[pa.Table, Keys]], bits: int) -> Iterator[Result]:
    """The rows by ascending key, equal keys in the order they came, through 2**bits buckets on local disk."""
    if bits == 0:
        parts = [rows.append_column(_KEY, pa.array(keys)) for rows, keys in keyed]
        if parts:
            yield _sorted(pa.concat_tables(parts))
        return
    with Scratch("quiver-shuffle-") as folder:
        paths = [Path(folder) / f"{bucket:04d}.arrow" for bucket in range(1 << bits)]
        _deal(keyed, paths, bits)
        for path in paths:
            if path.exists():
                with pa.memory_map(str(path)) as source:
                    yield _sorted(pa.ipc.open_file(source).read_all())
                path.unlink()


def _deal(keyed: Iterator[tuple[pa.Table, Keys]], paths: list[Path], bits: int) -> None:
    writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
    try:
        for rows, keys in keyed:
            bucket = (keys >> np.uint64(64 - bits)).astype(np.int64)
            order = np.argsort(bucket, kind="stable")
            dealt = rows.append_column(_KEY, pa.array(keys)).take(pa.array(order))
            ends = np.cumsum(np.bincount(bucket, minlength=len(paths)))
            for number in np.unique(bucket):
                if number not in writers:
                    writers[number] = pa.ipc.new_file(str(paths[number]), dealt.schema)
                start = ends[number - 1] if number else 0
                writers[number].write_table(dealt.slice(start, ends[number] - start))
    finally:
        for writer in writers.values():
            writer.close()


def _sorted(rows: pa.Table) -> Result:
    order = np.argsort(np.asarray(rows[_KEY]), kind="stable")
    return Result(rows.drop_columns([_KEY]).take(pa.array(order)))


def _bits(dataset: Dataset) -> int:
    """How many bits number the buckets, so that one holds about `_BUCKET_BYTES` of rows."""
    if dataset.num_rows == 0:
        return 0
    shard = next(i for i, file in enumerate(dataset.shards) if file.rows)
    first = next(iter(dataset.batches(shard, 1024)))
    size = dataset.num_rows * first.nbytes / first.num_rows
    return int(np.ceil(np.log2(np.clip(size / _BUCKET_BYTES, 1, _MOST_BUCKETS))))
