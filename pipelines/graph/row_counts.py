"""How many rows a table will have, where that is known before any work: of what is there, of small files, and of what
is taken from them as it is.
"""

from __future__ import annotations

import pyarrow as pa

from datakit.blend import Shuffle, Split
from datakit.op import Context, Read
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from schemas.errors import QuiverError

_SPARE = 1000
"""Rows beyond several times those that are asked about, up to which a file is read for this."""


def fewer_than(needed: int, node: Node) -> int | None:
    """The number of rows of `node` where it is known and less than `needed`; else None."""
    manifest = node.manifest()
    if manifest is not None:
        count: int | None = manifest.num_rows
    else:
        rows = _rows(node, 4 * needed + _SPARE)
        count = None if rows is None else rows.num_rows
    return count if count is not None and count < needed else None


def _rows(node: Node, most: int) -> pa.Table | None:
    """All rows of `node`; None where they are more than `most`, or not known before any work."""
    if not isinstance(node, Table):
        return None
    if isinstance(node.op, Read):
        return _read(node.op, node.seed, most)
    if not isinstance(node.op, Split | Shuffle):
        return None
    rows = _rows(node.inputs[0], most)
    if rows is None or isinstance(node.op, Shuffle):
        return rows
    try:
        [chosen] = node.op.chosen([node.op.texts(rows)], node.seed)
    except QuiverError:
        return None
    return rows.filter(chosen)


def _read(op: Read, seed: int, most: int) -> pa.Table | None:
    parts, count = list[pa.Table](), 0
    try:
        for result in op.read(Context(seed=seed)):
            parts.append(result.rows)
            count += result.rows.num_rows
            if count > most:
                return None
    except QuiverError:
        return None
    return pa.concat_tables(parts) if parts else None
