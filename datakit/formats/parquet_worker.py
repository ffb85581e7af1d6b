"""The child process that opens outside Parquet and Arrow files: a crafted file can take this process down, and nothing
else.

Reads a request (one line of JSON: path, columns, rows per batch, memory cap, and how far the file may expand) and
writes an Arrow stream of validated batches to its output. Exit 3 with a message on its error stream means that the file
is broken, 4 that it expands too far. Runs by path, with pyarrow alone.
"""

from __future__ import annotations

import json
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

_BATCH_BYTES = 1 << 25


def main() -> int:
    """Answer the one request on stdin with Arrow batches on stdout, under a limit of memory; the exit code."""
    request = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import pyarrow as pa

    pa.set_cpu_count(1)
    return answer(request, sys.stdout.buffer)


def answer(request: dict[str, Any], sink: Any) -> int:
    """Write the batches that are asked for; the exit code."""
    import pyarrow as pa

    given = 0
    try:
        schema, batches, others = _opened(request)
        names = [name for name in schema.names if name not in others] or schema.names[:1]
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"two columns are called {twice}")
        fields = [schema.field(name).with_metadata(None) for name in names]
        schema = pa.schema(fields, metadata={"others": json.dumps(others).encode()})
        with pa.ipc.new_stream(sink, schema) as writer:
            for batch in batches(names):
                # Rows count too: a column of nulls, or a run of one value, has nearly no bytes however long it is.
                given += max(batch.nbytes, 8 * batch.num_rows)
                if given > request["most"]:
                    print(given, file=sys.stderr)
                    return 4
                writer.write_batch(pa.RecordBatch.from_arrays([batch.column(name) for name in names], schema=schema))
    except MemoryError:
        print(request["memory"], file=sys.stderr)
        return 4
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        print(f"{type(error).__name__}: {error}"[:500], file=sys.stderr)
        return 3
    return 0


def _validated(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches as they are; `ValueError` that names the column where values are not what their types say: text that
    is no UTF-8, say. To be done before they are cut: Arrow looks through all that a slice of lists was cut from.
    """
    import pyarrow as pa

    rows = 0
    for batch in batches:
        for name in batch.schema.names:
            try:
                batch.column(name).validate(full=True)
            except pa.ArrowInvalid as fault:
                raise ValueError(f"column {name}, rows from {rows + 1}: {fault}") from fault
        rows += batch.num_rows
        yield batch


def _opened(request: dict[str, Any]) -> tuple[Any, Any, dict[str, int]]:
    """The schema of the file, a function from names of columns to its batches, and the columns that are not read (of
    Arrow files: none, they are read whole).
    """
    import pyarrow as pa

    with open(request["path"], "rb") as file:
        magic = file.read(6)
    if magic.startswith(b"PAR1"):
        return _parquet(request)
    source = pa.OSFile(request["path"])
    if magic == b"ARROW1":
        reader = pa.ipc.open_file(source)
        whole = map(reader.get_batch, range(reader.num_record_batches))
        return reader.schema, lambda names: _sliced(whole, request), {}
    stream = pa.ipc.open_stream(source)
    return stream.schema, lambda names: _sliced(iter(stream), request), {}


def _parquet(request: dict[str, Any]) -> tuple[Any, Any, dict[str, int]]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(
        request["path"],
        page_checksum_verification=True,
        pre_buffer=False,
        thrift_string_size_limit=1 << 24,
        thrift_container_size_limit=1 << 20,
    )
    declared = sum(file.metadata.row_group(index).total_byte_size for index in range(file.num_row_groups))
    wide = max(1, declared // max(1, file.metadata.num_rows))
    rows = max(16, min(request["rows"], _BATCH_BYTES // wide))
    others = _others(file, request["columns"])
    return (
        file.schema_arrow,
        lambda names: _validated(file.iter_batches(rows, columns=names, use_threads=False)),
        others,
    )


def _others(file: Any, columns: list[str]) -> dict[str, int]:
    """The columns that are not asked for, with the rows that have a value there as far as the footer tells."""
    rows = file.metadata.num_rows
    counts = {name: rows for name in file.schema_arrow.names if name not in columns}
    for group in range(file.metadata.num_row_groups):
        part = file.metadata.row_group(group)
        for at in range(part.num_columns):
            column = part.column(at)
            if column.path_in_schema in counts and column.is_stats_set and column.statistics.has_null_count:
                counts[column.path_in_schema] -= column.statistics.null_count
    return counts


def _sliced(batches: Iterator[Any], request: dict[str, Any]) -> Iterator[Any]:
    """Batches of at most so many rows."""
    for batch in _validated(batches):
        for start in range(0, batch.num_rows, request["rows"]):
            yield batch.slice(start, request["rows"])


if __name__ == "__main__":
    sys.exit(main())
