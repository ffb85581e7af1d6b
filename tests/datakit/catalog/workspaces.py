"""Workspaces whose manifests say what a test asks of the views."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas import SAMPLES, Column, Dataset, Schema
from schemas.dataset import Attempt

REWARD = Column("reward", pa.float64(), "higher is better", finite=True)
REWARDED = SAMPLES.adding(REWARD)
WHY = (
    Column("reason", pa.string(), "why it went"),
    Column("value", pa.float64(), "what was measured", nullable=True),
    Column("threshold", pa.string(), "what it was held against", nullable=True),
)


@dataclasses.dataclass
class Maker:
    """Makes datasets below `root`, each a second later than the one before."""

    root: Path
    clock: int = 0

    def __call__(
        self,
        place: str,
        schema: Schema,
        rows: pa.Table | Sequence[pa.Table],
        *parents: Dataset,
        op: str = "io.jsonl",
        params: Mapping[str, Any] | None = None,
        rejected: pa.Table | None = None,
        facts: Mapping[str, Any] | None = None,
        counts: Mapping[str, float] | None = None,
    ) -> Dataset:
        self.clock += 1
        shards = [rows] if isinstance(rows, pa.Table) else rows
        aside = None
        if rejected is not None:
            aside = Schema(schema.name, schema.version, (*schema.columns, *WHY), schema.key)
        with Attempt.begin(str(self.root / place), schema, aside) as attempt:
            files = []
            for number, shard in enumerate(shards):
                writer = attempt.shard(number)
                writer.write(shard)
                files.append(writer.finish())
            dropped = []
            if rejected is not None:
                writer = attempt.rejected_shard(0)
                writer.write(rejected)
                dropped.append(writer.finish())
            return attempt.commit(
                files,
                dropped,
                op={"name": op, "version": 1, "params": dict(params or {})},
                parents=[one.as_parent(str(number)) for number, one in enumerate(parents)],
                task_key=f"{place}".encode().hex().ljust(64, "0")[-64:],
                facts=facts,
                stats={"counts": dict(counts)} if counts else None,
                runtime_info={"created": f"2026-11-28T07:00:{self.clock:02d}+00:00", "seconds": 0.5},
            )


def samples(count: int, start: int = 0) -> pa.Table:
    """Samples with ids from `start` on."""
    rows = SAMPLES.example(count)
    place = rows.column_names.index("sample_id")
    return rows.set_column(place, rows.schema.field(place), pa.array([f"s{start + n}" for n in range(count)]))


def rewarded(rows: pa.Table, rewards: Sequence[float]) -> pa.Table:
    """`rows` with the column `reward`."""
    return rows.append_column(pa.field("reward", pa.float64(), nullable=False), pa.array(rewards, pa.float64()))
