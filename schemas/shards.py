"""Parquet shards: a writer whose bytes depend on the rows alone, and a reader that never gives a wrong one.

The writer cuts rows into row groups of a fixed size however they arrive, hashes while it writes, and
publishes nothing by itself: `finish` gives the `File` for the manifest, `abort` (and leaving a `with` block
without `finish`) removes everything. The reader checks size and SHA-256 against the manifest on the first
read in a process, again when the file it opens is not the one that it verified, and page checksums on every read.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import IntegrityError, QuiverError, StorageError
from schemas.manifest import File
from schemas.migration import holds
from schemas.schema import Column, Schema
from schemas.stats import count_values, measure, merge_counts, merge_measures
from schemas.store.opening import open_store
from schemas.store.storage import Sink, Store, shown

Verify = Literal["full", "size", "off"]

ROWS_PER_GROUP = 8192
ROWS_PER_SHARD = 65_536
"""Rows of a shard that is cut from a stream; shards are what processes share."""
_FLUSH_BYTES = 4 << 20
_IN_MEMORY_BYTES = 64 << 20
_BLOCK = 1 << 20
_verified: set[tuple[str, str, tuple[Any, ...]]] = set()


def shard_name(index: int) -> str:
    """`part-00000.parquet`: a pure function of the shard's index."""
    assert index >= 0, index
    return f"part-{index:05d}.parquet"


class ShardWriter:
    """Writes one shard of an attempt; see `Attempt.shard`."""

    def __init__(self, url: str, name: str, schema: Schema, rows_per_group: int = ROWS_PER_GROUP) -> None:
        store, folder = open_store(url)
        self._name, self._schema, self._group = name, schema, rows_per_group
        self._where = f"{url}/{name}"
        self._rows, self._waiting, self._parts = 0, 0, list[pa.Table]()
        self._measures: list[dict[str, dict[str, float]]] = []
        self._reasons: list[dict[str, int]] = []
        try:
            self._sink = _HashingSink(store.create(store.join(folder, name)))
        except FileNotFoundError as error:
            raise _attempt_gone(self._where) from error
        try:
            self._writer = pq.ParquetWriter(
                self._sink,
                schema.arrow,
                version="2.6",
                data_page_version="1.0",
                compression="zstd",
                compression_level=1,
                write_page_checksum=True,
            )
        except BaseException:
            self._sink.abort()
            raise

    def write(self, table: pa.Table, where: str = "") -> pa.Table:
        """Append rows, which come back as they are stored; `DataError` if they break the schema, with `where` they are
        from (else where they go).
        """
        assert not self._sink.closed, f"{self._where} is closed"
        table = self._schema.check(table, where or self._where)
        self._parts.append(table)
        self._waiting += table.num_rows
        if self._waiting >= self._group:
            rows = pa.concat_tables(self._parts)
            whole = self._waiting - self._waiting % self._group
            for start in range(0, whole, self._group):
                self._write_group(rows.slice(start, self._group))
            self._parts, self._waiting = [rows.slice(whole)], self._waiting - whole
        return table

    def finish(self) -> File:
        """Write the footer, make the bytes durable and tell what they are; on any fault nothing is left."""
        assert not self._sink.closed, f"{self._where} is closed"
        try:
            if self._waiting:
                self._write_group(pa.concat_tables(self._parts))
            self._writer.close()
            self._sink.finish()
        except FileNotFoundError as error:
            self.abort()
            raise _attempt_gone(self._where) from error
        except BaseException:
            self.abort()
            raise
        stats: dict[str, Any] = {"columns": merge_measures(self._measures)}
        if self._reasons:
            stats["reasons"] = merge_counts(self._reasons)
        return File(self._name, self._rows, self._sink.size, self._sink.sha256.hexdigest(), stats)

    def abort(self) -> None:
        """Remove what was written; fine after `finish` or a second time, then nothing happens."""
        self._parts = []
        self._sink.abort()
        self._writer.is_open = False

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *reason: object) -> None:
        if not self._sink.closed:
            self.abort()

    def _write_group(self, rows: pa.Table) -> None:
        rows = rows.combine_chunks()
        self._writer.write_table(rows, row_group_size=self._group)
        self._rows += rows.num_rows
        self._measures.append(measure(rows))
        if "reason" in rows.column_names and pa.types.is_string(rows["reason"].type):
            self._reasons.append(count_values(rows["reason"]))


class _HashingSink:
    """The file object handed to pyarrow: hashes and gathers small writes; after `abort` it swallows them."""

    def __init__(self, sink: Sink) -> None:
        self.sha256, self.size, self.closed = hashlib.sha256(), 0, False
        self._sink, self._parts, self._gathered = sink, list[bytes](), 0

    def write(self, data: Any) -> int:
        block = bytes(data)
        if self.closed:
            return len(block)
        self.sha256.update(block)
        self.size += len(block)
        self._parts.append(block)
        self._gathered += len(block)
        if self._gathered >= _FLUSH_BYTES:
            self._flush()
        return len(block)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Called by pyarrow after each row group; bytes go out when enough are gathered."""

    def close(self) -> None:
        """Called by pyarrow; only `finish` closes."""

    def finish(self) -> None:
        self._flush()
        self._sink.finish()
        self.closed = True

    def abort(self) -> None:
        if not self.closed:
            self.closed, self._parts = True, []
            self._sink.abort()

    def _flush(self) -> None:
        data, self._parts, self._gathered = b"".join(self._parts), [], 0
        self._sink.write(data)


@contextlib.contextmanager
def open_shard(url: str, file: File, schema: Schema, verify: Verify) -> Iterator[pq.ParquetFile]:
    """A verified Parquet reader of one file; every way in which it is not what the manifest says is
    `IntegrityError`.
    """
    with contextlib.ExitStack() as stack, _explained(url, file):
        source = stack.enter_context(contextlib.closing(verified_bytes(url, file, verify)))
        parquet = stack.enter_context(_parquet_of(source, page_checksum_verification=verify != "off", pre_buffer=False))
        if parquet.metadata.num_rows != file.rows:
            raise _broken("row-count", url, file, f"{file.rows} rows", f"{parquet.metadata.num_rows} rows")
        actual = parquet.schema_arrow
        if not holds(Schema("file", 1, tuple(Column(field.name, field.type, "") for field in actual)), schema):
            raise _broken("schema", url, file, ", ".join(schema.names), ", ".join(actual.names))
        yield parquet


class _OneThread(pq.ParquetFile):
    """Decodes in the thread that asks."""

    def read(self, *arguments: Any, **options: Any) -> pa.Table:
        return super().read(*arguments, **options, use_threads=False)

    def read_row_group(self, *arguments: Any, **options: Any) -> pa.Table:
        return super().read_row_group(*arguments, **options, use_threads=False)

    def iter_batches(self, *arguments: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        return super().iter_batches(*arguments, **options, use_threads=False)


def _parquet_of(source: BinaryIO, **options: bool) -> pq.ParquetFile:
    """A reader that leaves nothing of Python's in the hands of Arrow's threads.

    One that lets go of such a thing last, a moment after the rows are there, aborts a Python that is ending meanwhile.
    """
    if isinstance(source, pa.BufferReader):
        return pq.ParquetFile(source, **options)
    try:
        local = pa.OSFile(f"/dev/fd/{source.fileno()}")
    except (OSError, AttributeError):
        return _OneThread(source, **options)
    return pq.ParquetFile(local, **options)


def verified_bytes(url: str, file: File, verify: Verify) -> BinaryIO:
    """The bytes of one file for another library's Parquet reader: those of the manifest, or `IntegrityError`."""
    store, root = open_store(url)
    with _explained(url, file):
        return _verified_source(store, store.join(root, file.path), url, file, verify)


@contextlib.contextmanager
def _explained(url: str, file: File) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise _broken("shard-missing", url, file, f"{file.bytes} bytes", "no file") from error
    except QuiverError:
        raise
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise _broken("shard-unreadable", url, file, "Parquet as it was written", str(error)) from error


def _verified_source(store: Store, path: str, url: str, file: File, verify: Verify) -> BinaryIO:
    source = store.open(path)
    if verify == "off":
        return source
    size = source.seek(0, 2)
    source.seek(0)
    if size != file.bytes:
        source.close()
        slug = "shard-truncated" if size < file.bytes else "shard-size"
        raise _broken(slug, url, file, f"{file.bytes} bytes, sha256 {file.sha256[:12]}", f"{size} bytes")
    if verify == "size":
        return source
    mark = (path, file.sha256, store.version(path, source))
    if mark in _verified:
        return source
    try:
        if file.bytes <= _IN_MEMORY_BYTES:
            data = _read_all(source)
            actual = hashlib.sha256(data).hexdigest()
            source.close()
            source = pa.BufferReader(data)
        else:
            state = hashlib.sha256()
            while block := source.read(_BLOCK):
                state.update(block)
            actual = state.hexdigest()
            source.seek(0)
        if actual != file.sha256:
            raise _broken("shard-hash", url, file, f"sha256 {file.sha256[:12]}", f"sha256 {actual[:12]}")
    except BaseException:
        source.close()
        raise
    _verified.add(mark)
    return source


def _read_all(source: BinaryIO) -> pa.Buffer:
    """All bytes, in memory of Arrow's own."""
    sink = pa.BufferOutputStream()
    while block := source.read(_BLOCK):
        sink.write(block)
    return sink.getvalue()


def _broken(slug: str, url: str, file: File, expected: str, actual: str) -> IntegrityError:
    return IntegrityError(
        slug,
        f"{shown(url)}: {file.path} is not what the manifest says",
        expected=expected,
        found=shown(actual),
        where=f"dataset {shown(url)}, {file.rows} rows" if file.rows else shown(url),
        kept="the manifest and all other files; nothing was changed",
        next=f"remove {shown(url)} and run its task again, or copy the dataset again",
    )


def _attempt_gone(where: str) -> StorageError:
    return StorageError(
        "attempt-gone",
        f"the attempt folder of {shown(where)} was removed while it was written",
        where=shown(where),
        kept="what was published before; nothing of this run is visible",
        next="run the same command again",
    )


def stats_of(files: tuple[File, ...], rejected: tuple[File, ...], more: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset's stats from its files' in shard order: `columns`, `rejected` (rows by reason), and `more`
    beside them.
    """
    columns = merge_measures(file.stats.get("columns", {}) for file in files)
    reasons = merge_counts(file.stats.get("reasons", {}) for file in rejected)
    return {"columns": dict(sorted(columns.items())), "rejected": reasons, **more}
