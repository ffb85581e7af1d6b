"""Files of comma- or tab-separated values to rows: a header of names, quotes that may hold delimiters and newlines.

Cells are text. Where a key is a number or a truth value, the cell is read as one; an empty cell without quotes is null.
A row with more or fewer cells than the header, or with a cell that does not fit, is rejected with its number (from 1,
the header not counted). Compression is seen by content.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from datakit.formats.cells import typed
from datakit.formats.columnar import Batch, Columnar
from datakit.formats.compression import beginning, plain
from datakit.formats.keys import Key
from datakit.formats.lines import Fault
from datakit.formats.separated import broken, closed, header
from datakit.formats.sources import checked, opened
from schemas.errors import ConfigError, printable

_BLOCK = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Csv(Columnar):
    """Rows of text `files` with a header; `delimiter` stands between cells. The rest is as in `Parquet`."""

    name: ClassVar[str] = "io.csv"
    version: ClassVar[int] = 3

    delimiter: str = ","

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.delimiter.encode()) != 1 or self.delimiter in '"\r\n':
            message = f"{self.name}: {printable(self.delimiter)!r} is no delimiter"
            raise ConfigError("bad-setting", message, expected="one ASCII character", kept="nothing was started")

    def batches(self, url: str, sha256: str, keys: tuple[Key, ...], more: Sequence[str]) -> Iterator[Batch]:
        """One batch a block of the file."""
        import pyarrow.csv as pv

        with opened(url) as stream:
            chunks = closed(url, plain(url, checked(url, stream, sha256)), self.delimiter, _BLOCK)
            head, _ = beginning(chunks)
            names = header(url, head, self.delimiter)
            skipped = _Skipped()
            try:
                reader = pv.open_csv(
                    pa.PythonFile(_Bytes(head, chunks), mode="r"),
                    read_options=pv.ReadOptions(use_threads=False, block_size=_BLOCK),
                    parse_options=pv.ParseOptions(
                        delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=skipped.skip
                    ),
                    convert_options=pv.ConvertOptions(
                        column_types=dict.fromkeys(names, pa.binary()),
                        include_columns=names,
                        null_values=[""],
                        strings_can_be_null=True,
                        quoted_strings_can_be_null=False,
                        check_utf8=False,
                    ),
                )
                first = 1
                for batch in reader:
                    yield Batch(*typed(pa.Table.from_batches([batch]), keys, *skipped.taken(first, batch.num_rows)))
                    first += batch.num_rows + len(skipped.last)
                if skipped.faults:
                    table = reader.schema.empty_table()
                    yield Batch(*typed(table, keys, *skipped.taken(first, 0)))
            except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
                raise broken(url, printable(error, 200), _BLOCK) from error
            for _ in chunks:
                pass


class _Bytes(io.RawIOBase):
    """Chunks as a readable file."""

    def __init__(self, head: bytes, chunks: Iterator[bytes]) -> None:
        self._rest, self._chunks = head, chunks

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._rest or next(self._chunks, b"")
        cut = len(data) if size < 0 else size
        self._rest = data[cut:]
        return data[:cut]


@dataclass
class _Skipped:
    """Rows that are no rows, by their number in the file."""

    faults: list[Fault] = field(default_factory=list)
    last: list[Fault] = field(default_factory=list)

    def skip(self, row: Any) -> str:
        text = (row.text or "").encode("utf-8", "surrogateescape")[:200]
        rule = f"{row.expected_columns} cells, {row.actual_columns} found"
        self.faults.append(Fault(row.number - 1, "wrong-cells", rule, text))
        return "skip"

    def taken(self, first: int, count: int) -> tuple[np.ndarray, list[Fault]]:
        """Numbers of the next `count` rows that were read from row `first` on, and the rows skipped among them."""
        self.last = []
        numbers = np.arange(first, first + count)
        while self.faults and (not count or self.faults[0].line <= numbers[-1]):
            self.last.append(self.faults.pop(0))
            numbers[numbers >= self.last[-1].line] += 1
        return numbers, self.last
