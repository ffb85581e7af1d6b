"""The child process that runs SQL of users: a locked DuckDB under the kernel's limits.

The first line of input is JSON: memory in bytes, DuckDB's configuration and locks, the spill folder. Then requests,
one line of JSON each, followed by one Arrow stream for every table they name:

    {"parse": [texts]}                           -> {"trees": [...]}
    {"load": name}                               -> {}                     rows into a table that spills
    {"ask": sql, "tables": [names], "rows": n}   -> {"bytes": n, "last": bool} and an Arrow stream of n bytes, repeated

A fault is {"fault": "sql" | "memory" | "space", "message": ...}; after one of the last two the process ends. Runs by
path, with DuckDB and pyarrow alone.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

_POLL_SECONDS = 0.5
_MOST_BYTES = 64 << 20
_LOST = ("UHUGEINT", "TIME WITH TIME ZONE", "BIT", "BIGNUM", "VARINT", "INTERVAL", "UNION(")
"""Types that Arrow has no like of (it is given -1 for the largest of the first, no zone for the second), or Parquet."""


def main() -> int:
    """Open the session, then answer until the input ends."""
    head = json.loads(sys.stdin.buffer.readline())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = head["memory"] if hard == resource.RLIM_INFINITY else min(head["memory"], hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    threading.Thread(target=_leave_with_parent, args=(os.getppid(), head["spill"]), daemon=True).start()
    import duckdb

    try:
        db = duckdb.connect(":memory:", config=head["config"])
        if "catalog" in head:
            _open_catalog(db, head["catalog"], head["readable"])
        for lock in head["locks"]:
            db.execute(f"SET {lock}")
        _reply({})
        return _serve(db)
    finally:
        shutil.rmtree(head["spill"], ignore_errors=True)


def _open_catalog(db: Any, catalog: str, readable: str) -> None:
    """The views of the file `catalog`, which read files below `readable` and no others once the session is locked."""
    place, folder = (text.replace("'", "''") for text in (catalog, readable))
    db.execute(f"ATTACH '{place}' AS workspace (READ_ONLY)")
    db.execute("USE workspace")
    db.execute(f"SET allowed_directories = ['{folder}/']")


def _serve(db: Any) -> int:
    """Answer requests until the input ends, or a fault leaves no memory or no room."""
    for line in sys.stdin.buffer:
        try:
            _answer(db, json.loads(line))
        except Exception as error:
            kind = _kind(error)
            _reply({"fault": kind, "message": str(error)[:2000]})
            if kind != "sql":
                return 3
    return 0


def _answer(db: Any, request: dict[str, Any]) -> None:
    """Do one request and write its replies."""
    if "parse" in request:
        trees = [db.execute("SELECT json_serialize_sql(?)", [text]).fetchall()[0][0] for text in request["parse"]]
        _reply({"trees": trees})
    elif "load" in request:
        _load(db, request["load"])
        _reply({})
    else:
        tables = {name: _incoming().read_all() for name in request["tables"]}
        for name, table in tables.items():
            db.register(name, table)
        try:
            _send_all(_slices(_exact(db, request["ask"]).to_arrow_reader(request["rows"])))
        finally:
            for name in tables:
                db.unregister(name)


def _exact(db: Any, query: str) -> Any:
    """The result of a query; columns of types that Arrow has none for, whose values would come out as others, as
    DuckDB's texts.
    """
    result = db.sql(query)
    lost = [any(word in str(kind) for word in _LOST) for kind in result.types]
    if not any(lost):
        return result
    places = [f"c{place}" for place in range(len(lost))]
    made = [
        f"{f'CAST({place} AS VARCHAR)' if text else place} AS {_quoted(name)}"
        for place, text, name in zip(places, lost, result.columns, strict=True)
    ]
    return result.query("_result", f"SELECT {', '.join(made)} FROM _result AS named({', '.join(places)})")


def _quoted(name: str) -> str:
    quoted = name.replace('"', '""')
    return f'"{quoted}"'


def _load(db: Any, name: str) -> None:
    """Stream the incoming rows into a table; a fault here leaves input unread, so it ends the process."""
    try:
        db.register("_incoming", _incoming())
        db.execute(f"CREATE TABLE {_quoted(name)} AS SELECT * FROM _incoming")
        db.unregister("_incoming")
    except Exception as error:
        _reply({"fault": _kind(error), "message": str(error)[:2000]})
        sys.exit(3)


def _incoming() -> Any:
    import pyarrow as pa

    return pa.ipc.open_stream(sys.stdin.buffer)


def _slices(batches: Any) -> Iterator[Any]:
    """The batches, cut where one is large, so that no reply is; an empty one where there are none."""
    import pyarrow as pa

    some = False
    for batch in batches:
        some = True
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid as fault:
                raise ValueError(f"column {name}: {fault}; CAST({_quoted(name)} AS VARCHAR) makes it a text") from fault
        rows = max(1, batch.num_rows * _MOST_BYTES // max(batch.nbytes, _MOST_BYTES))
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)
    if not some:
        yield pa.RecordBatch.from_pylist([], batches.schema)


def _send_all(batches: Iterator[Any]) -> None:
    """One reply for each batch; the last says that it is."""
    import pyarrow as pa

    batch = next(batches)
    while batch is not None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        body = sink.getvalue()
        batch = next(batches, None)
        sys.stdout.buffer.write(json.dumps({"bytes": body.size, "last": batch is None}).encode() + b"\n")
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()


def _reply(message: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


def _kind(error: Exception) -> str:
    """What sort of fault it is: DuckDB hands memory faults on under several names."""
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in ("Out of Memory", "bad allocation", "bad_alloc")):
        return "memory"
    return "space" if "No space left" in text else "sql"


def _leave_with_parent(parent: int, spill: str) -> None:
    """End when the parent has ended, however it did; a statement that runs is not asked."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    shutil.rmtree(spill, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
