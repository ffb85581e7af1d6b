"""Arrow files and streams to rows, alone or as `datasets` saves them to disk, read by a child process as Parquet is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from datakit.io.columnar import Batch, Columnar
from datakit.io.parquet_child import batches
from datakit.io.parse import Key
from datakit.io.saved import saved_files
from datakit.io.sources import digests_of
from datakit.op import Context, Result


@dataclass(frozen=True, kw_only=True)
class Arrow(Columnar):
    """Rows of Arrow `files`, or of folders that `datasets` saved (`save_to_disk`); `split` chooses one of several. The
    rest is as in `Parquet`.
    """

    name: ClassVar[str] = "io.arrow"

    split: str | None = None

    def pinned(self) -> Arrow:
        """The same import with the files of its folders, and with the digests of all files as they are now."""
        if self.digests:
            return self
        files = tuple(file for place in self.files for file in saved_files(place, self.split))
        return replace(self, files=files, split=None, digests=digests_of(files))

    def read(self, ctx: Context) -> Iterator[Result]:
        """One table a batch, files in their order."""
        return super(Arrow, self.pinned()).read(ctx)

    def batches(self, url: str, digest: str, keys: tuple[Key, ...]) -> Iterator[Batch]:
        """Batches of rows in the order of the file."""
        count = 0
        for table in batches(url, digest, [name for key in keys for name in key.names], "Arrow"):
            yield Batch(table, np.arange(count + 1, count + 1 + table.num_rows))
            count += table.num_rows
