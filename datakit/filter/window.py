"""A run of rows out of a dataset: NeMo-Aligner's `sample_split_size` and `sample_split_iter`.

Split i is `Window(offset=i * size, limit=size)`. With `wrap=True` it goes on from the start past the end, so that every
split has its full number of rows, where NeMo-Aligner's ran off the end of the file. The iterations of a
recipe take their prompts so with `--prompt-order rows`, otherwise by `blend.split`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from datakit.op import NOTHING, Context, GatherAll, Result
from schemas import Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class Window(GatherAll):
    """Rows `offset` .. `offset + limit` - 1 in the dataset's order.

    With `wrap` the rows are a ring; without it the window ends where the dataset ends, and a window that
    holds no row at all is an error. Rows outside are counted, not rejected: other windows hold them.
    """

    name: ClassVar[str] = "filter.window"

    offset: int = 0
    limit: int
    wrap: bool = False

    def __post_init__(self) -> None:
        if self.offset < 0 or self.limit < 1:
            settings = f"offset {self.offset}, limit {self.limit}"
            raise ConfigError("bad-setting", f"filter.window: {settings}", expected="offset >= 0, limit >= 1")

    @property
    def takes(self) -> Schema:
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        return inputs[0]

    def gather_all(self, dataset: Dataset, ctx: Context) -> Iterator[Result]:
        """The rows of the window; only shards that it touches are read."""
        total, left_out = dataset.num_rows, 0
        for start, stop in self._runs(dataset):
            left_out -= stop - start
            first = 0
            for shard, file in enumerate(dataset.shards):
                low, high = max(start, first), min(stop, first + file.rows)
                if low < high:
                    yield Result(dataset.read_shard(shard).slice(low - first, high - low))
                first += file.rows
        yield Result(dataset.schema.empty(), counts={"rows.outside": total + left_out})

    def _runs(self, dataset: Dataset) -> list[tuple[int, int]]:
        """The window as one or two runs of row numbers."""
        total = dataset.num_rows
        start = self.offset % total if self.wrap and total else self.offset
        if start >= total or (self.wrap and self.limit > total):
            raise DataError(
                "window-outside",
                f"filter.window cannot take {self.limit} rows from row {self.offset} of {total}",
                expected=f"offset below {total}" if start >= total else f"limit of at most {total}",
                where=dataset.url,
                kept="nothing was written",
                next=self._next(total),
            )
        stop = start + self.limit
        if stop <= total or not self.wrap:
            return [(start, min(stop, total))]
        return [(start, total), (0, stop - total)]

    def _next(self, total: int) -> str:
        """The setting with which the window lies within `total` rows."""
        if not total:
            return "give rows: there is none"
        return f"limit={total} takes them all" if self.wrap else "wrap=true goes on from the start"
