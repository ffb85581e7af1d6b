"""Arrow files and streams to rows, alone or as `datasets` saves them to disk, read by a child process as Parquet is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from datakit.formats.columnar import Batch, Columnar
from datakit.formats.keys import Key
from datakit.formats.saved import saved_files
from datakit.formats.sources import digests_of
from datakit.io.parquet import numbered
from datakit.op import Context, Result


@dataclass(frozen=True, kw_only=True)
class Arrow(Columnar):
    """Rows of Arrow `files`, or of folders that `datasets` saved (`save_to_disk`); `split` chooses one of several. The
    rest is as in `Parquet`.
    """

    name: ClassVar[str] = "io.arrow"
    version: ClassVar[int] = 3

    split: str | None = None

    def pinned(self) -> Self:
        """As elsewhere, with the files of its folders."""
        if self.digests:
            return super().pinned()
        files = tuple(file for place in self.files for file in saved_files(place, self.split))
        return super(Arrow, replace(self, files=files, split=None, digests=digests_of(files))).pinned()

    def read(self, ctx: Context) -> Iterator[Result]:
        """One table a batch, files in their order."""
        return super(Arrow, self.pinned()).read(ctx)

    def batches(self, url: str, sha256: str, keys: tuple[Key, ...], more: Sequence[str]) -> Iterator[Batch]:
        """Batches of rows in the order of the file."""
        yield from numbered(url, sha256, keys, more, "Arrow")
