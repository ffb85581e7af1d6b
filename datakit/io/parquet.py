"""Outside Parquet files to rows, through a child process: a broken or crafted file is an error, never a crash.

Every value is validated; page checksums are checked where the file has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from datakit.io.columnar import Batch, Columnar
from datakit.io.parquet_child import batches
from datakit.io.parse import Key


@dataclass(frozen=True, kw_only=True)
class Parquet(Columnar):
    """Rows of Parquet `files`, either in a named `format` or already of a row `kind` (missing ids and optional columns
    are made).

    `columns` maps our names to the files' (`{"prompt": "question"}`); the rest is as in `Jsonl`.
    """

    name: ClassVar[str] = "io.parquet"

    def batches(self, url: str, digest: str, keys: tuple[Key, ...]) -> Iterator[Batch]:
        """Batches of rows in the order of the file."""
        count = 0
        for table in batches(url, digest, [name for key in keys for name in key.names]):
            yield Batch(table, np.arange(count + 1, count + 1 + table.num_rows))
            count += table.num_rows
