"""Whether rows with the same key share a shard: what every operation that works on groups, shard by shard,
relies on.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from datakit.duck.session import Session
from datakit.overlap import overlapped
from schemas.dataset import Dataset
from schemas.errors import DataError, printable

_FEW = 1_000_000
"""Keys that are compared in memory; more, or keys that are split, go through DuckDB, which spills."""


def require_whole(dataset: Dataset, key: str, who: str) -> None:
    """Raise `DataError` naming a value of the text column `key` that two shards hold. Reads that column
    alone.
    """
    if len(dataset.shards) < 2 or _few_and_whole(dataset, key):
        return
    schema = pa.schema([("shard", pa.int32()), ("key", pa.string())])
    parts = (
        pa.record_batch([pa.array([shard] * len(distinct), pa.int32()), distinct], schema)
        for shard, distinct in enumerate(_distinct(dataset, key))
    )
    with Session(memory="512MB") as session:
        session.load("parts", schema, parts)
        split = session.rows(
            "SELECT key, min(shard), max(shard), count(*) OVER () FROM parts GROUP BY key "
            "HAVING count(*) > 1 ORDER BY 2, 1 LIMIT 1"
        )
    if split:
        value, first, last, count = split[0]
        raise DataError(
            "group-in-two-shards",
            f"{who} needs all rows with the same {key} in one shard; {count} values lie in several",
            expected=f"every {key} in one shard",
            found=f"{printable(value)} in shards {first} and {last}",
            where=dataset.url,
            kept="nothing was written",
            next=f"bring them together first: blend.shuffle with together={key}",
        )


def _few_and_whole(dataset: Dataset, key: str) -> bool:
    parts: list[pa.Array] = []
    for distinct in _distinct(dataset, key):
        parts.append(distinct)
        if sum(map(len, parts)) > _FEW:
            return False
    return len(pc.unique(pa.chunked_array(parts, pa.string()))) == sum(map(len, parts))


def _distinct(dataset: Dataset, key: str) -> Iterator[pa.Array]:
    """The keys of each shard, each once."""

    def of_shard(shard: int) -> pa.Array:
        return pc.unique(dataset.read_shard(shard, columns=[key])[key]).cast(pa.string())

    return overlapped(of_shard, len(dataset.shards))
