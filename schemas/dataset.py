"""A dataset: a folder of Parquet shards that its manifest makes complete, verified when read.

    <url>/part-00000.parquet ...            the rows; DuckDB and polars read `<url>/*.parquet`
    <url>/rejected/part-00000.parquet ...   rows that did not make it, with reason, value and threshold
    <url>/_manifest.json                    published last
    <url>/_attempt-<random>/                a run that is still writing

`Dataset` reads. `Attempt` writes: it travels to worker processes, each writes whole shards, the first
process commits.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import display, frames
from schemas.errors import IntegrityError, QuiverError
from schemas.manifest import MANIFEST, File, Manifest, Parent
from schemas.migration import conformed, migrated
from schemas.run_layout import DROPPED
from schemas.schema import Schema
from schemas.shards import ROWS_PER_GROUP, ShardWriter, Verify, open_shard, shard_name, stats_of
from schemas.store import commit
from schemas.store.storage import normal, shown
from schemas.valid import require_valid

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation
    from pandas import DataFrame as PandasFrame
    from polars import DataFrame, LazyFrame

REJECTED = "rejected"
_FEWEST_ROWS = 256


@dataclass(frozen=True)
class Dataset:
    """A committed dataset: its place, its manifest as it was when opened, and how much is verified on reading."""

    url: str
    manifest: Manifest
    verify: Verify = "full"

    @staticmethod
    def open(url: str, verify: Verify = "full") -> Dataset:
        """The dataset at `url`; `IntegrityError` if there is none, its manifest is torn, or it is something
        else.

        `verify` "full": size and SHA-256 on the first read of a shard in a process; "size": size only; both
        check page checksums on every read. "off": nothing.
        """
        assert verify in ("full", "size", "off"), verify
        place = normal(url)
        manifest = commit.read_manifest(place)
        if manifest is None:
            raise _missing(place)
        if manifest.kind != "dataset":
            raise IntegrityError(
                "not-a-dataset",
                f"{shown(place)} is a {manifest.kind}",
                expected="a dataset",
                found=manifest.kind,
                where=shown(place),
                kept="nothing was changed",
                next="name a dataset",
            )
        return Dataset(place, manifest, verify)

    @staticmethod
    def exists(url: str) -> bool:
        """Whether something complete stands at `url`: a manifest whose checksum is right. A torn one is not
        there.
        """
        try:
            return commit.read_manifest(url) is not None
        except IntegrityError:
            return False

    @staticmethod
    def from_arrow(
        rows: pa.Table,
        schema: Schema,
        url: str,
        *,
        op: Mapping[str, Any] | None = None,
        parents: Mapping[str, Dataset] | None = None,
    ) -> Dataset:
        """Publish `rows` at `url` as a dataset of one shard; `DataError` where they break `schema`
        or two have the same key.

        Columns that the schema does not name are refused. `parents` are the datasets that the rows came of, by the
        name of their part in it; `op` says what was done. The same rows at the same place again are no error, others
        are `ConflictError`.
        """
        schema.require_known(rows, shown(normal(url)))
        checked = schema.check(rows, shown(normal(url)))
        schema.require_unique(checked, shown(normal(url)))
        with Attempt.begin(url, schema) as attempt, attempt.shard(0) as shard:
            shard.write(checked)
            made = {"name": "notebook.rows", "version": 1, "params": {}} if op is None else op
            came_of = [dataset.as_parent(name) for name, dataset in (parents or {}).items()]
            return attempt.commit([shard.finish()], op=made, parents=came_of)

    @staticmethod
    def from_polars(
        frame: DataFrame | LazyFrame,
        schema: Schema,
        url: str,
        *,
        op: Mapping[str, Any] | None = None,
        parents: Mapping[str, Dataset] | None = None,
    ) -> Dataset:
        """Publish a polars frame as `from_arrow` does; a lazy one is computed first."""
        return Dataset.from_arrow(frames.from_polars(frame), schema, url, op=op, parents=parents)

    @property
    def schema(self) -> Schema:
        """Schema of the rows as they are read: those of an earlier version have nulls in what is new."""
        assert self.manifest.schema is not None, self.url
        return migrated(self.manifest.schema)

    @property
    def num_rows(self) -> int:
        """Rows of all shards together; rejected ones are not among them."""
        return self.manifest.num_rows

    @property
    def shards(self) -> tuple[File, ...]:
        """The manifest's entry of each shard, in the order of their numbers."""
        return self.manifest.files

    @property
    def rejected(self) -> tuple[File, ...]:
        """The shards of rejected rows, in order."""
        return self.manifest.rejected

    @property
    def content_digest(self) -> str:
        """SHA-256 of the manifest's content."""
        return self.manifest.content_digest

    @property
    def task_key(self) -> str:
        """Task key: the identity of the result before it was made."""
        return self.manifest.task_key

    @property
    def stats(self) -> Mapping[str, Any]:
        """Moments of columns, rejected rows by reason, and what the operation added."""
        return self.manifest.stats

    @property
    def facts(self) -> Mapping[str, Any]:
        """What later stages must know: tokenizer and template identity, for one."""
        return self.manifest.facts

    def paths(self) -> list[str]:
        """URLs of the shards, in order."""
        return [f"{self.url}/{file.path}" for file in self.shards]

    def as_parent(self, name: str) -> Parent:
        """The dataset as an input called `name` in another manifest."""
        return Parent(name, self.url, self.content_digest, self.task_key)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows as one table."""
        parts = [self.read_shard(index, columns) for index in range(len(self.shards))]
        return pa.concat_tables(parts) if parts else _selected(self.schema, columns).empty()

    def read_shard(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of one shard."""
        return self._read(self.shards[index], self.schema, columns)

    def read_rejected(self) -> pa.Table | None:
        """All rejected rows as one table; None if this dataset keeps none."""
        if self.manifest.rejected_schema is None:
            return None
        schema = migrated(self.manifest.rejected_schema)
        parts = [self._read(file, schema, None) for file in self.rejected]
        return pa.concat_tables(parts) if parts else schema.empty()

    def first(self, rows: int, columns: Sequence[str] | None = None) -> pa.Table:
        """At most `rows` rows of the first shard that has any; no other shard is opened."""
        filled = next((index for index, file in enumerate(self.shards) if file.rows), None)
        if filled is None or rows < 1:
            return _selected(self.schema, columns).empty()
        with contextlib.closing(self.batches(filled, rows, columns)) as batches:
            return next(batches)

    def batches(self, index: int, rows: int, columns: Sequence[str] | None = None) -> Generator[pa.Table]:
        """One shard in tables of `rows` rows (the last may be shorter), holding few of them at a time."""
        schema = _selected(self.schema, columns)
        waiting: list[pa.Table] = []
        buffered = 0
        with open_shard(self.url, self.shards[index], self.schema, self.verify) as parquet:
            # In slices, never a whole row group: few stored bytes can be many rows of one long text.
            step = min(max(rows, _FEWEST_ROWS), ROWS_PER_GROUP)
            for batch in parquet.iter_batches(step, columns=_stored(parquet, schema)):
                table = self._checked(pa.Table.from_batches([batch]), self.shards[index], schema)
                start = 0
                while buffered + table.num_rows - start >= rows:
                    waiting.append(table.slice(start, rows - buffered))
                    start += rows - buffered
                    yield pa.concat_tables(waiting)
                    waiting, buffered = [], 0
                if start < table.num_rows:
                    waiting.append(table.slice(start))
                    buffered += table.num_rows - start
        if buffered:
            yield pa.concat_tables(waiting)

    def check(self) -> None:
        """Read every byte: hashes, page checksums, rows. `IntegrityError` names the first file at fault."""
        pairs = [(file, self.schema) for file in self.shards]
        rejected = self.manifest.rejected_schema
        pairs += [(file, migrated(rejected) if rejected else self.schema) for file in self.rejected]
        for file, schema in pairs:
            with open_shard(self.url, file, schema, "full") as parquet:
                for group in range(parquet.num_row_groups):
                    self._checked(parquet.read_row_group(group), file, schema)

    def lineage(self) -> str:
        """An indented text of the dataset and its ancestors, with sizes, as far as they can be read."""
        return display.lineage(self.url, self.manifest)

    def __repr__(self) -> str:
        return display.text(self.url, self.manifest, self.schema)

    def _repr_html_(self) -> str:
        return display.html(repr(self), self.first)

    def arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows as a pyarrow table: `read` by the name that its sisters have."""
        return self.read(columns)

    def head(self, rows: int = 5, columns: Sequence[str] | None = None) -> DataFrame:
        """The first rows, at most as many as the first shard that has any holds: no other shard is opened."""
        return frames.to_polars(self.first(rows, columns))

    @overload
    def polars(self, columns: Sequence[str] | None = None, *, lazy: Literal[False] = False) -> DataFrame: ...
    @overload
    def polars(self, columns: Sequence[str] | None = None, *, lazy: Literal[True]) -> LazyFrame: ...
    def polars(self, columns: Sequence[str] | None = None, *, lazy: bool = False) -> DataFrame | LazyFrame:
        """All rows as a polars frame; `lazy`: a scan that reads only the columns and as many rows as a query needs."""
        return frames.scan(self, columns) if lazy else frames.to_polars(self.read(columns))

    def pandas(self, columns: Sequence[str] | None = None) -> PandasFrame:
        """All rows as a pandas frame (extra `pandas`)."""
        return frames.to_pandas(self.read(columns))

    def duckdb(self) -> DuckDBPyRelation:
        """A relation on DuckDB's default connection: `duckdb.sql("FROM rows")` after `rows = dataset.duckdb()`.

        Shards are verified here, and again where a query opens a file that is another by then: it answers about the
        rows of this manifest, or ends in `duckdb.Error` with our error in it.
        """
        return frames.relation(self)

    def sql(self, query: str, /, **others: Dataset) -> DuckDBPyRelation:
        """What a query over the table `self` and `others` by their names answers; verified as `duckdb` says."""
        return frames.sql(query, {"self": self, **others})

    def _read(self, file: File, schema: Schema, columns: Sequence[str] | None) -> pa.Table:
        chosen = _selected(schema, columns)
        with open_shard(self.url, file, schema, self.verify) as parquet:
            return self._checked(parquet.read(columns=_stored(parquet, chosen)), file, chosen)

    def _checked(self, stored: pa.Table, file: File, schema: Schema) -> pa.Table:
        """Rows of a file as those of `schema`; `DataError` for values that no library could take (`require_valid`)."""
        require_valid(stored, f"{shown(self.url)}: {file.path}")
        return conformed(stored, schema)


@dataclass(frozen=True)
class Attempt:
    """One try at making a dataset. Picklable: workers write shards through it, the process that began it
    commits.

    As a context manager it discards what was not committed.
    """

    url: str
    name: str
    schema: Schema
    rejected_schema: Schema | None = None
    rows_per_group: int = ROWS_PER_GROUP

    @staticmethod
    def begin(
        url: str,
        schema: Schema,
        rejected_schema: Schema | None = None,
        *,
        rows_per_group: int = ROWS_PER_GROUP,
        lease: float = commit.LEASE_SECONDS,
    ) -> Attempt:
        """Make an attempt folder, after removing those of dead runs (or of other hosts and older than
        `lease` seconds).
        """
        assert rows_per_group > 0, rows_per_group
        place = normal(url)
        name = commit.begin_attempt(place, (REJECTED,) if rejected_schema else (), lease)
        return Attempt(place, name, schema, rejected_schema, rows_per_group)

    def shard(self, index: int) -> ShardWriter:
        """The writer of shard `index`; a second one replaces what the first wrote."""
        return ShardWriter(self._folder, shard_name(index), self.schema, self.rows_per_group)

    def rejected_shard(self, index: int) -> ShardWriter:
        """The writer of the rejected rows of shard `index`."""
        assert self.rejected_schema is not None, f"{self.url} keeps no rejected rows"
        name = f"{REJECTED}/{shard_name(index)}"
        return ShardWriter(self._folder, name, self.rejected_schema, self.rows_per_group)

    def commit(
        self,
        files: Sequence[File],
        rejected_files: Sequence[File] = (),
        *,
        op: Mapping[str, Any] | None = None,
        parents: Sequence[Parent] = (),
        seed: int = 0,
        task_key: str = "",
        stats: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
        runtime_info: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """Publish; the dataset that stands at the url afterwards, by this run or by another with the same
        content.

        `ConflictError` if there is another with different content. The attempt is gone afterwards in every
        case.
        """
        ordered = tuple(sorted(files, key=lambda file: file.path))
        rejected = tuple(sorted(rejected_files, key=lambda file: file.path))
        manifest = Manifest(
            schema=self.schema,
            rejected_schema=self.rejected_schema,
            task_key=task_key,
            op=op or {},
            parents=tuple(parents),
            seed=seed,
            files=ordered,
            rejected=rejected,
            stats=stats_of(ordered, rejected, stats or {}),
            facts=facts or {},
            runtime_info=runtime_info or {},
        )
        return Dataset(self.url, commit.publish_folder(self.url, self.name, manifest))

    def discard(self) -> None:
        """Remove everything this attempt wrote; fine a second time."""
        commit.discard_attempt(self.url, self.name)

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, kind: type[BaseException] | None, *reason: object) -> None:
        with contextlib.suppress(*(() if kind is None else (QuiverError, OSError))):
            self.discard()

    @property
    def _folder(self) -> str:
        return commit.attempt_path(self.url, self.name)


def _selected(schema: Schema, columns: Sequence[str] | None) -> Schema:
    return schema if columns is None else schema.selecting(*columns)


def _stored(parquet: pq.ParquetFile, schema: Schema) -> list[str]:
    """Those columns that the file holds: one of an earlier version may lack some."""
    there = parquet.schema_arrow.names
    return [name for name in schema.names if name in there]


def _missing(place: str) -> IntegrityError:
    """Why there is no dataset at `place`: it was not finished, or it was one whose rows were dropped."""
    dropped = "://" not in place and os.path.isfile(f"{place}/{DROPPED}")
    return IntegrityError(
        "dataset-missing",
        f"no dataset at {shown(place)}",
        expected=f"a folder with {MANIFEST}, which is written last",
        found="rows that were dropped (keep_rollouts)" if dropped else "no manifest: its task has not finished",
        where=shown(place),
        kept="nothing was changed",
        next='quiver sql "FROM rollouts WHERE gone"' if dropped else "run the task that makes it, or correct the path",
    )
