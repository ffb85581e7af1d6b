"""NeMo-Aligner's packed sequences (`.npy`) to packs, through a child process that makes arrays and plain containers of
the file's pickle and refuses all else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pyarrow as pa

from datakit.columns.conversations import flat
from datakit.formats import npy_worker
from datakit.formats.ids import Occurrences
from datakit.formats.packed import KEYS, pairs_of, sequences_of, unfit
from datakit.formats.parquet_child import batches
from datakit.formats.size import size_of
from datakit.formats.sources import check_files, digests_of, empty
from datakit.op import Context, Read, Result, Size
from schemas import PACKED_PAIRS, PACKS, Column, Schema
from schemas.errors import IntegrityError

_REWARDS = ("chosen_reward", "rejected_reward")


@dataclass(frozen=True, kw_only=True)
class Npy(Read):
    """PACKS of `packed_sft` files, PACKED_PAIRS with both rewards of `packed_dpo` files. NeMo's masks stand on the
    token before the one that is predicted, ours on that one. `IntegrityError` (11) for a file that is anything else.
    """

    name: ClassVar[str] = "io.npy"

    files: tuple[str, ...] = ()
    format: Literal["packed_sft", "packed_dpo"]
    digests: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_files(self.name, self.files, self.digests)

    def gives(self, *inputs: Schema) -> Schema:
        if self.format == "packed_sft":
            return PACKS
        return PACKED_PAIRS.adding(*(Column(n, pa.list_(pa.float64()), "one of each pair inside") for n in _REWARDS))

    def grown(self, given: Size) -> Size:
        return size_of(self.files)

    def pinned(self) -> Self:
        """The same import with the digests of the files as they are now."""
        return self if self.digests else replace(self, digests=digests_of(self.files))

    def params(self) -> dict[str, Any]:
        """Settings with the files' digests in place of their names."""
        return {name: value for name, value in super(Npy, self.pinned()).params().items() if name != "files"}

    def read(self, ctx: Context) -> Iterator[Result]:
        """One table a batch, files in the order given."""
        met = Occurrences()
        for url, sha256 in zip(self.files, self.pinned().digests, strict=True):
            worker, count = Path(npy_worker.__file__), 0
            for items in batches(url, sha256, [], "npy", worker=worker, error=IntegrityError):
                missing = [name for name in KEYS[self.format] if name not in items.column_names]
                if missing:
                    raise unfit(url, f"items without {', '.join(missing)}")
                packs = {name: flat(items[name]) for name in KEYS[self.format]}
                made = sequences_of(packs, met, url) if self.format == "packed_sft" else pairs_of(packs, met, url)
                yield Result(self.gives().conform(made))
                count += items.num_rows
            if not count:
                raise empty(url)
