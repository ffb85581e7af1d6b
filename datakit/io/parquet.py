"""Outside Parquet files to rows, through a child process: a broken or crafted file is an error, never a crash.

Every value is validated; page checksums are checked where the file has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from datakit.formats.columnar import Batch, Columnar
from datakit.formats.keys import Key
from datakit.formats.parquet_child import batches
from schemas.untrusted import strict_json


@dataclass(frozen=True, kw_only=True)
class Parquet(Columnar):
    """Rows of Parquet `files`, either in a named `format` or already of a row `kind` (missing ids and optional columns
    are made).

    `columns` maps our names to the files' (`{"prompt": "question"}`); the rest is as in `Jsonl`.
    """

    name: ClassVar[str] = "io.parquet"
    version: ClassVar[int] = 3

    def batches(self, url: str, sha256: str, keys: tuple[Key, ...], more: Sequence[str]) -> Iterator[Batch]:
        """Batches of rows in the order of the file."""
        yield from numbered(url, sha256, keys, more, "Parquet")


def numbered(url: str, sha256: str, keys: tuple[Key, ...], more: Sequence[str], kind: str) -> Iterator[Batch]:
    """What the child reads of a file of that kind, with the rows' numbers."""
    count = 0
    for table in batches(url, sha256, list(dict.fromkeys((*(n for key in keys for n in key.roots), *more))), kind):
        others = _counts((table.schema.metadata or {}).get(b"others", b"{}"))
        yield Batch(table, np.arange(count + 1, count + 1 + table.num_rows), others={} if count else others)
        count += table.num_rows


def _counts(text: bytes) -> dict[str, int]:
    """Rows by column, as the child counts them; none where it says something else."""
    try:
        counts = strict_json(text)
    except (ValueError, RecursionError):
        return {}
    known = counts.items() if isinstance(counts, dict) else ()
    return {name: count for name, count in known if type(count) is int}
