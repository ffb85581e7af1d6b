"""The child process that opens outside Parquet files: a crafted file can take this process down, and nothing
else.

Reads a request (one line of JSON: path or the word `stdin`, columns, rows per batch, memory cap) and writes
an Arrow stream of validated batches to its output; exit 3 with a message on its error stream means that the
file is broken. Runs by path, with pyarrow alone.
"""

from __future__ import annotations

import json
import resource
import sys


def main() -> int:
    """Answer the one request."""
    request = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    try:
        file = pq.ParquetFile(
            request["path"],
            page_checksum_verification=True,
            pre_buffer=False,
            thrift_string_size_limit=1 << 24,
            thrift_container_size_limit=1 << 20,
        )
        names = [name for name in request["columns"] if name in file.schema_arrow.names]
        schema = pa.schema([file.schema_arrow.field(name).with_metadata(None) for name in names])
        with pa.ipc.new_stream(sys.stdout.buffer, schema) as writer:
            for batch in file.iter_batches(request["rows"], columns=names, use_threads=False):
                bare = pa.RecordBatch.from_arrays([batch.column(name) for name in names], schema=schema)
                bare.validate(full=True)
                writer.write_batch(bare)
    except (pa.ArrowException, OSError, MemoryError, ValueError, KeyError, TypeError) as error:
        print(f"{type(error).__name__}: {error}"[:500], file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
