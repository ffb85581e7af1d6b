"""What one manifest says, in plain values that are small enough to be kept."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datakit.catalog.sql_text import kind
from schemas.manifest import Manifest
from schemas.migration import migrated
from schemas.schema import Schema


@dataclass(frozen=True)
class ColumnText:
    """A column: its name, the type that DuckDB reads it as, its meaning, and what its file holds (empty: nothing, it
    is null there; another type than `kind`: rows of an earlier version).
    """

    name: str
    kind: str
    meaning: str
    stored: str


@dataclass(frozen=True, kw_only=True)
class Made:
    """What one manifest says. `files` and `rejected` are (path, rows, bytes), `parents` (name, url, digest, key)."""

    kind: str
    content_digest: str
    task_key: str
    schema: Schema | None
    rejected_schema: Schema | None
    op: str
    params: Mapping[str, Any]
    seed: int
    files: tuple[tuple[str, int, int], ...]
    rejected: tuple[tuple[str, int, int], ...]
    parents: tuple[tuple[str, str, str, str], ...]
    facts: Mapping[str, Any]
    means: Mapping[str, float]
    reasons: Mapping[str, int]
    counts: Mapping[str, float]
    created: str
    seconds: float | None

    @property
    def rows_kind(self) -> str:
        """The name of the rows' kind; empty for a checkpoint."""
        return "" if self.schema is None else self.schema.name

    @property
    def row_key(self) -> tuple[str, ...]:
        """The columns that are the rows' key."""
        return () if self.schema is None else self.schema.key

    @property
    def columns(self) -> tuple[ColumnText, ...]:
        """The columns of its rows."""
        return _columns(self.schema)

    @property
    def rejected_columns(self) -> tuple[ColumnText, ...]:
        """The columns of the rows that were set aside."""
        return _columns(self.rejected_schema)


def made_of(manifest: Manifest) -> Made:
    """What `manifest` says; of its stats only means and counts."""
    stats = manifest.stats.get("columns")
    reasons = manifest.stats.get("rejected")
    created, seconds = manifest.runtime_info.get("created"), manifest.runtime_info.get("seconds")
    op, params = manifest.op.get("name"), manifest.op.get("params")
    return Made(
        kind=manifest.kind,
        content_digest=manifest.content_digest,
        task_key=manifest.task_key,
        schema=manifest.schema,
        rejected_schema=manifest.rejected_schema,
        op=op if isinstance(op, str) else "",
        params=params if isinstance(params, dict) else {},
        seed=manifest.seed,
        files=tuple((file.path, file.rows, file.bytes) for file in manifest.files),
        rejected=tuple((file.path, file.rows, file.bytes) for file in manifest.rejected),
        parents=tuple((one.name, one.url, one.content_digest, one.task_key) for one in manifest.parents),
        facts=manifest.facts,
        means=_numbers({name: one.get("mean") for name, one in _object(stats).items() if isinstance(one, dict)}),
        counts=_numbers(_object(manifest.stats.get("counts"))),
        reasons={name: int(count) for name, count in _numbers(_object(reasons)).items()},
        created=created if isinstance(created, str) else "",
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
    )


@functools.lru_cache(maxsize=1024)
def _columns(schema: Schema | None) -> tuple[ColumnText, ...]:
    """The columns as rows are read today, each with what its file holds of it."""
    if schema is None:
        return ()
    stored = {column.name: kind(column.type) for column in schema.columns}
    return tuple(
        ColumnText(column.name, kind(column.type), column.meaning, stored.get(column.name, ""))
        for column in migrated(schema).columns
    )


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    }
